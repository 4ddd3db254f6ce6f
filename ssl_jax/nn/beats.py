"""The encoder of BEATs (2212.09058): patches of a log-mel spectrogram as one long sequence.

Audio becomes a Kaldi filterbank, cut into patches of time by mel. The tokens are in raster order,
time outermost: token 8 t + f for 128 mels in patches of 16 by 16. Their order enters by a
convolution over the sequence and by gated relative positions; there is no class token.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ssl_jax.core.types import AUDIO, Array, Spec
from ssl_jax.nn.conv import WeightNormConv
from ssl_jax.nn.gated import GatedOptions, GatedTransformer, check_blocks
from ssl_jax.nn.spectrogram import SpectrogramFrontEnd, check_cells, check_choices
from ssl_jax.nn.transformer import (
    ALL,
    INITS,
    Encoded,
    Layers,
    TransformerOptions,
    check_share,
    layer_norm,
    select,
)

PRESETS: dict[str, dict[str, Any]] = {
    # as the published files: 90.3 million parameters
    "base": {
        "depth": 12,
        "width": 768,
        "heads": 12,
        "mlp_width": 3072,
        "layerdrop": 0.05,
        "init": "deep_norm",
    },
}


@dataclasses.dataclass(frozen=True)
class Options(GatedOptions):
    """From samples to tokens: the options of a BEATs encoder except for its blocks."""

    features: str = "beats"  # audiomae | beats: window, scale and statistics of ops.dsp
    num_mels: int = 128
    patch: tuple[int, int] = (16, 16)  # frames of 10 ms, mel bands
    # of the log-mel cells; None: those of AudioSet. Features become (x - mean) / (2 * std).
    mean: float | None = None
    std: float | None = None
    patch_width: int = 512  # of a patch before its LayerNorm and the projection to the blocks
    position_kernel: int = 128  # taps of the convolution over the tokens
    position_groups: int = 16
    # of visible tokens, where some are masked. compact: they form a sequence of their own |
    # original: they keep their places in the whole one, in which masked tokens are zero
    positions: str = "compact"
    # exact: a token is real if all its frames are | official: as in the published code, which
    # splits a clip's samples evenly over the tokens and may keep a part of a column
    mask_mode: str = "exact"
    input_dropout: float = 0.0  # on the projected patches, before masking
    embed_dropout: float = 0.0  # before the first block

    def __post_init__(self) -> None:
        super().__post_init__()
        known = {"positions": ("compact", "original"), "mask_mode": ("exact", "official")}
        check_choices(self, known)
        for key in ("input_dropout", "embed_dropout"):
            check_share(key, getattr(self, key))
        check_cells(self)


class BeatsFrontEnd(SpectrogramFrontEnd):
    """Samples to tokens: patches of the normalized filterbank, LayerNorm, projection.

    Frames that do not fill the last column of patches are dropped.
    """

    @nn.compact
    def __call__(
        self, audio: Array, audio_len: Array, train: bool, augment_fn: Callable | None = None
    ) -> tuple[Array, Array]:
        """audio (B, N), audio_len (B,) -> x (B, S, D), valid (B, S); augment_fn as its parent's."""
        o, torch = self.options, INITS["torch"]
        official = o.mask_mode == "official"
        cut = self.patches(audio, None if official else audio_len, augment_fn)
        x = nn.Dense(
            o.patch_width, use_bias=False, dtype=self.dtype, kernel_init=torch, name="patch"
        )(cut)
        x = layer_norm(1e-5, self.dtype, name="norm")(x)
        x = nn.Dense(self.width, dtype=self.dtype, kernel_init=torch, name="projection")(x)
        x = nn.Dropout(o.input_dropout, deterministic=not train)(x)
        if official:
            real = self._even_shares(audio.shape[1], audio_len, x.shape[1])
        else:
            real = self.frames(audio_len) // o.patch[0] * (o.num_mels // o.patch[1])
        return x, jnp.arange(x.shape[1]) < real[:, None]

    def _even_shares(self, samples: int, audio_len: Array, tokens: int) -> Array:
        """Returns the number of real tokens (B,), where every frame has an equal share of the
        samples and every token one of the frames; the remainders at the end count for none."""
        frames = self.frames(samples)
        real = jnp.minimum(-(-audio_len // (samples // frames)), frames)
        return jnp.minimum(-(-real // (frames // tokens)), tokens)


class BeatsEncoder(nn.Module):
    """An encoder of patches of a spectrogram, as a sequence.

    `frontend(audio, audio_len, train)` gives the projected patches, `encode` the rest; a method
    that masks either replaces patches between the two, or names the visible ones in `ids_keep`.
    """

    frontend: BeatsFrontEnd
    options: Options
    transformer_options: TransformerOptions
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        o, blocks = self.options, self.transformer_options
        self.positions = WeightNormConv(o.position_kernel, o.position_groups, self.dtype)
        self.norm = layer_norm(blocks.eps, self.dtype)
        self.dropout = nn.Dropout(o.embed_dropout)
        self.transformer = GatedTransformer(blocks, o, self.dtype)
        nn.share_scope(self, self.transformer)

    @property
    def reads(self) -> dict[str, Spec]:
        """The arrays of a batch that the front end takes."""
        return AUDIO

    @property
    def width(self) -> int:
        """The size of a token, D."""
        return self.transformer_options.width

    @property
    def depth(self) -> int:
        """The number of blocks."""
        return self.transformer_options.depth

    @property
    def prefix(self) -> int:
        """The number of tokens ahead of the patches: none."""
        return 0

    @property
    def rate(self) -> float:
        """Columns of patches per second."""
        return 100 / self.options.patch[0]

    @property
    def grid(self) -> tuple[int, int]:
        """As many columns as the clip has, and the patches of each."""
        return (0, self.options.num_mels // self.options.patch[1])

    def encode(
        self,
        x: Array,
        valid: Array,
        train: bool,
        ids_keep: Array | None = None,
        layers: Layers = ALL,
    ) -> Encoded:
        """x (B, S, D), valid (B, S) -> Encoded of T = S tokens, or of the V in `ids_keep`.

        ids_keep (B, V) int32, ascending: the order of visible tokens is that of their positions.
        """
        places = None
        if ids_keep is not None and self.options.positions == "original":
            places = (x.shape[1], ids_keep)
            kept = (ids_keep[:, :, None] == jnp.arange(x.shape[1])).any(1)
            x = jnp.where(kept[..., None], x, 0)
            x, valid = select(x + self.positions(x, valid), valid, ids_keep)
        else:
            if ids_keep is not None:
                x, valid = select(x, valid, ids_keep)
            x = x + self.positions(x, valid)
        x = self.dropout(self.norm(x), deterministic=not train)
        return self.transformer(x, valid, train, places, layers)

    def patches(self, audio: Array, audio_len: Array) -> Array:
        """audio (B, N), audio_len (B,) -> normalized patches (B, S, P).

        P is in the order of `ops.patches.patchify`.
        """
        return self.frontend.patches(audio, audio_len)

    def __call__(self, audio: Array, audio_len: Array, train: bool = False) -> Encoded:
        """audio (B, N), audio_len (B,) -> Encoded."""
        x, valid = self.frontend(audio, audio_len, train)
        return self.encode(x, valid, train)


def make(
    options: Options, blocks: TransformerOptions, *, dtype: jnp.dtype, sample_rate: int
) -> BeatsEncoder:
    """Returns the encoder for audio at `sample_rate`; raises ValueError on options that clash."""
    check_blocks(blocks)
    if blocks.width % options.position_groups:
        raise ValueError(
            f"config.method.encoder.position_groups {options.position_groups} does not divide "
            f"config.method.encoder.width {blocks.width}: use a divisor, such as 1"
        )
    frontend = BeatsFrontEnd(options, sample_rate, blocks.width, blocks.init, dtype)
    return BeatsEncoder(frontend, options, blocks, dtype)
