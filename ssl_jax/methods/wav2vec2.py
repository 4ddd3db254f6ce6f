"""wav2vec 2.0: identify the quantized speech of a masked frame among that of other masked frames.

Baevski et al., 2006.11477, with the details that only its published code gives. The front end's
frames take two paths: masked through the transformer, and unmasked through a product quantizer that
is trained with it. At a masked frame, the output must be closer to the frame's own codes than to
those of other masked frames of the clip; a second term keeps the codes in use.

With targets='linear' there are no codes: a Linear layer of the unmasked frames gives the targets,
as in Zhang et al. (2010.10504), whose frames come from convolutions over log-mel.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ssl_jax.core import options as options_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.rng import Streams
from ssl_jax.core.types import Array, Batch, Features, Method, Output, Tree
from ssl_jax.nn import build, heads, sharding
from ssl_jax.nn import encoder as encoder_lib
from ssl_jax.nn.quantizer import GumbelQuantizer, Quantized
from ssl_jax.nn.transformer import LAST
from ssl_jax.ops import losses, masks, negatives, quantize, stats

SCOPES = ("frontend", "mask", "encoder", "targets", "predictor", "loss")


@dataclasses.dataclass(frozen=True)
class MaskOptions:
    """Which frames are masked; see `ops.masks.span_mask`."""

    prob: float  # expected spans = prob * frames / length; spans overlap: about half are masked
    length: int  # frames per span
    min_spans: int
    same_count: bool  # every row trimmed to the fewest masked frames of the batch

    def draw(self, keys: Array, real: Array) -> Array:
        """keys (B,), real (B, S) -> bool (B, S), true at the frames to predict."""
        size = real.shape[1]
        return masks.span_mask(
            keys, real.sum(1), size, self.prob, self.length, self.min_spans, self.same_count
        )


@dataclasses.dataclass(frozen=True)
class QuantizerOptions:
    """The codes, and how sharply they are drawn in training."""

    groups: int
    codes: int  # per group
    width: int  # of the codes of all groups together, and of the space of comparison
    dropout: float  # on the frames that are quantized
    # the temperature of update n, from 0, is max(start * decay^n, end)
    start: float
    end: float
    decay: float


@dataclasses.dataclass(frozen=True)
class NegativeOptions:
    """The distractors of the contrastive task."""

    count: int
    # masked: other masked frames of the clip, as in the paper | all: any other frame of the clip,
    # which is easier, as most of them are visible: a mistake of ports that keep all frames to have
    # static shapes (the paper measured a word error rate 0.1 points higher)
    source: str


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """The three terms of the loss."""

    temperature: float  # of the cosines
    diversity: float  # weight of the share of codes not in use
    # mean: added to the mean of the contrastive term, hence times the number of masked frames in
    # its sum, as in the published code | sum: added once to the sum, where it vanishes: a mistake
    # of ports
    diversity_scale: str
    penalty: float  # weight of the mean square of the convolutions' output


@dataclasses.dataclass(frozen=True)
class Options:
    """The section config.method of wav2vec2."""

    name: str
    encoder: Mapping  # see ssl_jax/nn/build.py; of kind waveform or mel_conformer
    # codes: the quantizer's, through a Linear layer | linear: a Linear layer of the frames; of the
    # quantizer's options only its width, that of the comparison, is used
    targets: str
    mask: MaskOptions
    quantizer: QuantizerOptions
    negatives: NegativeOptions
    loss: LossOptions

    def __post_init__(self) -> None:
        key, q = "config.method", self.quantizer
        options_lib.choose(f"{key}.targets", self.targets, ("codes", "linear"))
        if self.targets == "linear" and self.loss.diversity:
            raise ConfigError(
                f"{key}.loss.diversity is {self.loss.diversity}, but {key}.targets='linear' has no "
                f"codes to keep in use: set it to 0.0"
            )
        options_lib.choose(f"{key}.negatives.source", self.negatives.source, ("masked", "all"))
        scales = ("mean", "sum")
        options_lib.choose(f"{key}.loss.diversity_scale", self.loss.diversity_scale, scales)
        for name, least in (("groups", 1), ("codes", 2)):
            if getattr(q, name) < least:
                raise ConfigError(
                    f"{key}.quantizer.{name} is {getattr(q, name)}: use {least} or more"
                )
        if q.width % q.groups:
            raise ConfigError(
                f"{key}.quantizer.groups {q.groups} does not divide {key}.quantizer.width "
                f"{q.width}: use a divisor, such as 1"
            )
        if not 0 <= q.dropout < 1:
            raise ConfigError(
                f"{key}.quantizer.dropout is {q.dropout}: use 0.0 or more and below 1.0"
            )
        if not (0 < q.end <= q.start and 0 < q.decay <= 1):
            raise ConfigError(
                f"{key}.quantizer.start {q.start}, end {q.end} and decay {q.decay} give no falling "
                f"temperature above 0: use values such as 2.0, 0.5 and 0.999995"
            )
        if self.negatives.count < 1:
            raise ConfigError(f"{key}.negatives.count is {self.negatives.count}: use 1 or more")
        if self.loss.temperature <= 0:
            raise ConfigError(
                f"{key}.loss.temperature is {self.loss.temperature}: use more than 0, such as 0.1"
            )


def make(config: ConfigDict, *, precision: str, sample_rate: int, num_classes: int) -> Method:
    """Returns the method that config.method describes; it needs no classes."""
    del num_classes
    options = options_lib.read(Options, config)
    encoder = build.moving(options.encoder, precision=precision, sample_rate=sample_rate)
    if not hasattr(encoder.options, "convolved"):
        raise ConfigError(
            f"config.method.encoder.kind is {options.encoder['kind']!r}, which has no convolutions "
            f"over audio whose output could be quantized: use 'waveform' or 'mel_conformer'"
        )
    method = Wav2Vec2(options, encoder)
    return Method(
        init=method.init,
        loss=method.loss,
        features=method.features,
        masks=method.masks,
        batch=encoder_lib.batch_spec(encoder),
        rules=sharding.RULES,
        scopes=SCOPES,
        combine=method.combine if options.loss.diversity or options.loss.penalty else None,
        couples=masks.coupled("wav2vec 2.0", options.mask.same_count)
        | encoder_lib.coupled(encoder),
    )


class _Targets(NamedTuple):
    """vectors (B, S, E) with their codes ids (B, S, G), and the use of the codes: soft (G,)
    perplexities, metrics, and sums for accumulation. Without codes, soft is None."""

    vectors: Array
    ids: Array
    soft: Array | None
    metrics: dict
    sums: dict


@dataclasses.dataclass(frozen=True)
class Wav2Vec2:
    """The three functions of the method over one encoder.

    params: encoder, mask/vector (D,), quantizer, and the Linear layers to the space of comparison:
    predictor (from D) and target (from codes). Without codes there is no quantizer, and target
    is from the frames (C).
    """

    options: Options
    encoder: encoder_lib.Encoder

    @property
    def quantizer(self) -> GumbelQuantizer:
        """The map from frames of the front end to codes."""
        o = self.options.quantizer
        return GumbelQuantizer(o.groups, o.codes, o.width, o.dropout)

    @property
    def head(self) -> heads.PredictionHead:
        """A Linear layer to the space in which outputs and codes are compared."""
        return heads.PredictionHead(self.options.quantizer.width)

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Returns (params, {})."""
        keys = jax.random.split(key, 5)
        encoder, encoded = encoder_lib.init(self.encoder, keys[0], batch)
        width, channels = encoded.hidden_states.shape[-1], self.encoder.options.convolved
        frames, codes = jnp.zeros((1, 1, channels)), jnp.zeros((1, self.options.quantizer.width))
        linear = self.options.targets == "linear"
        params = {
            "encoder": encoder,
            "mask": {"vector": jax.random.uniform(keys[1], (width,))},
            "predictor": self.head.init(keys[3], jnp.zeros((1, width)))["params"],
            "target": self.head.init(keys[4], frames[0] if linear else codes)["params"],
        }
        if not linear:
            params["quantizer"] = self.quantizer.init(keys[2], frames, None, 1.0, False)["params"]
        return params, {}

    def features(
        self, params: Tree, batch: Batch, layers: tuple[int, ...] | None = None
    ) -> Features:
        """Returns the hidden states of the unmasked clip."""
        return encoder_lib.features(self.encoder, params["encoder"], batch, layers)

    def masks(self, params: Tree, batch: Batch, streams: Streams) -> Array:
        """Returns which frames an update masks, (B, 1, S) bool."""
        real = encoder_lib.real(self.encoder, params["encoder"], batch, encoder_lib.weights(batch))
        return self.options.mask.draw(streams.for_examples("mask"), real)[:, None]

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, streams: Streams, train: bool
    ) -> Output:
        """Returns the contrastive loss at masked frames with its two auxiliary terms."""
        o, weight, own = self.options, encoder_lib.weights(batch), params["encoder"]

        with jax.named_scope("frontend"):
            dropout = streams.for_step("frontend") if train else None
            x, valid, taps = encoder_lib.frontend_intermediates(self.encoder, own, batch, dropout)

        with jax.named_scope("mask"):
            real = valid & (weight > 0)[:, None]
            mask = o.mask.draw(streams.for_examples("mask"), real)
            masked_input = jnp.where(mask[..., None], params["mask"]["vector"].astype(x.dtype), x)

        with jax.named_scope("encoder"):
            dropout = streams.for_step("dropout") if train else None
            encoded = encoder_lib.encode(
                self.encoder, own, masked_input, valid, dropout, layers=LAST
            )

        with jax.named_scope("targets"):
            # of every frame, unmasked; only masked ones are used
            found = self._targets(params, taps["normed"], mask, streams, train)

        with jax.named_scope("predictor"):
            context = self._head(params["predictor"], encoded.hidden_states[-1].astype(jnp.float32))

        with jax.named_scope("loss"):
            pool = mask if o.negatives.source == "masked" else real
            places = negatives.draw(streams.for_examples("negatives"), pool, o.negatives.count)
            logits = negatives.logits(context, found.vectors, found.ids, places, o.loss.temperature)
            # the only masked frame of a row has no distractors
            counted = mask & (pool.sum(1) > 1)[:, None]
            frame_loss = negatives.info_nce(logits)
            contrastive, num_targets = losses.masked_mean(frame_loss, counted * weight[:, None])
            energy = jnp.square(taps["raw"]).mean(-1)
            penalty, frames = losses.masked_mean(energy, real)
            loss = contrastive
            if found.soft is not None:
                loss = loss + o.loss.diversity * self._diversity(found.soft, num_targets)
            loss = loss + o.loss.penalty * penalty

        metrics = {
            "loss": (loss * num_targets, num_targets),
            "contrastive_loss": (contrastive * num_targets, num_targets),
            "feature_penalty": (penalty * frames, frames),
            "used_rows": encoder_lib.used_rows(batch, weight),
            "masked_share": (mask.sum(), real.sum()),
            **_agreement(logits, counted),
            **found.metrics,
            "target_std": (stats.token_std(found.vectors, mask), jnp.ones(())),
            "prediction_std": (stats.token_std(context, mask), jnp.ones(())),
            "frontend_std": (stats.token_std(x, real), jnp.ones(())),
        }
        sums = {name: metrics[name] for name in ("contrastive_loss", "feature_penalty")}
        moved = {"encoder": encoded.moved} if encoded.moved else {}
        return Output(loss, num_targets, metrics, extra, sums | found.sums, moved)

    def combine(self, sums: Tree) -> Array:
        """Returns the loss of a batch from the sums of its parts."""
        o = self.options.loss
        mean, (_, num_targets) = losses.mean_of, sums["contrastive_loss"]
        loss = mean(sums["contrastive_loss"])
        if "codes" in sums:
            soft = quantize.perplexity_of(*sums["codes"])
            loss = loss + o.diversity * self._diversity(soft, num_targets)
        return loss + o.penalty * mean(sums["feature_penalty"])

    def _diversity(self, perplexities: Array, num_targets: Array) -> Array:
        o = self.options
        diversity = quantize.diversity(perplexities, o.quantizer.codes)
        if o.loss.diversity_scale == "sum":
            diversity = diversity / jnp.maximum(num_targets, 1)
        return diversity

    def _targets(
        self, params: Tree, frames: Array, mask: Array, streams: Streams, train: bool
    ) -> _Targets:
        """frames (B, S, C) -> what outputs are compared with, and how evenly codes are in use."""
        if self.options.targets == "linear":
            ids = jnp.arange(frames.shape[1])[None, :, None]  # no two frames are the same
            ids = jnp.broadcast_to(ids, (*frames.shape[:2], 1))
            return _Targets(self._head(params["target"], frames), ids, None, {}, {})
        codes = self._quantize(params, frames, streams, train)
        used = quantize.use(jax.nn.softmax(codes.logits), mask)
        soft = quantize.perplexity_of(*used)
        metrics = self._code_use(codes, soft, mask)
        if train:
            metrics["temperature"] = (self._temperature(streams.step), jnp.ones(()))
        vectors = self._head(params["target"], codes.vectors)
        return _Targets(vectors, codes.ids, soft, metrics, {"codes": used})

    def _quantize(self, params: Tree, frames: Array, streams: Streams, train: bool) -> Quantized:
        """frames (B, S, C) -> their codes, drawn with Gumbel noise in training."""
        o, noise, rngs = self.options.quantizer, None, None
        if train:
            shape = (frames.shape[1], o.groups, o.codes)
            noise = quantize.gumbel_noise(streams.for_examples("gumbel"), shape)
            rngs = {"dropout": streams.for_step("quantizer")}
        temperature = self._temperature(streams.step)
        variables = {"params": params["quantizer"]}
        return self.quantizer.apply(  # type: ignore
            variables, frames, noise, temperature, train, rngs=rngs
        )

    def _temperature(self, step: Array) -> Array:
        o = self.options.quantizer
        return jnp.asarray(quantize.gumbel_temperature(o.start, o.end, o.decay)(step))

    def _head(self, params: Tree, x: Array) -> Array:
        """x (B, S, D) float32 -> (B, S, width of comparison)."""
        return self.head.apply({"params": params}, x)  # type: ignore

    def _code_use(self, codes: Quantized, soft: Array, mask: Array) -> dict:
        """Returns the code perplexities over masked frames of the batch, per group and summed."""
        best = quantize.choose(codes.logits)
        used, one = quantize.perplexity(best, mask), jnp.ones(())
        each = {f"code_perplexity_{i}": (value, one) for i, value in enumerate(used)}
        return {
            "code_perplexity": (used.sum(), one),
            "soft_perplexity": (soft.sum(), one),
            **each,
        }


def _agreement(logits: Array, counted: Array) -> dict:
    """Returns how often the true target is nearest, and the share of negatives that differ from it.

    With one code for all frames no negative is left and the first is 1; the second reveals it.
    """
    right = logits[..., 0] > logits[..., 1:].max(-1)
    other = jnp.isfinite(logits[..., 1:]).mean(-1)
    count = counted.sum()
    return {
        "contrastive_accuracy": (jnp.where(counted, right, False).sum(), count),
        "distinct_negatives": (jnp.where(counted, other, 0).sum(), count),
    }
