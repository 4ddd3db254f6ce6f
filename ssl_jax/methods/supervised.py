"""Classification of clips: fine-tuning, training from scratch, or a frozen encoder.

The encoder has the same place in the parameters as in pre-training, so `config.init_from` takes
it over by path. The recipe of the keyword spotters is that of 2104.00769 and 2210.01703.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from ssl_jax.core import options as options_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.rng import Streams
from ssl_jax.core.types import Array, Batch, Features, Method, Output, Spec, Tree
from ssl_jax.nn import build, heads, run, sharding
from ssl_jax.nn.kwt import KeywordTransformer
from ssl_jax.nn.transformer import Encoded
from ssl_jax.ops import augment, losses, perturb, spectral

SCOPES = ("frontend", "encoder", "predictor", "loss")


@dataclasses.dataclass(frozen=True)
class SpecAugmentOptions:
    """Stripes that hide the spectral features, in training; see `ops.augment.spec_augment`."""

    time_masks: int = 0
    time_width: int = 24  # frames, the widest stripe
    freq_masks: int = 0
    freq_width: int = 6  # coefficients, the widest stripe
    fill_mean: bool = False  # a stripe is 0, or the mean of the clip's cells

    @property
    def active(self) -> bool:
        """Whether any stripe is drawn."""
        return self.time_masks > 0 or self.freq_masks > 0


@dataclasses.dataclass(frozen=True)
class Options:
    """The section config.method of supervised classification."""

    name: str
    encoder: Mapping  # see ssl_jax/nn/build.py
    pool: str = "tokens"  # tokens (class token included) | frames | cls
    label_smoothing: float = 0.0  # in training only
    smoothing_spread: str = "others"  # over the other classes | uniform: over all of them
    spec_augment: SpecAugmentOptions = SpecAugmentOptions()
    # {step: options}, in training: of the audio (ops.augment) and, where the encoder reads
    # log-mel, at a small part of the cost, of the levels (ops.spectral)
    augment: Mapping = dataclasses.field(default_factory=dict)
    spectral: Mapping = dataclasses.field(default_factory=dict)
    # true: the encoder runs in evaluation mode and gets no gradient. Name it in
    # config.optim.frozen too, or weight decay will shrink it.
    frozen: bool = False

    def __post_init__(self) -> None:
        choose, key = options_lib.choose, "config.method"
        choose(f"{key}.pool", self.pool, heads.POOLS)
        choose(f"{key}.smoothing_spread", self.smoothing_spread, ("others", "uniform"))
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(
                f"{key}.label_smoothing is {self.label_smoothing}: use 0 to below 1, such as 0.1"
            )
        perturb.check(self.augment, f"{key}.augment")
        steps = perturb.SPECTRAL_STEPS
        perturb.check(self.spectral, f"{key}.spectral", steps, spectral)


def make(config: ConfigDict, *, precision: str, sample_rate: int, num_classes: int) -> Method:
    """Returns the method that config.method describes; raises ConfigError without classes."""
    options = options_lib.read(Options, config)
    if num_classes < 2:
        raise ConfigError(
            f"the training split has {num_classes} classes: config.data.classes or the labels of "
            "config.data.train must give at least 2"
        )
    encoder = build.encoder(options.encoder, precision=precision, sample_rate=sample_rate)
    if options.spec_augment.active and not isinstance(encoder, KeywordTransformer):
        raise ConfigError(
            "config.method.spec_augment needs spectral features, which the encoder kind "
            f"{options.encoder.get('kind')!r} does not have: set its masks to 0"
        )
    if options.spectral and options.encoder.get("feature") != "log_mel":
        raise ConfigError(
            "config.method.spectral changes levels in dB: set config.method.encoder.feature to "
            "'log_mel', or leave it empty"
        )
    method = Supervised(options, encoder, num_classes)
    return Method(
        init=method.init,
        loss=method.loss,
        features=method.features,
        batch=run.batch_spec(encoder) | {"label": Spec((), "int32")},
        rules=sharding.RULES,
        scopes=SCOPES,
    )


@dataclasses.dataclass(frozen=True)
class Supervised:
    """The functions of the method over one encoder. params: encoder, head."""

    options: Options
    encoder: Any
    num_classes: int

    @property
    def head(self) -> heads.MeanPoolClassifier:
        """Pool, LayerNorm, Linear."""
        return heads.MeanPoolClassifier(self.num_classes, self.options.pool)

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Returns (params, {})."""
        keys = jax.random.split(key)
        encoder, encoded = run.init(self.encoder, keys[0], batch)
        head = self.head.init(keys[1], encoded.hidden[-1], encoded.valid, encoded.prefix)
        return {"encoder": encoder, "head": head["params"]}, {}

    def features(self, params: Tree, batch: Batch) -> Features:
        """Returns the hidden states of the clip, without prefix tokens."""
        return run.features(self.encoder, params["encoder"], batch)

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, streams: Streams, train: bool
    ) -> Output:
        """Returns the cross-entropy over the rows with a label (>= 0) and a weight."""
        o, labels = self.options, batch["label"]
        tuned = params
        if o.frozen:
            tuned = {**params, "encoder": jax.lax.stop_gradient(params["encoder"])}

        with jax.named_scope("frontend"):
            altered = None
            if train and o.augment:
                keys = streams.for_examples("augment")
                audio, length = perturb.chain(keys, batch["audio"], batch["audio_len"], o.augment)
                batch = {**batch, "audio": audio, "audio_len": length}
            if train and (o.spectral or o.spec_augment.active):
                altered = streams.for_examples("spec_augment")
            x, valid = self._frontend(tuned, batch, altered)

        with jax.named_scope("encoder"):
            dropout = streams.for_step("dropout") if train and not o.frozen else None
            encoded = run.encode(self.encoder, tuned["encoder"], x, valid, dropout)

        with jax.named_scope("predictor"):
            logits = self._classify(params, encoded)

        with jax.named_scope("loss"):
            smoothing = o.label_smoothing if train else 0.0
            each = losses.cross_entropy(logits, labels, smoothing, o.smoothing_spread)
            loss, terms = losses.masked_mean(each, batch["weight"] * (labels >= 0))

        metrics = {
            "loss": (loss * terms, terms),
            "accuracy": losses.accuracy(logits, labels, batch["weight"]),
        }
        return Output(loss, terms, metrics, extra)

    def _frontend(
        self, params: Tree, batch: Batch, keys: Array | None = None
    ) -> tuple[Array, Array]:
        """Returns local tokens x (B, S, D), valid (B, S); `keys` (B,) augment the features."""
        more = () if keys is None else (functools.partial(self._alter, keys),)
        return run.frontend(self.encoder, params["encoder"], batch, alter=more)

    def _alter(self, keys: Array, features: Array, lengths: Array) -> Array:
        """Augments features (B, T, F), lengths (B,) in frames, as the config says."""
        o = self.options
        features = perturb.spectral_chain(keys, features, lengths, o.spectral)
        if not o.spec_augment.active:
            return features
        stripes = dataclasses.asdict(o.spec_augment)
        fill = "mean" if stripes.pop("fill_mean") else 0.0
        return augment.spec_augment(keys, features, lengths, fill=fill, **stripes)

    def _classify(self, params: Tree, encoded: Encoded) -> Array:
        """Returns the logits (B, classes) of the last hidden states."""
        variables, last = {"params": params["head"]}, encoded.hidden[-1]
        return self.head.apply(variables, last, encoded.valid, encoded.prefix)  # type: ignore
