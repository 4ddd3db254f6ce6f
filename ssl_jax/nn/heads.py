"""Heads that turn the tokens of a clip into one answer."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax.nn.transformer import INITS, gelu, layer_norm

Array = jax.Array

POOLS = ("tokens", "frames", "cls")


def pool(x: Array, valid: Array, prefix: int, how: str) -> Array:
    """x (B, T, D), valid (B, T) -> (B, D) in float32.

    how `tokens`: mean over all valid tokens, class token included; `frames`: without the first
    `prefix` tokens; `cls`: the first token alone. A clip without valid tokens gives zeros.
    """
    if how not in POOLS:
        raise ValueError(f"config.method.pool is {how!r}: use one of {', '.join(POOLS)}")
    if how == "cls":
        if not prefix:
            raise ValueError("config.method.pool is 'cls', but the encoder has none: use 'frames'")
        return x[:, 0].astype(jnp.float32)
    start = prefix if how == "frames" else 0
    real = valid[:, start:, None]
    total = jnp.where(real, x[:, start:].astype(jnp.float32), 0.0).sum(1)
    return total / jnp.maximum(real.sum(1), 1)


class MeanPoolClassifier(nn.Module):
    """Pool, LayerNorm, Linear: the head of the Keyword Transformer. Computes in float32."""

    num_classes: int
    pool: str = "tokens"
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Array, valid: Array, prefix: int = 0) -> Array:
        """x (B, T, D), valid (B, T), number of prefix tokens -> logits (B, classes)."""
        x = layer_norm(self.eps, jnp.float32, name="norm")(pool(x, valid, prefix, self.pool))
        kernel_init = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")
        return nn.Dense(self.num_classes, kernel_init=kernel_init, name="classifier")(x)


class PredictionHead(nn.Module):
    """From the last layer of a student to its predictions: Linear, or Linear, GELU, Linear.

    Computes in float32. params: kernel and bias of the last layer, `up` of the first of two,
    `norm` of a LayerNorm before them.
    """

    width: int
    norm: bool = False
    layers: int = 1
    ratio: int = 2  # of the width between two layers to D
    weight_init: str = "torch"
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (..., D) float32 -> (..., D)."""
        kernel_init = INITS[self.weight_init]
        if self.norm:
            x = layer_norm(self.eps, jnp.float32, name="norm")(x)
        if self.layers == 2:
            x = gelu(nn.Dense(self.ratio * self.width, kernel_init=kernel_init, name="up")(x))
        last = nn.Dense(self.width, kernel_init=kernel_init)
        nn.share_scope(self, last)
        return last(x)
