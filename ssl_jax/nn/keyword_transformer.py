"""The Keyword Transformer (2104.00769) with the front end of data2vec-KWS (2210.01703)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ssl_jax.core.types import AUDIO, Array, Spec
from ssl_jax.nn.conv import Length, length_mask
from ssl_jax.nn.transformer import (
    ALL,
    INITS,
    Encoded,
    Layers,
    Transformer,
    TransformerOptions,
    check_share,
    select,
)
from ssl_jax.ops import dsp, norms

AugmentFn = Callable[[Array, Array], Array]


def _preset(heads: int) -> dict:
    # One head as wide as the model leaves nothing for an output projection to mix.
    return {
        "depth": 12,
        "width": 64 * heads,
        "heads": heads,
        "mlp_width": 256 * heads,
        "norm": "res_post",
        "qkv_bias": False,
        "out_proj": heads > 1,
        "init": "torch",
    }


PRESETS = {f"kwt{heads}": _preset(heads) for heads in (1, 2, 3)}


@dataclasses.dataclass(frozen=True)
class Options:
    """From samples to tokens: the options of a KeywordTransformer except for its blocks."""

    feature: str = "mfcc"  # mfcc | log_mel, in dB
    n_mels: int = 80
    n_mfcc: int = 40
    window_ms: float = 30.0
    hop_ms: float = 10.0
    fmin: float = 20.0  # Hz
    fmax: float = 7600.0
    # none | utterance: each coefficient to mean 0, variance 1 over the clip | global: the two
    # numbers below (one for all coefficients, or one each)
    feature_norm: str = "none"
    feature_mean: float | tuple[float, ...] = 0.0
    feature_std: float | tuple[float, ...] = 1.0
    frames_per_token: int = 1
    max_seconds: float = 1.0  # the longest clip that has positions
    position_std: float = 1.0  # of the initial positions and class token
    embed_dropout: float = 0.1

    def __post_init__(self) -> None:
        for key, choices in (
            ("feature", ("mfcc", "log_mel")),
            ("feature_norm", ("none", "utterance", "global")),
        ):
            if getattr(self, key) not in choices:
                raise ValueError(
                    f"config.method.encoder.{key} is {getattr(self, key)!r}: "
                    f"use one of {', '.join(choices)}"
                )
        check_share("embed_dropout", self.embed_dropout)
        if self.frames_per_token < 1:
            raise ValueError(
                f"config.method.encoder.frames_per_token is {self.frames_per_token}: use 1 or more"
            )
        for key in ("feature_mean", "feature_std"):
            value = getattr(self, key)
            if isinstance(value, tuple) and len(value) != self.coefficients:
                raise ValueError(
                    f"config.method.encoder.{key} has {len(value)} numbers: "
                    f"use 1 or {self.coefficients}, one per coefficient"
                )

    @property
    def coefficients(self) -> int:
        """The number of features of a frame."""
        return self.n_mfcc if self.feature == "mfcc" else self.n_mels

    def samples(self, sample_rate: int) -> tuple[int, int]:
        """Returns (window, hop) in samples."""
        window, hop = (round(ms * sample_rate / 1000) for ms in (self.window_ms, self.hop_ms))
        return window, hop

    def tokens(self, samples: Length, sample_rate: int) -> Length:
        """Returns how many complete tokens fit into n samples; an int or an integer array."""
        return dsp.frames(samples, *self.samples(sample_rate)) // self.frames_per_token


class SpectralFrontEnd(nn.Module):
    """Samples to tokens: MFCC or log-mel frames, normalized, stacked and projected."""

    options: Options
    sample_rate: int
    width: int
    weight_init: str = "torch"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, audio: Array, audio_len: Array, train: bool, augment_fn: AugmentFn | None = None
    ) -> tuple[Array, Array]:
        """audio (B, N) int16 or float, audio_len (B,) -> x (B, S, D), valid (B, S).

        augment_fn(features (B, T, F), lengths (B,)) changes the frames before they are normalized;
        called twice on the same audio, with and without it, the spectrum is computed once.
        """
        del train  # nothing random in here
        o = self.options
        lengths = dsp.frames(audio_len, *o.samples(self.sample_rate))
        features = self._spectrum(audio, audio_len)
        if augment_fn is not None:
            features = augment_fn(features, lengths)
        features = self._normalize(features, lengths)
        batch, frames, size = features.shape
        tokens = frames // o.frames_per_token
        features = features[:, : tokens * o.frames_per_token]
        features = features.reshape(batch, tokens, o.frames_per_token * size)
        valid = length_mask(o.tokens(audio_len, self.sample_rate), tokens)
        x = nn.Dense(
            self.width, dtype=self.dtype, kernel_init=INITS[self.weight_init], name="projection"
        )(features)
        return x, valid

    def _spectrum(self, audio: Array, audio_len: Array) -> Array:
        """audio (B, N), audio_len (B,) -> MFCC or log-mel frames (B, T, F) in float32."""
        o = self.options
        window, hop = o.samples(self.sample_rate)
        if audio.shape[1] < window + (o.frames_per_token - 1) * hop:
            raise ValueError(
                f"a batch of {audio.shape[1] / self.sample_rate:.3f} s holds no token of "
                f"config.method.encoder: set config.data.buckets to at least "
                f"{(window + (o.frames_per_token - 1) * hop) / self.sample_rate:.3f}"
            )
        options: dict[str, Any] = {
            "sample_rate": self.sample_rate,
            "n_fft": window,
            "hop": hop,
            "n_mels": o.n_mels,
            "fmin": o.fmin,
            "fmax": o.fmax,
        }
        if o.feature == "mfcc":
            return dsp.mfcc(audio, audio_len, n_mfcc=o.n_mfcc, **options)
        return dsp.log_mel(audio, audio_len, **options)

    def _normalize(self, features: Array, lengths: Array) -> Array:
        """features (B, T, F), lengths (B,) in frames -> the same, normalized as configured."""
        o = self.options
        if o.feature_norm == "utterance":
            return norms.instance_norm(features, length_mask(lengths, features.shape[1]))
        if o.feature_norm == "global":
            mean, std = (jnp.asarray(n, jnp.float32) for n in (o.feature_mean, o.feature_std))
            return (features - mean) / std
        return features


class KeywordTransformer(nn.Module):
    """An encoder of short clips: a class token, learned positions, a stack of blocks.

    `frontend(audio, audio_len, train)` gives the tokens, `encode` the rest; a method that masks
    replaces tokens between the two.
    """

    frontend: SpectralFrontEnd
    options: Options
    transformer_options: TransformerOptions
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        o, width = self.options, self.width
        tokens = o.tokens(round(o.max_seconds * self.sample_rate), self.sample_rate)
        init = nn.initializers.normal(o.position_std)
        self.cls = self.param("cls", init, (width,), jnp.float32)
        self.positions = self.param("positions", init, (tokens + 1, width), jnp.float32)
        self.dropout = nn.Dropout(o.embed_dropout)
        self.transformer = Transformer(self.transformer_options, self.dtype)
        nn.share_scope(self, self.transformer)

    @property
    def sample_rate(self) -> int:
        """Samples per second of the audio it takes."""
        return self.frontend.sample_rate

    @property
    def rate(self) -> float:
        """Steps per second, one token each."""
        _, hop = self.options.samples(self.sample_rate)
        return self.sample_rate / (hop * self.options.frames_per_token)

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
        """The number of tokens ahead of the frames: the class token."""
        return 1

    @property
    def reads(self) -> dict[str, Spec]:
        """The arrays of a batch that the front end takes."""
        return AUDIO

    @property
    def grid(self) -> tuple[int, ...]:
        """(0,): the tokens are a sequence of any length."""
        return (0,)

    def frames(self, samples: Length) -> Length:
        """Returns the number of tokens of `samples`, without the class token; see `tokens`."""
        return self.options.tokens(samples, self.sample_rate)

    def encode(
        self,
        x: Array,
        valid: Array,
        train: bool,
        ids_keep: Array | None = None,
        layers: Layers = ALL,
    ) -> Encoded:
        """x (B, S, D), valid (B, S) -> Encoded of T = 1 + S tokens, the class token first.

        ids_keep (B, V): the tokens to encode; then T = 1 + V. Raises ValueError when S
        exceeds the positions.
        """
        batch, size, width = x.shape
        if size + 1 > len(self.positions):
            raise ValueError(
                f"config.method.encoder.max_seconds {self.options.max_seconds} has positions for "
                f"{len(self.positions) - 1} tokens and the batch has {size}: use at least the "
                f"longest of config.data.buckets, here {size / self.rate + 0.1:.1f}"
            )
        positions = self.positions[: size + 1].astype(x.dtype)
        x, first = x + positions[1:], self.cls.astype(x.dtype) + positions[0]
        if ids_keep is not None:
            x, valid = select(x, valid, ids_keep)
        x = jnp.concatenate([jnp.broadcast_to(first, (batch, 1, width)), x], 1)
        x = self.dropout(x, deterministic=not train)
        valid = jnp.pad(valid, ((0, 0), (1, 0)), constant_values=True)
        return self.transformer(x, valid, train, prefix=self.prefix, layers=layers)

    def __call__(self, audio: Array, audio_len: Array, train: bool = False) -> Encoded:
        """audio (B, N), audio_len (B,) -> Encoded."""
        x, valid = self.frontend(audio, audio_len, train)
        return self.encode(x, valid, train)


def make(
    options: Options, blocks: TransformerOptions, *, dtype: jnp.dtype, sample_rate: int
) -> KeywordTransformer:
    """Returns the encoder for audio at `sample_rate`; raises ValueError if the rate is too low."""
    if options.fmax > sample_rate / 2:
        raise ValueError(
            f"config.method.encoder.fmax {options.fmax} Hz lies above half of "
            f"config.data.sample_rate {sample_rate}: use up to {sample_rate / 2}"
        )
    frontend = SpectralFrontEnd(options, sample_rate, blocks.width, blocks.init, dtype)
    return KeywordTransformer(frontend, options, blocks, dtype)
