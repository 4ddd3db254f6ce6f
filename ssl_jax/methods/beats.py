"""BEATs: predict the discrete label of each masked patch of a spectrogram.

Chen et al., 2212.09058. An acoustic tokenizer labels every patch of a clip. The encoder sees the
quarter of the patches that is not masked, in their order. A shallow transformer over all places
predicts the labels, and the loss is the cross-entropy at the masked ones. The first tokenizer is a
random projection; later ones are runs of `methods/beats_tokenizer.py`, taught by the model before.
Labels may also be read from disk, such as k-means clusters of features.

Official pre-training code was never published. Whether visible patches keep their positions is a
choice of the encoder (config.method.encoder.positions); the depth of the predictor, its mask token
and label smoothing are choices here.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ssl_jax.core import options as options_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.rng import Streams
from ssl_jax.core.types import FROZEN, Array, Batch, Features, Method, Output, Spec, Tree
from ssl_jax.methods import beats_tokenizer
from ssl_jax.nn import build, frozen, random_codes, sharding
from ssl_jax.nn import encoder as encoder_lib
from ssl_jax.nn.token_decoder import TokenDecoder, TokenDecoderOptions
from ssl_jax.nn.transformer import LAST
from ssl_jax.ops import losses, masks, stats

TOKENIZER = "tokenizer"
KEY = f"config.method.teachers.{TOKENIZER}"
LABELS = ("random", TOKENIZER, "stored")
SCOPES = ("frontend", "mask", "encoder", "targets", "predictor", "loss")


@dataclasses.dataclass(frozen=True)
class UnitOptions:
    """The labels to predict, one for every token of the encoder."""

    classes: tuple[int, ...]  # how many codes there are; one set
    rate: float  # labels per second: tokens of a step times steps per second


@dataclasses.dataclass(frozen=True)
class Options:
    """The section config.method of BEATs."""

    name: str
    encoder: Mapping  # of patches of sound; see ssl_jax/nn/build.py
    # random: a random projection | tokenizer: a run, in each step | stored: config.data.units
    labels: str
    teachers: Mapping  # tokenizer: that run
    units: UnitOptions
    random: random_codes.RandomOptions
    mask_ratio: float  # int(S * (1 - ratio)) of S patches are visible
    predictor: TokenDecoderOptions
    # what the predictor reads at masked patches: zeros, which all ask the same in its first block |
    # learned, which a predictor of a single block needs
    mask_token: str
    label_smoothing: float  # in training only

    def __post_init__(self) -> None:
        key = "config.method"
        options_lib.choose(f"{key}.labels", self.labels, LABELS)
        options_lib.choose(f"{key}.mask_token", self.mask_token, ("zeros", "learned"))
        self.predictor.check(f"{key}.predictor")
        frozen.check_names(self.teachers, TOKENIZER)
        if len(self.units.classes) != 1 or self.units.classes[0] < 2:
            raise ConfigError(
                f"{key}.units.classes is {self.units.classes}: use one number from 2 up, such as "
                f"(1024,)"
            )
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(
                f"{key}.label_smoothing is {self.label_smoothing}: use 0 to below 1, such as 0.1"
            )

    @property
    def codes(self) -> int:
        """How many codes there are."""
        return self.units.classes[0]


def make(config: ConfigDict, *, precision: str, sample_rate: int, num_classes: int) -> Method:
    """Returns the method that config.method describes; it needs no classes."""
    del num_classes
    options = options_lib.read(Options, config)
    encoder = build.encoder(options.encoder, precision=precision, sample_rate=sample_rate)
    rate = encoder_lib.token_rate(encoder)
    if options.units.rate != rate or not hasattr(encoder, "patches"):
        raise ConfigError(
            f"config.method.units.rate is {options.units.rate:g} labels per second, and "
            f"config.method.encoder of kind {options.encoder.get('kind')!r} has {rate:g} tokens: "
            f"use patches of sound, such as those of kind 'beats', and their rate"
        )
    method = Beats(options, encoder, precision, sample_rate)
    spec, taught = encoder_lib.batch_spec(encoder), {}
    if options.labels == "stored":
        spec["units"] = Spec((1, None), "int32")
    if options.labels == TOKENIZER:
        run = options.teachers[TOKENIZER]
        taught[TOKENIZER] = beats_tokenizer.tokenizer(run, precision)
    return Method(
        init=method.init,
        untrained=method.untrained,
        loss=method.loss,
        features=method.features,
        masks=method.masks,
        batch=spec,
        rules=sharding.RULES,
        scopes=SCOPES,
        frozen=taught,
    )


@dataclasses.dataclass(frozen=True)
class Beats:
    """The functions of the method over one encoder. params: encoder, predictor."""

    options: Options
    encoder: encoder_lib.Encoder
    precision: str
    sample_rate: int

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Returns (params, {}); the engine adds the tokenizer, if there is one."""
        keys = jax.random.split(key)
        if self.options.labels == TOKENIZER:
            self.tokenizer()
        encoder, encoded = encoder_lib.init(self.encoder, keys[0], batch)
        last = encoded.hidden_states[-1][:, encoded.prefix :]
        size = last.shape[1]
        self.visible(size)
        all_of_them, places = jnp.ones((1, size), bool), encoder_lib.places(self.encoder, size)
        ids = jnp.arange(size)[None]
        predictor = self._predictor.init(keys[1], last, all_of_them, places, ids, all_of_them)
        return {"encoder": encoder, "predictor": predictor["params"]}, {}

    def untrained(self, key: Array, batch: Batch) -> Tree:
        """Returns the parameters of `init` that need no teacher."""
        key = jax.random.split(key)[0]
        return {"encoder": encoder_lib.init(self.encoder, key, batch)[0]}

    def features(
        self, params: Tree, batch: Batch, layers: tuple[int, ...] | None = None
    ) -> Features:
        """Returns the encoder's hidden states of unmasked clips, without prefix tokens."""
        return encoder_lib.features(self.encoder, params["encoder"], batch, layers)

    def masks(self, params: Tree, batch: Batch, streams: Streams) -> Array:
        """Returns which patches an update masks, (B, 1, steps, bands) bool."""
        weight = encoder_lib.weights(batch)
        real = encoder_lib.real(self.encoder, params["encoder"], batch, weight)
        mask = self._mask(streams, real)[1]
        return mask.reshape(len(real), 1, *encoder_lib.places(self.encoder, real.shape[1]))

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, streams: Streams, train: bool
    ) -> Output:
        """Returns the cross-entropy of the labels of masked patches, and how codes are used."""
        o, weight = self.options, encoder_lib.weights(batch)

        with jax.named_scope("frontend"):
            dropout = streams.for_step("frontend_dropout") if train else None
            x, valid = encoder_lib.frontend(self.encoder, params["encoder"], batch, dropout=dropout)

        with jax.named_scope("mask"):
            ids_shuffle, mask = self._mask(streams, valid)
            ids_keep = ids_shuffle[:, : self.visible(x.shape[1])[-1]]

        with jax.named_scope("encoder"):
            dropout = streams.for_step("dropout") if train else None
            encoded = encoder_lib.encode(
                self.encoder, params["encoder"], x, valid, dropout, ids_keep, LAST
            )

        with jax.named_scope("targets"):
            labels = self._label(params, extra, batch, valid)

        with jax.named_scope("predictor"):
            last = encoded.hidden_states[-1][:, encoded.prefix :]
            places = encoder_lib.places(self.encoder, valid.shape[1])
            given = {"params": params["predictor"]}
            visible = valid & ~mask
            logits: Any = self._predictor.apply(given, last, valid, places, ids_shuffle, visible)

        with jax.named_scope("loss"):
            known = (labels >= 0) & (weight > 0)[:, None]
            masked, unmasked = mask & known, visible & known
            smoothing = o.label_smoothing if train else 0.0
            entropy = losses.cross_entropy(logits, labels, smoothing)
            loss, count = losses.masked_mean(entropy, masked * weight[:, None])

        real = valid & (weight > 0)[:, None]
        metrics = {
            "loss": (loss * count, count),
            "masked_accuracy": losses.accuracy(logits, labels, masked.astype(jnp.float32)),
            "unmasked_accuracy": losses.accuracy(logits, labels, unmasked.astype(jnp.float32)),
            "masked_share": ((mask & real).sum(), real.sum()),
            "used_rows": encoder_lib.used_rows(batch, weight),
            **self._watch(labels, logits.argmax(-1), masked),
        }
        return Output(loss, count, metrics, extra)

    def visible(self, size: int) -> list[int]:
        """Returns how many patches of a row with 0 to `size` real ones stay visible.

        Raises ConfigError when a full row has no visible or no masked patch.
        """
        ratio = self.options.mask_ratio
        kept = int(size * (1 - ratio))
        if not 0 < kept < size:
            raise ConfigError(
                f"config.method.mask_ratio is {ratio}, which leaves {kept} of {size} patches "
                f"visible: use a value such as {0.75 if size > 3 else 0.5}, or longer clips"
            )
        return [min(n, max(1, int(n * (1 - ratio)))) for n in range(size + 1)]

    def tokenizer(self) -> frozen.Teacher:
        """Returns the run that labels; raises ConfigError for one that does not fit."""
        run = frozen.read(self.options.teachers[TOKENIZER], KEY)
        if run.config.method.name != "beats_tokenizer":
            raise ConfigError(
                f"{KEY} {run.reference} is a run of {run.config.method.name!r}, which is no "
                f"tokenizer: use a run of configs/beats/tokenizer.py"
            )
        run.check_tokens(run.encoder(self.precision), self.encoder, self.sample_rate)
        codes = run.config.method.codebook.codes
        if codes != self.options.codes:
            raise ConfigError(
                f"config.method.units.classes is {self.options.units.classes}, and {KEY} "
                f"{run.reference} has {codes} codes: set it to ({codes},)"
            )
        return run

    def _mask(self, streams: Streams, valid: Array) -> tuple[Array, Array]:
        """valid (B, S) -> ids_shuffle (B, S), visible ids first and ascending; mask (B, S) bool."""
        counts = self.visible(valid.shape[1])
        ids, mask = masks.random_visible(streams.for_examples("mask"), valid, counts)
        return masks.ascending(ids, counts[-1]), mask

    def _label(self, params: Tree, extra: Tree, batch: Batch, valid: Array) -> Array:
        """Returns the label of every patch of whole clips (B, S) int32, -1 where there is none."""
        o, size = self.options, valid.shape[1]
        if o.labels == "stored":
            found = batch["units"][:, 0, :size]
            short = size - found.shape[1]
            found = jnp.pad(found, ((0, 0), (0, max(short, 0))), constant_values=-1)
        elif o.labels == TOKENIZER:
            given = extra[FROZEN][TOKENIZER]
            encoder = self.tokenizer().encoder(self.precision)
            vectors = given["extra"]["codebook"]["vectors"]
            found, _ = beats_tokenizer.codes_of(encoder, given, vectors, batch)
        else:
            arrays = [batch[name] for name in self.encoder.reads]
            own = {"params": params["encoder"]}
            cut = self.encoder.apply(own, *arrays, method="patches")
            found = random_codes.label(o.random, cut, o.codes)
        return jnp.where(valid, found, -1)

    def _watch(
        self, labels: Array, predicted: Array, masked: Array
    ) -> dict[str, tuple[Array, Array]]:
        """Returns how labels and predictions use the codes. A model that predicts only how common
        each code is has a loss of `unit_entropy`."""
        one, codes = jnp.ones(()), self.options.codes
        found = {
            "unit_entropy": stats.usage_entropy(jnp.maximum(labels, 0), codes, masked),
            "prediction_entropy": stats.usage_entropy(predicted, codes, masked),
            "codes_used": stats.used(jnp.maximum(labels, 0), codes, masked),
            "codes_predicted": stats.used(predicted, codes, masked),
        }
        return {name: (value, one) for name, value in found.items()}

    @property
    def _predictor(self) -> TokenDecoder:
        o, like = self.options, self.encoder.transformer_options
        blocks = o.predictor.blocks(like)
        return TokenDecoder(
            o.codes, o.predictor.positions, blocks, o.mask_token, self.encoder.dtype
        )
