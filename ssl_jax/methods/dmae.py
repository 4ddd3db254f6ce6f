"""Distilled masked autoencoders: MAE, aligned with the middle features of a larger frozen MAE.

Bai et al., 2208.12256. The student is a masked autoencoder (methods/mae.py). A frozen teacher sees
the patches that the student sees, in the same order, and runs only as far as its aligned block. The
loss is that of the pixels plus `alpha` times the distance of the aligned features, which a
projector brings to the teacher's width. Released code normalizes both sides; the paper does not.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ssl_jax.core import options as options_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.rng import Streams
from ssl_jax.core.types import FROZEN, Array, Batch, Method, Output, Tree
from ssl_jax.methods import mae
from ssl_jax.nn import build, frozen, sharding
from ssl_jax.nn import encoder as encoder_lib
from ssl_jax.nn.projector import KINDS, Projector
from ssl_jax.nn.transformer import Encoded, Layers
from ssl_jax.ops import contrast, losses, norms, stats
from ssl_jax.ops.center import Center
from ssl_jax.ops.patches import normalize_patches

TEACHER = "teacher"
KEY = f"config.method.teachers.{TEACHER}"


@dataclasses.dataclass(frozen=True)
class AlignOptions:
    """Which features are aligned, and how. A depth counts blocks: 9 is the output of the ninth."""

    student: tuple[int, ...]  # depths, each aligned with that of the same place in `teacher`
    teacher: tuple[int, ...]
    projector: str  # linear | mlp | none: of the student's features to the teacher's width
    alpha: float  # weight of the sum of the pairs' distances; the pixels have weight 1
    normalize_features: str  # both sides: l2 (released code) | layer | none (paper)
    # none | batch | running: the teacher's features minus their mean per place; see ops/center.py
    center: str
    center_decay: float

    def __post_init__(self) -> None:
        key = "config.method.align"
        if not self.student or len(self.student) != len(self.teacher):
            raise ConfigError(
                f"{key}.student is {self.student} and {key}.teacher {self.teacher}: use as many "
                f"depths in both, one or more, such as (9,) and (18,)"
            )
        options_lib.choose(f"{key}.projector", self.projector, KINDS)
        choices = ("l2", "layer", "none")
        options_lib.choose(f"{key}.normalize_features", self.normalize_features, choices)
        self.centering.check(f"{key}.center")
        if self.alpha < 0:
            raise ConfigError(f"{key}.alpha is {self.alpha}: use 0 or more, such as 1.0")

    @property
    def centering(self) -> Center:
        """How the teacher's features are centred."""
        return Center(self.center, self.center_decay)

    def normalized(self, x: Array) -> Array:
        """Returns features (B, T, D) as they are compared, float32."""
        x = x.astype(jnp.float32)
        if self.normalize_features == "l2":
            return contrast.unit(x)
        return norms.layer_norm(x) if self.normalize_features == "layer" else x


@dataclasses.dataclass(frozen=True)
class Options:
    """The section config.method of DMAE; those of MAE are explained in methods/mae.py."""

    name: str
    encoder: Mapping  # of kind vit
    teachers: Mapping  # teacher: a finished run of MAE, or of any other encoder of images
    mask_ratio: float
    rounding: str  # of the number of visible patches: floor (published) | nearest
    norm_pix: bool
    masked_only: bool
    decoder: mae.DecoderOptions
    align: AlignOptions

    def __post_init__(self) -> None:
        kind = self.encoder.get("kind", "")
        options_lib.choose("config.method.encoder.kind", kind, ("vit",))
        options_lib.choose("config.method.rounding", self.rounding, ("floor", "nearest"))
        frozen.check_names(self.teachers, TEACHER)

    def mae(self) -> mae.Options:
        """Returns the options of the student as a masked autoencoder."""
        given = (self.encoder, self.mask_ratio, self.norm_pix, self.masked_only, self.decoder)
        return mae.plain(*given)


