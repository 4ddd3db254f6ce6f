"""A Conformer over log-mel frames (Zhang et al., 2010.10504; Gulati et al., 2005.08100).

80 log-mel energies every 10 ms pass two convolutions over time and mel, each with stride 2 in both,
so that a frame of the blocks covers 40 ms; a Linear layer leads to their width. In the XXL+ form, a
stacking layer in front of the blocks joins each two frames to one of twice the channels and brings
it back to the width; where it stands in the paper's model is not known.

Axes: B examples, T mel frames, S frames of the blocks, M mel bands, C channels, D width.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ssl_jax.core.types import AUDIO, Array, Spec
from ssl_jax.nn.conformer import Conformer, ConformerOptions, check_blocks
from ssl_jax.nn.conv import Length, length_mask
from ssl_jax.nn.transformer import ALL, INITS, Encoded, Layers, TransformerOptions, check_share
from ssl_jax.ops import dsp, norms

AugmentFn = Callable[[Array, Array], Array]
_TAPS = 3
_LARGE = {"width": 1024, "heads": 8, "mlp_width": 4096, "norm": "post", "dropout": 0.1}
# the names of the paper; relative positions were left out of the larger ones for speed
_XL = {**_LARGE, "depth": 24, "depthwise_kernel": 5, "attention_positions": "none"}
PRESETS: dict[str, dict[str, Any]] = {
    "l": {
        "depth": 17,
        "width": 512,
        "heads": 8,
        "mlp_width": 2048,
        "norm": "post",
        "dropout": 0.1,
        "depthwise_kernel": 32,
        "attention_positions": "relative",
    },
    "xl": _XL,
    "xxl": {**_XL, "depth": 42},
    "xxl_plus": {**_XL, "depth": 43, "stacking": True},
}


@dataclasses.dataclass(frozen=True)
class Options(ConformerOptions):
    """From samples to frames: the options of a MelConformer except for its blocks."""

    num_mels: int = 80
    # utterance: each band to mean 0, variance 1 over the clip | none
    feature_norm: str = "utterance"
    conv_channels: int = 512
    # of the convolutions over time: (2, 2) is 40 ms a frame, (2, 1) 20 ms; over mel it is always 2
    strides: tuple[int, ...] = (2, 2)
    stacking: bool = False  # XXL+: half as many frames, from pairs of them
    embed_dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        key = "config.method.encoder"
        if self.feature_norm not in ("utterance", "none"):
            raise ValueError(
                f"{key}.feature_norm is {self.feature_norm!r}: use 'utterance' or 'none'"
            )
        if not self.strides or min(self.strides) < 1:
            raise ValueError(
                f"{key}.strides is {self.strides}: use one number above 0 for each convolution, "
                f"such as (2, 2)"
            )
        if self.bands < 1:
            raise ValueError(
                f"{key}.num_mels {self.num_mels} is too few for {len(self.strides)} convolutions: "
                f"use a value such as 80"
            )
        check_share("embed_dropout", self.embed_dropout)

    @property
    def bands(self) -> int:
        """The number of mel bands after the convolutions."""
        size = self.num_mels
        for _ in self.strides:
            size = (size - _TAPS) // 2 + 1
        return size

    @property
    def convolved(self) -> int:
        """The channels of a frame before it is projected, or of the two that stacking joins."""
        return self.bands * self.conv_channels * (2 if self.stacking else 1)

    def frames(self, samples: Length, sample_rate: int) -> Length:
        """Returns how many frames see only real samples; an int or an integer array."""
        size = dsp.frames(samples, sample_rate * 25 // 1000, sample_rate // 100)
        for stride in self.strides:
            size = dsp.frames(size, _TAPS, stride)
        return size // 2 if self.stacking else size

    @property
    def hop(self) -> int:
        """The mel frames of 10 ms from one frame of the blocks to the next."""
        hop = 2 if self.stacking else 1
        for stride in self.strides:
            hop *= stride
        return hop

    @property
    def field(self) -> int:
        """The mel frames that one frame of the blocks sees."""
        size = 2 if self.stacking else 1
        for stride in reversed(self.strides):
            size = (size - 1) * stride + _TAPS
        return size


class MelFrontEnd(nn.Module):
    """Samples to frames: log-mel energies, convolutions without padding, projection.

    Sows the convolved frames (B, S, bands * C), float32, as `raw` and as `normed` for
    `encoder.frontend_intermediates`; with stacking, each two joined.
    """

    options: Options
    sample_rate: int
    width: int
    weight_init: str = "torch"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, audio: Array, audio_len: Array, train: bool, augment_fn: AugmentFn | None = None
    ) -> tuple[Array, Array]:
        """audio (B, N), audio_len (B,) -> x (B, S, D), valid (B, S).

        augment_fn(log-mel (B, T, M), lengths (B,)) changes the frames before they are normalized.
        """
        del train  # nothing random in here
        o = self.options
        needed = (o.field - 1) / 100 + 0.025
        if not o.frames(audio.shape[1], self.sample_rate):
            raise ValueError(
                f"a batch of {audio.shape[1] / self.sample_rate:.3f} s holds no frame of "
                f"config.method.encoder: set config.data.buckets to at least {needed:.3f}"
            )
        x = self._mel(audio, audio_len, augment_fn)[..., None].astype(self.dtype)
        for i, stride in enumerate(o.strides):
            steps = (stride, 2)
            conv = nn.Conv(
                o.conv_channels,
                (_TAPS, _TAPS),
                steps,
                padding="VALID",
                dtype=self.dtype,
                kernel_init=INITS[self.weight_init],
                name=f"conv{i}",
            )
            x = nn.relu(conv(x))
        x = x.reshape(*x.shape[:2], -1)
        joined = _pairs(x) if o.stacking else x
        for stage in ("raw", "normed"):
            self.sow("intermediates", stage, joined.astype(jnp.float32))
        x = self._dense("projection")(x)
        if o.stacking:
            x = self._dense("stacking")(_pairs(x))
        return x, length_mask(o.frames(audio_len, self.sample_rate), x.shape[1])

    def _dense(self, name: str) -> nn.Dense:
        init = INITS[self.weight_init]
        return nn.Dense(self.width, dtype=self.dtype, kernel_init=init, name=name)

    def _mel(self, audio: Array, audio_len: Array, augment_fn: AugmentFn | None) -> Array:
        """audio (B, N) -> normalized log-mel energies (B, T, M) in float32."""
        o, rate = self.options, self.sample_rate
        cells = dsp.fbank(audio, audio_len, sample_rate=rate, num_mels=o.num_mels)
        lengths = dsp.frames(audio_len, rate * 25 // 1000, rate // 100)
        if augment_fn is not None:
            cells = augment_fn(cells, lengths)
        if o.feature_norm == "none":
            return cells
        return norms.instance_norm(cells, length_mask(lengths, cells.shape[1]))


def _pairs(x: Array) -> Array:
    """x (B, S, D) -> (B, S // 2, 2 D): each two frames joined."""
    size = x.shape[1] // 2
    return x[:, : 2 * size].reshape(len(x), size, -1)


class MelConformer(nn.Module):
    """An encoder of log-mel frames, 25 a second by default.

    `frontend(audio, audio_len, train)` gives the projected frames, `encode` the rest; a method that
    masks replaces frames between the two.
    """

    frontend: MelFrontEnd
    options: Options
    transformer_options: TransformerOptions
    sample_rate: int = 16000
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        self.dropout = nn.Dropout(self.options.embed_dropout)
        self.transformer = Conformer(self.transformer_options, self.options, self.dtype)
        nn.share_scope(self, self.transformer)

    @property
    def rate(self) -> float:
        """Frames per second."""
        return 100 / self.options.hop

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
        return self.options.frames(samples, self.sample_rate)

    def encode(
        self,
        x: Array,
        valid: Array,
        train: bool,
        ids_keep: Array | None = None,
        layers: Layers = ALL,
    ) -> Encoded:
        """x (B, S, D), valid (B, S) -> Encoded of S frames. Raises ValueError on `ids_keep`."""
        if ids_keep is not None:
            raise ValueError(
                "config.method.encoder.kind is 'mel_conformer', whose convolutions need all "
                "frames, but config.method encodes only some: use another method"
            )
        x = self.dropout(jnp.where(valid[..., None], x, 0), deterministic=not train)
        return self.transformer(x, valid, train, layers=layers)

    def __call__(self, audio: Array, audio_len: Array, train: bool = False) -> Encoded:
        """audio (B, N), audio_len (B,) -> Encoded."""
        x, valid = self.frontend(audio, audio_len, train)
        return self.encode(x, valid, train)


def make(
    options: Options, blocks: TransformerOptions, *, dtype: jnp.dtype, sample_rate: int
) -> MelConformer:
    """Returns the encoder for audio at `sample_rate`; raises ValueError on options that clash."""
    check_blocks(options, blocks)
    frontend = MelFrontEnd(options, sample_rate, blocks.width, "torch", dtype)
    return MelConformer(frontend, options, blocks, sample_rate, dtype)
