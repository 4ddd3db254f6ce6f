"""data2vec v1: predict, from a masked example, a teacher's features of the unmasked one.

Baevski et al., 2202.03555, for waveforms, images (sections 3 and 4.1, in the form of BEiT) and text
(RoBERTa); Bovbjerg and Tan, 2210.01703, for keyword spotting. The student sees a masked view. The
teacher, a moving average of the student, reads the unmasked example in evaluation mode; the mean of
its top layers, normalized, is the target at the masked tokens: frames, patches or words.

Two forms were published for images. This is the one in BEiT's code, which gave the paper's numbers:
its targets are the outputs of whole blocks (`targets.source`). fairseq has a partial port.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ssl_jax.core import options as options_lib
from ssl_jax.core import tree as tree_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.rng import Streams
from ssl_jax.core.types import Array, Batch, Features, Method, Output, Tree
from ssl_jax.nn import build, heads, sharding
from ssl_jax.nn import encoder as encoder_lib
from ssl_jax.nn.teacher import CENTER, EmaOptions, TargetOptions, has_frontend
from ssl_jax.nn.transformer import INITS, LAST
from ssl_jax.ops import ema, losses, masks, perturb, spectral, stats

SCOPES = ("frontend", "mask", "encoder", "targets", "predictor", "loss")
MOVABLE = tuple(step for step in perturb.STEPS if step not in perturb.MOVING)
MASKS = ("span", "text", "beit_block")


@dataclasses.dataclass(frozen=True)
class MaskOptions:
    """Which tokens are masked for the student, and with what; see `ops.masks`."""

    # span: `span_mask`, for audio | text: `text_mask`, spans of words | beit_block: rectangles
    kind: str
    prob: float  # expected spans = prob * tokens / length; spans overlap: about half is masked
    length: int  # tokens per span
    min_spans: int  # span
    same_count: bool  # span: every row trimmed to the fewest masked frames of the batch
    shared_u: bool  # span: one draw of the rounding for the whole batch (transformers)
    count: int  # beit_block: patches to mask; an image may get fewer
    min_area: int  # beit_block: of a rectangle, in patches
    min_aspect: float  # beit_block: of a rectangle; the maximum is its inverse
    # text: the share of masked tokens that random tokens replace, with ids from `first_id` on, and
    # the share left unchanged; the mask vector replaces the others
    random: float
    keep: float
    first_id: int
    vector_std: float  # of the initial mask vector; 0: uniform in [0, 1)


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """How far a prediction is from its target."""

    beta: float  # of the smooth L1 loss; 0: squared error
    scale: float | None  # factor on a token's sum over D; None: 1 / sqrt(D)
    # mean: per masked token of the global batch | sum: over the tokens of a batch of `examples`
    # clips. The sum is taken as `examples` times the mean per clip, so that it does not depend
    # on how the batch is cut or padded.
    reduction: str
    examples: int


@dataclasses.dataclass(frozen=True)
class PredictorOptions:
    """From the student's last layer to predictions; see `nn.heads.PredictionHead`."""

    norm: bool  # a LayerNorm first: the final norm of pre-norm blocks
    layers: int  # linear layers; of two, with a GELU between, the first is `ratio` D wide
    ratio: int
    init: str  # of the weights, as config.method.encoder.init


