import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.ops import masks, stripes

span_mask = jax.jit(
    masks.span_mask, static_argnames=("size", "prob", "length", "min_spans", "same_count")
)
block_mask = jax.jit(masks.block_mask, static_argnums=(1, 2, 3, 4, 5))
random_mask = jax.jit(masks.random_mask, static_argnums=(1, 2))
random_visible = jax.jit(masks.random_visible, static_argnums=2)
ids_shuffle_of = jax.jit(masks.ids_shuffle_of)


def keys_of(count: int, seed: int = 0) -> jax.Array:
    """Returns random keys, without compiling a split for each count."""
    words = np.random.default_rng(seed).integers(0, 2**32, (count, 2), np.uint32)
    return jax.random.wrap_key_data(words)


def fairseq_oracle(rng, lengths, size, prob, length, min_spans=1, same_count=True) -> np.ndarray:
    """The published rule, one row at a time."""
    chosen = []
    for n in lengths:
        spans = max(min_spans, int(prob * n / length + rng.random()))
        short = length if n - length > spans else n - spans - 1
        starts = rng.choice(n - short, spans, replace=False)
        cells = np.unique([s + i for s in starts for i in range(length)])
        chosen.append(cells[cells < n])
    fewest = min(len(c) for c in chosen)
    mask = np.zeros((len(lengths), size), bool)
    for row, cells in zip(mask, chosen, strict=True):
        if same_count and len(cells) > fewest:
            cells = rng.choice(cells, fewest, replace=False)
        row[cells] = True
    return mask


def transformers_oracle(rng, lengths, size, prob, length, u, min_spans=1) -> np.ndarray:
    mask = np.zeros((len(lengths), size), bool)
    for row, n in zip(mask, lengths, strict=True):
        spans = max(min_spans, int(prob * n / length + u))
        if spans * length > size:
            spans = size // length
        spans = max(min(spans, n - length + 1), 0)
        starts = rng.permutation(max(n - length + 1, 0))[:spans]
        for s in starts:
            row[s : s + length] = True
    return mask


def runs(mask: np.ndarray) -> np.ndarray:
    """Returns the lengths of all runs of true cells."""
    edges = np.diff(np.pad(mask.astype(int), ((0, 0), (1, 1))), axis=1)
    return np.argwhere(edges == -1)[:, 1] - np.argwhere(edges == 1)[:, 1]


def assert_same_distribution(got: np.ndarray, want: np.ndarray, rows: int = 0) -> None:
    """Compares counts, shares of each cell and run lengths within five standard errors.

    `rows`: how many rows are independent, if not all.
    """
    rows = rows or len(want)
    a, b = got.sum(1), want.sum(1)
    error = 5 * np.hypot(a.std(), b.std()) / np.sqrt(rows) + 1e-9
    assert abs(a.mean() - b.mean()) <= error
    assert abs(a.std() - b.std()) <= error + 1e-3
    p = (got.mean(0) + want.mean(0)) / 2
    assert (abs(got.mean(0) - want.mean(0)) <= 5 * np.sqrt(2 * p * (1 - p) / rows) + 1e-9).all()
    top = max(runs(got).max(), runs(want).max()) + 1
    a, b = np.bincount(runs(got), minlength=top), np.bincount(runs(want), minlength=top)
    # a cell's runs are nearly independent; a factor allows for those within one row
    assert (abs(a - b) <= 8 * np.sqrt(a + b + 4)).all()


def test_span_mask_is_distributed_as_fairseq():
    rows, rng = 3000, np.random.default_rng(1)
    lengths = np.where(np.arange(rows) % 2, 98, 61)
    got = span_mask(keys_of(rows), jnp.asarray(lengths), 98, 0.65, 10, same_count=False)
    want = fairseq_oracle(rng, lengths, 98, 0.65, 10, same_count=False)
    got = np.asarray(got)
    for n in (98, 61):
        assert_same_distribution(got[lengths == n], want[lengths == n])
        assert not got[lengths == n, n - 1 :].any()  # no start can reach the last frame
    assert runs(got).min() == 10


