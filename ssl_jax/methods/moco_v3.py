"""MoCo v3: draws two views of an image together and other images of the batch apart.

Chen, Xie and He, 2104.02057. A query is the prediction of one view by the student: encoder,
projector, predictor. A key is the projection of the other view by a momentum encoder, which moves
towards the student before it makes the keys. Batch norm in the heads has the statistics of the
global batch, each view for itself. The projection of patches stays as it was drawn
(`config.optim.frozen`), so both encoders share it.

Not published: a queue of earlier keys, for small batches, and the mean of the patches as readout.
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
from ssl_jax.core.types import Array, Batch, Features, Method, Output, Spec, Tree
from ssl_jax.nn import build, heads, sharding
from ssl_jax.nn import encoder as encoder_lib
from ssl_jax.nn.batch_norm import STATISTICS
from ssl_jax.nn.teacher import has_frontend
from ssl_jax.nn.transformer import LAST
from ssl_jax.ops import contrast, ema, losses, schedules, stats
from ssl_jax.ops.patches import first_view

VIEWS = 2
HEADS = ("projector", "predictor")  # in the order in which they are applied
SCOPES = ("frontend", "encoder", "targets", "predictor", "loss")
COUPLES = {
    "MoCo v3 takes its negatives from the other images of the batch": "",
    "the batch norm of its heads has the statistics of the whole batch": "",
}


@dataclasses.dataclass(frozen=True)
class HeadOptions:
    """The projector and the predictor; see `nn.heads.NormedMLP`."""

    projector_layers: int
    predictor_layers: int
    hidden: int
    outputs: int
    eps: float  # of the batch norm

    def __post_init__(self) -> None:
        for name in ("projector_layers", "predictor_layers", "hidden", "outputs"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"config.method.head.{name} is {getattr(self, name)}: use 1 or more"
                )


@dataclasses.dataclass(frozen=True)
class MomentumOptions:
    """How the momentum encoder follows: its decay rises from `start` to `end` as half a cosine."""

    start: float
    end: float
    anneal: int  # updates until `end`: those of the run
    rules: tuple[tuple[str, str], ...]  # as config.method.ema.rules of data2vec

    def __post_init__(self) -> None:
        for name, tau in (("start", self.start), ("end", self.end)):
            if not 0 <= tau <= 1:
                raise ConfigError(f"config.method.ema.{name} is {tau}: use 0 to 1, such as 0.99")

    def decay(self, step: Array) -> Array:
        """Returns the decay () of the update with which the loss of `step`, from 0, begins."""
        return jnp.asarray(schedules.cosine_decay(self.start, self.end, self.anneal)(step))


@dataclasses.dataclass(frozen=True)
class Options:
    """The section config.method of MoCo v3."""

    name: str
    encoder: Mapping  # see ssl_jax/nn/build.py
    pool: str  # of the last layer: cls (published) | frames, the mean of the patches
    head: HeadOptions
    temperature: float
    ema: MomentumOptions
    queue: int  # keys of earlier batches that are negatives too; 0: published

    def __post_init__(self) -> None:
        options_lib.choose("config.method.pool", self.pool, ("cls", "frames"))
        if self.temperature <= 0:
            raise ConfigError(
                f"config.method.temperature is {self.temperature}: use more than 0, such as 0.2"
            )
        if self.queue < 0:
            raise ConfigError(
                f"config.method.queue is {self.queue}: use 0, or a number of keys such as 2048"
            )


def make(config: ConfigDict, *, precision: str, sample_rate: int, num_classes: int) -> Method:
    """Returns the method that config.method describes; it needs no classes."""
    del num_classes
    options = options_lib.read(Options, config)
    encoder = build.encoder(options.encoder, precision=precision, sample_rate=sample_rate)
    if set(encoder.reads) != {"image"}:
        raise ConfigError(
            f"config.method.encoder.kind is {options.encoder['kind']!r}, and MoCo v3 reads images: "
            f"use 'vit'"
        )
    if options.pool == "cls" and not encoder.prefix:
        raise ConfigError(
            "config.method.pool is 'cls', and config.method.encoder.class_token is false: use "
            "'frames'"
        )
    method = MoCoV3(options, encoder)
    spec = encoder.reads["image"]
    return Method(
        init=method.init,
        loss=method.loss,
        features=method.features,
        batch={
            **encoder_lib.batch_spec(encoder),
            "image": Spec((VIEWS, *spec.shape), spec.dtype),
        },
        rules=sharding.RULES,
        scopes=SCOPES,
        couples=COUPLES,
        decay=lambda step: options.ema.decay(step - 1),
    )


@dataclasses.dataclass(frozen=True)
class MoCoV3:
    """The functions of the method over one encoder.

    params: encoder, projector, predictor. extra: teacher (encoder and projector, float32),
    statistics (running ones of the heads of student and teacher), and queue, if there is one.
    """

    options: Options
    encoder: encoder_lib.Encoder

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Returns (params, extra), with a copy of the student as momentum encoder."""
        o, keys = self.options, jax.random.split(key, 3)
        image = batch["image"]  # may be abstract
        one: Any = jax.ShapeDtypeStruct((1, *image.shape[-3:]), image.dtype)
        encoder, _ = encoder_lib.init(self.encoder, keys[0], {**batch, "image": one})
        params, statistics = {"encoder": encoder}, {}
        widths = (self.encoder.width, o.head.outputs)
        for key, name, width in zip(keys[1:], HEADS, widths, strict=True):
            row, real = jnp.zeros((1, width)), jnp.ones(1, bool)
            made = self._head(name).init(key, row, real, False)
            params[name], statistics[name] = made["params"], made[STATISTICS]
        extra = {
            "teacher": ema.init(_student(params), self._modes(params)),
            "statistics": {
                "student": statistics,
                "teacher": {"projector": statistics["projector"]},
            },
        }
        if o.queue:
            keys = jnp.zeros((o.queue, o.head.outputs))
            extra["queue"] = {"keys": keys, "weight": jnp.zeros(o.queue)}
        return params, extra

    def features(
        self, params: Tree, batch: Batch, layers: tuple[int, ...] | None = None
    ) -> Features:
        """Returns the student's hidden states of the first view, without the class token."""
        batch = {**batch, "image": first_view(batch["image"])}
        return encoder_lib.features(self.encoder, params["encoder"], batch, layers)

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, streams: Streams, train: bool
    ) -> Output:
        """Returns the contrastive loss of both views, with collapse diagnostics."""
        o, weight = self.options, batch["weight"]
        decay = o.ema.decay(streams.step)
        teacher, statistics = extra["teacher"], extra["statistics"]

        with jax.named_scope("frontend"):
            rows = {**batch, "image": _rows(batch["image"])}
            x, valid = encoder_lib.frontend(self.encoder, params["encoder"], rows)

        with jax.named_scope("encoder"):
            dropout = streams.for_step("dropout") if train else None
            views = self._encode(params, x, valid, dropout)

        with jax.named_scope("targets"):
            if train:  # before the keys, unlike a teacher that follows after the update
                student = jax.lax.stop_gradient(_student(params))
                teacher = ema.update(teacher, student, decay, self._modes(params))
            whole = jax.lax.stop_gradient(ema.merge(teacher, _student(params)))
            clean = jax.lax.stop_gradient(x)
            if has_frontend(self._modes(params)):
                clean, _ = encoder_lib.frontend(self.encoder, whole["encoder"], rows)
            seen = self._encode(whole, clean, valid, None)
            keys, moved = self._heads(whole, statistics["teacher"], seen, weight > 0, train)

        with jax.named_scope("predictor"):
            queries, own = self._heads(params, statistics["student"], views, weight > 0, train)

        with jax.named_scope("loss"):
            queue = (extra["queue"]["keys"], extra["queue"]["weight"]) if o.queue else None
            logits = [  # the query of a view and the key of the other
                contrast.batch_logits(queries[:, a], keys[:, b], weight, o.temperature, queue)
                for a, b in ((0, 1), (1, 0))
            ]
            row = sum(map(contrast.batch_info_nce, logits), jnp.zeros(len(weight)))
            loss, count = losses.masked_mean(2 * o.temperature * row, weight)

        if train:  # an evaluation leaves all of it as it is
            extra = {**extra, "teacher": teacher, "statistics": {"student": own, "teacher": moved}}
            if o.queue:
                extra["queue"] = _pushed(extra["queue"], keys, weight)
        return Output(loss, count, self._metrics(loss, logits, queries, keys, weight, decay), extra)

    def _metrics(
        self,
        loss: Array,
        logits: list[Array],
        queries: Array,
        keys: Array,
        weight: Array,
        decay: Array,
    ) -> dict[str, tuple[Array, Array]]:
        one, real = jnp.ones(()), jnp.repeat(weight > 0, VIEWS)
        own = jnp.arange(len(weight))
        (first, count), (second, _) = (losses.accuracy(x, own, weight) for x in logits)
        flat = (contrast.unit(x).reshape(-1, x.shape[-1]) for x in (queries, keys))
        prediction_std, target_std = (stats.token_std(x, real) for x in flat)
        return {
            "loss": (loss * weight.sum(), weight.sum()),
            "contrast_accuracy": (first + second, 2 * count),
            "target_std": (target_std, one),
            "prediction_std": (prediction_std, one),
            "ema_decay": (decay, one),
        }

    def _encode(self, params: Tree, x: Array, valid: Array, dropout: Array | None) -> Array:
        """x (B * V, S, D) -> the readout of each view (B, V, D), float32."""
        own = params["encoder"]
        encoded = encoder_lib.encode(self.encoder, own, x, valid, dropout, layers=LAST)
        last = encoded.hidden_states[-1]
        y = heads.pool(last, encoded.valid, encoded.prefix, self.options.pool)
        return y.reshape(-1, VIEWS, y.shape[-1])

    def _heads(
        self, params: Tree, statistics: Tree, views: Array, real: Array, train: bool
    ) -> tuple[Array, Tree]:
        """views (B, V, D) -> outputs (B, V, E) and running statistics.

        Applies the heads that have `statistics`, to one view after the other: each has batch
        statistics of its own.
        """
        outputs = []
        for view in range(VIEWS):
            y, moved = views[:, view], {}
            for name in (head for head in HEADS if head in statistics):
                given = {"params": params[name], STATISTICS: statistics[name]}
                y, found = self._head(name).apply(given, y, real, train, mutable=[STATISTICS])
                moved[name] = found[STATISTICS]
            outputs.append(y)
            statistics = moved
        return jnp.stack(outputs, 1), statistics

    def _head(self, name: str) -> heads.NormedMLP:
        o = self.options.head
        layers = {"projector": o.projector_layers, "predictor": o.predictor_layers}[name]
        return heads.NormedMLP(layers, o.hidden, o.outputs, o.eps, self.encoder.dtype)

    def _modes(self, params: Tree) -> dict[str, str]:
        return ema.modes_of(_student(params), self.options.ema.rules)


def _student(params: Tree) -> Tree:
    """Returns the part of the student that the momentum encoder follows."""
    return {"encoder": params["encoder"], "projector": params["projector"]}


def _rows(image: Array) -> Array:
    """image (B, V, H, W, 3) -> (B * V, H, W, 3), the views of an image next to each other."""
    return image.reshape(-1, *image.shape[2:])


def _pushed(queue: Tree, keys: Array, weight: Array) -> Tree:
    """Puts the keys (B, V, E) of a batch at the head of the queue and drops the oldest."""
    rows, size = keys.reshape(-1, keys.shape[-1]), len(queue["weight"])
    new = {"keys": contrast.unit(rows), "weight": jnp.repeat(weight, VIEWS)}
    return {name: jnp.concatenate([new[name], queue[name]])[:size] for name in queue}
