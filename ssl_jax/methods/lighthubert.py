"""LightHuBERT: a frozen HuBERT taught to one student that holds many smaller ones.

Wang et al., 2203.15610. The teacher hears the clip, the student the same with masked frames, each
clip normalized; a linear layer without bias predicts the mean of the feed-forward outputs of the
teacher's top layers, with the absolute error. Stage 1 (`sample` full) trains the whole student.
Stage 2 starts from it, and every update trains another subnet of it (nn/elastic.py), drawn on the
device; all are then used as they are.

The training loop was never published. Which frames the loss counts and whether the targets are
normalized are choices here; the masked frames and no normalization are the defaults.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ssl_jax.core import options as options_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.rng import Streams
from ssl_jax.core.types import FROZEN, Array, Batch, Features, Method, Output, Tree
from ssl_jax.methods.hubert import SCOPES, MaskOptions
from ssl_jax.nn import build, elastic, frozen, sharding
from ssl_jax.nn import encoder as encoder_lib
from ssl_jax.nn.elastic import Genes
from ssl_jax.nn.elastic_space import Space, Subnet
from ssl_jax.nn.teacher import CENTER, TargetOptions
from ssl_jax.nn.transformer import INITS, LAST
from ssl_jax.ops import losses, masks, norms, stats

TEACHER = "teacher"
KEY = f"config.method.teachers.{TEACHER}"
SAMPLES = ("full", "uniform", "sandwich")


@dataclasses.dataclass(frozen=True)
class SpaceOptions:
    """The subnets of the student; see `nn.elastic_space.Space`."""

    embed: tuple[int, ...]  # widths
    heads: tuple[int, ...]  # of each block
    ratios: tuple[float, ...]  # feed-forward width of each block over the width
    depths: tuple[int, ...]
    drop_order: tuple[int, ...]  # of the blocks as depth falls; (): as published
    named: tuple[tuple[str, str], ...]  # name and text of subnets, such as a_base


@dataclasses.dataclass(frozen=True)
class Targets(TargetOptions):
    """How the teacher's layers become targets; see `nn.teacher.TargetOptions`."""

    standardize: bool  # each dimension, by its mean and deviation over the batch

    def couples(self) -> dict[str, str]:
        """Returns how the rows of a batch are coupled; see `Method.couples`."""
        key = "config.method.targets.standardize"
        own = {f"{key}=True takes statistics of the batch": f"{key}=False"}
        return self.centering.couples(CENTER) | (own if self.standardize else {})


@dataclasses.dataclass(frozen=True)
class Options:
    """The section config.method of lighthubert."""

    name: str
    encoder: Mapping  # of kind waveform, post-norm where subnets are drawn
    teachers: Mapping  # teacher: a finished run, with the frames of the student
    space: SpaceOptions
    # what an update trains: full, the whole student (stage 1) | uniform, one drawn subnet (stage 2)
    # | sandwich, the mean over the largest, the smallest and two drawn ones
    sample: str
    # whose features and validation: '', the whole student's (validation of a stage 2: the largest
    # and the smallest subnet) | largest, smallest, or one of space.named | width/heads/ratios
    subnet: str
    mask: MaskOptions
    targets: Targets
    masked_only: bool  # the loss counts masked frames, not all

    def __post_init__(self) -> None:
        kind = self.encoder.get("kind", "")
        options_lib.choose("config.method.encoder.kind", kind, ("waveform",))
        options_lib.choose("config.method.sample", self.sample, SAMPLES)
        frozen.check_names(self.teachers, TEACHER)


def make(config: ConfigDict, *, precision: str, sample_rate: int, num_classes: int) -> Method:
    """Returns the method that config.method describes; it needs no classes."""
    del num_classes
    method = student(config, precision=precision, sample_rate=sample_rate)
    options, encoder = method.options, method.encoder
    if options.sample != "full" or options.subnet:
        method.subnet()  # raises on an encoder, a space or a subnet that can not be
    same_count = masks.coupled("LightHuBERT", options.mask.same_count)
    return Method(
        init=method.init,
        untrained=method.untrained,
        loss=method.loss,
        update=method.update,
        features=method.features,
        masks=method.masks,
        batch=encoder_lib.batch_spec(encoder),
        rules=sharding.RULES,
        scopes=SCOPES,
        frozen={TEACHER: frozen.encoder(options.teachers[TEACHER], precision)},
        couples=same_count | options.targets.couples(),
    )


