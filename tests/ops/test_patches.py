import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.ops import patches

normalize_patches = jax.jit(patches.normalize_patches)
restore = jax.jit(patches.restore)


def test_patches_are_in_raster_order_with_channels_last():
    x = np.arange(2 * 4 * 9 * 3).reshape(2, 4, 9, 3)
    got = np.asarray(jax.jit(patches.patchify, static_argnums=1)(x, (2, 3)))
    assert got.shape == (2, 6, 18)
    for token in range(6):
        row, column = divmod(token, 3)
        for i in range(2):
            for j in range(3):
                want = x[:, row * 2 + i, column * 3 + j]
                at = 3 * (i * 3 + j)
                np.testing.assert_array_equal(got[:, token, at : at + 3], want)


def test_images_get_the_statistics_of_imagenet():
    image = np.array([[0, 0, 0], [255, 255, 255], [124, 116, 104]], np.uint8)
    want = (image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    got = jax.jit(patches.normalize_image)(image)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_patch_normalization_divides_by_the_unbiased_deviation():
    x = np.random.default_rng(0).standard_normal((2, 3, 12)) * 4 + 9
    want = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, ddof=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(normalize_patches(x), want, atol=1e-5)
    assert not np.asarray(normalize_patches(np.full((1, 12), 7.0))).any()
    assert normalize_patches(jnp.ones((1, 12), jnp.bfloat16)).dtype == jnp.float32


def test_positions_hold_the_column_in_their_first_half_and_the_row_in_their_second():
    rows, columns, width = 3, 5, 16
    table = patches.sincos_table((rows, columns), width)
    assert table.shape == (15, 16) and table.dtype == np.float32
    for token in range(15):
        row, column = divmod(token, columns)
        for k in range(4):
            omega = 10000 ** (-k / 4)
            want = [np.sin(column * omega), np.cos(column * omega)]
            want += [np.sin(row * omega), np.cos(row * omega)]
            np.testing.assert_allclose(table[token, k::4], want, atol=1e-7)


def test_positions_of_a_place_do_not_depend_on_the_number_of_rows():
    tall, flat = (patches.sincos_table((rows, 4), 8) for rows in (9, 2))
    np.testing.assert_array_equal(tall[:8], flat)
    with pytest.raises(ValueError, match=r"a width of 18 .*multiple of 4"):
        patches.sincos_table((2, 2), 18)


def test_the_axes_of_a_grid_share_the_width_of_positions():
    clip, line = patches.sincos_table((2, 3, 4), 12), patches.sincos_table((4,), 4)
    places = np.stack(np.unravel_index(np.arange(24), (2, 3, 4)), -1)
    want = np.concatenate([line[places[:, axis]] for axis in (2, 1, 0)], axis=1)
    np.testing.assert_array_equal(clip, want)
    with pytest.raises(ValueError, match=r"a width of 16 .* 3 axes: use a multiple of 6"):
        patches.sincos_table((2, 3, 4), 16)


def test_restore_puts_each_token_where_it_was():
    draw = np.random.default_rng(1)
    order = np.stack([draw.permutation(7) for _ in range(3)])
    x = draw.standard_normal((3, 7, 4)).astype(np.float32)
    shuffled = np.take_along_axis(x, order[..., None], axis=1)
    np.testing.assert_array_equal(restore(shuffled, order), x)
    got = np.asarray(restore(shuffled[:, :2], order))
    for b in range(3):
        for token in range(7):
            seen = token in order[b, :2]
            np.testing.assert_array_equal(got[b, token], x[b, token] if seen else 0)


def test_gradient_of_restore_is_the_gather_that_undoes_it():
    draw = np.random.default_rng(2)
    order = jnp.asarray(np.stack([draw.permutation(6) for _ in range(2)]))
    x, g = (draw.standard_normal(s).astype(np.float32) for s in ((2, 4, 3), (2, 6, 3)))

    @jax.jit
    def back(x, g):
        return jax.vjp(lambda x: patches.restore(x, order), x)[1](g)

    want = np.take_along_axis(g, np.asarray(order)[:, :4, None], 1)
    np.testing.assert_array_equal(back(x, g)[0], want)
