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
            mean, variance, *moved = moments(x, mask, self.momentum, *(v.value for v in running))
            for kept, new in zip(running, moved, strict=True):
                kept.value = new
        else:
            mean, variance = (kept.value for kept in running)
        y = (x - mean) * jax.lax.rsqrt(variance + self.eps)
        if self.affine:
            scale = self.param("scale", nn.initializers.ones, size, jnp.float32)
            y = y * scale + self.param("bias", nn.initializers.zeros, size, jnp.float32)
        return y


def moments(
    x: Array, mask: Array, momentum: float, mean: Array, variance: Array
) -> tuple[Array, Array, Array, Array]:
    """Returns mean and biased variance (D,) of the rows of x (..., D) in `mask`, and the running
    ones `mean` and `variance` moved by `momentum` towards these, without a gradient."""
    real = mask.astype(bool)[..., None]
    axes = tuple(range(x.ndim - 1))
    count = real.sum().astype(jnp.float32)
    own = jnp.where(real, x, 0).sum(axes) / jnp.maximum(count, 1)
    spread = jnp.where(real, jnp.square(x - own), 0).sum(axes) / jnp.maximum(count, 1)
    unbiased, step = spread * count / jnp.maximum(count - 1, 1), jnp.where(count > 0, momentum, 0.0)

    def moved(kept: Array, new: Array) -> Array:
        return kept + step * jax.lax.stop_gradient(new - kept)

    return own, spread, moved(mean, own), moved(variance, unbiased)
