"""Tubelets: their order and scale, fixed positions, and masks of exact counts."""

import jax
import numpy as np
import pytest

from ssl_jax.ops import masks, tubelets


def test_tubelets_are_in_raster_order_with_channels_last():
    x = np.arange(2 * 4 * 4 * 6 * 3).reshape(2, 4, 4, 6, 3)
    got = np.asarray(tubelets.cut(x, (2, 2, 3)))
    assert got.shape == (2, 8, 36)
    for token in range(8):
        step, rest = divmod(token, 4)
        row, column = divmod(rest, 2)
        cube = x[:, 2 * step :, 2 * row :, 3 * column :][:, :2, :2, :3]
        np.testing.assert_array_equal(got[:, token], cube.reshape(2, -1))
    np.testing.assert_array_equal(tubelets.join(got, (2, 2, 2), (2, 2, 3)), x)


def test_each_channel_of_a_tubelet_is_normalized_with_eps_outside_the_root():
    x = np.random.default_rng(0).random((2, 3, 24)) * 1e-5
    pixels = x.reshape(2, 3, 8, 3)
    want = (pixels - pixels.mean(2, keepdims=True)) / (pixels.std(2, ddof=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(tubelets.normalize(x), want.reshape(x.shape), rtol=2e-4, atol=1e-5)
    assert not np.asarray(tubelets.normalize(np.full((1, 12), 0.5))).any()


def test_flat_positions_have_sine_and_cosine_in_turn_over_the_place():
    table = tubelets.positions("flat", (8, 14, 14), 384)
    assert table.shape == (1568, 384) and table.dtype == np.float32
    for place, column in ((0, 0), (0, 1), (1567, 382), (1567, 383), (200, 5)):
        angle = place / 10000 ** (2 * (column // 2) / 384)
        want = np.cos(angle) if column % 2 else np.sin(angle)
        np.testing.assert_allclose(table[place, column], want, atol=1e-6)


def test_positions_of_space_and_time_give_a_quarter_to_time():
    steps, rows, columns, width = 2, 2, 3, 32
    table = tubelets.positions("space_time", (steps, rows, columns), width)
    waves = {4: 10000.0 ** -(np.arange(4) / 4), 6: 10000.0 ** -(np.arange(6) / 6)}
    for token in range(12):
        step, rest = divmod(token, 6)
        row, column = divmod(rest, 3)
        parts = [(step, 4), (column, 6), (row, 6)]
        want = [f(n * waves[size]) for n, size in parts for f in (np.sin, np.cos)]
        np.testing.assert_allclose(table[token], np.concatenate(want), atol=1e-6)
    with pytest.raises(ValueError, match=r"a width of 24 .* multiple of 16"):
        tubelets.positions("space_time", (2, 2, 2), 24)


def test_positions_of_space_are_equal_at_every_step():
    table = tubelets.positions("space", (3, 2, 2), 8).reshape(3, 4, 8)
    np.testing.assert_array_equal(table[0], table[2])
    assert np.abs(table[0, 0] - table[0, 3]).max() > 0.5
    assert not tubelets.positions("none", (3, 2, 2), 8).any()


@pytest.mark.parametrize(("ratio", "visible"), [(0.9, 20), (0.75, 49)])
def test_a_tube_mask_hides_the_same_places_at_every_step(ratio, visible):
    keys = jax.random.split(jax.random.key(0), 3)
    mask = np.asarray(masks.tube_mask(keys, 8, 196, ratio)).reshape(3, 8, 196)
    assert (mask == mask[:, :1]).all()
    assert ((~mask).sum(2) == visible).all()
    assert (mask[0, 0] != mask[1, 0]).any()


def test_scattered_masks_have_the_counts_of_tubes():
    keys = jax.random.split(jax.random.key(0), 3)
    mask = np.asarray(masks.scattered_mask(keys, 8, 196, 0.9))
    assert ((~mask).sum(1) == 160).all()
    steps = mask.reshape(3, 8, 196)
    assert (steps != steps[:, :1]).any()
