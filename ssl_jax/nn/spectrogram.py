"""A Vision Transformer over patches of a log-mel spectrogram (AudioMAE, 2207.06405).

Audio becomes a Kaldi filterbank, normalized, cut into patches of time by mel. Tokens are in
raster order, time outermost: S = rows * columns, columns = num_mels / patch[1], or more of patches
that overlap.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ssl_jax.core.types import AUDIO, Array, Spec
from ssl_jax.nn import vit
from ssl_jax.nn.conv import Length
from ssl_jax.nn.transformer import TransformerOptions, check_share
from ssl_jax.ops import dsp
from ssl_jax.ops.patches import overlapping

PRESETS = {name: vit.PRESETS[name] for name in ("base", "small", "large")}


@dataclasses.dataclass(frozen=True)
class Options:
    """From samples to tokens: the options of a spectrogram encoder except for its blocks."""

    features: str = "audiomae"  # audiomae | beats: window, scale and statistics of ops.dsp
    num_mels: int = 128
    patch: tuple[int, int] = (16, 16)  # frames of 10 ms, mel bands
    # of the log-mel cells; None: those of AudioSet. Features become (x - mean) / (2 * std).
    mean: float | None = None
    std: float | None = None
    # pads the log-mel to so many frames, which all count as real, as AudioMAE does (1024 for 10 s);
    # None: as long as the clip
    frames: int | None = None
    positions: str = "sincos"  # sincos: fixed | none
    # correct: a patch has the position of its time and mel | official: that of the published
    # AudioMAE, whose table is made for a grid of 8 x 64 while the patches lie in 64 x 8. Patch k
    # gets column k % 64 and row k // 64: unique, but neighbours in time are none in the table.
    pos_grid: str = "correct"
    # frames and mel bands from a patch to the next; None: those of a patch. Smaller ones overlap,
    # as the (10, 10) of AudioMAE: 101 x 12 patches of 10 s
    stride: tuple[int, int] | None = None
    class_token: bool = True
    class_std: float = 0.02  # of its initial value
    embed_norm: bool = False  # a LayerNorm of the tokens before the first block
    embed_dropout: float = 0.0

    def __post_init__(self) -> None:
        check_choices(self, {"positions": ("sincos", "none"), "pos_grid": ("correct", "official")})
        check_share("embed_dropout", self.embed_dropout)
        check_cells(self)
        self._check_stride()
        if self.frames is not None and (self.frames < 1 or self.frames % self.patch[0]):
            near = self.patch[0] * max(1, self.frames // self.patch[0])
            raise ValueError(
                f"config.method.encoder.frames {self.frames} is not a multiple of the "
                f"{self.patch[0]} frames of config.method.encoder.patch: use a value such as {near}"
            )

    def _check_stride(self) -> None:
        key, stride = "config.method.encoder", self.stride
        if stride is None:
            return
        if len(stride) != 2 or not all(0 < s <= p for s, p in zip(stride, self.patch, strict=True)):
            raise ValueError(
                f"{key}.stride is {stride}: use (frames, mel bands) of 1 up to those of "
                f"{key}.patch {self.patch}, such as (10, 10), or None"
            )
        if self.pos_grid == "official":
            raise ValueError(
                f"{key}.pos_grid is 'official', the table of patches that do not overlap, and "
                f"{key}.stride is {stride}: use 'correct', or a stride of None"
            )


def check_choices(options: Any, known: Mapping[str, tuple[str, ...]]) -> None:
    """Raises ValueError on an option that is none of its known values."""
    for key, choices in known.items():
        if getattr(options, key) not in choices:
            raise ValueError(
                f"config.method.encoder.{key} is {getattr(options, key)!r}: "
                f"use one of {', '.join(choices)}"
            )


def check_cells(o: Any) -> None:
    """Raises ValueError on the options that say how audio becomes patches of log-mel cells."""
    check_choices(o, {"features": tuple(dsp.CONVENTIONS)})
    if len(o.patch) != 2 or min(o.patch) < 1:
        raise ValueError(
            f"config.method.encoder.patch is {o.patch}: use (frames, mel bands), such as (16, 16)"
        )
    if o.num_mels < o.patch[1] or o.num_mels % o.patch[1]:
        near = o.patch[1] * max(1, o.num_mels // o.patch[1])
        raise ValueError(
            f"config.method.encoder.num_mels {o.num_mels} is not a multiple of the "
            f"{o.patch[1]} bands of config.method.encoder.patch: use a value such as {near}"
        )
    if o.std is not None and not o.std > 0:
        raise ValueError(f"config.method.encoder.std is {o.std}: use a number above 0")


class SpectrogramFrontEnd(nn.Module):
    """Samples to tokens: patches of the normalized filterbank, projected.

    A patch is real when all its frames lie within the clip: frames that do not fill the last patch
    are dropped (as in BEATs). With `num_frames`, all patches of so many are real, as in AudioMAE.
    """

    options: Any  # Options, or others that have its fields up to `std`
    sample_rate: int
    width: int
    weight_init: str = "xavier"
    dtype: jnp.dtype = jnp.float32
    num_frames: int | None = None  # see Options.frames

    @property
    def reads(self) -> dict[str, Spec]:
        """The arrays of a batch that it takes."""
        return AUDIO

    @nn.compact
    def __call__(
        self, audio: Array, audio_len: Array, train: bool, augment_fn: Callable | None = None
    ) -> tuple[Array, Array]:
        """audio (B, N), audio_len (B,) -> x (B, S, D), valid (B, S).

        augment_fn(features (B, T, M), lengths (B,)) changes the log-mel before it is normalized.
        """
        del train  # nothing random in here
        cut = self.patches(audio, audio_len, augment_fn)
        x = vit.projection(cut.shape[-1], self.width, self.weight_init, self.dtype)(cut)
        real = self._whole(self._real(audio_len)) * _columns(self.options)
        return x, jnp.arange(x.shape[1]) < real[:, None]

    def patches(
        self, audio: Array, audio_len: Array | None, augment_fn: Callable | None = None
    ) -> Array:
        """audio (B, N), audio_len (B,) -> patches (B, S, P) of the features, float32.

        Without `audio_len` the frames of padding are features as any other.
        Raises ValueError when a batch holds no complete patch, or more than `num_frames`.
        """
        o, rate = self.options, self.sample_rate
        rows = self._rows(audio.shape[1])
        if not rows:
            needed = (o.patch[0] - 1) / 100 + 0.025
            raise ValueError(
                f"a batch of {audio.shape[1] / rate:.3f} s holds no patch of "
                f"config.method.encoder.patch: set config.data.buckets to at least {needed:.3f}"
            )
        options: dict[str, Any] = {**dsp.CONVENTIONS[o.features], "num_mels": o.num_mels}
        if o.mean is not None:
            options["mean"] = o.mean
        if o.std is not None:
            options["divisor"] = 2 * o.std
        given = (audio, audio_len)
        options |= {"sample_rate": rate}
        options["num_frames"] = (rows - 1) * _step(o)[0] + o.patch[0]
        if augment_fn is None:
            cells = dsp.fbank(*given, **options)
        else:
            mean, divisor = options.pop("mean"), options.pop("divisor")
            cells = dsp.fbank(*given, **options)
            lengths = jnp.full(len(cells), cells.shape[1])
            if audio_len is not None:
                lengths = jnp.minimum(self._real(audio_len), lengths)
            cells = (augment_fn(cells, lengths) - mean) / divisor
        return overlapping(cells[..., None], o.patch, _step(o))

    def _rows(self, samples: int) -> int:
        """Returns how many rows of patches a batch of `samples` has."""
        frames, most = self.frames(samples), self.num_frames
        if most is None:
            return self._whole(frames)
        if frames > most:
            longest = (most - 1) / 100 + 0.025
            raise ValueError(
                f"a batch of {samples / self.sample_rate:.3f} s has {frames} frames, more than "
                f"config.method.encoder.frames {most}: set config.data.buckets to at most "
                f"{longest:.3f}"
            )
        return self._whole(most)

    def _whole(self, frames: Length) -> Length:
        """Returns how many rows of patches lie within so many frames."""
        return dsp.frames(frames, self.options.patch[0], _step(self.options)[0])

    def _real(self, audio_len: Array) -> Array:
        """Returns how many frames of each clip count as real, (B,)."""
        most, found = self.num_frames, self.frames(audio_len)
        return found if most is None else jnp.where(audio_len > 0, most, 0)

    def frames(self, samples: Length) -> Length:
        """Returns the number of frames of `samples`; an int or an integer array."""
        return dsp.frames(samples, self.sample_rate * 25 // 1000, self.sample_rate // 100)


def _step(o: Any) -> tuple[int, int]:
    """Returns the frames and mel bands from a patch to the next."""
    return getattr(o, "stride", None) or o.patch


def _columns(o: Any) -> int:
    """Returns the number of patches of a row."""
    return (o.num_mels - o.patch[1]) // _step(o)[1] + 1


def make(
    options: Options,
    blocks: TransformerOptions,
    *,
    dtype: jnp.dtype,
    sample_rate: int,
) -> vit.VisionTransformer:
    """Returns the encoder for audio at `sample_rate`.

    A row of its grid covers patch[0] frames of 10 ms; `rate` counts rows per second: 6.25, of 8
    tokens each, for 128 mels in patches of 16 by 16 that do not overlap.
    """
    if options.positions == "sincos":
        vit.check_positions(blocks.width)
    frontend = SpectrogramFrontEnd(
        options, sample_rate, blocks.width, blocks.init, dtype, options.frames
    )
    rows, columns = frontend._whole(options.frames or 0), _columns(options)
    return vit.VisionTransformer(
        frontend,
        (rows, columns),
        options,
        blocks,
        dtype,
        100 / _step(options)[0],
        swapped=options.pos_grid == "official",
    )
