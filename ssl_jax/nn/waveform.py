"""The encoder of raw audio: convolutions, positions, blocks.

As in wav2vec 2.0 (2006.11477), HuBERT (2106.07447) and data2vec (2202.03555, 2212.07525).
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ssl_jax.core.types import AUDIO, Array, Spec
from ssl_jax.nn.conformer import Conformer, ConformerOptions, check_blocks
from ssl_jax.nn.conv import (
    KERNELS,
    STRIDES,
    ConvStack,
    Length,
    PositionConvs,
    WeightNormConv,
    output_lengths,
    receptive_field,
    scale_gradient,
)
from ssl_jax.nn.transformer import (
    ALL,
    INITS,
    Encoded,
    Layers,
    Transformer,
    TransformerOptions,
    check_share,
    layer_norm,
    select,
)
from ssl_jax.ops import alibi, dsp

_REGULARIZATION = {
    "norm": "post",
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "layerdrop": 0.05,
    "embed_dropout": 0.1,
}
_BASE = {"depth": 12, "width": 768, "heads": 12, "mlp_width": 3072}
_LARGE = {"depth": 24, "width": 1024, "heads": 16, "mlp_width": 4096}
_WAV2VEC2 = {"positions": "weight_norm", "position_kernel": 128}
# models trained on 60k hours: pre-norm, a norm in every layer of the front end, no dropout
_STABLE = {**_WAV2VEC2, "norm": "pre", "embed_dropout": 0.0}
_CONFORMER = {"blocks": "conformer", "conv_bias": True, "norm": "pre"}
PRESETS: dict[str, dict[str, Any]] = {
    "base": {**_BASE, **_REGULARIZATION},
    "large": {**_LARGE, **_REGULARIZATION},
    # HuBERT Base too
    "wav2vec2_base": {
        **_BASE,
        **_REGULARIZATION,
        **_WAV2VEC2,
        "normalize": False,
        "conv_norm": "group",
        "grad_mult": 0.1,
        "input_dropout": 0.1,
    },
    "wav2vec2_large": {**_LARGE, **_STABLE, "conv_bias": True},
    "hubert_large": {**_LARGE, **_STABLE},
    # with the front end of wav2vec 2.0 of the same size; Base has a LayerNorm before the blocks
    "conformer_base": {
        **_BASE,
        **_REGULARIZATION,
        "blocks": "conformer",
        "normalize": False,
        "conv_norm": "group",
        "grad_mult": 0.1,
        "input_dropout": 0.1,
    },
    "conformer_large": {**_LARGE, **_CONFORMER, "embed_dropout": 0.0},
    "hubert_xlarge": {"depth": 48, "width": 1280, "heads": 16, "mlp_width": 5120, **_STABLE},
}


@dataclasses.dataclass(frozen=True)
class Options(ConformerOptions):
    """From samples to frames: the options of a WaveformEncoder except for its blocks.

    The fields of ConformerOptions take effect where `blocks` is 'conformer'.
    """

    # transformer | conformer: with positions in the attention, not from convolutions
    blocks: str = "transformer"
    normalize: bool = True  # each clip to mean 0, variance 1
    conv_channels: int = 512
    conv_kernels: tuple[int, ...] = KERNELS
    conv_strides: tuple[int, ...] = STRIDES
    # layer: LayerNorm after each convolution | group: per-channel norm over time after the first
    conv_norm: str = "layer"
    conv_bias: bool = False
    grad_mult: float = 1.0  # factor on the gradient into the convolutions
    # stack: `position_depth` convolutions, each with a norm (data2vec) | weight_norm: one with
    # weight norm (wav2vec 2.0, HuBERT)
    positions: str = "stack"
    position_depth: int = 5
    position_kernel: int = 19
    position_groups: int = 16
    mask_each: bool = True  # padded frames zeroed before every position convolution
    # none | fixed: scores fall with the distance of two frames (data2vec 2.0) | learned: times a
    # factor per head, shared by all blocks, that starts at 1 and is clipped at 0
    alibi: str = "none"
    input_dropout: float = 0.0  # on the projected frames, before masking
    embed_dropout: float = 0.1  # before the first block

    @property
    def convolved(self) -> int:
        """The channels of a frame before it is projected."""
        return self.conv_channels

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blocks not in ("transformer", "conformer"):
            raise ValueError(
                f"config.method.encoder.blocks is {self.blocks!r}: use 'transformer' or 'conformer'"
            )
        if self.conv_norm not in ("layer", "group"):
            raise ValueError(
                f"config.method.encoder.conv_norm is {self.conv_norm!r}: use 'layer' or 'group'"
            )
        if self.positions not in ("stack", "weight_norm"):
            raise ValueError(
                f"config.method.encoder.positions is {self.positions!r}: use 'stack' or "
                f"'weight_norm'"
            )
        check_share("input_dropout", self.input_dropout)
        if self.alibi not in ("none", "fixed", "learned"):
            raise ValueError(
                f"config.method.encoder.alibi is {self.alibi!r}: use 'none', 'fixed' or 'learned'"
            )
        if len(self.conv_kernels) != len(self.conv_strides) or not self.conv_kernels:
            raise ValueError(
                f"config.method.encoder.conv_kernels has {len(self.conv_kernels)} layers and "
                f"config.method.encoder.conv_strides {len(self.conv_strides)}: use equally many"
            )


class WaveformFrontEnd(nn.Module):
    """Samples to frames: convolutions, LayerNorm, projection to the width of the blocks.

    Sows two stages for `encoder.frontend_intermediates`, float32: `raw` (B, S, C), the output of
    the convolutions after the factor on their gradient, and `normed` (B, S, C).
    """

    options: Options
    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, audio: Array, audio_len: Array, train: bool) -> tuple[Array, Array]:
        """audio (B, N) int16 or float, audio_len (B,) -> x (B, S, D), valid (B, S)."""
        o = self.options
        field, _ = receptive_field(o.conv_kernels, o.conv_strides)
        if audio.shape[1] < field:
            raise ValueError(
                f"a batch of {audio.shape[1]} samples holds no frame of config.method.encoder: "
                f"set config.data.buckets to at least {field} samples"
            )
        audio = dsp.normalize_audio(audio, audio_len) if o.normalize else dsp.to_float(audio)
        convs = ConvStack(
            o.conv_channels,
            o.conv_kernels,
            o.conv_strides,
            o.conv_norm,
            o.conv_bias,
            self.dtype,
            name="convs",
        )
        x, valid = convs(audio, audio_len)
        x = scale_gradient(x, o.grad_mult)
        self.sow("intermediates", "raw", x.astype(jnp.float32))
        x = layer_norm(1e-5, self.dtype, name="norm")(x)
        self.sow("intermediates", "normed", x.astype(jnp.float32))
        project = nn.Dense(
            self.width, dtype=self.dtype, kernel_init=INITS["torch"], name="projection"
        )
        x = nn.Dropout(o.input_dropout, deterministic=not train)(project(x))
        return x, valid


class WaveformEncoder(nn.Module):
    """An encoder of raw audio, 50 frames per second of 16 kHz by default.

    `frontend(audio, audio_len, train)` gives the projected frames, `encode` the rest; a method
    that masks replaces frames between the two, or names the visible ones in `ids_keep`.
    """

    frontend: WaveformFrontEnd
    options: Options
    transformer_options: TransformerOptions
    sample_rate: int = 16000
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        o, blocks = self.options, self.transformer_options
        if blocks.norm != "pre":  # pre-norm blocks begin with a norm of their own
            self.norm = layer_norm(blocks.eps, self.dtype)
        self.dropout = nn.Dropout(o.embed_dropout)
        if o.blocks == "conformer":
            self.transformer: nn.Module = Conformer(blocks, o, self.dtype)
            nn.share_scope(self, self.transformer)
            return
        kernel, groups = o.position_kernel, o.position_groups
        if o.positions == "weight_norm":
            self.positions: nn.Module = WeightNormConv(kernel, groups, self.dtype)
        else:
            self.positions = PositionConvs(
                o.position_depth, kernel, groups, o.mask_each, self.dtype
            )
        if o.alibi == "learned":
            ones = nn.initializers.ones
            self.alibi_scale = self.param("alibi_scale", ones, (blocks.heads,), jnp.float32)
        self.transformer = Transformer(blocks, self.dtype)
        nn.share_scope(self, self.transformer)

    @property
    def rate(self) -> float:
        """Frames per second."""
        _, hop = receptive_field(self.options.conv_kernels, self.options.conv_strides)
        return self.sample_rate / hop

    @property
    def width(self) -> int:
        """The size of a frame, D."""
        return self.transformer_options.width

    @property
    def depth(self) -> int:
        """The number of blocks."""
        return self.transformer_options.depth

    @property
    def prefix(self) -> int:
        """The number of tokens ahead of the frames: none."""
        return 0

    @property
    def reads(self) -> dict[str, Spec]:
        """The arrays of a batch that the front end takes."""
        return AUDIO

    @property
    def grid(self) -> tuple[int, ...]:
        """(0,): the frames are a sequence of any length."""
        return (0,)

    def frames(self, samples: Length) -> Length:
        """Returns the number of frames of `samples`; an int or an integer array."""
        return output_lengths(samples, self.options.conv_kernels, self.options.conv_strides)

    def encode(
        self,
        x: Array,
        valid: Array,
        train: bool,
        ids_keep: Array | None = None,
        layers: Layers = ALL,
    ) -> Encoded:
        """x (B, S, D), valid (B, S) -> Encoded of T = S frames, or of the V in `ids_keep`.

        ids_keep (B, V) int32. Positions are computed from the complete clip, in which frames
        that are not kept are zero. Raises ValueError on `ids_keep` if the blocks are a Conformer's.
        """
        if self.options.blocks == "conformer":
            return self._conform(x, valid, train, ids_keep, layers)
        if ids_keep is not None:
            kept = (ids_keep[:, :, None] == jnp.arange(x.shape[1])).any(1)
            x = jnp.where(kept[..., None], x, 0)
        x = x + self.positions(x, valid)
        if ids_keep is not None:
            x, valid = select(x, valid, ids_keep)
        if self.transformer_options.norm != "pre":
            x = self.norm(x)
        x = self.dropout(x, deterministic=not train)
        bias = self._bias(x.shape[1], ids_keep)
        return self.transformer(x, valid, train, bias, layers=layers)

    def _conform(
        self, x: Array, valid: Array, train: bool, ids_keep: Array | None, layers: Layers
    ) -> Encoded:
        if ids_keep is not None:
            raise ValueError(
                "config.method.encoder.blocks is 'conformer', whose convolutions need all frames, "
                "but config.method encodes only some: use 'transformer', or another method"
            )
        if self.transformer_options.norm != "pre":
            x = self.norm(x)
        x = self.dropout(jnp.where(valid[..., None], x, 0), deterministic=not train)
        return self.transformer(x, valid, train, layers=layers)

    def _bias(self, size: int, ids_keep: Array | None) -> Array | None:
        """Returns the bias of the scores of all blocks, (B or 1, H, T, T), or None."""
        if self.options.alibi == "none":
            return None
        ids = jnp.arange(size)[None] if ids_keep is None else ids_keep
        bias = alibi.distance_bias(ids, self.transformer_options.heads)
        if self.options.alibi == "fixed":
            return bias
        return bias * jnp.maximum(self.alibi_scale, 0.0)[:, None, None]

    def __call__(self, audio: Array, audio_len: Array, train: bool = False) -> Encoded:
        """audio (B, N), audio_len (B,) -> Encoded."""
        x, valid = self.frontend(audio, audio_len, train)
        return self.encode(x, valid, train)


def make(
    options: Options, blocks: TransformerOptions, *, dtype: jnp.dtype, sample_rate: int
) -> WaveformEncoder:
    """Returns the encoder for audio at `sample_rate`; raises ValueError on options that clash."""
    if options.blocks == "conformer":
        _check_conformer(options, blocks)
    elif blocks.width % options.position_groups:
        raise ValueError(
            f"config.method.encoder.position_groups {options.position_groups} does not divide "
            f"config.method.encoder.width {blocks.width}: use a divisor, such as 1"
        )
    frontend = WaveformFrontEnd(options, blocks.width, dtype)
    return WaveformEncoder(frontend, options, blocks, sample_rate, dtype)


def _check_conformer(options: Options, blocks: TransformerOptions) -> None:
    """Raises ValueError on the options of a Transformer that a Conformer does not have."""
    if options.alibi != "none":
        raise ValueError(
            f"config.method.encoder.blocks is 'conformer' and alibi {options.alibi!r}: set it to "
            f"'none'"
        )
    check_blocks(options, blocks)
