"""Batch normalization (1502.03167) with the statistics of the whole global batch."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax.core.types import Array

STATISTICS = "statistics"  # the collection of running means and variances


class BatchNorm(nn.Module):
    """Scales every channel to mean 0 and variance 1 over all rows of the global batch.

    A mean over an axis that is sharded over the mesh is a mean over all devices, so this is what
    torch calls SyncBatchNorm. In training the running statistics, the collection `STATISTICS`, move
    by `momentum` towards those of the batch, whose variance is then unbiased, as in torch. A
    method keeps them in `extra`. Computes in float32.
    """

    affine: bool = True
    eps: float = 1e-5
    momentum: float = 0.1

    @nn.compact
    def __call__(self, x: Array, mask: Array, train: bool) -> Array:
        """x (..., D), mask (...), true at the rows that count -> (..., D) float32.

        Without `train`, the running statistics are used.
        """
        x, size = x.astype(jnp.float32), x.shape[-1:]
        running = (
            self.variable(STATISTICS, "mean", jnp.zeros, size),
            self.variable(STATISTICS, "var", jnp.ones, size),
        )
        if train and not self.is_initializing():
            mean, variance, count = _moments(x, mask)
            unbiased = variance * count / jnp.maximum(count - 1, 1)
            for kept, new in zip(running, (mean, unbiased), strict=True):
                step = jnp.where(count > 0, self.momentum, 0.0)
                kept.value += step * jax.lax.stop_gradient(new - kept.value)
        else:
            mean, variance = (kept.value for kept in running)
        y = (x - mean) * jax.lax.rsqrt(variance + self.eps)
        if self.affine:
            scale = self.param("scale", nn.initializers.ones, size, jnp.float32)
            y = y * scale + self.param("bias", nn.initializers.zeros, size, jnp.float32)
        return y


def _moments(x: Array, mask: Array) -> tuple[Array, Array, Array]:
    """Returns (mean (D,), biased variance (D,), count ()) of the rows of x (..., D) in `mask`."""
    real = mask.astype(bool)[..., None]
    axes = tuple(range(x.ndim - 1))
    count = real.sum().astype(jnp.float32)
    mean = jnp.where(real, x, 0).sum(axes) / jnp.maximum(count, 1)
    variance = jnp.where(real, jnp.square(x - mean), 0).sum(axes) / jnp.maximum(count, 1)
    return mean, variance, count