def test_span_mask_is_trimmed_as_fairseq():
    batches, rng = 500, np.random.default_rng(2)
    lengths = np.array([98, 98, 90, 98])
    draw = jax.jit(jax.vmap(lambda k: masks.span_mask(k, jnp.asarray(lengths), 98, 0.65, 10)))
    got = np.asarray(draw(keys_of(4 * batches).reshape(batches, 4)))
    want = np.stack([fairseq_oracle(rng, lengths, 98, 0.65, 10) for _ in range(batches)])
    assert (got.sum(2) == got.sum(2)[:, :1]).all()
    for row in (0, 2):
        assert_same_distribution(got[:, row], want[:, row])
    assert_same_distribution(got.reshape(-1, 98), want.reshape(-1, 98), batches)
    assert runs(got[:, 0]).min() < 10  # trimming cuts into spans


def test_span_mask_covers_the_published_share():
    got = span_mask(keys_of(64), jnp.full((64,), 999), 999, 0.65, 10, same_count=False)
    assert abs(np.asarray(got).mean() - 0.485) < 0.01


@pytest.mark.parametrize(("prob", "share"), [(0.65, 0.46), (0.80, 0.53)])
def test_batches_of_eight_hide_the_published_share(prob, share):
    """wav2vec 2.0 and HuBERT: crops of 15.6 s, rows trimmed to the fewest masked frames."""
    draw = jax.jit(
        jax.vmap(lambda k: masks.span_mask(k, jnp.full((8,), 781), 781, prob, 10, min_spans=2))
    )
    got = np.asarray(draw(keys_of(8 * 24).reshape(24, 8)))
    assert (got.sum(2) == got.sum(2)[:, :1]).all()
    assert abs(got.mean() - share) < 0.01


def test_span_mask_of_transformers_shares_the_number_of_spans():
    rows, rng = 3000, np.random.default_rng(2)
    lengths = np.where(np.arange(rows) % 2, 98, 50)
    for u in (0.2, 0.9):  # 6 and 7 spans of 98 frames
        got = span_mask(
            keys_of(rows),
            jnp.asarray(lengths),
            98,
            0.65,
            10,
            same_count=False,
            shared_u=jnp.float32(u),
        )
        want = transformers_oracle(rng, lengths, 98, 0.65, 10, u)
        got = np.asarray(got)
        assert got[:, 97].any()
        assert_same_distribution(got[lengths == 98], want[lengths == 98])
        assert_same_distribution(got[lengths == 50], want[lengths == 50])
    assert got[lengths == 98].sum(1).max() == 70


def test_short_rows_follow_both_rules():
    lengths = np.repeat([1, 2, 5, 11, 12], 800)
    rng = np.random.default_rng(3)
    got = np.asarray(span_mask(keys_of(4000), jnp.asarray(lengths), 12, 0.65, 10, same_count=False))
    want = fairseq_oracle(rng, lengths, 12, 0.65, 10, same_count=False)
    for n in (1, 2, 5, 11, 12):
        a, b = got[lengths == n].mean(0), want[lengths == n].mean(0)
        assert (abs(a - b) <= 5 * np.sqrt(0.5 / 800)).all(), n
    hf = span_mask(
        keys_of(4000),
        jnp.asarray(lengths),
        12,
        0.65,
        10,
        same_count=False,
        shared_u=jnp.float32(0.5),
    )
    assert np.asarray(hf)[lengths < 10].sum() == 0
    assert (np.asarray(hf)[lengths >= 10].sum(1) == 10).all()


def test_rows_without_frames_do_not_empty_the_batch():
    got = np.asarray(span_mask(keys_of(3), jnp.array([98, 0, 90]), 98, 0.65, 10))
    assert got[1].sum() == 0
    assert got[0].sum() == got[2].sum() > 0


def test_span_mask_of_a_row_depends_on_its_own_key():
    lengths = np.array([98, 80, 98, 60])

    def draw(keys, lengths):
        return np.asarray(span_mask(keys, lengths, 98, 0.65, 10, same_count=False))

    whole = draw(keys_of(4), lengths)
    np.testing.assert_array_equal(whole[2], draw(keys_of(4)[2:3], lengths[2:3])[0])
    assert (whole != draw(keys_of(4, 9), lengths)).any()


