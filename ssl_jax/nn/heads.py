"""Heads: one output per example or per token, and the predictions of a student."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from ssl_jax.core.types import Array
from ssl_jax.nn.batch_norm import BatchNorm
from ssl_jax.nn.transformer import INITS, gelu, layer_norm

POOLS = ("tokens", "frames", "cls", "tanh")


@dataclasses.dataclass(frozen=True)
class HeadOptions:
    """The layers between the pooled tokens and the output."""

    norm: bool  # a LayerNorm
    eps: float  # of that norm
    dropout: float
    init_std: float  # of the initial last weights; 0: uniform, with bound 1 / sqrt(D)
    init_scale: float  # factor on the initial last weights (BEiT)

    def __post_init__(self) -> None:
        key = "config.method.head"
        if not 0 <= self.dropout < 1:
            raise ValueError(f"{key}.dropout is {self.dropout}: use 0.0 or more and below 1.0")
        if self.init_std < 0:
            raise ValueError(f"{key}.init_std is {self.init_std}: use 0.0 or more, such as 0.02")


def pool(x: Array, valid: Array, prefix: int, how: str) -> Array:
    """x (B, T, D), valid (B, T) -> (B, D) in float32.

    how `tokens`: mean over all valid tokens, class token included; `frames`: without the first
    `prefix` tokens; `cls`: the class token; `tanh`: the first token, whatever it is. An example
    without valid tokens gives zeros.
    """
    if how not in POOLS:
        raise ValueError(f"config.method.pool is {how!r}: use one of {', '.join(POOLS)}")
    if how == "cls" and not prefix:
        raise ValueError(
            "config.method.pool is 'cls', but the encoder has no class token: use 'frames'"
        )
    if how in ("cls", "tanh"):
        return x[:, 0].astype(jnp.float32)
    start = prefix if how == "frames" else 0
    real = valid[:, start:, None]
    total = jnp.where(real, x[:, start:].astype(jnp.float32), 0.0).sum(1)
    return total / jnp.maximum(real.sum(1), 1)


class Classifier(nn.Module):
    """Pool, LayerNorm, dropout, Linear: logits, or regression values. Computes in float32.

    pool `tanh` is RoBERTa's: the first token passes a Linear and a tanh before the rest.
    """

    outputs: int
    options: HeadOptions
    pool: str = "tokens"

    @nn.compact
    def __call__(self, x: Array, valid: Array, prefix: int = 0, train: bool = False) -> Array:
        """x (B, T, D), valid (B, T), number of prefix tokens -> (B, outputs)."""
        o = self.options
        x = pool(x, valid, prefix, self.pool)
        if self.pool == "tanh":
            x = nn.tanh(nn.Dense(x.shape[-1], kernel_init=INITS["torch"], name="dense")(x))
        if o.norm:
            x = layer_norm(o.eps, jnp.float32, name="norm")(x)
        x = nn.Dropout(o.dropout, deterministic=not train)(x)
        plain = nn.initializers.normal(o.init_std) if o.init_std else INITS["torch"]

        def kernel_init(key: Array, shape: tuple, dtype: jnp.dtype) -> Array:
            return o.init_scale * plain(key, shape, dtype)

        return nn.Dense(self.outputs, kernel_init=kernel_init, name="classifier")(x)


class PredictionHead(nn.Module):
    """From the last layer of a student to its predictions: Linear, or Linear, GELU, Linear.

    Computes in float32. params: kernel and bias of the last layer, `up` of the first of two,
    `norm` of a LayerNorm before them.
    """

    width: int
    norm: bool = False
    layers: int = 1
    ratio: int = 2  # width between two layers, as a multiple of D
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


class NormedMLP(nn.Module):
    """Linear layers without bias, each with batch norm, and ReLU between (MoCo v3, 2104.02057).

    The last norm has no scale and no bias. Norms compute in float32, and their running statistics
    are a collection, `batch_norm.STATISTICS`. params: linear0, norm0, ...
    """

    layers: int
    hidden: int
    outputs: int
    eps: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, mask: Array, train: bool) -> Array:
        """x (B, D), mask (B,), true at the rows that count -> (B, outputs) float32."""
        for i in range(self.layers):
            last = i == self.layers - 1
            width = self.outputs if last else self.hidden
            x = nn.Dense(
                width,
                use_bias=False,
                dtype=self.dtype,
                kernel_init=INITS["torch"],
                name=f"linear{i}",
            )(x)
            x = BatchNorm(affine=not last, eps=self.eps, name=f"norm{i}")(x, mask, train)
            x = x if last else nn.relu(x)
        return x


class MLP(nn.Module):
    """Linear layers with a GELU between them; computes in float32. params: linear0, linear1, ..."""

    widths: tuple[int, ...]  # of the output of each layer
    weight_init: str = "torch"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (..., D) -> (..., last width) float32."""
        x = x.astype(jnp.float32)
        for i, width in enumerate(self.widths):
            x = gelu(x) if i else x
            x = nn.Dense(width, kernel_init=INITS[self.weight_init], name=f"linear{i}")(x)
        return x


class FrameClassifier(nn.Module):
    """Dropout and Linear on every frame: logits. Computes in float32.

    It reads the last hidden state or, with `mix`, the sum of all with learned softmax weights,
    equal at first (SUPERB, 2105.01051). With `projection`, a Linear to that width precedes the
    dropout. The classifier's weights start Xavier-uniform and its bias at zero.
    """

    outputs: int
    dropout: float = 0.0
    mix: bool = False
    projection: int = 0

    @nn.compact
    def __call__(self, hidden_states: Array, train: bool = False) -> Array:
        """hidden_states (L + 1, B, S, D) -> (B, S, outputs)."""
        if self.mix:
            weights = self.param("mix", nn.initializers.zeros, (len(hidden_states),), jnp.float32)
            states = hidden_states.astype(jnp.float32)
            x = jnp.einsum("l,lbsd->bsd", nn.softmax(weights), states, precision="highest")
        else:
            x = hidden_states[-1].astype(jnp.float32)
        if self.projection:
            x = nn.Dense(self.projection, kernel_init=INITS["torch"], name="projection")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.outputs, kernel_init=INITS["xavier"], name="classifier")(x)
