"""Random masks, drawn per example from keys (B,), so the same on any number of devices.

A mask is bool (B, T), true at the masked tokens. Counts are exact where a docstring says so,
and every shape is static. `ids_shuffle_of` turns a mask into a permutation, visible ids first.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ssl_jax.core.types import Array

_Grid = tuple[Array, Array, Array, Array]  # mask (H, W), consecutive misses, turn, key


def _rank(values: Array) -> Array:
    """Returns the rank of each value along the last axis; ties keep their order."""
    return jnp.argsort(jnp.argsort(values, axis=-1), axis=-1)


def _uniform(keys: Array, size: int) -> Array:
    return jax.vmap(lambda key: jax.random.uniform(key, (size,)))(keys)


def _split(keys: Array, count: int) -> list[Array]:
    """Splits keys (B,) into `count` independent sets of keys (B,)."""
    parts = jax.vmap(lambda key: jax.random.split(key, count))(keys)
    return [parts[:, i] for i in range(count)]


def span_mask(
    keys: Array,
    lengths: Array,
    size: int,
    prob: float,
    length: int,
    min_spans: int = 1,
    same_count: bool = True,
    shared_u: Array | None = None,
) -> Array:
    """Masks the union of random spans of `length` frames: keys (B,), lengths (B,) -> (B, size).

    Form of fairseq (static spans; wav2vec 2.0, HuBERT, data2vec): a row of n real frames gets
    int(prob * n / length + u) spans, u ~ U(0, 1) per row, at least `min_spans`, with distinct
    starts in [0, n - length). `same_count` then unmasks at random until every row has the
    smallest count of the batch (rows of length 0 excepted): only here do rows depend on each other.
    Form of transformers (data2vec-KWS), selected by `shared_u` () in [0, 1): one u for all rows,
    starts in [0, n - length], no more spans than fit; use it with same_count=False.
    """
    count_keys, start_keys, trim_keys = _split(keys, 3)
    u = _uniform(count_keys, 1)[:, 0] if shared_u is None else shared_u
    spans = jnp.maximum((prob * lengths / length + u).astype(jnp.int32), min_spans)
    if shared_u is None:
        # a row too short still draws distinct starts, some of them past its end
        room = jnp.where(lengths - length > spans, lengths - length, spans + 1)
    else:
        room = jnp.maximum(lengths - length + 1, 0)
        spans = jnp.minimum(jnp.where(spans * length > size, size // length, spans), room)
    places = max(size, min_spans + 1, int(prob * size / length) + 2)
    mask = _spans(start_keys, room, spans, places, length)[:, :size]
    mask = mask & (jnp.arange(size) < lengths[:, None])
    return _trim(trim_keys, mask, lengths > 0) if same_count else mask


def coupled(method: str, same_count: bool) -> dict[str, str]:
    """Returns how `same_count` of `span_mask` couples the rows of a batch; see `Method.couples`."""
    if not same_count:
        return {}
    how = f"{method} trims the masks of all rows to the fewest masked frames of the batch"
    return {how: "config.method.mask.same_count=False"}


def text_mask(keys: Array, lengths: Array, size: int, prob: float, length: int) -> Array:
    """Masks spans of `length` words that begin anywhere: keys (B,), lengths (B,) -> (B, size).

    Form of fairseq's masked language model: a row of n tokens gets int(prob * n / length + u)
    spans, u ~ U(0, 1) per row, with distinct starts in [0, n), cut at its end. data2vec uses
    prob 0.35 and 4 words, BERT 0.15 and 1.
    """
    count_keys, start_keys = _split(keys, 2)
    spans = (prob * lengths / length + _uniform(count_keys, 1)[:, 0]).astype(jnp.int32)
    mask = _spans(start_keys, lengths, spans, size, length)
    return mask & (jnp.arange(size) < lengths[:, None])


def _spans(keys: Array, room: Array, spans: Array, places: int, length: int) -> Array:
    """Returns (B, places): the union of `spans` (B,) spans with distinct starts in [0, room)."""
    draw = jnp.where(jnp.arange(places) < room[:, None], _uniform(keys, places), 2.0)
    begun = jnp.cumsum(_rank(draw) < spans[:, None], axis=1)
    ended = jnp.pad(begun, ((0, 0), (length, 0)))[:, :places]
    return begun > ended


def _trim(keys: Array, mask: Array, real: Array) -> Array:
    """Unmasks random cells until all real rows have the smallest of their counts."""
    size = mask.shape[1]
    count = jnp.where(real, mask.sum(1), size).min()
    return mask & (_rank(jnp.where(mask, _uniform(keys, size), 2.0)) < count)


def random_permutation(keys: Array, size: int) -> Array:
    """Returns uniform permutations (B, size); its first ids are the visible ones (MAE)."""
    return jnp.argsort(_uniform(keys, size), axis=-1)


def random_mask(keys: Array, size: int, count: int) -> tuple[Array, Array]:
    """Masks exactly `count` of `size` tokens, uniformly: -> (ids_shuffle (B, size), mask).

    `ids_shuffle` is a random permutation whose first size - count ids are the visible tokens,
    in random order; `ids_restore_of` undoes it. For a ratio r, MAE and VideoMAE differ:
    count = size - int(size * (1 - r)) in MAE (2111.06377), int(r * size) in VideoMAE.
    """
    if not 0 <= count <= size:
        raise ValueError(f"cannot mask {count} of {size} tokens: use a count in [0, {size}]")
    ids_shuffle = random_permutation(keys, size)
    return ids_shuffle, ids_restore_of(ids_shuffle) >= size - count


def random_visible(keys: Array, real: Array, counts: Sequence[int]) -> tuple[Array, Array]:
    """Masks all but counts[n] of a row's n real tokens: -> (ids_shuffle, mask), (B, T).

    keys (B,), real (B, T), counts (T + 1,). `ids_shuffle` holds the visible ids in random order,
    then padding, then the masked ids. So its first counts[T] ids, which an encoder may gather at
    a fixed shape, are visible or padding, never masked, if `counts` never grows by more than 1.
    Without padding this is `random_mask`.
    """
    size = real.shape[1]
    place = _rank(jnp.where(real, _uniform(keys, size), 2.0))
    mask = real & (place >= jnp.asarray(counts)[real.sum(1)][:, None])
    # padding, which comes last in `place`, moves ahead of the masked tokens
    return jnp.argsort(jnp.where(mask, place + size, place), axis=-1), mask


def stripes_visible(
    keys: Array, real: Array, columns: int, rows_kept: Sequence[int], columns_kept: int
) -> tuple[Array, Array]:
    """Masks whole rows and columns of a grid: keys (B,), real (B, T) -> (ids_shuffle, mask).

    The grid is in raster order; of an example with n real rows, rows_kept[n] of them and
    `columns_kept` columns stay visible where they cross (AudioMAE, 2207.06405: time and frequency).
    `ids_shuffle` holds the visible ids in their order, then padding, then the masked ids, as that
    of `random_visible` does.
    """
    row_keys, column_keys = _split(keys, 2)
    rows = real.reshape(len(real), -1, columns).any(-1)
    place = _rank(jnp.where(rows, _uniform(row_keys, rows.shape[1]), 2.0))
    seen = place < jnp.asarray(rows_kept)[rows.sum(1)][:, None]
    across = _rank(_uniform(column_keys, columns)) < columns_kept
    mask = real & ~(seen[:, :, None] & across[:, None]).reshape(real.shape)
    return ids_shuffle_of(mask, real), mask


def tube_mask(keys: Array, steps: int, places: int, ratio: float) -> Array:
    """Masks the same int(ratio * places) places at every step: keys (B,) -> (B, steps * places).

    Form of VideoMAE (2203.12602): what is hidden stays hidden, so that no neighbour in time tells
    it. At ratio 0.9, 176 of 196 places are, for 8 steps 1408 of 1568 tokens.
    """
    hit = _rank(_uniform(keys, places)) < int(ratio * places)
    return jnp.tile(hit, (1, steps))


def scattered_mask(keys: Array, steps: int, places: int, ratio: float) -> Array:
    """Masks as many tokens of a clip as `tube_mask` does, each drawn for itself."""
    size = steps * places
    return _rank(_uniform(keys, size)) < steps * int(ratio * places)


def ascending(ids_shuffle: Array, kept: int) -> Array:
    """Returns ids_shuffle (B, T) with its first `kept` ids in ascending order."""
    return jnp.concatenate([jnp.sort(ids_shuffle[:, :kept], 1), ids_shuffle[:, kept:]], 1)


def clone_keys(keys: Array, clones: int) -> Array:
    """keys (B,) of examples -> (B * clones,), example-major; a key does not depend on `clones`."""
    numbers = jnp.arange(clones)
    each = jax.vmap(lambda key: jax.vmap(lambda i: jax.random.fold_in(key, i))(numbers))
    return each(keys).reshape(-1)


def ids_shuffle_of(mask: Array, real: Array | None = None) -> Array:
    """Returns the permutation (B, T) with the visible ids first and the masked ones last.

    Padding, where `real` (B, T) is false, comes between them. Each part keeps its order.
    """
    part = mask * 2 if real is None else jnp.where(mask, 2, ~real * 1)
    return jnp.argsort(part, axis=-1, stable=True)


def ids_restore_of(ids_shuffle: Array) -> Array:
    """Returns the permutation that undoes `ids_shuffle` (B, T)."""
    return jnp.argsort(ids_shuffle, axis=-1)


def block_mask(
    keys: Array,
    shape: Sequence[int],
    ratio: float,
    adjust: float = 0.0,
    block: int = 5,
    inverse: bool = False,
    lengths: Array | None = None,
) -> Array:
    """Masks an exact share with blocks of side `block`: keys (B,) -> (B, prod(shape)), raster.

    data2vec 2.0 (2212.07525), `compute_block_mask_1d` for shape (T,) and `_2d` for (H, W). With
    p = ratio (1 - ratio if inverse), int(L * (p + adjust) / block^dims) centres are drawn with
    replacement and grown to blocks cut at the border; then random cells are set or unset until
    int(L * p) are set. If inverse, the blocks stay visible.

    lengths (B,): only the first n tokens of a row are real. They alone are masked, by the same
    rule with n for L, so that padding does not change their share.
    """
    shape = tuple(shape)
    size = math.prod(shape)
    share = 1 - ratio if inverse else ratio
    # tabulated, since float32 would round some products across a whole number; a row with any
    # token keeps one visible
    least = int(inverse)
    counts = jnp.asarray([max(int(n * share), min(n, least)) for n in range(size + 1)])
    volume = block ** len(shape)
    centres = [int(n * ((share + adjust) / volume)) for n in range(size + 1)]
    lengths = jnp.full(keys.shape[:1], size) if lengths is None else lengths

    def draw(key: Array, length: Array) -> Array:
        centre_key, fix_key = jax.random.split(key)
        chosen = jax.random.randint(centre_key, (centres[-1],), 0, length)
        used = jnp.arange(centres[-1]) < jnp.asarray(centres)[length]
        cells = _grow(chosen, used, shape, block)
        # set cells first, in random order, then the others: the first `counts` are hit
        noise = jax.random.uniform(fix_key, (size,))
        real = jnp.arange(size) < length
        turn = _rank(jnp.where(real, jnp.where(cells, noise, noise + 1), 3.0))
        hit = turn < counts[length]
        return real & ~hit if inverse else hit

    return jax.vmap(draw)(keys, lengths)


def _grow(centres: Array, used: Array, shape: tuple[int, ...], block: int) -> Array:
    """Returns bool (prod(shape),): the union of the blocks around the `used` flat centres (C,)."""
    hit = used.reshape(-1, *(1,) * len(shape))
    for axis, at in enumerate(jnp.unravel_index(centres, shape)):
        offset = jnp.arange(shape[axis]) - at[:, None]
        near = (offset >= -(block // 2)) & (offset < block - block // 2)
        others = [i + 1 for i in range(len(shape)) if i != axis]
        hit = hit & jnp.expand_dims(near, others)
    return hit.any(0).ravel()


def beit_block_mask(
    keys: Array,
    height: int = 14,
    width: int = 14,
    count: int = 120,
    min_area: int = 16,
    min_aspect: float = 0.3,
    tries: int = 10,
) -> Array:
    """Masks rectangles until `count` cells are masked: keys (B,) -> (B, height * width), raster.

    BEiT (2106.08254, algorithm 1) as used by data2vec vision: the area is uniform between
    `min_area` and what remains, the aspect log-uniform in [min_aspect, 1 / min_aspect]; a
    rectangle counts if it masks 1 to `remaining` new cells. An example stops after `tries`
    consecutive misses, so its count may fall short of `count`, and counts differ.
    """
    log_aspect = math.log(min_aspect)

    def step(state: _Grid) -> _Grid:
        mask, misses, turn, key = state
        remaining = count - mask.sum()
        u = jax.random.uniform(jax.random.fold_in(key, turn), (4,))
        area = min_area + u[0] * (remaining - min_area)
        inside = _rectangle(u[2:], area, jnp.exp(log_aspect * (1 - 2 * u[1])), height, width)
        new = (inside & ~mask).sum()
        good = (new > 0) & (new <= remaining)
        return mask | (inside & good), jnp.where(good, 0, misses + 1), turn + 1, key

    def going(state: _Grid) -> Array:
        # every accepted rectangle masks a new cell, so this ends within count * tries turns
        return (state[0].sum() < count) & (state[1] < tries)

    def draw(key: Array) -> Array:
        empty, zero = jnp.zeros((height, width), bool), jnp.zeros((), jnp.int32)
        return jax.lax.while_loop(going, step, (empty, zero, zero, key))[0].ravel()

    return jax.vmap(draw)(keys)


def _rectangle(u: Array, area: Array, aspect: Array, height: int, width: int) -> Array:
    """Returns bool (height, width): a rectangle placed by u (2,), or nothing if it is too big."""
    rows, cols = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
    top, left = jnp.floor(u[0] * (height - rows + 1)), jnp.floor(u[1] * (width - cols + 1))
    y, x = jnp.arange(height)[:, None], jnp.arange(width)
    inside = (y >= top) & (y < top + rows) & (x >= left) & (x < left + cols)
    return inside & (rows < height) & (cols < width)
