"""The product quantizer of wav2vec 2.0 (2006.11477, section 2): choices, perplexity, diversity.

Axes: B examples, S frames, G groups, V codes of a group, D channels of a code. All in float32.
"""

import math

import jax
import jax.numpy as jnp

from ssl_jax.core.types import Array
from ssl_jax.ops.schedules import Schedule


def gumbel_noise(keys: Array, shape: tuple[int, ...]) -> Array:
    """Returns draws of the standard Gumbel distribution, (B, *shape), for keys (B,)."""
    return jax.vmap(lambda key: jax.random.gumbel(key, shape))(keys)


def choose(logits: Array, noise: Array | None = None, temperature: Array | float = 1.0) -> Array:
    """Returns one code per group, one-hot: logits (..., G, V) -> (..., G, V).

    Without noise: the largest logit, and no gradient. With Gumbel `noise` of the same shape a
    code is drawn from softmax(logits), and the gradient is that of
    softmax((logits + noise) / temperature): straight through (equation 1 of the paper).
    """
    logits = logits.astype(jnp.float32)
    noisy = logits if noise is None else logits + noise
    hard = jax.nn.one_hot(noisy.argmax(-1), logits.shape[-1])
    if noise is None:
        return hard
    soft = jax.nn.softmax(noisy / temperature)
    return jax.lax.stop_gradient(hard - soft) + soft


def look_up(choice: Array, codes: Array) -> Array:
    """Joins the chosen codes of all groups: choice (..., G, V), codes (G, V, D) -> (..., G * D)."""
    chosen = jnp.einsum("...gv,gvd->...gd", choice, codes)
    return chosen.reshape(*choice.shape[:-2], -1)


def use(shares: Array, mask: Array) -> tuple[Array, Array]:
    """Returns (sum (G, V), count) of shares (..., G, V) over the frames where `mask` is true."""
    real = mask[..., None, None]
    axes = tuple(range(mask.ndim))
    return jnp.where(real, shares.astype(jnp.float32), 0).sum(axes), mask.sum().astype(jnp.float32)


def perplexity(shares: Array, mask: Array) -> Array:
    """Returns exp(entropy of the mean) of each group: shares (..., G, V), mask (...) -> (G,).

    The mean is over all frames of the batch where `mask` is true. From 1, a single code, to V,
    all codes equally often.
    """
    return perplexity_of(*use(shares, mask))


def perplexity_of(total: Array, count: Array, eps: float = 1e-7) -> Array:
    """Returns the perplexity (G,) from the sums of `use`; `eps` as in fairseq."""
    mean = total / jnp.maximum(count, 1)
    return jnp.exp(-(mean * jnp.log(mean + eps)).sum(-1))


def diversity(perplexities: Array, codes: int) -> Array:
    """Returns (G V - sum) / (G V) of perplexities (G,): 0 where all codes are used equally."""
    total = codes * perplexities.shape[0]
    return (total - perplexities.sum()) / total


def gumbel_temperature(start: float, end: float, decay: float) -> Schedule:
    """Returns n -> max(start * decay^n, end), the temperature of update n, counted from 0."""
    rate = math.log(decay)  # a power of a float32 near 1 would be wrong by a percent

    def schedule(step: Array | int) -> Array:
        return jnp.maximum(start * jnp.exp(rate * jnp.asarray(step, jnp.float32)), end)

    return schedule