def test_random_mask_has_exact_counts_and_a_permutation():
    order, mask = map(np.asarray, random_mask(keys_of(500), 196, 147))
    assert (mask.sum(1) == 147).all()
    assert (np.sort(order, 1) == np.arange(196)).all()
    assert not np.take_along_axis(mask, order[:, :49], 1).any()
    assert np.take_along_axis(mask, order[:, 49:], 1).all()
    assert (abs(mask.mean(0) - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 500)).all()
    assert (np.diff(order[:, :49]) < 0).any()  # kept in random order, as MAE does
    tokens = np.random.default_rng(0).random((500, 196))
    shuffled = np.take_along_axis(tokens, order, 1)
    back = np.take_along_axis(shuffled, np.asarray(masks.ids_restore_of(order)), 1)
    np.testing.assert_array_equal(back, tokens)
    with pytest.raises(ValueError, match=r"\[0, 196\]"):
        masks.random_mask(keys_of(1), 196, 197)


def test_random_visible_gathers_visible_tokens_and_padding_only():
    rows, size = 300, 12
    lengths = np.arange(rows) % (size + 1)
    real = np.arange(size) < lengths[:, None]
    counts = tuple(n // 3 + (0 < n < 3) for n in range(size + 1))
    order, mask = map(np.asarray, random_visible(keys_of(rows), real, counts))
    assert (np.sort(order, 1) == np.arange(size)).all()
    assert not (mask & ~real).any()
    assert ((real & ~mask).sum(1) == np.array(counts)[lengths]).all()
    for row, n in enumerate(lengths):
        kept = order[row, : counts[size]]
        assert set(kept[: counts[n]]) == set(np.flatnonzero(real[row] & ~mask[row]))
        assert not real[row, kept[counts[n] :]].any()
    seen = np.stack([order[r, :4] for r in np.flatnonzero(lengths == size)])
    assert (np.diff(seen) < 0).any() and len(seen) == len(np.unique(seen, axis=0))


def test_random_visible_without_padding_is_random_mask():
    keys = keys_of(50)
    counts = tuple(n // 4 for n in range(21))
    pair = random_visible(keys, np.ones((50, 20), bool), counts)
    for got, want in zip(pair, random_mask(keys, 20, 15), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("time", "frequency", "kept"), [(0.2, 0.2, 51 * 6), (0.7, 0.3, 19 * 5), (0.8, 0.0, 12 * 8)]
)
def test_stripes_keep_exactly_whole_rows_and_columns_in_order(time, frequency, kept):
    """The published counts, for clips of 64 rows of 8 patches; one clip has 30 rows."""
    options = stripes.StripeOptions(time, frequency)
    real = np.arange(512) < np.array([512] * 39 + [240])[:, None]
    draw = jax.jit(lambda keys: options.draw(keys, real, 8))
    order, mask = map(np.asarray, draw(keys_of(40)))
    counts = options.visible(512, 8)
    assert counts[512] == kept and counts[:9] == [0] * 8 + [kept // options.kept(64, 8)[0][64]]
    assert ((real & ~mask).sum(1) == [counts[512]] * 39 + [counts[240]]).all()
    assert not (mask & ~real).any() and (np.sort(order, 1) == np.arange(512)).all()
    seen = (real & ~mask).reshape(40, 64, 8)
    rows, columns = seen.any(2), seen.any(1)
    np.testing.assert_array_equal(seen, rows[:, :, None] & columns[:, None])
    assert len(np.unique(rows, axis=0)) == 40 and (frequency == 0) == columns.all()
    for row in range(40):
        own = order[row, :kept]
        assert not mask[row, own].any(), "padding may fill the encoder's input, masked ids may not"
        assert (np.diff(own) > 0).all()


def test_ids_shuffle_of_puts_visible_ids_first_in_order():
    mask = np.array([[True, False, True, False], [False, True, False, True]])
    np.testing.assert_array_equal(ids_shuffle_of(mask), [[1, 3, 0, 2], [0, 2, 1, 3]])


def block_oracle(rng, rows, shape, ratio, adjust, block, inverse) -> tuple[np.ndarray, np.ndarray]:
    """Section 4.3 (a), one row at a time; also returns the cells covered before the correction."""
    share, size = (1 - ratio if inverse else ratio), int(np.prod(shape))
    masked, grown = np.zeros((rows, size), bool), np.zeros(rows)
    offsets = np.array(list(np.ndindex(*(block,) * len(shape)))) - block // 2
    for r in range(rows):
        grid = np.zeros(shape, bool)
        centres = rng.integers(0, size, int(size * (share + adjust) / block ** len(shape)))
        cells = np.stack(np.unravel_index(centres, shape), -1)[:, None] + offsets
        grid[tuple(np.moveaxis(np.clip(cells, 0, np.array(shape) - 1), -1, 0))] = True
        flat, want = grid.ravel(), int(size * share)
        grown[r] = flat.sum()
        on, off = np.flatnonzero(flat), np.flatnonzero(~flat)
        if len(on) > want:
            flat[rng.choice(on, len(on) - want, replace=False)] = False
        else:
            flat[rng.choice(off, want - len(on), replace=False)] = True
        masked[r] = ~flat if inverse else flat
    return masked, grown


@pytest.mark.parametrize(
    ("shape", "ratio", "adjust", "block", "inverse", "masked", "grown"),
    [
        ((14, 14), 0.8, 0.07, 3, True, 157, 37.5),
        pytest.param((14, 14), 0.75, 0.1, 3, True, 147, 50.3, marks=pytest.mark.slow),
        pytest.param((16, 16), 0.75, 0.1, 3, True, 192, None, marks=pytest.mark.slow),
        ((779,), 0.5, 0.05, 5, False, 389, 328),
        ((60,), 0.55, 0.1, 4, False, 33, None),
    ],
)
def test_block_mask_is_distributed_as_published(
    shape, ratio, adjust, block, inverse, masked, grown
):
    rows = 600
    got = np.asarray(block_mask(keys_of(rows), shape, ratio, adjust, block, inverse))
    want, before = block_oracle(
        np.random.default_rng(4), rows, shape, ratio, adjust, block, inverse
    )
    assert (got.sum(1) == masked).all() and (want.sum(1) == masked).all()
    if grown is not None:
        assert abs(before.mean() - grown) < 2
    size = shape[-1]
    p = (got.mean(0) + want.mean(0)) / 2
    assert (abs(got.mean(0) - want.mean(0)) <= 5 * np.sqrt(2 * p * (1 - p) / rows) + 1e-9).all()
    a, b = (np.bincount(runs(m.reshape(-1, size)), minlength=size + 1) for m in (got, want))
    assert (abs(a - b) <= 8 * np.sqrt(a + b + 4)).all()


@pytest.mark.parametrize("inverse", [False, True])
def test_block_mask_of_padded_rows_keeps_the_share_of_what_is_real(inverse):
    size, ratio = 60, 0.55
    lengths = np.array([60, 60, 41, 41, 7, 1, 0])
    got = np.asarray(block_mask(keys_of(7), (size,), ratio, 0.1, 4, inverse, lengths))
    real = np.arange(size) < lengths[:, None]
    assert not (got & ~real).any()
    if inverse:
        # int(n * (1 - 0.55)) visible (26 for 60 in float64), but at least one if there is a token
        np.testing.assert_array_equal(real.sum(1) - got.sum(1), [26, 26, 18, 18, 3, 1, 0])
    else:
        np.testing.assert_array_equal(got.sum(1), [33, 33, 22, 22, 3, 0, 0])
    assert (got[0] != got[1]).any()
    whole = np.asarray(block_mask(keys_of(7), (size,), ratio, 0.1, 4, inverse, None))
    np.testing.assert_array_equal(whole[:2], got[:2])
    # visible ids, then padding, then masked ids: no masked token is among the gathered ones
    order = np.asarray(ids_shuffle_of(got, real))
    visible = int((~whole[0]).sum())
    for ids, row, kept in zip(order, got, real, strict=True):
        assert sorted(ids) == list(range(size))
        assert not row[ids[:visible]].any() and kept[ids[: (kept & ~row).sum()]].all()


def test_clones_of_an_example_have_keys_of_their_own():
    clone_keys = jax.jit(masks.clone_keys, static_argnums=1)
    few, many = clone_keys(keys_of(3), 2), clone_keys(keys_of(3), 4)
    assert few.shape == (6,) and many.shape == (12,)
    few, many = (np.asarray(jax.random.key_data(k)) for k in (few, many))
    data = many.reshape(3, 4, -1)
    assert len(np.unique(data.reshape(12, -1), axis=0)) == 12
    # the masks of a clone do not depend on the number of clones
    np.testing.assert_array_equal(data[:, :2], few.reshape(3, 2, -1))


def beit_oracle(rng, rows, height=14, width=14, count=120, min_area=16) -> np.ndarray:
    masked = np.zeros((rows, height, width), bool)
    for grid in masked:
        misses = 0
        while grid.sum() < count and misses < 10:
            remaining = count - grid.sum()
            area = rng.uniform(0, 1) * (remaining - min_area) + min_area
            aspect = np.exp(rng.uniform(np.log(0.3), -np.log(0.3)))
            h, w = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            misses += 1
            if h < height and w < width:
                y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
                new = (~grid[y : y + h, x : x + w]).sum()
                if 0 < new <= remaining:
                    grid[y : y + h, x : x + w] = True
                    misses = 0
    return masked.reshape(rows, -1)


def test_beit_block_mask_is_distributed_as_published():
    rows = 800
    got = np.asarray(jax.jit(masks.beit_block_mask)(keys_of(rows)))
    want = beit_oracle(np.random.default_rng(5), rows)
    assert got.sum(1).max() == 120 == want.sum(1).max()
    assert got.sum(1).min() < 120  # ten misses end a row early
    assert_same_distribution(got, want)
    columns = [m.reshape(-1, 14, 14).transpose(0, 2, 1).reshape(rows, -1) for m in (got, want)]
    assert_same_distribution(*columns)


def test_all_masks_are_pure_functions_of_their_keys():
    words = np.asarray(jax.random.key_data(keys_of(5)))
    draws = {
        "random": lambda k: masks.random_mask(k, 20, 8)[1],
        "visible": lambda k: masks.random_visible(k, jnp.ones((5, 9), bool), [0] * 9 + [3])[1],
        "block": lambda k: masks.block_mask(k, (6, 6), 0.5, 0.1, 3, True),
        "beit": lambda k: masks.beit_block_mask(k, 8, 8, 30, 4),
    }
    for name, draw in draws.items():
        draw = jax.jit(lambda words, draw=draw: draw(jax.random.wrap_key_data(words)))
        whole, alone = np.asarray(draw(words)), np.asarray(draw(np.stack([words[3]] * 5)))
        np.testing.assert_array_equal(alone[4], whole[3], err_msg=name)
        assert (whole[0] != whole[1]).any(), name


def text_oracle(rng, lengths, size, prob, length) -> np.ndarray:
    """The published rule of masked language models, one row at a time."""
    mask = np.zeros((len(lengths), size), bool)
    for row, n in zip(mask, lengths, strict=True):
        spans = int(prob * n / length + rng.random())
        for start in rng.choice(n, spans, replace=False):
            row[start : min(start + length, n)] = True
    return mask


@pytest.mark.parametrize(("prob", "length"), [(0.35, 4), (0.15, 1)])
def test_text_mask_is_distributed_as_fairseq(prob, length):
    rows, rng = 3000, np.random.default_rng(1)
    lengths = np.where(np.arange(rows) % 2, 64, 41)
    mask = jax.jit(masks.text_mask, static_argnums=(2, 3, 4))
    got = np.asarray(mask(keys_of(rows), jnp.asarray(lengths), 64, prob, length))
    want = text_oracle(rng, lengths, 64, prob, length)
    for n in (64, 41):
        assert_same_distribution(got[lengths == n], want[lengths == n])
    if length == 1:  # every row has the rounded count, up or down
        assert set(got[lengths == 64].sum(1)) == {9, 10}
    none = mask(keys_of(rows), jnp.zeros(rows, int), 64, prob, length)
    assert not np.asarray(none).any()
