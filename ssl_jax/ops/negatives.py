"""Contrast with other frames of the same example (wav2vec 2.0, 2006.11477, section 3.2).

Axes: B examples, T frames, K negatives, D channels, G groups of codes.
"""

import jax
import jax.numpy as jnp

from ssl_jax.core.types import Array


def draw(keys: Array, pool: Array, count: int) -> Array:
    """Returns, for each frame, the places of `count` others: keys (B,), pool (B, T) -> (B, T, K).

    A frame of the pool gets other frames of its row's pool, uniformly and with replacement; the
    sizes of the pools may differ. Where there is no other, the place is the frame's own, which
    `logits` excludes. Frames outside of the pool get meaningless places.
    """
    size = pool.shape[1]
    rank = jnp.cumsum(pool, axis=1) - 1
    places = jnp.argsort(~pool, axis=1, stable=True)  # those of the pool first

    def row(key: Array, rank: Array, places: Array, members: Array) -> Array:
        # one of the others by its rank among them: those after the frame itself are shifted
        other = jax.random.randint(key, (size, count), 0, jnp.maximum(members - 1, 1))
        other = other + (other >= rank[:, None])
        return jnp.where(members > 1, places[other], jnp.arange(size)[:, None])

    return jax.vmap(row)(keys, rank, places, pool.sum(1))


def logits(
    context: Array, targets: Array, ids: Array, places: Array, temperature: float = 0.1
) -> Array:
    """Returns cosines over `temperature`, the true target first, then the negatives: (B, T, 1 + K).

    context and targets (B, T, D), ids (B, T, G) the codes of a target, places (B, T, K). A
    negative with the same codes as the true target does not count: it gets -inf. All pairs
    of a row are compared, which costs less than gathering K vectors for every frame.
    """
    pairs = jnp.einsum("btd,bsd->bts", _unit(context), _unit(targets)) / temperature
    negatives = jnp.take_along_axis(pairs, places, axis=2)
    same = _same(ids, places)
    negatives = jnp.where(same, -jnp.inf, negatives)
    positive = jnp.diagonal(pairs, axis1=1, axis2=2)[..., None]
    return jnp.concatenate([positive, negatives], axis=-1)


def _same(ids: Array, places: Array) -> Array:
    """Returns where a negative has the codes of the frame's own target, (B, T, K)."""
    others = jax.vmap(lambda row, at: row[at])(ids, places)
    return (others == ids[:, :, None]).all(-1)


def _unit(x: Array, eps: float = 1e-8) -> Array:
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), eps**2))


def info_nce(logits: Array) -> Array:
    """Returns -log softmax of the first of logits (..., 1 + K), which may hold -inf -> (...)."""
    return jax.nn.logsumexp(logits, axis=-1) - logits[..., 0]
