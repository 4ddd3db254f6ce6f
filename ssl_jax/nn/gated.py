"""Transformer blocks of BEATs (2212.09058, section 3.1): DeepNorm and gated relative positions.

A table has a number per head for each bucket of distances. All blocks add it to their attention
scores, times a gate that each query of a block computes for itself. With DeepNorm (2203.00555) the
residual is scaled up and the initial weights down, so that a deep post-norm stack trains.

Axes: B examples, T tokens, D width, H heads, E channels of a head, L layers.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core import mesh as mesh_lib
from ssl_jax.core.types import Array
from ssl_jax.nn import attention
from ssl_jax.nn.conformer import skew
from ssl_jax.nn.conv import scale_gradient
from ssl_jax.nn.transformer import (
    ALL,
    MLP,
    Encoded,
    Layers,
    TransformerOptions,
    dense,
    layer_norm,
    over_layers,
)


@dataclasses.dataclass(frozen=True)
class GatedOptions:
    """The options of these blocks beyond those of a Transformer's."""

    deep_norm: bool = True  # the residual times (2 depth)^(1/4); see also init='deep_norm'
    gated: bool = True  # false: all queries add the table as it is
    num_buckets: int = 320  # of relative positions, half of them for each direction
    max_distance: int = 800  # in tokens; larger ones share the last bucket
    # factor on the gradient that flows down through the input of each block, in the loss itself;
    # config.optim.layer_decay is a factor of the learning rate instead
    layer_gradient_decay: float = 1.0

    def __post_init__(self) -> None:
        key = "config.method.encoder"
        if self.num_buckets < 4 or self.num_buckets % 4:
            raise ValueError(
                f"{key}.num_buckets is {self.num_buckets}: use a multiple of 4, such as 320"
            )
        if self.max_distance <= self.num_buckets // 4:
            raise ValueError(
                f"{key}.max_distance is {self.max_distance}: use more than a quarter of "
                f"{key}.num_buckets, such as {self.num_buckets}"
            )
        if not 0 < self.layer_gradient_decay <= 1:
            raise ValueError(
                f"{key}.layer_gradient_decay is {self.layer_gradient_decay}: use a factor up to "
                f"1.0, such as 0.6"
            )


def buckets(distance: np.ndarray, num_buckets: int, max_distance: int) -> np.ndarray:
    """Returns the table row of each distance, key - query, in tokens.

    A quarter of the rows are for short distances, one each, and a quarter for longer ones, on a
    logarithmic scale; the second half is for keys that follow the query.
    """
    half, exact = num_buckets // 2, num_buckets // 4
    size = np.abs(distance)
    steps = np.log(np.maximum(size, exact) / exact) / math.log(max_distance / exact)
    far = np.minimum(half - 1, exact + np.trunc(steps * (half - exact)).astype(int))
    return (half * (distance > 0) + np.where(size < exact, size, far)).astype(np.int32)


class RelativeBias(nn.Module):
    """The table of all blocks, and the numbers it adds to the scores before they are gated."""

    gated: GatedOptions
    heads: int

    @nn.compact
    def __call__(self, size: int, ids: Array | None = None) -> Array:
        """Returns (1, H, T, T) for `size` neighbouring tokens, T = size.

        ids (B, T): for those tokens of `size`, (B, H, T, T).
        """
        g = self.gated
        init, shape = nn.initializers.normal(0.02), (g.num_buckets, self.heads)
        table = self.param("table", init, shape, jnp.float32)
        rows = buckets(np.arange(1 - size, size), g.num_buckets, g.max_distance)
        by_distance = table[rows]
        if ids is not None:
            between = ids[:, None, :] - ids[:, :, None]
            return jnp.moveaxis(by_distance[between + size - 1], -1, 1)
        # no gather of (T, T) numbers, whose gradient would be a scatter
        repeated = jnp.broadcast_to(by_distance.T[:, None], (self.heads, size, 2 * size - 1))
        return skew(repeated)[None]