@dataclasses.dataclass(frozen=True)
class Options:
    """The section config.method of data2vec."""

    name: str
    encoder: Mapping  # see ssl_jax/nn/build.py
    mask: MaskOptions
    targets: TargetOptions
    predictor: PredictorOptions
    loss: LossOptions
    ema: EmaOptions
    # BEiT: the output matrices of block i, from 0, start divided by sqrt(2 (i + 1))
    rescale_init: bool
    # {step: options} for the student only (the teacher reads the clean clip): of the audio
    # (ops.augment) and, where the encoder computes log-mel, of the log-mel (ops.spectral)
    augment: Mapping
    spectral: Mapping

    def __post_init__(self) -> None:
        choose, key = options_lib.choose, "config.method"
        choose(f"{key}.mask.kind", self.mask.kind, MASKS)
        if self.mask.random + self.mask.keep > 1:
            raise ConfigError(
                f"{key}.mask.random {self.mask.random} and {key}.mask.keep {self.mask.keep} are "
                f"shares that must not exceed 1 together: use values such as 0.1 and 0.1"
            )
        choose(f"{key}.predictor.init", self.predictor.init, tuple(INITS))
        if self.predictor.layers not in (1, 2):
            raise ConfigError(f"{key}.predictor.layers is {self.predictor.layers}: use 1 or 2")
        choose(f"{key}.loss.reduction", self.loss.reduction, ("mean", "sum"))
        if self.loss.reduction == "sum" and self.loss.examples < 1:
            raise ConfigError(f"{key}.loss.examples is {self.loss.examples}: use the batch size")
        perturb.check(self.augment, f"{key}.augment", MOVABLE)
        perturb.check(self.spectral, f"{key}.spectral", perturb.SPECTRAL_STEPS[1:], spectral)


def make(config: ConfigDict, *, precision: str, sample_rate: int, num_classes: int) -> Method:
    """Returns the method that config.method describes; it needs no classes."""
    del num_classes
    options = options_lib.read(Options, config)
    encoder = build.encoder(options.encoder, precision=precision, sample_rate=sample_rate)
    _check(options, encoder)
    method = Data2Vec(options, encoder)
    return Method(
        init=method.init,
        loss=method.loss,
        features=method.features,
        masks=method.masks,
        update=method.update,
        decay=options.ema.decay,
        batch=encoder_lib.batch_spec(encoder),
        rules=sharding.RULES,
        scopes=SCOPES,
        couples=masks.coupled("data2vec", options.mask.kind == "span" and options.mask.same_count)
        | options.targets.centering.couples(CENTER),
    )


def _check(options: Options, encoder: encoder_lib.Encoder) -> None:
    """Raises ConfigError where options and encoder do not fit each other."""
    key = "config.method"
    options.targets.check_depth(encoder.depth)
    if options.augment and "audio" not in encoder.reads:
        raise ConfigError(f"{key}.augment changes audio, which the encoder does not read: use {{}}")
    if options.spectral and options.encoder.get("feature") != "log_mel":
        raise ConfigError(
            f"{key}.spectral augments log-mel features: set {key}.encoder.feature to 'log_mel', or "
            f"leave it empty"
        )
    mask = options.mask
    if (mask.random or mask.keep) and "tokens" not in encoder.reads:
        raise ConfigError(
            f"{key}.mask.random and {key}.mask.keep are for text: set both to 0, or "
            f"{key}.encoder.kind to 'text'"
        )
    if mask.kind == "beit_block":
        if len(encoder.grid) != 2:
            raise ConfigError(
                f"{key}.mask.kind 'beit_block' needs a grid of patches: use 'span', or set "
                f"{key}.encoder.kind to 'vit'"
            )
        patches = encoder.grid[0] * encoder.grid[1]
        if not 0 < mask.count < patches:
            raise ConfigError(
                f"{key}.mask.count is {mask.count} of {patches} patches, but some must be masked "
                f"and some visible: use a value such as {max(1, round(0.6 * patches))}"
            )


