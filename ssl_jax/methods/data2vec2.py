"""data2vec 2.0: many masked views of an example, the masked tokens never encoded, one teacher pass.

Baevski et al., 2212.07525, for waveforms, images and text. With masks (B, M, S), the student
encodes only the visible tokens. A small convolutional decoder takes them, with noise in the masked
places, and predicts at these places the features that the teacher, a moving average of the student,
computes from the unmasked example. The M views of an example share its local tokens and its
targets, which are computed once.

Where the published code and the paper differ, or the code surprises, this file does the following.
- Masks are drawn on the device, after cropping, from (seed, example, clone, step). Every example
  of n tokens has its exact count, int(n * ratio) masked (blocks) or int(n * (1 - ratio)) visible
  (inverse blocks, single tokens); the original takes the count of the batch's first row for all,
  and crops masks made for a longer clip. Padding is neither visible nor counted: it fills the
  remaining places of a row in the encoder, where no token attends to it, and is zero in the
  decoder, so that it does not affect real tokens. An example with tokens keeps one visible.
- `loss.cls_weight` is relative to the mean over all views. The original sums over the views of one
  device: its 0.01 is 2.56 at Base (16 images, 16 masks) and 1.28 at Large and Huge.
- Only the post-norm block is as published: that of the original's pre-norm option loses its
  residual. `encoder.norm` "pre" is a correct one here.
- Weight decay follows `config.optim.decay_rules`. The released runs decay all parameters, as
  the default rules do; biases, norms and ALiBi factors were meant to be excluded: for that, put
  the rule ("(bias|scale)$", 0.0) first.
- For text, the teacher reads token vectors without dropout; in the original they have the
  student's dropout.
- Options that no released run turns on are left out: ALiBi as a learned matrix, positions in the
  decoder, attention decoders, a loss on pixels, dropped blocks of a mask.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ssl_jax.core import options as options_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.rng import Streams
from ssl_jax.core.types import Array, Batch, Features, Method, Output, Tree
from ssl_jax.nn import build, sharding
from ssl_jax.nn import encoder as encoder_lib
from ssl_jax.nn.convdecoder import ConvDecoder, DecoderOptions
from ssl_jax.nn.teacher import CENTER, EmaOptions, TargetOptions, has_frontend
from ssl_jax.nn.transformer import LAST, Encoded
from ssl_jax.ops import ema, losses, masks, patches, stats

SCOPES = ("frontend", "mask", "encoder", "targets", "predictor", "loss")


@dataclasses.dataclass(frozen=True)
class MaskOptions:
    """Which tokens of a view are masked."""

    kind: str  # block: `ops.masks.block_mask`, 1-D or on the grid | random: single tokens
    ratio: float  # share of the tokens that is masked
    adjust: float  # block: added to the share for more centres, since blocks overlap
    block: int  # block: tokens along a side
    inverse: bool  # block: the blocks stay visible

    def visible(self, tokens: int) -> int:
        """Returns how many of `tokens` stay visible."""
        if self.kind == "block" and not self.inverse:
            return tokens - int(tokens * self.ratio)
        return int(tokens * (1 - self.ratio))

    def check(self, tokens: int) -> None:
        """Raises ConfigError unless an example of `tokens` is partly masked."""
        if not 0 < self.visible(tokens) < tokens:
            raise ConfigError(
                f"config.method.mask.ratio {self.ratio} leaves {self.visible(tokens)} of {tokens} "
                f"tokens visible: use a value such as 0.5, and examples of 2 tokens or more"
            )


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """How far a prediction is from its target: the mean over masked tokens of all views."""

    beta: float  # of the smooth L1 loss; 0: squared error
    scale: float | None  # factor on a token's sum over D; None: 1 / sqrt(D)
    # weight of the class token's loss, the mean over views; it predicts the mean target
    cls_weight: float


@dataclasses.dataclass(frozen=True)
class Options:
    """The section config.method of data2vec2."""

    name: str
    encoder: Mapping  # see ssl_jax/nn/build.py
    clones: int  # masks per example, M
    prenet_depth: int  # the first blocks, whose outputs are not targets
    mask: MaskOptions
    decoder: DecoderOptions
    targets: TargetOptions
    loss: LossOptions
    ema: EmaOptions

    def __post_init__(self) -> None:
        options_lib.choose("config.method.mask.kind", self.mask.kind, ("block", "random"))
        if self.clones < 1:
            raise ConfigError(f"config.method.clones is {self.clones}: use 1 or more, such as 8")
        if self.prenet_depth < 0:
            raise ConfigError(
                f"config.method.prenet_depth is {self.prenet_depth}: use 0 or more, such as 2"
            )
        if self.loss.beta < 0:
            raise ConfigError(f"config.method.loss.beta is {self.loss.beta}: use 0.0 or more")
        if not 0 < self.mask.ratio < 1:
            raise ConfigError(
                f"config.method.mask.ratio is {self.mask.ratio}: use above 0 and below 1, such as "
                f"0.5"
            )
        if self.mask.block < 1 or self.mask.adjust < 0:
            raise ConfigError(
                f"config.method.mask.block is {self.mask.block} and config.method.mask.adjust "
                f"{self.mask.adjust}: use 1 or more, such as 3, and 0.0 or more, such as 0.1"
            )


def make(config: ConfigDict, *, precision: str, sample_rate: int, num_classes: int) -> Method:
    """Returns the method that config.method describes; it needs no classes."""
    del num_classes
    options = options_lib.read(Options, config)
    encoder = build.encoder(options.encoder, precision=precision, sample_rate=sample_rate)
    options.targets.check_depth(encoder.depth, options.prenet_depth)
    options.decoder.check_width(encoder.width)
    if all(encoder.grid):  # else the length of an example decides, and the first batch is checked
        options.mask.check(math.prod(encoder.grid))
    method = Data2Vec2(options, encoder)
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
        combine=method.combine if options.loss.cls_weight else None,
        couples=options.targets.centering.couples(CENTER),
    )


@dataclasses.dataclass(frozen=True)
class Data2Vec2:
    """The four functions of the method over one encoder.

    params: encoder, decoder. extra: teacher/encoder, float32. Arrays of views (B * M, ...) are
    example-major, so that those of an example stay on one device.
    """

    options: Options
    encoder: encoder_lib.Encoder

    @property
    def decoder(self) -> ConvDecoder:
        """From the student's visible tokens and noise to predictions everywhere."""
        return ConvDecoder(self.options.decoder, self.encoder.width, self.encoder.dtype)

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Returns (params, {"teacher": a copy of the student})."""
        keys = jax.random.split(key)
        encoder, encoded = encoder_lib.init(self.encoder, keys[0], batch)
        if self.options.loss.cls_weight and not encoded.prefix:
            raise ConfigError(
                "config.method.loss.cls_weight needs a class token, which this "
                "config.method.encoder.kind does not have: set it to 0.0"
            )
        x = encoded.hidden_states[-1][:, encoded.prefix :]
        x = x.reshape(1, *encoder_lib.places(self.encoder, x.shape[1]), x.shape[-1])
        flags = jnp.zeros(x.shape[:-1], bool)
        params = {
            "encoder": encoder,
            "decoder": self.decoder.init(keys[1], x, x, flags, flags)["params"],
        }
        teacher = ema.init(_student(params), self._modes(params))
        size = encoded.valid.shape[1] - encoded.prefix
        return params, {"teacher": teacher, **self.options.targets.center_state(size, x.shape[-1])}

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
        """Returns which tokens of each view are masked, (B, M, S) or (B, M, rows, columns) bool."""
        real = encoder_lib.real(self.encoder, params["encoder"], batch, encoder_lib.weights(batch))
        _, mask = self._mask(streams, real)
        places = encoder_lib.places(self.encoder, real.shape[1])
        return mask.reshape(len(real), self.options.clones, *places)

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, streams: Streams, train: bool
    ) -> Output:
        """Returns the loss at masked tokens of all views, with collapse diagnostics."""
        o, weight, one = self.options, encoder_lib.weights(batch), jnp.ones(())

        with jax.named_scope("frontend"):
            x, valid = encoder_lib.frontend(self.encoder, params["encoder"], batch)

        with jax.named_scope("mask"):
            real = valid & (weight > 0)[:, None]
            ids_shuffle, mask = self._mask(streams, real)
            noise = self._noise(streams, x)

        with jax.named_scope("encoder"):
            dropout = streams.for_step("dropout") if train else None
            views, valids = (jnp.repeat(a, o.clones, axis=0) for a in (x, valid))
            ids_keep: Array | None = ids_shuffle[:, : o.mask.visible(x.shape[1])]
            if not o.decoder.layers:
                views, ids_keep = jnp.where(mask[..., None], noise.astype(x.dtype), views), None
            own = params["encoder"]
            student = encoder_lib.encode(self.encoder, own, views, valids, dropout, ids_keep, LAST)

        with jax.named_scope("targets"):
            teacher = ema.merge(extra["teacher"], _student(params))["encoder"]
            teacher, clean = jax.lax.stop_gradient((teacher, x))
            if has_frontend(self._modes(params)):
                clean, _ = encoder_lib.frontend(self.encoder, teacher, batch)
            whole = encoder_lib.encode(self.encoder, teacher, clean, valid, layers=o.targets.needs)
            raw = o.targets.of(whole)
            targets, extra = o.targets.centred(raw, real, extra)

        with jax.named_scope("predictor"):
            dropout = streams.for_step("decoder_dropout") if train else None
            predictions = self._decode(params, student, ids_shuffle, noise, mask, valids, dropout)

        # the views of an example on an axis of their own, along which its targets broadcast
        mask = mask.reshape(len(x), o.clones, -1)
        predictions = predictions.reshape(*mask.shape, -1)
        with jax.named_scope("loss"):
            token = self._distance(predictions, targets[:, None])
            loss, num_targets = losses.masked_mean(token, mask * weight[:, None, None])
            sums = {"regression": (loss * num_targets, num_targets)}
            if o.loss.cls_weight:
                cls, views = self._class_loss(student, targets, valid, weight)
                loss = loss + o.loss.cls_weight * cls
                sums["cls"] = cls * views, views

        metrics = sums | {
            "loss": (loss * num_targets, num_targets),
            "target_std": (stats.token_std(targets, real), one),
            "instance_variance_ratio": (stats.instance_variance_ratio(raw, real), one),
            "prediction_std": (stats.token_std(predictions, mask), one),
            "frontend_std": (stats.token_std(x, real), one),
            "teacher_student_cosine": stats.cosine(predictions, targets[:, None], mask),
            "used_rows": encoder_lib.used_rows(batch, weight),
            "masked_share": (mask.sum(), real.sum() * o.clones),
            "ema_decay": (o.ema.decay(streams.step + 1), one),  # of the update that follows
        }
        return Output(loss, num_targets, metrics, extra, sums)

    def combine(self, sums: Tree) -> Array:
        """Returns the loss of a batch from the sums of its parts, if the class token has a loss."""
        cls = self.options.loss.cls_weight * losses.mean_of(sums["cls"])
        return losses.mean_of(sums["regression"]) + cls

    def _mask(self, streams: Streams, real: Array) -> tuple[Array, Array]:
        """real (B, S) -> ids_shuffle (B * M, S), visible ids first and masked ones last; mask.

        mask (B * M, S) bool is true at real tokens only.
        """
        o, size = self.options.mask, real.shape[1]
        o.check(size)
        keys = masks.clone_keys(streams.for_examples("mask"), self.options.clones)
        real = jnp.repeat(real, self.options.clones, axis=0)
        if o.kind == "random":
            counts = [max(o.visible(n), min(n, 1)) for n in range(size + 1)]
            return masks.random_visible(keys, real, counts)
        shape, lengths = encoder_lib.places(self.encoder, size), real.sum(1)
        mask = masks.block_mask(keys, shape, o.ratio, o.adjust, o.block, o.inverse, lengths)
        return masks.ids_shuffle_of(mask, real), mask

    def _noise(self, streams: Streams, x: Array) -> Array:
        """x (B, S, D) -> noise for the masked places, (B * M, S, D), new for every view."""
        o = self.options
        keys = masks.clone_keys(streams.for_examples("noise"), o.clones)
        return o.decoder.noise_std * jax.vmap(lambda k: jax.random.normal(k, x.shape[1:]))(keys)

    def _decode(
        self,
        params: Tree,
        student: Encoded,
        ids_shuffle: Array,
        noise: Array,
        mask: Array,
        valid: Array,
        dropout: Array | None,
    ) -> Array:
        """Returns the predictions of all views everywhere, (B * M, S, D) float32."""
        x = student.hidden_states[-1][:, student.prefix :]
        if self.options.decoder.layers:
            x = patches.restore(x, ids_shuffle)
        else:
            mask = jnp.zeros_like(mask)  # the noise went through the encoder
        views, size = mask.shape
        places = encoder_lib.places(self.encoder, size)
        spread = (a.reshape(views, *places, *a.shape[2:]) for a in (x, noise, mask, valid))
        rngs = None if dropout is None else {"dropout": dropout}
        variables = {"params": params["decoder"]}
        out: Any = self.decoder.apply(variables, *spread, bool(rngs), rngs=rngs)
        return out.reshape(views, size, -1)

    def _distance(self, predictions: Array, targets: Array) -> Array:
        """Returns the scaled sum over D of the loss of each token, of broadcast shape (...)."""
        o = self.options.loss
        scale = self.encoder.width**-0.5 if o.scale is None else o.scale
        return scale * losses.smooth_l1(predictions, targets, o.beta).sum(-1)

    def _class_loss(
        self, student: Encoded, targets: Array, valid: Array, weight: Array
    ) -> tuple[Array, Array]:
        """Returns (mean over the views, their weight) of the class token against the mean target.

        student of B * M views, targets (B, S, D), valid (B, S), weight (B,).
        """
        count = jnp.maximum(valid.sum(1), 1)[:, None]
        mean = jnp.where(valid[..., None], targets, 0).sum(1) / count
        token = student.hidden_states[-1][:, 0].reshape(len(mean), -1, mean.shape[-1])
        distance = self._distance(token, mean[:, None])
        return losses.masked_mean(distance, jnp.broadcast_to(weight[:, None], distance.shape))

    def _modes(self, params: Tree) -> dict[str, str]:
        return ema.modes_of(_student(params), self.options.ema.rules)


def _student(params: Tree) -> Tree:
    """Returns the part of the student that its teacher follows."""
    return {"encoder": params["encoder"]}