def make(config: ConfigDict, *, precision: str, sample_rate: int, num_classes: int) -> Method:
    """Returns the method that config.method describes; it needs no classes."""
    del num_classes
    options = options_lib.read(Options, config)
    encoder = build.encoder(options.encoder, precision=precision, sample_rate=sample_rate)
    for depth in options.align.student:
        if not 1 <= depth < encoder.depth:
            raise ConfigError(
                f"config.method.align.student has the depth {depth}, but the student has "
                f"{encoder.depth} blocks, of which the last is not aligned, as the final norm "
                f"follows it: use 1 to {encoder.depth - 1}"
            )
    method = DMAE(options, encoder, mae.MAE(options.mae(), encoder, options.rounding), precision)
    method.student.visible(encoder.grid[0] * encoder.grid[1])
    return Method(
        init=method.init,
        untrained=method.untrained,
        loss=method.loss,
        update=method.update,
        features=method.student.features,
        masks=method.student.masks,
        batch=encoder_lib.batch_spec(encoder),
        rules=sharding.RULES,
        scopes=mae.SCOPES,
        frozen={
            TEACHER: frozen.encoder(
                options.teachers[TEACHER], precision, max(options.align.teacher)
            )
        },
        couples=options.align.centering.couples("config.method.align.center"),
    )