def student(config: ConfigDict, *, precision: str, sample_rate: int) -> "LightHubert":
    """Returns the functions of the method that config.method describes, for work with subnets."""
    options = options_lib.read(Options, config)
    encoder = build.encoder(options.encoder, precision=precision, sample_rate=sample_rate)
    if not encoder.options.normalize:
        raise ConfigError(
            "config.method.encoder.normalize is False, but the student hears normalized clips, and "
            "only the teacher may hear them as they are: use True"
        )
    return LightHubert(options, encoder, precision)


@flax.struct.dataclass
class Held:
    """What all subnets share of a batch that they are scored on: see `LightHubert.held`."""

    x: Array  # (B, S, D), projected frames, some masked
    valid: Array  # (B, S) bool
    targets: Array  # (B, S, D of the teacher)
    counted: Array  # (B, S), weights of the frames that count


@dataclasses.dataclass(frozen=True)
class LightHubert:
    """The functions of the method. params: encoder, mask/vector (D,), head/kernel (D, teacher's D).

    `loss_of` is the loss of given subnets, `extracted` a subnet as a run of its own.
    """

    options: Options
    encoder: encoder_lib.Encoder
    precision: str

    @functools.cached_property
    def space(self) -> Space:
        """The subnets of the student. Raises ConfigError if its encoder can not have any."""
        return elastic.space_of(self.encoder, **vars(self.options.space))  # type: ignore

    def subnet(self) -> Subnet:
        """Returns the subnet that config.method.subnet names, '' the whole student."""
        text = self.options.subnet
        return self.space.parse(text) if text else self.space.full()

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Returns (params, extra), the latter with the running mean of the targets, if there is
        one; the engine adds the teacher."""
        keys, width, outputs = jax.random.split(key, 3), self.encoder.width, self.teacher().width
        params, encoded = encoder_lib.init(self.encoder, keys[0], batch)
        params = {
            "encoder": params,
            "mask": {"vector": jax.random.uniform(keys[1], (width,))},
            "head": {"kernel": INITS["torch"](keys[2], (width, outputs))},
        }
        return params, self.options.targets.center_state(encoded.valid.shape[1], outputs)

    def untrained(self, key: Array, batch: Batch) -> Tree:
        """Returns the parameters of `init` that need no teacher."""
        key = jax.random.split(key, 3)[0]
        return {"encoder": encoder_lib.init(self.encoder, key, batch)[0]}

    def update(self, params: Tree, extra: Tree, step: Array) -> Tree:
        """Returns `extra` with the running mean of the targets moved."""
        del params, step
        return self.options.targets.moved(extra)

    def features(
        self, params: Tree, batch: Batch, layers: tuple[int, ...] | None = None
    ) -> Features:
        """Returns the hidden states of the unmasked clip, of the subnet that the config names."""
        if not self.options.subnet:
            return encoder_lib.features(self.encoder, params["encoder"], batch, layers)
        return self.features_of(params, batch, self.subnet(), layers)

    def features_of(
        self,
        params: Tree,
        batch: Batch,
        subnet: Subnet,
        layers: tuple[int, ...] | None = None,
    ) -> Features:
        """Returns the hidden states (L + 1, B, S, D) of a subnet, of its depth and width."""
        own = elastic.section(self.options.encoder, self.space, subnet)
        rate = self.encoder.sample_rate  # type: ignore
        encoder = build.encoder(own, precision=self.precision, sample_rate=rate)
        return encoder_lib.features(
            encoder, elastic.extract(params["encoder"], self.space, subnet), batch, layers
        )

    def masks(self, params: Tree, batch: Batch, streams: Streams) -> Array:
        """Returns which frames an update masks, (B, 1, S) bool."""
        real = encoder_lib.real(self.encoder, params["encoder"], batch, encoder_lib.weights(batch))
        return self._mask(streams, real)[:, None]

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, streams: Streams, train: bool
    ) -> Output:
        """Returns the error of the subnets of this update, or of those that are validated."""
        subnets = self.drawn(streams) if train else self._validated()
        return self.loss_of(params, extra, batch, streams, train, subnets)

    def drawn(self, streams: Streams) -> dict[str, Genes | None]:
        """Returns the subnets of an update by name; None: the whole student."""
        if self.options.sample == "full":
            return {"whole": None}
        first, second = jax.random.split(streams.for_step("subnet"))
        found: dict[str, Genes | None] = {"drawn": elastic.draw(self.space, first)}
        if self.options.sample == "uniform":
            return found
        return self._ends() | found | {"drawn again": elastic.draw(self.space, second)}

    def loss_of(
        self,
        params: Tree,
        extra: Tree,
        batch: Batch,
        streams: Streams,
        train: bool,
        subnets: Mapping[str, Genes | None],
    ) -> Output:
        """Returns the mean over subnets of the absolute error, with that of each in the metrics."""
        o, weight = self.options, encoder_lib.weights(batch)

        with jax.named_scope("frontend"):
            dropout = streams.for_step("frontend_dropout") if train else None
            x, valid, _ = encoder_lib.frontend_intermediates(
                self.encoder, params["encoder"], batch, dropout
            )

        with jax.named_scope("mask"):
            real = valid & (weight > 0)[:, None]
            mask = self._mask(streams, real)
            masked_input = jnp.where(mask[..., None], params["mask"]["vector"].astype(x.dtype), x)

        with jax.named_scope("encoder"):
            dropout = streams.for_step("dropout") if train else None
            last = {
                name: self._last(params, masked_input, valid, dropout, genes)
                for name, genes in subnets.items()
            }

        with jax.named_scope("targets"):
            raw = self._raw_targets(extra, batch, valid)
            targets, extra = o.targets.centred(raw, real, extra)
            if o.targets.standardize:
                targets = norms.batch_norm(targets, real)

        with jax.named_scope("predictor"):
            kernel = params["head"]["kernel"]
            found = {name: y @ kernel[: y.shape[-1]] for name, y in last.items()}

        with jax.named_scope("loss"):
            counted = (mask if o.masked_only else real) * weight[:, None]
            errors = {name: jnp.abs(y - targets).mean(-1) for name, y in found.items()}
            means = {name: losses.masked_mean(e, counted) for name, e in errors.items()}
            loss = jnp.stack([mean for mean, _ in means.values()]).mean()
            num_targets = next(iter(means.values()))[1]

        one, prediction = jnp.ones(()), next(iter(found.values()))
        metrics = {
            "loss": (loss * num_targets, num_targets),
            "target_std": (stats.token_std(targets, mask), one),
            "instance_variance_ratio": (stats.instance_variance_ratio(raw, real), one),
            "prediction_std": (stats.token_std(prediction, mask), one),
            "frontend_std": (stats.token_std(x, real), one),
            "used_rows": encoder_lib.used_rows(batch, weight),
            "masked_share": (mask.sum(), real.sum()),
        }
        ends = {name: means[name] for name in ("largest", "smallest") if name in means}
        metrics |= {f"{name}_loss": (mean * n, n) for name, (mean, n) in ends.items()}
        return Output(loss, num_targets, metrics, extra)

    def held(self, params: Tree, extra: Tree, batch: Batch, streams: Streams) -> Held:
        """Returns the masked input and the targets of a batch, to score many subnets on it."""
        o, weight = self.options, encoder_lib.weights(batch)
        x, valid = encoder_lib.frontend(self.encoder, params["encoder"], batch)
        real = valid & (weight > 0)[:, None]
        mask = self._mask(streams, real)
        x = jnp.where(mask[..., None], params["mask"]["vector"].astype(x.dtype), x)
        targets, _ = o.targets.centred(self._raw_targets(extra, batch, valid), real, extra)
        if o.targets.standardize:
            targets = norms.batch_norm(targets, real)
        return Held(x, valid, targets, (mask if o.masked_only else real) * weight[:, None])

    def error_of(self, params: Tree, held: Held, genes: Genes | None) -> tuple[Array, Array]:
        """Returns the mean absolute error of a subnet, None for the whole student, and the number
        of frames that it is over."""
        last = self._last(params, held.x, held.valid, None, genes)
        found = last @ params["head"]["kernel"][: last.shape[-1]]
        return losses.masked_mean(jnp.abs(found - held.targets).mean(-1), held.counted)

    def extracted(self, params: Tree, subnet: Subnet) -> tuple[dict[str, Any], Tree]:
        """Returns config.method and the parameters of a subnet as a run of its own, of stage 1."""
        if subnet != self.space.full():
            self.space.check(subnet)
        section = dataclasses.asdict(self.options)
        section["encoder"] = elastic.section(self.options.encoder, self.space, subnet)
        section |= {"sample": "full", "subnet": ""}
        return section, {
            "encoder": elastic.extract(params["encoder"], self.space, subnet),
            "mask": {"vector": params["mask"]["vector"][: subnet.embed]},
            "head": {"kernel": params["head"]["kernel"][: subnet.embed]},
        }

    def teacher(self) -> encoder_lib.Encoder:
        """Returns the teacher's encoder. Raises ConfigError for one that does not fit."""
        run = frozen.read(self.options.teachers[TEACHER], KEY)
        teacher, own = run.encoder(self.precision), self.encoder
        layers = self.options.targets.layers
        hertz = int(run.config.data.sample_rate), own.sample_rate  # type: ignore
        rates = tuple(encoder_lib.token_rate(each) for each in (teacher, own))
        if teacher.reads != own.reads or hertz[0] != hertz[1] or rates[0] != rates[1]:
            raise ConfigError(
                f"{KEY} {run.reference} reads {next(iter(teacher.reads))} at {hertz[0]} Hz and has "
                f"{rates[0]:g} frames per second, the student audio at {hertz[1]} Hz and "
                f"{rates[1]:g}: use a teacher with the student's config.data.sample_rate and "
                f"config.method.encoder.conv_strides"
            )
        if not 1 <= layers <= teacher.depth:
            raise ConfigError(
                f"config.method.targets.layers is {layers}, but {KEY} {run.reference} has "
                f"{teacher.depth} blocks: use 1 to {teacher.depth}"
            )
        return teacher

    def _raw_targets(self, extra: Tree, batch: Batch, valid: Array) -> Array:
        """Returns the mean of the teacher's top layers for the clip without a mask, (B, S, D)."""
        o, teacher = self.options.targets, self.teacher()
        params = extra[FROZEN][TEACHER]["encoder"]
        x, real = encoder_lib.frontend(teacher, params, batch)
        if real.shape != valid.shape:
            raise ConfigError(
                f"{KEY} makes {real.shape[1]} frames of a clip and the student {valid.shape[1]}: "
                f"use a teacher with the student's config.method.encoder.conv_kernels"
            )
        encoded = encoder_lib.encode(teacher, params, x, real, layers=o.needs)
        return jax.lax.stop_gradient(o.of(encoded))

    def _last(
        self, params: Tree, x: Array, valid: Array, dropout: Array | None, genes: Genes | None
    ) -> Array:
        """Returns the last layer of a subnet, float32, as wide as the largest of the space."""
        own, layers = params["encoder"], LAST
        if genes is None:
            found = encoder_lib.encode(self.encoder, own, x, valid, dropout, layers=layers)
        else:
            arguments: Any = (self.encoder, self.space, own, x, valid, genes, dropout, layers)
            found = elastic.encode(*arguments)
        return found.hidden_states[-1].astype(jnp.float32)

    def _validated(self) -> dict[str, Genes | None]:
        if self.options.subnet:
            return {"named": self._genes(self.subnet())}
        return {"whole": None} if self.options.sample == "full" else self._ends()

    def _ends(self) -> dict[str, Genes | None]:
        space = self.space
        return {"largest": self._genes(space.largest()), "smallest": self._genes(space.smallest())}

    def _genes(self, subnet: Subnet) -> Genes:
        return {name: jnp.asarray(x) for name, x in self.space.arrays(subnet).items()}

    def _mask(self, streams: Streams, real: Array) -> Array:
        """real (B, S) -> bool (B, S), true at the masked frames."""
        o, keys = self.options.mask, streams.for_examples("mask")
        lengths, size = real.sum(1), real.shape[1]
        return masks.span_mask(keys, lengths, size, o.prob, o.length, o.min_spans, o.same_count)
