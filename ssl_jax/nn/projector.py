"""Maps features of a student to the width of its teacher, with torch's default initial values."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax.core.types import Array
from ssl_jax.nn.transformer import INITS, gelu

KINDS = ("linear", "mlp", "none")


class Projector(nn.Module):
    """`linear`: one layer; `mlp`: two, with a GELU between them, both of the teacher's width."""

    width: int
    kind: str = "linear"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (..., D) -> (..., width)."""
        if self.kind == "mlp":
            x = gelu(self._dense("hidden", x))
        return self._dense("out", x)

    def _dense(self, name: str, x: Array) -> Array:
        bound = x.shape[-1] ** -0.5

        def bias(key: Array, shape: tuple[int, ...], kind: jnp.dtype = jnp.float32) -> Array:
            return jax.random.uniform(key, shape, kind, -bound, bound)

        layer = nn.Dense(
            self.width, dtype=self.dtype, kernel_init=INITS["torch"], bias_init=bias, name=name
        )
        return layer(x)
