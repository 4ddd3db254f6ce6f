"""A codebook of unit vectors that follows the vectors assigned to it (BEiT v2, 2208.06366).

Axes: N vectors, K codes, C channels. All in float32. Sums are over the global batch, so one device
and eight give the same codebook.
"""

import jax
import jax.numpy as jnp

from ssl_jax.core.types import Array
from ssl_jax.ops import kmeans
from ssl_jax.ops.contrast import unit

ROUNDS = 10  # of k-means, on the first batch


def nearest(z: Array, codes: Array) -> Array:
    """Returns the code (...,) int32 of largest cosine for z (..., C) of length 1; codes (K, C)."""
    return jnp.matmul(z, codes.T, precision=kmeans.HIGHEST).argmax(-1).astype(jnp.int32)


def quantize(z: Array, codes: Array, ids: Array) -> Array:
    """Returns the chosen codes (..., C); their gradient is that of z, straight through."""
    return z + jax.lax.stop_gradient(codes[ids] - z)


def sums(z: Array, ids: Array, real: Array, count: int) -> tuple[Array, Array]:
    """Returns the sums (K, C) and numbers (K,) of the vectors z (N, C) of each code where `real`
    (N,) is true."""
    kept = jnp.where(real[:, None], z, 0)
    rows = jnp.concatenate([kept, real[:, None].astype(z.dtype)], 1)
    total = kmeans.by_label(rows, jnp.where(real, ids, 0), count)
    return total[:, :-1], total[:, -1]


def start(chance: Array, z: Array, real: Array, count: int) -> Array:
    """Returns codes (K, C) by k-means with cosines over z (N, C), N at least K.

    It begins with the real vectors of largest `chance` (N,), and with some of them twice where
    fewer than K are real. A code without vectors stays where it is.
    """
    order = jax.lax.top_k(jnp.where(real, chance, -1.0), count)[1]
    first = z[order[jnp.arange(count) % jnp.maximum(real.sum(), 1)]]

    def improve(_: int, codes: Array) -> Array:
        total, number = sums(z, nearest(z, codes), real, count)
        return jnp.where(number[:, None] > 0, unit(total), codes)

    return jax.lax.fori_loop(0, ROUNDS, improve, first)


def move(codes: Array, total: Array, number: Array, decay: float) -> Array:
    """Moves each code (K, C) towards the mean direction of its vectors, whose sums are given.

    Codes without vectors stay exactly as they are.
    """
    moved = unit(decay * codes + (1 - decay) * unit(total))
    return jnp.where(number[:, None] > 0, moved, codes)


def restart(codes: Array, dead: Array, chance: Array, z: Array, real: Array) -> Array:
    """Replaces the codes (K, C) where `dead` (K,) by the real vectors z (N, C) of largest `chance`
    (N,), each by another one."""
    order = jax.lax.top_k(jnp.where(real, chance, -1.0), len(codes))[1]
    place = (jnp.cumsum(dead) - 1) % jnp.maximum(real.sum(), 1)
    return jnp.where(dead[:, None], z[order[place]], codes)
