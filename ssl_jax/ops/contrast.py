"""Contrast with the other rows of the global batch (InfoNCE, 1807.03748; MoCo v3, 2104.02057).

Axes: B rows of the global batch, K keys of a queue, D channels. Rows are sharded over the mesh, and
the keys of all of them are gathered, so one device and eight give the same numbers.
"""

import jax
import jax.numpy as jnp

from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import Array
from ssl_jax.ops import losses

LOWEST = jnp.finfo(jnp.float32).min  # not -inf, so that a batch of padding alone stays finite
ALONE = (
    "config.data.batch_size is 1, but the negatives of an example are the other ones of its batch: "
    "use 2 or more, such as 256"
)


def unit(x: Array, eps: float = 1e-12) -> Array:
    """Scales x (..., D) to length 1; float32. Vectors shorter than `eps` are divided by it."""
    x = x.astype(jnp.float32)
    # the root of the square: its gradient at zero is finite
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), eps**2))


def batch_logits(
    queries: Array,
    keys: Array,
    weight: Array,
    temperature: float,
    queue: tuple[Array, Array] | None = None,
) -> Array:
    """Returns cosines over `temperature`: (B, B + K), the key of row i at column i.

    queries and keys (B, D); weight (B,): keys of rows of weight 0 are no negatives. queue: further
    negatives (K, D) and their weights (K,), of which those of weight 0 do not count. Raises
    ConfigError for one row without a queue, which has no negatives.
    """
    if len(keys) < 2 and queue is None:
        raise ConfigError(ALONE)
    counted = weight > 0
    if queue is not None:
        keys = jnp.concatenate([keys, queue[0].astype(keys.dtype)])
        counted = jnp.concatenate([counted, queue[1] > 0])
    pairs = jnp.einsum("id,jd->ij", unit(queries), unit(keys)) / temperature
    return jnp.where(counted, pairs, LOWEST)


def place_logits(queries: Array, keys: Array, weight: Array, temperature: float) -> Array:
    """Returns the cosines of unit vectors at the same place of all rows, over `temperature`.

    queries and keys (B, S, D) of length 1, weight (B,): keys of rows of weight 0 are no negatives
    -> (B, S, B), the key of row b at column b. Memory grows with the square of the batch.
    """
    if len(keys) < 2:
        raise ConfigError(ALONE)
    pairs = jnp.einsum("bsd,csd->bsc", queries, keys) / temperature
    return jnp.where(weight > 0, pairs, LOWEST)


def batch_info_nce(logits: Array) -> Array:
    """Returns -log softmax of logits[i, i] for logits (B, B or more) -> (B,)."""
    return losses.cross_entropy(logits, jnp.arange(len(logits)))