class GatedAttention(nn.Module):
    """Self-attention whose queries gate the relative positions; the softmax is in float32."""

    options: TransformerOptions
    gated: GatedOptions = GatedOptions()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, valid: Array, bias: Array, train: bool) -> Array:
        """x (B, T, D), valid (B, T), bias (B or 1, H, T, T) -> (B, T, D)."""
        o = self.options
        head = o.width // o.heads
        query, key, value = (
            dense(o.width, o, self.dtype, name)(x).reshape(*x.shape[:2], o.heads, head)
            for name in ("query", "key", "value")
        )
        if self.gated.gated:
            bias = self._gate(query) * bias
        scores = attention.scores(query * head**-0.5, key)
        # the smallest finite number, not -inf: a row without any valid key stays finite
        scores = jnp.where(valid[:, None, None, :], scores + bias, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores, axis=-1)
        weights = nn.Dropout(o.attention_dropout, deterministic=not train)(weights)
        y = attention.weighted(weights.astype(self.dtype), value).reshape(x.shape)
        return dense(o.width, o, self.dtype, "out")(y)

    def _gate(self, query: Array) -> Array:
        """query (B, T, H, E), not yet scaled -> the factor of the bias (B, H, T, 1), float32."""
        init = nn.initializers.normal(0.02)
        linear = nn.Dense(8, dtype=self.dtype, kernel_init=init, name="gate")
        pairs = linear(query).astype(jnp.float32).reshape(*query.shape[:3], 2, 4).sum(-1)
        first, second = jnp.moveaxis(jax.nn.sigmoid(pairs), -1, 0)
        ones, heads = nn.initializers.ones, (self.options.heads,)
        scale = self.param("gate_scale", ones, heads, jnp.float32)
        return jnp.moveaxis(first * (second * scale - 1) + 2, 2, 1)[..., None]


class GatedBlock(nn.Module):
    """One layer: attention and MLP, each with its residual, scaled by DeepNorm, and then a norm."""

    options: TransformerOptions
    gated: GatedOptions = GatedOptions()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, valid: Array, bias: Array, train: bool) -> tuple[Array, Array]:
        """x (B, T, D) -> (output, raw MLP output), both (B, T, D)."""
        o, g = self.options, self.gated
        x = mesh_lib.by_example(scale_gradient(x, g.layer_gradient_decay))
        skipped, alpha = x, (2 * o.depth) ** 0.25 if g.deep_norm else 1.0
        dropout = nn.Dropout(o.dropout, deterministic=not train)
        attend = GatedAttention(o, g, self.dtype, name="attention")
        attended = dropout(attend(x, valid, bias, train))
        x = layer_norm(o.eps, self.dtype, name="norm1")(alpha * x + attended)
        ffn = MLP(o, self.dtype, name="mlp")(x, train)
        x = layer_norm(o.eps, self.dtype, name="norm2")(alpha * x + dropout(ffn))
        if train and o.layerdrop:
            # computed, then discarded: the cost of a step must not depend on a random draw
            keep = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - o.layerdrop)
            x = jnp.where(keep, x, skipped)
        return x, ffn


class GatedTransformer(nn.Module):
    """A stack of blocks, stacked along a leading layer axis, and the table that they share."""

    options: TransformerOptions
    gated: GatedOptions = GatedOptions()
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        self.relative = RelativeBias(self.gated, self.options.heads)
        self.blocks = GatedBlock(self.options, self.gated, self.dtype)

    def __call__(
        self,
        x: Array,
        valid: Array,
        train: bool,
        places: tuple[int, Array] | None = None,
        layers: Layers = ALL,
    ) -> Encoded:
        """x (B, T, D), valid (B, T) -> Encoded.

        places: the number of tokens of the whole example, and which of them x holds, (B, T);
        None: x holds the whole.
        """
        bias = self.relative(*(places or (x.shape[1],)))

        def layer(block: GatedBlock, x: Array, _: None) -> tuple[Array, Array]:
            return block(x, valid, bias, train)

        run = over_layers(layer, self.options, self.dtype, layers)
        hidden_states, ffn = run(self.blocks, x.astype(self.dtype), None, lambda y: y)
        return Encoded(hidden_states, ffn, valid)


def check_blocks(blocks: TransformerOptions) -> None:
    """Raises ValueError on an option of a Transformer that these blocks do not have."""
    plain = TransformerOptions()
    for key in ("norm", "qkv_bias", "key_bias", "out_proj", "drop_path", "layer_scale"):
        if getattr(blocks, key) != getattr(plain, key):
            raise ValueError(
                f"config.method.encoder.{key} is {getattr(blocks, key)!r}, which the blocks of "
                f"BEATs do not have: set it to {getattr(plain, key)!r}"
            )
    if blocks.final_norm:
        raise ValueError(
            f"config.method.encoder.final_norm is {blocks.final_norm}, which the blocks of BEATs "
            f"do not have: set it to None"
        )
