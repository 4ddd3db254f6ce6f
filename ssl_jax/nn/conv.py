"""Convolutions over waveforms and over frames.

Axes: B examples, N samples, T frames of any layer, S frames of the last, C channels.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from ssl_jax.core import mesh as mesh_lib
from ssl_jax.core import platform
from ssl_jax.core.types import Array
from ssl_jax.nn.transformer import INITS, gelu, layer_norm
from ssl_jax.ops import norms

Length = TypeVar("Length", int, Array)

KERNELS = (10, 3, 3, 3, 3, 2, 2)
STRIDES = (5, 2, 2, 2, 2, 2, 2)


def receptive_field(kernels: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, int]:
    """Returns (samples that one frame covers, samples between frames) of stacked convolutions."""
    field, hop = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field += (kernel - 1) * hop
        hop *= stride
    return field, hop


def output_lengths(
    samples: Length, kernels: tuple[int, ...] = KERNELS, strides: tuple[int, ...] = STRIDES
) -> Length:
    """Returns the number of frames that cover only real samples; integers or an integer array.

    Equals floor((n - kernel) / stride) + 1 applied layer by layer: nested floors compose.
    """
    field, hop = receptive_field(kernels, strides)
    frames = (samples - field) // hop + 1
    return frames * (frames > 0)


def length_mask(lengths: Array, size: int) -> Array:
    """lengths (B,) -> bool (B, size), true at the first `lengths` positions."""
    return jnp.arange(size) < lengths[:, None]


def scale_gradient(x: Array, factor: float) -> Array:
    """Returns x unchanged; its gradient is multiplied by `factor` (0 stops it)."""
    if factor == 1.0:
        return x
    held = jax.lax.stop_gradient(x)
    return held + factor * (x - held)


def grouped_conv(
    x: Array, kernel: Array, *args: Any, feature_group_count: int = 1, **options: Any
) -> Array:
    """`lax.conv_general_dilated` with channels last, split as suits the device.

    On CPU, one convolution per group: XLA (jax 0.10) computes the kernel's gradient of a grouped
    convolution without matrix products there, 10 to 30 times slower than group by group. On a GPU,
    one for several merged groups: see `merge_groups`. See also `wide_conv`.
    """

    def conv(x: Array, kernel: Array, groups: int) -> Array:
        parts = _blocks(x, kernel, groups)
        if parts is None:
            more = {**options, "feature_group_count": groups}
            return jax.lax.conv_general_dilated(x, kernel, *args, **more)
        done = [jax.lax.conv_general_dilated(a, b, *args, **options) for a, b in parts]
        return jnp.concatenate(done, -1) if len(done) > 1 else done[0]

    return _by_group(conv, x, kernel, feature_group_count)


def wide_conv(x: Array, kernel: Array, groups: int, padding: int) -> Array:
    """A grouped convolution of stride 1 with a kernel of many taps: x (B, S, C) -> (B, S', D).

    kernel (K, C / groups, D); `padding` zeros are added at both ends. On CPU the kernel's gradient
    is one matrix product over unfolded frames: as a convolution whose window spans the clip, XLA
    (jax 0.10) computes it so slowly that a step of HuBERT takes 50 % longer.
    """
    x = jnp.pad(x, ((0, 0), (padding, padding), (0, 0)))

    def conv(x: Array, kernel: Array, groups: int) -> Array:
        parts = _blocks(x, kernel, groups)
        if parts is None:
            return _conv(x, kernel, groups)
        one = _unfolding_conv if platform.name() == "cpu" else _conv
        return jnp.concatenate([one(a, b) for a, b in parts], -1)

    return _by_group(conv, x, kernel, groups)


def _by_group(
    conv: Callable[[Array, Array, int], Array], x: Array, kernel: Array, groups: int
) -> Array:
    """Returns conv(x, kernel, groups), computed on each device for its own examples and groups.

    Left to itself, XLA (jax 0.10) partitions the kernel's gradient wrongly on a mesh with a `model`
    axis, and all of it may be lost. Without a mesh nothing is partitioned.
    """
    if not mesh_lib.spread():
        return conv(x, kernel, groups)
    ways = mesh_lib.size("model")
    channels = "model" if groups % ways == 0 else None
    examples = mesh_lib.BATCH_AXES if len(x) % mesh_lib.ways() == 0 else ()
    of_x = P(examples, *[None] * (x.ndim - 2), channels)
    of_kernel = P(*[None] * (x.ndim - 1), channels)

    def local(x: Array, kernel: Array) -> Array:
        kernel = jax.lax.pcast(kernel, examples, to="varying")
        return conv(x, kernel, groups // ways if channels else groups)

    y = jax.shard_map(local, in_specs=(of_x, of_kernel), out_specs=of_x)(x, kernel)
    return mesh_lib.by_example(y)


def merge_groups(kernel: Array, groups: int, blocks: int) -> Array:
    """Rewrites a kernel of many groups as one of fewer, with zeros between merged groups.

    kernel (*K, C / groups, D) -> (*K, C / blocks, D), for `blocks` that divides `groups`. cuDNN
    computes groups of few channels more slowly than merged ones, which take many times as many
    products: on an H100, the decoder's groups of 24 channels took half of each step of data2vec 2.0
    on images.
    """
    *taps, channels, width = kernel.shape
    each = groups // blocks
    kernel = kernel.reshape(*taps, channels, blocks, each, width // groups)
    kernel = jnp.einsum("...cbgd,hg->...hcbgd", kernel, jnp.eye(each, dtype=kernel.dtype))
    return kernel.reshape(*taps, each * channels, width)


def block_count(channels: int, groups: int, least: int = 128) -> int:
    """Returns the most blocks into which groups merge with at least `least` channels in each."""
    fits = [b for b in range(1, groups + 1) if not groups % b and channels // b >= least]
    return max(fits, default=1)


def _blocks(x: Array, kernel: Array, groups: int) -> list[tuple[Array, Array]] | None:
    """Returns (input, kernel) of each convolution that makes up a grouped one; None: no split."""
    device = platform.name()
    if groups == 1 or device not in ("cpu", "gpu"):
        return None
    count = groups if device == "cpu" else block_count(x.shape[-1], groups)
    kernel = merge_groups(kernel, groups, count) if count < groups else kernel
    return list(zip(jnp.split(x, count, -1), jnp.split(kernel, count, -1), strict=True))


def _conv(x: Array, kernel: Array, groups: int = 1) -> Array:
    names = ("NWC", "WIO", "NWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (1,), "VALID", dimension_numbers=names, feature_group_count=groups
    )


@jax.custom_vjp
def _unfolding_conv(x: Array, kernel: Array) -> Array:
    return _conv(x, kernel)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _conv(x, kernel), (x, kernel)


def _backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = kept
    (to_x,) = jax.vjp(lambda x: _conv(x, kernel), x)[1](gradient)
    taps, frames = len(kernel), gradient.shape[1]
    unfolded = x[:, np.arange(frames)[:, None] + np.arange(taps)]  # (B, S', K, C)
    return to_x, jnp.einsum("btkc,btd->kcd", unfolded, gradient)


_unfolding_conv.defvjp(_forward, _backward)


class ChannelNorm(nn.Module):
    """GroupNorm with one group per channel whose statistics skip padded frames.

    Padding an utterance therefore changes none of its frames, unlike with a plain GroupNorm.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, valid: Array) -> Array:
        """x (B, T, C), valid (B, T) -> (B, T, C)."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return (norms.instance_norm(x, valid) * scale + bias).astype(self.dtype)


class ConvStack(nn.Module):
    """The convolutions of wav2vec 2.0, HuBERT and data2vec, from samples to frames.

    norm `layer`: LayerNorm over channels after every convolution. norm `group`: a norm of each
    channel over time after the first convolution only.
    """

    channels: int = 512
    kernels: tuple[int, ...] = KERNELS
    strides: tuple[int, ...] = STRIDES
    norm: str = "layer"
    bias: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, audio: Array, audio_len: Array) -> tuple[Array, Array]:
        """audio (B, N) float, audio_len (B,) -> frames (B, S, C), valid (B, S)."""
        x = audio[..., None].astype(self.dtype)
        for i, (kernel, stride) in enumerate(zip(self.kernels, self.strides, strict=True)):
            x = nn.Conv(
                self.channels,
                (kernel,),
                stride,
                padding="VALID",
                use_bias=self.bias,
                kernel_init=nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
                dtype=self.dtype,
                name=f"conv{i}",
            )(x)
            lengths = output_lengths(audio_len, self.kernels[: i + 1], self.strides[: i + 1])
            valid = length_mask(lengths, x.shape[1])
            if self.norm == "layer":
                x = layer_norm(1e-5, self.dtype, name=f"norm{i}")(x)
            elif i == 0:
                x = ChannelNorm(self.dtype, name="norm0")(x, valid)
            x = gelu(x)
        return x, valid


class PositionConvs(nn.Module):
    """Positions from context: stacked grouped convolutions (data2vec, section 4.2 of the paper).

    `mask_each` zeroes padded frames before every convolution, so that padding changes nothing.
    Without it they are zeroed once, as in the published code: from the second convolution on,
    frames near the end of a padded utterance then differ.
    """

    depth: int = 5
    kernel: int = 19
    groups: int = 16
    mask_each: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, valid: Array) -> Array:
        """x (B, S, D), valid (B, S) -> positions (B, S, D), to be added to x."""
        width, frames, half = x.shape[-1], x.shape[1], self.kernel // 2
        for i in range(self.depth):
            if i == 0 or self.mask_each:
                x = jnp.where(valid[..., None], x, 0)
            x = nn.Conv(
                width,
                (self.kernel,),
                padding=[(half, half)],
                feature_group_count=self.groups,
                kernel_init=INITS["torch"],
                dtype=self.dtype,
                conv_general_dilated=grouped_conv,
                name=f"conv{i}",
            )(x)
            # An even kernel gives one frame too many.
            x = gelu(layer_norm(1e-5, self.dtype, affine=False)(x[:, :frames]))
        return x


class WeightNormConv(nn.Module):
    """Positions from context: one wide grouped convolution (wav2vec 2.0, HuBERT).

    params: `kernel` (K, D / groups, D), whose slice at each tap is scaled to the norm `gain`
    (K, 1, 1) (weight norm along the axis of the taps), and `bias` (D,).
    """

    kernel: int = 128
    groups: int = 16
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, valid: Array) -> Array:
        """x (B, S, D), valid (B, S) -> positions (B, S, D), to be added to x."""
        width, half = x.shape[-1], self.kernel // 2
        init = nn.initializers.normal((4 / (self.kernel * width)) ** 0.5)
        kernel = self.param("kernel", init, (self.kernel, width // self.groups, width), jnp.float32)
        norm = jnp.sqrt(jnp.square(kernel).sum((1, 2), keepdims=True))
        gain = self.param("gain", lambda key: norm)  # the kernel starts unscaled
        bias = self.param("bias", nn.initializers.zeros, (width,), jnp.float32)
        y = wide_conv(
            jnp.where(valid[..., None], x, 0).astype(self.dtype),
            (kernel * (gain / norm)).astype(self.dtype),
            self.groups,
            half,
        )
        # An even kernel gives one frame too many.
        return gelu(y[:, : x.shape[1]] + bias.astype(self.dtype))
