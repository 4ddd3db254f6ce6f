"""Conformer blocks (Gulati et al., 2005.08100) in the form of wav2vec 2.0's Conformer.

A block is half a feed-forward layer, attention, a convolution, the other half, and a LayerNorm. The
order of frames comes from relative positions in the attention (Transformer-XL, 1901.02860),
from rotated inputs of query and key (2104.09864), or from the convolutions alone.

Axes: B examples, T frames, D width, H heads, K taps, L layers.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core import mesh as mesh_lib
from ssl_jax.core.types import Array
from ssl_jax.nn import attention, batch_norm
from ssl_jax.nn.transformer import (
    ALL,
    MOVED,
    Encoded,
    Layers,
    TransformerOptions,
    dense,
    layer_norm,
    over_layers,
)

POSITIONS = ("relative", "rotary", "none")
NORMS = ("batch", "layer", "group")


@dataclasses.dataclass(frozen=True)
class ConformerOptions:
    """The options of a Conformer's blocks beyond those of a Transformer's."""

    depthwise_kernel: int = 31
    # after the depthwise convolution. batch: by running statistics, see `batch_momentum` | layer:
    # over channels, for training from scratch | group: over the real frames and the channels of
    # each of `norm_groups` groups
    depthwise_norm: str = "layer"
    # 0.0: the statistics of imported weights stay fixed, in training too; more, such as 0.01: in
    # training, those of the real frames of the whole global batch are used, and the running ones,
    # which are for evaluation, move towards them by as much
    batch_momentum: float = 0.0
    norm_groups: int = 8
    attention_positions: str = "relative"  # relative | rotary | none
    # padded frames are zeroed before the depthwise convolution, so that padding changes nothing;
    # false: as in the published code, where frames near the end of a padded clip differ
    mask_depthwise: bool = True

    def __post_init__(self) -> None:
        key = "config.method.encoder"
        for name, choices in (("depthwise_norm", NORMS), ("attention_positions", POSITIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{key}.{name} is {getattr(self, name)!r}: use one of {', '.join(choices)}"
                )
        if not 0 <= self.batch_momentum <= 1:
            raise ValueError(
                f"{key}.batch_momentum is {self.batch_momentum}: use 0.0 to 1.0, such as 0.01"
            )
        if self.batch_momentum and self.depthwise_norm != "batch":
            raise ValueError(
                f"{key}.batch_momentum is {self.batch_momentum}, but {key}.depthwise_norm is "
                f"{self.depthwise_norm!r}: set it to 0.0, or the norm to 'batch'"
            )
        for name, such in (("depthwise_kernel", 31), ("norm_groups", 8)):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{key}.{name} is {getattr(self, name)}: use 1 or more, such as {such}"
                )


def check_blocks(conformer: ConformerOptions, blocks: TransformerOptions) -> None:
    """Raises ValueError on the options of a Transformer that a Conformer does not have."""
    plain = TransformerOptions(norm="pre")
    keys = ("qkv_bias", "key_bias", "out_proj", "layer_scale", "drop_path", "final_norm")
    for key in (*keys, "head_width", "layer_heads", "layer_mlp_widths"):
        if getattr(blocks, key) != getattr(plain, key):
            raise ValueError(
                f"config.method.encoder.{key} is {getattr(blocks, key)}, which a Conformer does "
                f"not have: set it to {getattr(plain, key)}"
            )
    if blocks.norm == "res_post":
        raise ValueError(
            "config.method.encoder.norm is 'res_post', which a Conformer does not have: use 'post' "
            "or 'pre'"
        )
    if conformer.attention_positions == "rotary" and blocks.width // blocks.heads % 2:
        raise ValueError(
            f"config.method.encoder.width {blocks.width} over heads {blocks.heads} is odd, but "
            f"rotary positions rotate pairs of channels: use an even width per head"
        )
    if conformer.depthwise_norm == "group" and blocks.width % conformer.norm_groups:
        raise ValueError(
            f"config.method.encoder.norm_groups {conformer.norm_groups} does not divide "
            f"config.method.encoder.width {blocks.width}: use a divisor, such as 1"
        )


def relative_table(size: int, width: int) -> np.ndarray:
    """Returns (2 size - 1, width): sinusoids of the offsets size - 1 down to -(size - 1).

    Even columns are sines, odd ones cosines, of offset * 10000^(-column / width).
    """
    offsets = np.arange(size - 1, -size, -1.0)[:, None]
    angle = offsets * np.exp(np.arange(0, width, 2) * -(math.log(10000.0) / width))
    table = np.stack([np.sin(angle), np.cos(angle)], -1).reshape(len(offsets), -1)
    return table[:, :width].astype(np.float32)


def skew(scores: Array) -> Array:
    """scores (..., T, 2 T - 1) by offset -> (..., T, T) by key: [i, j] is that of offset i - j."""
    *lead, size, offsets = scores.shape
    padded = jnp.pad(scores, [(0, 0)] * (len(lead) + 1) + [(1, 0)])
    turned = padded.reshape(*lead, offsets + 1, size)[..., 1:, :]
    return turned.reshape(*lead, size, offsets)[..., :size]


def rotated(x: Array, heads: int) -> Array:
    """x (B, T, D) -> each head's pairs (k, k + half) turned by an angle that grows with time."""
    half = x.shape[-1] // heads // 2
    angle = np.arange(x.shape[1])[:, None] * 10000.0 ** (-np.arange(half) / half)
    cos, sin = (jnp.asarray(f(angle), x.dtype)[:, None] for f in (np.cos, np.sin))
    first, second = jnp.split(x.reshape(*x.shape[:2], heads, -1), 2, axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, -1).reshape(x.shape)


