"""The x-vector: a speaker embedding of a recording (Snyder et al., 2018)."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from ssl_jax.core.types import Array
from ssl_jax.nn.transformer import INITS

# kernel size and dilation of each layer, in frames
LAYERS = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))
# frames lost over all layers
CONTEXT = sum((size - 1) * step for size, step in LAYERS)


@dataclasses.dataclass(frozen=True)
class XVectorOptions:
    """Sizes of the x-vector and its layers."""

    width: int  # of the projected frames, of the layers, and of the embedding
    pooled: int  # of the last layer, whose mean and deviation over time are taken


class XVector(nn.Module):
    """From an encoder's hidden states to a speaker embedding, as in SUPERB; in float32.

    The sum of all hidden states with learned softmax weights, a Linear layer, five layers over
    time without padding, each with a ReLU, mean and deviation over time, two Linear layers with
    ReLUs. Two recordings are compared by the output of the first of these two.
    """

    options: XVectorOptions

    @nn.compact
    def __call__(self, hidden_states: Array, frames: Array) -> tuple[Array, Array]:
        """hidden_states (L + 1, B, S, D), frames (B,) -> (embedding, for training), both (B, W).

        `frames` of each row are real. Raises ValueError for a batch with too few frames; a row
        with too few gives finite but meaningless numbers.
        """
        o = self.options
        weights = self.param("mix", nn.initializers.zeros, (len(hidden_states),), jnp.float32)
        states = hidden_states.astype(jnp.float32)
        x = jnp.einsum("l,lbsd->bsd", nn.softmax(weights), states, precision="highest")
        if x.shape[1] <= CONTEXT:
            raise ValueError(
                f"a batch of {x.shape[1]} frames is too short for an x-vector, which needs "
                f"{CONTEXT + 1}: set config.data.buckets and config.data.min_seconds higher"
            )
        x = nn.Dense(o.width, kernel_init=INITS["torch"], name="projection")(x)
        for i, (size, step) in enumerate(LAYERS):
            width = o.pooled if i == len(LAYERS) - 1 else o.width
            x = nn.Conv(
                width,
                (size,),
                padding="VALID",
                kernel_dilation=step,
                kernel_init=INITS["torch"],
                name=f"layer{i}",
            )(x)
            x = nn.relu(x)
        x = _statistics(x, frames - CONTEXT)
        x = nn.relu(nn.Dense(o.width, kernel_init=INITS["torch"], name="embedding")(x))
        return x, nn.relu(nn.Dense(o.width, kernel_init=INITS["torch"], name="last")(x))


def _statistics(x: Array, frames: Array) -> Array:
    """x (B, S, D), frames (B,) -> mean and unbiased deviation over the real frames (B, 2 D)."""
    real = (jnp.arange(x.shape[1]) < frames[:, None])[..., None]
    count = jnp.maximum(frames, 1)[:, None].astype(jnp.float32)
    mean = jnp.where(real, x, 0).sum(1) / count
    square = jnp.where(real, jnp.square(x - mean[:, None]), 0).sum(1)
    # the root of 0, the variance of a constant channel, would have an infinite gradient
    variance = square / jnp.maximum(count - 1, 1)
    deviation = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)
    return jnp.concatenate([mean, deviation], -1)
