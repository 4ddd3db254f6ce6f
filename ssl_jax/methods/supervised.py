"""Learning from labels: fine-tuning, training from scratch, or a frozen encoder.

The encoder has the same place in the parameters as in pre-training, so `config.init_from` takes
it over by path; a final norm that the fine-tuned encoder does not have is dropped. The output
is one class, any number of tags, or numbers. Recipes: keyword spotting 2104.00769 and 2210.01703,
images 2111.06377 (appendix A.1) and 2106.08254, text 1907.11692 (section 5.1).
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ssl_jax.core import options as options_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.rng import Streams
from ssl_jax.core.types import Array, Batch, Features, Method, Output, Spec, Tree
from ssl_jax.nn import build, heads, sharding
from ssl_jax.nn import encoder as encoder_lib
from ssl_jax.nn.beats import BeatsEncoder
from ssl_jax.nn.keyword_transformer import KeywordTransformer
from ssl_jax.nn.transformer import LAST, Encoded
from ssl_jax.nn.vit import VisionTransformer
from ssl_jax.ops import augment, losses, masks, perturb, spectral
from ssl_jax.ops import mix as mix_lib
from ssl_jax.ops.stripes import StripeOptions

SCOPES = ("frontend", "encoder", "predictor", "loss")
# task: the array of a batch that holds the truth
TRUTH = {"classify": "label", "tag": "tags", "regress": "target"}


@dataclasses.dataclass(frozen=True)
class SpecAugmentOptions:
    """Stripes that mask the spectral features, in training; see `ops.augment.spec_augment`."""

    time_masks: int
    time_width: int  # frames, the widest stripe
    freq_masks: int
    freq_width: int  # coefficients, the widest stripe
    fill_mean: bool  # stripes hold the mean of the clip's cells, else 0

    @property
    def active(self) -> bool:
        """Whether any stripe is drawn."""
        return self.time_masks > 0 or self.freq_masks > 0


@dataclasses.dataclass(frozen=True)
class Options:
    """The section config.method of supervised learning."""

    name: str
    encoder: Mapping  # see ssl_jax/nn/build.py
    task: str  # classify: one label | tag: any number of tags | regress: numbers
    outputs: int  # number of tags or values; 0: one tag per class of config.data, or one value
    # tokens (class token included) | frames | cls | tanh: the first token, Linear, tanh (RoBERTa)
    pool: str
    head: heads.HeadOptions
    target_mean: float  # regress: the head learns (target - mean) / std
    target_std: float
    label_smoothing: float  # in training only
    smoothing_spread: str  # others: over the other classes | uniform: over all of them
    spec_augment: SpecAugmentOptions
    # {step: options}, in training: of the audio (ops.augment) and, where the encoder reads
    # log-mel, at a fraction of the cost, of the log-mel (ops.spectral)
    augment: Mapping
    spectral: Mapping
    # in training: images, clips or sounds and their labels are mixed with each other; tags, of
    # sounds only
    mix: mix_lib.MixOptions
    # in training: patches that the encoder does not see, a share of all or stripes of time and mel
    # (AudioMAE)
    mask_ratio: float
    stripes: StripeOptions
    # true: the encoder runs in evaluation mode and gets no gradient. Name it in
    # config.optim.frozen too, or weight decay will shrink it.
    frozen: bool

    def __post_init__(self) -> None:
        choose, key = options_lib.choose, "config.method"
        choose(f"{key}.task", self.task, tuple(TRUTH))
        choose(f"{key}.pool", self.pool, heads.POOLS)
        choose(f"{key}.smoothing_spread", self.smoothing_spread, ("others", "uniform"))
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(
                f"{key}.label_smoothing is {self.label_smoothing}: use 0 to below 1, such as 0.1"
            )
        mixable = self.task == "tag" or (self.task, self.smoothing_spread) == (
            "classify",
            "uniform",
        )
        if self.mix.active and not mixable:
            raise ConfigError(
                f"{key}.mix mixes labels: use {key}.task='classify' and "
                f"{key}.smoothing_spread='uniform', or {key}.task='tag'"
            )
        if not 0 <= self.mask_ratio < 1 or (self.mask_ratio and self.stripes.active):
            raise ConfigError(
                f"{key}.mask_ratio is {self.mask_ratio}: use 0.0 with {key}.stripes, and else 0.0 "
                f"or more and below 1.0"
            )
        if self.target_std <= 0:
            raise ConfigError(f"{key}.target_std is {self.target_std}: use a number above 0")
        perturb.check(self.augment, f"{key}.augment")
        steps = perturb.SPECTRAL_STEPS
        perturb.check(self.spectral, f"{key}.spectral", steps, spectral)


def make(config: ConfigDict, *, precision: str, sample_rate: int, num_classes: int) -> Method:
    """Returns the method that config.method describes; raises ConfigError without classes."""
    options = options_lib.read(Options, config)
    return method_of(learner(options, precision, sample_rate, num_classes))


def learner(options: Options, precision: str, sample_rate: int, num_classes: int) -> "Supervised":
    """Returns the functions of the method; raises ConfigError where its options do not fit."""
    encoder = build.encoder(options.encoder, precision=precision, sample_rate=sample_rate)
    _check(options, encoder)
    return Supervised(options, encoder, _outputs(options, num_classes))


def method_of(learner: "Supervised") -> Method:
    """Returns the method of these functions."""
    task, outputs = learner.options.task, learner.outputs
    truth = Spec((), "int32") if task == "classify" else Spec((outputs,), "float32")
    return Method(
        init=learner.init,
        loss=learner.loss,
        features=learner.features,
        predict=learner.predict,
        batch=encoder_lib.batch_spec(learner.encoder) | {TRUTH[task]: truth},
        rules=sharding.RULES,
        scopes=SCOPES,
    )


def _outputs(options: Options, num_classes: int) -> int:
    """Returns the number of outputs of the head; raises ConfigError without enough classes."""
    if options.task == "regress":
        return options.outputs or 1
    if options.task == "tag":
        count = options.outputs or num_classes
        if count < 1:
            raise ConfigError(
                "config.method.outputs is 0 and there are no classes: use the number of tags"
            )
        return count
    if num_classes < 2:
        raise ConfigError(
            f"the training split has {num_classes} classes: config.data.classes or the labels of "
            "config.data.train must give at least 2"
        )
    return num_classes


def _check(options: Options, encoder: encoder_lib.Encoder) -> None:
    """Raises ConfigError where options and encoder do not fit each other."""
    spectral_kinds = KeywordTransformer | VisionTransformer | BeatsEncoder
    if options.spec_augment.active and not (
        isinstance(encoder, spectral_kinds) and "audio" in encoder.reads
    ):
        raise ConfigError(
            "config.method.spec_augment needs spectral features, which the encoder kind "
            f"{options.encoder.get('kind')!r} does not have: set its masks to 0"
        )
    if options.spectral and options.encoder.get("feature") != "log_mel":
        raise ConfigError(
            "config.method.spectral augments log-mel features: set "
            "config.method.encoder.feature to 'log_mel', or leave it empty"
        )
    if options.augment and "audio" not in encoder.reads:
        raise ConfigError(
            "config.method.augment changes audio, which the encoder does not read: use {}"
        )
    if options.mix.active:
        _check_mix(options, encoder)
    if options.mask_ratio and not isinstance(encoder, VisionTransformer):
        raise ConfigError(
            "config.method.mask_ratio hides patches, which the encoder kind "
            f"{options.encoder.get('kind')!r} does not have: set it to 0.0"
        )
    if options.stripes.active and not (
        isinstance(encoder, VisionTransformer) and "audio" in encoder.reads
    ):
        raise ConfigError(
            "config.method.stripes hides stripes of time and mel, which the encoder kind "
            f"{options.encoder.get('kind')!r} does not have: set its time and frequency to 0.0"
        )


def _check_mix(options: Options, encoder: encoder_lib.Encoder) -> None:
    """Raises ConfigError where what the encoder reads cannot be mixed as configured."""
    if "audio" in encoder.reads and options.mix.cutmix:
        raise ConfigError("config.method.mix.cutmix cuts images: set it to 0.0 for sounds")
    if {"image", "video"} & set(encoder.reads) and options.task != "classify":
        raise ConfigError(
            "config.method.mix mixes the tags of sounds only: set its mixup and cutmix to 0"
        )
    if not {"image", "video", "audio"} & set(encoder.reads):
        raise ConfigError(
            "config.method.mix is for images, clips and sounds, which the encoder does not read: "
            "set its mixup and cutmix to 0"
        )


@dataclasses.dataclass(frozen=True)
class Supervised:
    """The functions of the method over one encoder. params: encoder, head."""

    options: Options
    encoder: encoder_lib.Encoder
    outputs: int

    @property
    def head(self) -> heads.Classifier:
        """Pool, LayerNorm, dropout, Linear, as set in config.method.head."""
        return heads.Classifier(self.outputs, self.options.head, self.options.pool)

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Returns (params, {})."""
        keys = jax.random.split(key)
        encoder, encoded = encoder_lib.init(self.encoder, keys[0], batch)
        head = self.head.init(keys[1], encoded.hidden_states[-1], encoded.valid, encoded.prefix)
        return {"encoder": encoder, "head": head["params"]}, {}

    def features(
        self, params: Tree, batch: Batch, layers: tuple[int, ...] | None = None
    ) -> Features:
        """Returns the hidden states of the example, without prefix tokens."""
        return encoder_lib.features(self.encoder, params["encoder"], batch, layers)

    def predict(self, params: Tree, batch: Batch) -> Array:
        """Returns (B, outputs): logits, or values on the scale of their targets."""
        x, valid = self._frontend(params, batch)
        encoded = encoder_lib.encode(self.encoder, params["encoder"], x, valid, layers=LAST)
        outputs = self._head(params, encoded)
        o = self.options
        return outputs * o.target_std + o.target_mean if o.task == "regress" else outputs

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, streams: Streams, train: bool
    ) -> Output:
        """Returns the mean loss of the rows that have a weight and a known truth."""
        outputs, batch, shares = self.answer(params, batch, streams, train)
        with jax.named_scope("loss"):
            each, counted, metrics = self.evaluate(outputs, batch, shares, train)
            loss, num_targets = losses.masked_mean(each, counted)
        return Output(
            loss, num_targets, {"loss": (loss * num_targets, num_targets), **metrics}, extra
        )

    def answer(
        self, params: Tree, batch: Batch, streams: Streams, train: bool
    ) -> tuple[Array, Batch, Array | None]:
        """Returns the outputs (B, K), the batch as the encoder saw it, and the shares of its labels
        if these are mixed."""
        o, tuned = self.options, params
        if o.frozen:
            tuned = {**params, "encoder": jax.lax.stop_gradient(params["encoder"])}

        with jax.named_scope("frontend"):
            keys, shares = None, None
            if train:
                batch, shares = self._change(batch, streams)
            if train and (o.spectral or o.spec_augment.active):
                keys = streams.for_examples("spec_augment")
            x, valid = self._frontend(tuned, batch, keys)
            ids_keep = self._kept(valid, streams) if train else None

        with jax.named_scope("encoder"):
            dropout = streams.for_step("dropout") if train and not o.frozen else None
            encoded = encoder_lib.encode(
                self.encoder, tuned["encoder"], x, valid, dropout, ids_keep, LAST
            )

        with jax.named_scope("predictor"):
            dropout = streams.for_step("head") if train else None
            return self._head(params, encoded, dropout), batch, shares

    def _change(self, batch: Batch, streams: Streams) -> tuple[Batch, Array | None]:
        """Returns the batch of a training step, and the shares of its labels if they are mixed."""
        o = self.options
        if o.augment:
            keys = streams.for_examples("augment")
            audio, length = perturb.chain(keys, batch["audio"], batch["audio_len"], o.augment)
            batch = {**batch, "audio": audio, "audio_len": length}
        if not o.mix.active:
            return batch, None
        if "audio" in batch:
            return self._mix_audio(batch, streams.for_step("mix"))
        # a row that does not count must not be mixed into another
        labels = jnp.where(batch["weight"] > 0, batch["label"], -1)
        name = next(n for n in ("image", "video") if n in batch)
        given = (labels, self.outputs, o.mix, o.label_smoothing)
        mixed, shares = mix_lib.mix(streams.for_step("mix"), batch[name], *given)
        return {**batch, name: mixed}, shares

    def _mix_audio(self, batch: Batch, key: Array) -> tuple[Batch, Array | None]:
        """Returns the batch with its clips mixed, and their tags; shares of labels on their own."""
        o, known = self.options, batch["weight"] > 0
        if o.task == "tag":
            targets = batch["tags"]
        else:
            known = known & (batch["label"] >= 0)
            targets = mix_lib.soft_targets(batch["label"], self.outputs, o.label_smoothing)
        given = (batch["audio"], batch["audio_len"], targets, known)
        audio, targets = mix_lib.mix_audio(key, *given, o.mix)
        if o.task == "tag":
            return {**batch, "audio": audio, "tags": targets}, None
        return {**batch, "audio": audio}, targets

    def _kept(self, valid: Array, streams: Streams) -> Array | None:
        """valid (B, S) -> the ids (B, V) of the patches that stay visible; None: all do."""
        o, size = self.options, valid.shape[1]
        keys = streams.for_examples("mask") if o.mask_ratio or o.stripes.active else None
        if keys is None:
            return None
        if o.stripes.active:
            columns = self.encoder.grid[1]
            return o.stripes.draw(keys, valid, columns)[0][
                :, : o.stripes.visible(size, columns)[-1]
            ]
        counts = [min(n, max(1, int(n * (1 - o.mask_ratio)))) for n in range(size + 1)]
        return masks.random_visible(keys, valid, counts)[0][:, : counts[-1]]

    def evaluate(
        self, outputs: Array, batch: Batch, shares: Array | None, train: bool
    ) -> tuple[Array, Array, dict[str, tuple[Array, Array]]]:
        """outputs (B, K) -> (losses, their weights, metrics); (B,) for classes, else (B, K)."""
        o, truth, weight = self.options, batch[TRUTH[self.options.task]], batch["weight"]
        if o.task == "classify":
            smoothing = o.label_smoothing if train else 0.0
            each = losses.cross_entropy(outputs, truth, smoothing, o.smoothing_spread)
            if shares is not None:
                each = losses.soft_cross_entropy(outputs, shares)
            metrics = {"accuracy": losses.accuracy(outputs, truth, weight)}
            return each, weight * (truth >= 0), metrics
        counted = weight[:, None] * ~jnp.isnan(truth)
        truth = jnp.nan_to_num(truth)  # the gradient of an unknown value is 0, not 0 * NaN
        if o.task == "tag":
            right = (outputs > 0) == (truth > 0.5)
            each = losses.binary_cross_entropy(outputs, truth)
            return each, counted, {"accuracy": ((right * counted).sum(), counted.sum())}
        each = jnp.square(outputs - (truth - o.target_mean) / o.target_std)
        squared = (each * counted).sum() * o.target_std**2
        return each, counted, {"squared_error": (squared, counted.sum())}

    def _frontend(
        self, params: Tree, batch: Batch, keys: Array | None = None
    ) -> tuple[Array, Array]:
        """Returns local tokens x (B, S, D), valid (B, S); `keys` (B,) augment the features."""
        augment_fn = None if keys is None else functools.partial(self._augment, keys)
        return encoder_lib.frontend(self.encoder, params["encoder"], batch, augment_fn=augment_fn)

    def _augment(self, keys: Array, features: Array, lengths: Array) -> Array:
        """Augments features (B, T, F), lengths (B,) in frames, as configured."""
        o = self.options
        features = perturb.spectral_chain(keys, features, lengths, o.spectral)
        if not o.spec_augment.active:
            return features
        stripes = dataclasses.asdict(o.spec_augment)
        fill = "mean" if stripes.pop("fill_mean") else 0.0
        return augment.spec_augment(keys, features, lengths, fill=fill, **stripes)

    def _head(self, params: Tree, encoded: Encoded, dropout: Array | None = None) -> Array:
        """Returns the outputs (B, K) of the last hidden states."""
        variables, last = {"params": params["head"]}, encoded.hidden_states[-1]
        rngs = None if dropout is None else {"dropout": dropout}
        return self.head.apply(  # type: ignore
            variables, last, encoded.valid, encoded.prefix, bool(rngs), rngs=rngs
        )