class RelativeAttention(nn.Module):
    """Self-attention with relative, rotary or no positions; the softmax is in float32."""

    options: TransformerOptions
    positions: str = "relative"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, valid: Array, train: bool) -> Array:
        """x (B, T, D), valid (B, T) -> (B, T, D)."""
        o = self.options
        head = o.width // o.heads
        place = rotated(x, o.heads) if self.positions == "rotary" else x
        query, key, value = (
            dense(o.width, o, self.dtype, name)(y).reshape(*x.shape[:2], o.heads, head)
            for name, y in (("query", place), ("key", place), ("value", x))
        )
        if self.positions == "relative":
            scores = self._relative(query, key)
        else:
            scores = attention.scores(query, key)
        scores = jnp.where(valid[:, None, None, :], scores * head**-0.5, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores, axis=-1)
        weights = nn.Dropout(o.attention_dropout, deterministic=not train)(weights)
        y = attention.weighted(weights.astype(self.dtype), value).reshape(x.shape)
        return dense(o.width, o, self.dtype, "out")(y)

    def _relative(self, query: Array, key: Array) -> Array:
        """Returns the scores of queries against keys and offsets, summed, (B, H, T, T) float32."""
        o, shape = self.options, query.shape[2:]
        init = nn.initializers.xavier_uniform()
        to_key, to_offset = (
            self.param(name, init, shape, jnp.float32).astype(self.dtype)
            for name in ("bias_u", "bias_v")
        )
        table = jnp.asarray(relative_table(query.shape[1], o.width), self.dtype)
        offsets = dense(o.width, o, self.dtype, "offset", False)(table).reshape(-1, *shape)
        by_offset = jnp.einsum(
            "bqhd,rhd->bhqr", query + to_offset, offsets, preferred_element_type=jnp.float32
        )
        return attention.scores(query + to_key, key) + skew(by_offset)


class RunningNorm(nn.Module):
    """BatchNorm with running statistics, which are parameters without a gradient.

    Without momentum they are fixed: name them in config.optim.frozen, as `(mean|var)$`, or weight
    decay will shrink them. With it, a training step uses the statistics of the global batch, and
    puts the running ones, moved towards them, into the collection MOVED.
    """

    momentum: float = 0.0
    eps: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, valid: Array, train: bool) -> Array:
        """x (B, T, D), valid (B, T) -> (B, T, D)."""
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        inits = {"scale": ones, "bias": zeros, "mean": zeros, "var": ones}
        p = {n: self.param(n, init, x.shape[-1:], jnp.float32) for n, init in inits.items()}
        mean, var = jax.lax.stop_gradient((p["mean"], p["var"]))
        if train and self.momentum:
            y = x.astype(jnp.float32)
            mean, var, *moved = batch_norm.moments(y, valid, self.momentum, mean, var)
            for name, value in zip(("mean", "var"), moved, strict=True):
                self.sow(MOVED, name, value, reduce_fn=lambda _, new: new, init_fn=lambda: None)
        y = (x.astype(jnp.float32) - mean) * jax.lax.rsqrt(var + self.eps)
        return (y * p["scale"] + p["bias"]).astype(self.dtype)


class GroupNorm(nn.Module):
    """Scales each group of channels to mean 0 and variance 1 over the real frames of a clip."""

    groups: int
    eps: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, valid: Array) -> Array:
        """x (B, T, D), valid (B, T) -> (B, T, D)."""
        real, shape = valid[..., None, None], x.shape
        y = x.astype(jnp.float32).reshape(*shape[:2], self.groups, -1)
        count = jnp.maximum(real.sum((1, 3), keepdims=True), 1) * y.shape[-1]
        y = y - jnp.where(real, y, 0).sum((1, 3), keepdims=True) / count
        variance = jnp.where(real, jnp.square(y), 0).sum((1, 3), keepdims=True) / count
        y = (y * jax.lax.rsqrt(variance + self.eps)).reshape(shape)
        scale = self.param("scale", nn.initializers.ones, shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape[-1:], jnp.float32)
        return (y * scale + bias).astype(self.dtype)


