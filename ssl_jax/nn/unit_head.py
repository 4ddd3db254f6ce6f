"""The head of HuBERT: from frames to logits over the units of several sets."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.types import Array
from ssl_jax.nn.transformer import INITS


class UnitHead(nn.Module):
    """Logits over units: cosines of frames with one vector per unit, divided by `temperature`.

    HuBERT, 2106.07447, section II.E, for several sets of units; a set has a projection of its own
    unless they are `tied`. Computes in float32. params: projection (D -> width, per set), units
    (sum of classes, width), uniform in [0, 1) at first.
    """

    classes: tuple[int, ...]
    width: int = 256
    tied: bool = False
    temperature: float = 0.1

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, tuple[Array, ...]]:
        """x (..., D) float32 -> (projected (..., width, of all sets), logits (..., C) per set)."""
        sets = 1 if self.tied else len(self.classes)
        project = nn.Dense(sets * self.width, kernel_init=INITS["torch"], name="projection")
        projected = project(x)
        uniform = nn.initializers.uniform(1.0)
        units = self.param("units", uniform, (sum(self.classes), self.width), jnp.float32)
        units, starts = _unit_length(units), np.cumsum((0, *self.classes))
        logits = []
        for k, count in enumerate(self.classes):
            own = 0 if self.tied else k
            frame = _unit_length(projected[..., own * self.width : (own + 1) * self.width])
            logits.append(frame @ units[starts[k] : starts[k] + count].T / self.temperature)
        return projected, tuple(logits)


def _unit_length(x: Array) -> Array:
    """Scales vectors (..., D) to length 1; a vector of zeros stays one and has no gradient."""
    square = jnp.square(x).sum(-1, keepdims=True)
    return jnp.where(square > 0, x * jax.lax.rsqrt(jnp.where(square > 0, square, 1)), 0)