@dataclasses.dataclass(frozen=True)
class Data2Vec:
    """The four functions of the method over one encoder.

    params: encoder, mask/vector (D,), predictor (D -> D). extra: teacher/encoder, float32.
    """

    options: Options
    encoder: encoder_lib.Encoder

    @property
    def predictor(self) -> heads.PredictionHead:
        """The map from the student's last layer to targets; float32."""
        o, eps = self.options.predictor, self.encoder.transformer_options.eps
        return heads.PredictionHead(self.encoder.width, o.norm, o.layers, o.ratio, o.init, eps)

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Returns (params, {"teacher": a copy of the student})."""
        keys, width = jax.random.split(key, 3), self.encoder.width
        encoder, encoded = encoder_lib.init(self.encoder, keys[0], batch)
        if self.options.rescale_init:
            encoder = {**encoder, "blocks": rescaled(encoder["blocks"])}
        std = self.options.mask.vector_std
        vector = (jax.random.normal if std else jax.random.uniform)(keys[1], (width,))
        params = {
            "encoder": encoder,
            "mask": {"vector": std * vector if std else vector},
            "predictor": self.predictor.init(keys[2], jnp.zeros((1, width)))["params"],
        }
        teacher = ema.init(_student(params), self._modes(params))
        size = encoded.valid.shape[1] - encoded.prefix
        return params, {"teacher": teacher, **self.options.targets.center_state(size, width)}

    def update(self, params: Tree, extra: Tree, step: Array) -> Tree:
        """Moves the teacher towards the student after update number `step`."""
        o, modes = self.options, self._modes(params)
        teacher = ema.update(extra["teacher"], _student(params), o.ema.decay(step), modes)
        return {**o.targets.moved(extra), "teacher": teacher}

    def features(
        self, params: Tree, batch: Batch, layers: tuple[int, ...] | None = None
    ) -> Features:
        """Returns the student's hidden states of the unmasked example, without prefix tokens."""
        return encoder_lib.features(self.encoder, params["encoder"], batch, layers)

    def masks(self, params: Tree, batch: Batch, streams: Streams) -> Array:
        """Returns which tokens an update masks, (B, 1, S) or (B, 1, rows, columns) bool."""
        real = encoder_lib.real(self.encoder, params["encoder"], batch, encoder_lib.weights(batch))
        places = encoder_lib.places(self.encoder, real.shape[1])
        return self._mask(streams, real).reshape(len(real), 1, *places)

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, streams: Streams, train: bool
    ) -> Output:
        """Returns the regression loss at masked tokens, with collapse diagnostics."""
        o, weight = self.options, encoder_lib.weights(batch)

        with jax.named_scope("frontend"):
            augmented = train and bool(o.augment or o.spectral)
            keys = streams.for_examples("augment") if augmented else None
            x, valid = self._frontend(params, batch, keys)

        with jax.named_scope("mask"):
            real = valid & (weight > 0)[:, None]
            mask = self._mask(streams, real)
            # before the positions are added, so that the student knows where it must predict
            masked_input = self._hide(params, batch, streams, x, mask)

        with jax.named_scope("encoder"):
            dropout = streams.for_step("dropout") if train else None
            student = encoder_lib.encode(
                self.encoder, params["encoder"], masked_input, valid, dropout, layers=LAST
            )

        with jax.named_scope("targets"):
            teacher = ema.merge(extra["teacher"], _student(params))
            teacher, clean = jax.lax.stop_gradient((teacher, x))
            if augmented or has_frontend(self._modes(params)):
                clean, _ = self._frontend(teacher, batch)
            asked = o.targets.needs
            whole = encoder_lib.encode(self.encoder, teacher["encoder"], clean, valid, layers=asked)
            raw = o.targets.of(whole)
            targets, extra = o.targets.centred(raw, real, extra)

        with jax.named_scope("predictor"):
            last = student.hidden_states[-1][:, student.prefix :].astype(jnp.float32)
            predictions = self._predict(params, last)

        with jax.named_scope("loss"):
            counted = mask * weight[:, None]
            scale = self.encoder.width**-0.5 if o.loss.scale is None else o.loss.scale
            token = scale * losses.smooth_l1(predictions, targets, o.loss.beta).sum(-1)
            loss, num_targets = losses.masked_mean(token, counted)
            if o.loss.reduction == "sum":
                clip = jnp.where(mask, token, 0).sum(1)
                loss, num_targets = losses.masked_mean(clip, weight)
                loss = loss * o.loss.examples

        one = jnp.ones(())
        metrics = {
            "loss": (loss * num_targets, num_targets),
            "target_std": (stats.token_std(targets, mask), one),
            "instance_variance_ratio": (stats.instance_variance_ratio(raw, real), one),
            "prediction_std": (stats.token_std(predictions, mask), one),
            "frontend_std": (stats.token_std(x, real), one),
            "teacher_student_cosine": stats.cosine(predictions, targets, mask),
            "used_rows": encoder_lib.used_rows(batch, weight),
            "masked_share": (mask.sum(), real.sum()),
            "ema_decay": (o.ema.decay(streams.step + 1), one),  # of the update that follows
        }
        return Output(loss, num_targets, metrics, extra)

    def _frontend(
        self, params: Tree, batch: Batch, keys: Array | None = None
    ) -> tuple[Array, Array]:
        """Returns local tokens x (B, S, D), valid (B, S); `keys` (B,) augment audio and log-mel."""
        o = self.options
        augment_fn = None
        if keys is not None and o.augment:
            audio, _ = perturb.chain(keys, batch["audio"], batch["audio_len"], o.augment)
            batch = {**batch, "audio": audio}
        if keys is not None and o.spectral:
            augment_fn = functools.partial(perturb.spectral_chain, keys, section=o.spectral)
        return encoder_lib.frontend(self.encoder, params["encoder"], batch, augment_fn=augment_fn)

    def _predict(self, params: Tree, last: Array) -> Array:
        """Last layer of the student (B, S, D) -> predictions of the targets (B, S, D)."""
        return self.predictor.apply({"params": params["predictor"]}, last)  # type: ignore

    def _mask(self, streams: Streams, real: Array) -> Array:
        """real (B, S) -> bool (B, S), true at the tokens to predict."""
        o, keys, shared_u = self.options.mask, streams.for_examples("mask"), None
        if o.kind == "beit_block":
            rows, columns = self.encoder.grid
            mask = masks.beit_block_mask(keys, rows, columns, o.count, o.min_area, o.min_aspect)
            return real & mask
        lengths, size = real.sum(1), real.shape[1]
        if o.kind == "text":
            return masks.text_mask(keys, lengths, size, o.prob, o.length)
        if o.shared_u:
            shared_u = jax.random.uniform(streams.for_step("mask_count"))
        return masks.span_mask(
            keys, lengths, size, o.prob, o.length, o.min_spans, o.same_count, shared_u
        )

    def _hide(self, params: Tree, batch: Batch, streams: Streams, x: Array, mask: Array) -> Array:
        """Replaces x (B, S, D) where `mask` (B, S) is true: the student's input."""
        o, vector = self.options.mask, params["mask"]["vector"].astype(x.dtype)
        if not (o.random or o.keep):
            return jnp.where(mask[..., None], vector, x)
        keys = jax.vmap(lambda key: jax.random.split(key))(streams.for_examples("replace"))
        share = jax.vmap(lambda key: jax.random.uniform(key, mask.shape[1:]))(keys[:, 0])
        end = self.encoder.options.vocab_size
        drawn = jax.vmap(lambda key: jax.random.randint(key, mask.shape[1:], o.first_id, end))
        other, _ = self._frontend(params, {**batch, "tokens": drawn(keys[:, 1])})
        shown = jnp.where((share < o.random)[..., None], other, vector)
        kept = (share >= o.random) & (share < o.random + o.keep)
        return jnp.where((mask & ~kept)[..., None], shown, x)

    def _modes(self, params: Tree) -> dict[str, str]:
        return ema.modes_of(_student(params), self.options.ema.rules)


def rescaled(blocks: Tree) -> Tree:
    """Divides the output matrices of block i, from 0, by sqrt(2 (i + 1)) (BEiT)."""

    def one(name: str, x: Array) -> Array:
        if name not in ("attention/out/kernel", "mlp/down/kernel"):
            return x
        return x / jnp.sqrt(2.0 * jnp.arange(1, len(x) + 1))[:, None, None]

    return tree_lib.map_named(one, blocks)


def _student(params: Tree) -> Tree:
    """Returns the part of the student that its teacher follows."""
    return {"encoder": params["encoder"]}
