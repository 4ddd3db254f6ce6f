"""ALiBi (2108.12409), symmetric: attention scores that fall with the distance of two tokens.

data2vec 2.0 (2212.07525) adds -slope_h |i - j| to the scores of head h, times a factor per head.
"""

import jax.numpy as jnp

from ssl_jax.core.types import Array


def slopes(heads: int) -> tuple[float, ...]:
    """Returns the slope of each head: 2^(-8 i / n) for i = 1 to n heads, n a power of two.

    For other n, the slopes of the next lower power of two come first, then every second one of
    the next higher power.
    """
    below = 1 << (heads.bit_length() - 1)
    first = [2 ** (-8 * i / below) for i in range(1, below + 1)]
    second = [2 ** (-4 * i / below) for i in range(1, 2 * below + 1, 2)]
    return tuple((first + second)[:heads])


def distance_bias(ids: Array, heads: int) -> Array:
    """ids (B, T), token positions -> bias of the scores, (B, H, T, T) float32, at most 0.

    For the visible ids alone, it is the bias of all positions gathered along both axes.
    """
    distance = jnp.abs(ids[:, :, None] - ids[:, None, :]).astype(jnp.float32)
    return -jnp.asarray(slopes(heads), jnp.float32)[:, None, None] * distance[:, None]