@dataclasses.dataclass(frozen=True)
class DMAE:
    """The functions of the method. params: encoder, decoder, and projector, one for each pair."""

    options: Options
    encoder: encoder_lib.Encoder
    student: mae.MAE
    precision: str

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Returns (params, extra), the latter with the running means of the teacher's features, if
        there are any; the engine adds the teacher."""
        keys = jax.random.split(key)
        params, extra = self.untrained(key, batch), dict[str, Tree]()
        width, pairs = self.teacher().width, range(len(self.options.align.student))
        projector = self._projector(width)
        if projector is not None:
            x = jnp.zeros((1, self.encoder.width))
            each = jax.random.split(keys[1], len(pairs))
            made = {str(i): projector.init(each[i], x)["params"] for i in pairs}
            params = {**params, "projector": made}
        state = self.options.align.centering.init(self._places(), width)
        return params, {**extra, "center": {str(i): state for i in pairs}} if state else extra

    def untrained(self, key: Array, batch: Batch) -> Tree:
        """Returns the parameters of `init` that need no teacher."""
        return self.student.init(jax.random.split(key)[0], batch)[0]

    def update(self, params: Tree, extra: Tree, step: Array) -> Tree:
        """Returns `extra` with the running means moved."""
        del params, step
        if "center" not in extra:
            return extra
        move = self.options.align.centering.update
        return {**extra, "center": {i: move(state) for i, state in extra["center"].items()}}

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, streams: Streams, train: bool
    ) -> Output:
        """Returns the squared error at the masked patches plus the distance of the features."""
        o, student, weight = self.options, self.student, batch["weight"]

        with jax.named_scope("frontend"):
            x, valid = encoder_lib.frontend(self.encoder, params["encoder"], batch)

        with jax.named_scope("mask"):
            ids_shuffle, mask = student.mask(streams, valid)
            ids_keep = ids_shuffle[:, : student.visible(x.shape[1])[-1]]

        with jax.named_scope("encoder"):
            dropout = streams.for_step("dropout") if train else None
            encoded = encoder_lib.encode(
                self.encoder, params["encoder"], x, valid, dropout, ids_keep, self._layers()
            )

        with jax.named_scope("targets"):
            targets = student.patches(params["encoder"], batch)
            if o.norm_pix:
                targets = normalize_patches(targets)
            features, extra = self._features(extra, batch, ids_keep)

        with jax.named_scope("predictor"):
            visible, numbers = valid & ~mask, targets.shape[-1]
            predictions = student.predict(params, encoded, ids_shuffle, visible, valid, numbers)
            aligned = self._projected(params, encoded, features[0].shape[-1])

        with jax.named_scope("loss"):
            counted = mask if o.masked_only else valid
            token = losses.smooth_l1(predictions, targets, 0.0).mean(-1)
            pixels, num_targets = losses.masked_mean(token, counted * weight[:, None])
            distance = jnp.zeros(())
            for mine, theirs in zip(aligned, features, strict=True):
                token = jnp.abs(o.align.normalized(mine) - theirs).mean(-1)
                distance += losses.masked_mean(token, encoded.valid * weight[:, None])[0]
            loss = pixels + o.align.alpha * distance

        one, weighted = jnp.ones(()), (weight > 0)[:, None]
        metrics = {
            "loss": (loss * num_targets, num_targets),
            "pixel_loss": (pixels * num_targets, num_targets),
            "feature_loss": (distance * num_targets, num_targets),
            "target_std": (stats.token_std(targets, counted & weighted), one),
            "prediction_std": (stats.token_std(predictions, counted & weighted), one),
            "feature_std": (stats.token_std(features[-1], encoded.valid & weighted), one),
            "masked_share": ((mask & weighted).sum(), (valid & weighted).sum()),
        }
        return Output(loss, num_targets, metrics, extra)

    def teacher(self) -> encoder_lib.Encoder:
        """Returns the teacher's encoder up to its last aligned block.

        Raises ConfigError for a teacher that does not fit the student.
        """
        o = self.options
        run = frozen.read(o.teachers[TEACHER], KEY)
        teacher, own = run.encoder(self.precision, max(o.align.teacher)), self.encoder
        for depth in o.align.teacher:
            run.check_depth(depth)
        run.check_patches(teacher, own, class_token=True)
        if o.align.projector == "none" and teacher.width != own.width:
            raise ConfigError(
                f"config.method.align.projector is 'none', but {KEY} {run.reference} has the width "
                f"{teacher.width} and the student {own.width}: use linear"
            )
        return teacher

    def _features(self, extra: Tree, batch: Batch, ids_keep: Array) -> tuple[list[Array], Tree]:
        """Returns the teacher's features (B, prefix + V, D) of each pair as they are compared, and
        `extra`."""
        o, teacher, params = self.options.align, self.teacher(), extra[FROZEN][TEACHER]["encoder"]
        x, valid = encoder_lib.frontend(teacher, params, batch)
        layers = Layers(o.teacher, ())
        encoded = encoder_lib.encode(teacher, params, x, valid, None, ids_keep, layers)
        states = dict(zip(sorted(set(o.teacher)), encoded.hidden_states, strict=True))
        real = encoded.valid * batch["weight"][:, None]
        first = jnp.broadcast_to(jnp.arange(encoded.prefix), (len(x), encoded.prefix))
        places = jnp.concatenate([first, ids_keep + encoded.prefix], 1)
        found, means = [], dict(extra.get("center", {}))
        for i, depth in enumerate(o.teacher):
            y = jax.lax.stop_gradient(states[depth]).astype(jnp.float32)
            y, mean = o.centering.apply(y, real, means.get(str(i), {}), places, self._places())
            found.append(o.normalized(y))
            means |= {str(i): mean} if mean else {}
        return found, {**extra, "center": means} if means else extra

    def _layers(self) -> Layers:
        """Returns the layers of the student that the loss uses."""
        return Layers((*self.options.align.student, self.encoder.depth), ())

    def _places(self) -> int:
        """Returns how many positions there are, with that of the class token."""
        return self.encoder.prefix + math.prod(self.encoder.grid)

    def _projected(self, params: Tree, encoded: Encoded, width: int) -> list[Array]:
        """Returns the student's features (B, prefix + V, D of the teacher) of each pair."""
        depths = self._layers().indices(self.encoder.depth)[0]
        found = [encoded.hidden_states[depths.index(d)] for d in self.options.align.student]
        projector = self._projector(width)
        if projector is None:
            return found
        own = [{"params": params["projector"][str(i)]} for i in range(len(found))]
        return [projector.apply(p, x) for p, x in zip(own, found, strict=True)]  # type: ignore

    def _projector(self, width: int) -> Projector | None:
        kind = self.options.align.projector
        return None if kind == "none" else Projector(width, kind, self.encoder.dtype)
