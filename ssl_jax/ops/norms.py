"""Normalizations without parameters, for targets; float32, biased variance."""

import jax
import jax.numpy as jnp

from ssl_jax.core.types import Array


def layer_norm(x: Array, eps: float = 1e-5) -> Array:
    """Scales x (..., D) to zero mean and unit variance over D; float32."""
    x = x.astype(jnp.float32)
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + eps)


def instance_norm(x: Array, mask: Array | None = None, eps: float = 1e-5) -> Array:
    """Scales each channel of x (B, T, D) to zero mean and unit variance over time; float32.

    `mask` (B, T) is true at real frames: only they count, the others become 0. A row with one
    real frame becomes 0, since its deviation is 0.
    """
    x = x.astype(jnp.float32)
    real = jnp.ones(x.shape[:2] + (1,), bool) if mask is None else mask[..., None]
    count = jnp.maximum(real.sum(1, keepdims=True), 1)
    centred = x - jnp.where(real, x, 0).sum(1, keepdims=True) / count
    centred = jnp.where(real, centred, 0)
    variance = jnp.square(centred).sum(1, keepdims=True) / count
    return centred * jax.lax.rsqrt(variance + eps)


def batch_norm(x: Array, mask: Array, eps: float = 1e-5) -> Array:
    """Scales each channel of x (B, T, D) to zero mean and unit variance over the batch; float32.

    `mask` (B, T) is true at the frames that count; the others become 0.
    """
    flat = instance_norm(x.reshape(1, -1, x.shape[-1]), mask.reshape(1, -1), eps)
    return flat.reshape(x.shape)