class ConvModule(nn.Module):
    """LayerNorm, a gated linear unit, a convolution of each channel, a norm, swish, Linear."""

    options: TransformerOptions
    conformer: ConformerOptions
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, valid: Array, train: bool) -> Array:
        """x (B, T, D), valid (B, T) -> (B, T, D)."""
        o, c = self.options, self.conformer
        x = layer_norm(o.eps, self.dtype, name="norm")(x)
        x = nn.glu(dense(2 * o.width, o, self.dtype, "widen", False)(x))
        if c.mask_depthwise:
            x = jnp.where(valid[..., None], x, 0)
        x = self._depthwise(x)
        if c.depthwise_norm == "batch":
            norm = RunningNorm(c.batch_momentum, dtype=self.dtype, name="running_norm")
            x = norm(x, valid, train)
        elif c.depthwise_norm == "group":
            x = GroupNorm(c.norm_groups, o.eps, self.dtype, name="depthwise_norm")(x, valid)
        else:
            x = layer_norm(o.eps, self.dtype, name="depthwise_norm")(x)
        x = dense(o.width, o, self.dtype, "narrow", False)(nn.swish(x))
        return nn.Dropout(o.dropout, deterministic=not train)(x)

    def _depthwise(self, x: Array) -> Array:
        """Convolves each channel with its own taps, as a sum of shifted frames, which XLA fuses.

        Grouped convolutions are slow on CPU, and their gradient is wrong on some meshes.
        """
        taps, width = self.conformer.depthwise_kernel, x.shape[-1]
        init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=0, out_axis=())
        kernel = self.param("depthwise", init, (taps, width), jnp.float32).astype(x.dtype)
        # of an even number of taps, one more reads what follows than what went before
        size, before = x.shape[1], (taps - 1) // 2
        padded = jnp.pad(x, ((0, 0), (before, taps // 2), (0, 0)))
        shifted = (jax.lax.slice_in_dim(padded, k, k + size, axis=1) for k in range(taps))
        return sum(kernel[k] * frames for k, frames in enumerate(shifted))  # type: ignore


class FeedForward(nn.Module):
    """LayerNorm, Linear, swish, Linear."""

    options: TransformerOptions
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """x (B, T, D) -> (B, T, D), before dropout."""
        o = self.options
        x = layer_norm(o.eps, self.dtype, name="norm")(x)
        x = nn.swish(dense(o.mlp_width, o, self.dtype, "up")(x))
        x = nn.Dropout(o.activation_dropout, deterministic=not train)(x)
        return dense(o.width, o, self.dtype, "down")(x)


class ConformerBlock(nn.Module):
    """One layer of a Conformer."""

    options: TransformerOptions
    conformer: ConformerOptions
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, valid: Array, train: bool) -> tuple[Array, Array]:
        """x (B, T, D) -> (output, raw output of the second feed-forward half), both (B, T, D)."""
        o, c, x = self.options, self.conformer, mesh_lib.by_example(x)
        skipped = x
        dropout = nn.Dropout(o.dropout, deterministic=not train)
        x = x + 0.5 * dropout(FeedForward(o, self.dtype, name="first")(x, train))
        attend = RelativeAttention(o, c.attention_positions, self.dtype, name="attention")
        normed = layer_norm(o.eps, self.dtype, name="attention_norm")(x)
        x = x + dropout(attend(normed, valid, train))
        x = x + ConvModule(o, c, self.dtype, name="conv")(x, valid, train)
        ffn = FeedForward(o, self.dtype, name="second")(x, train)
        x = layer_norm(o.eps, self.dtype, name="norm")(x + 0.5 * dropout(ffn))
        if train and o.layerdrop:
            keep = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - o.layerdrop)
            x = jnp.where(keep, x, skipped)
        return x, ffn


class Conformer(nn.Module):
    """A stack of blocks whose parameters are stacked along a leading layer axis.

    With options.norm `pre` a LayerNorm follows the last block.
    """

    options: TransformerOptions
    conformer: ConformerOptions = ConformerOptions()
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        self.blocks = ConformerBlock(self.options, self.conformer, self.dtype)
        if self.options.norm == "pre":
            self.final_norm = layer_norm(self.options.eps, self.dtype)

    def __call__(self, x: Array, valid: Array, train: bool, layers: Layers = ALL) -> Encoded:
        """x (B, T, D), valid (B, T) -> Encoded."""

        def layer(block: ConformerBlock, x: Array, _: None) -> tuple[Array, Array]:
            return block(x, valid, train)

        run = over_layers(layer, self.options, self.dtype, layers)
        last = self.final_norm if self.options.norm == "pre" else lambda y: y
        hidden_states, ffn = run(self.blocks, x.astype(self.dtype), None, last)
        return Encoded(hidden_states, ffn, valid)
