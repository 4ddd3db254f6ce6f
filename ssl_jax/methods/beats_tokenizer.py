"""The self-distilled tokenizer of BEATs: codes from which a teacher's features can be estimated.

Chen et al., 2212.09058, section 3.2. An encoder sees the whole clip. Its output, mapped to unit
vectors, is replaced by the nearest code, straight through. A shallow transformer, the estimator,
predicts from the codes what a frozen teacher says of each token: its last features or, if it was
fine-tuned, the logits of its head. The loss is one minus the cosine, plus the distance of vectors
from their codes. `methods/beats.py` predicts the indices of the codes.

The codebook is no parameter. It begins with k-means over the first batch and follows the mean
direction of the vectors of each code over the global batch; it lies in `extra`, in float32.

Not published: the blocks of the estimator (here it ends with a linear layer), the restart of codes
that nothing uses, and the centring of the teacher's features.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ssl_jax.core import options as options_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.rng import Streams
from ssl_jax.core.types import FROZEN, Array, Batch, Features, Frozen, Method, Output, Tree
from ssl_jax.nn import build, frozen, heads, sharding
from ssl_jax.nn import encoder as encoder_lib
from ssl_jax.nn.token_decoder import CodeHead, TokenDecoder, TokenDecoderOptions
from ssl_jax.nn.transformer import LAST
from ssl_jax.ops import codebook, losses, stats
from ssl_jax.ops.center import Center
from ssl_jax.ops.contrast import unit

TEACHER = "teacher"
KEY = f"config.method.teachers.{TEACHER}"
SCOPES = ("frontend", "encoder", "targets", "predictor", "loss")
COUPLES = {"the codebook follows the vectors of the whole batch": ""}


@dataclasses.dataclass(frozen=True)
class CodebookOptions:
    """The codes and how they follow their vectors."""

    codes: int
    width: int
    decay: float  # of a code at an update in which vectors are assigned to it
    commitment: float  # weight of the mean square of a vector minus its code
    dead_after: int  # updates without a vector after which a code counts as unused
    restart: bool  # true: an unused code is replaced by a vector of the batch (not published)

    def __post_init__(self) -> None:
        key = "config.method.codebook"
        for name, least in (("codes", 2), ("width", 1), ("dead_after", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{key}.{name} is {getattr(self, name)}: use {least} or more")
        if not 0 <= self.decay < 1:
            raise ConfigError(f"{key}.decay is {self.decay}: use 0 to below 1, such as 0.99")
        if self.commitment < 0:
            raise ConfigError(f"{key}.commitment is {self.commitment}: use 0 or more, such as 1.0")


@dataclasses.dataclass(frozen=True)
class Options:
    """The section config.method of the tokenizer."""

    name: str
    encoder: Mapping  # of patches of sound; see ssl_jax/nn/build.py
    teachers: Mapping  # teacher: a pre-trained run, or a fine-tuned one
    target: str  # features: the teacher's last ones | logits: of its head, for every token
    codebook: CodebookOptions
    estimator: TokenDecoderOptions
    center: str  # of the teacher's output: none | batch | running, see ops/center.py
    center_decay: float

    def __post_init__(self) -> None:
        options_lib.choose("config.method.target", self.target, ("features", "logits"))
        self.centering.check("config.method.center")
        self.estimator.check("config.method.estimator")
        frozen.check_names(self.teachers, TEACHER)

    @property
    def centering(self) -> Center:
        """How the teacher's output is centred."""
        return Center(self.center, self.center_decay)


def make(config: ConfigDict, *, precision: str, sample_rate: int, num_classes: int) -> Method:
    """Returns the method that config.method describes; it needs no classes."""
    del num_classes
    options = options_lib.read(Options, config)
    encoder = build.encoder(options.encoder, precision=precision, sample_rate=sample_rate)
    method = BeatsTokenizer(options, encoder, precision, sample_rate)
    return Method(
        init=method.init,
        untrained=method.untrained,
        loss=method.loss,
        update=method.update,
        features=method.features,
        tokens=method.tokens,
        batch=encoder_lib.batch_spec(encoder),
        rules=sharding.RULES,
        scopes=SCOPES,
        couples=COUPLES | options.centering.couples("config.method.center"),
        frozen={TEACHER: _declared(options, precision)},
    )


def tokenizer(reference: str, precision: str) -> Frozen:
    """Returns the declaration of a tokenizer that labels for another run; reads nothing."""

    def fresh(run: frozen.Teacher, key: Array, batch: Batch) -> Tree:
        rate = int(run.config.data.sample_rate)
        method = make(run.config.method, precision="float32", sample_rate=rate, num_classes=0)
        params, extra = method.init(key, batch)
        return {**params, "extra": extra}

    keep = ("^encoder/", "^head/", "^extra/codebook/vectors$")
    return Frozen(reference, keep, precision=precision, fresh=fresh)


def codes_of(
    encoder: encoder_lib.Encoder, params: Tree, vectors: Array, batch: Batch
) -> tuple[Array, Array]:
    """Returns the code of every token (B, S) int32 of whole clips, and which tokens are real."""
    x, valid = encoder_lib.frontend(encoder, params["encoder"], batch)
    encoded = encoder_lib.encode(encoder, params["encoder"], x, valid, layers=LAST)
    last = encoded.hidden_states[-1][:, encoded.prefix :]
    width = params["head"]["out"]["kernel"].shape[-1]
    z: Any = CodeHead(width, encoder.dtype).apply({"params": params["head"]}, last)
    return codebook.nearest(unit(z), vectors), valid


@dataclasses.dataclass(frozen=True)
class BeatsTokenizer:
    """The functions of the method.

    params: encoder, head, estimator. extra: codebook (vectors (K, C), the number of its updates,
    and for each code those since it was used), and center, if there is a running mean.
    """

    options: Options
    encoder: encoder_lib.Encoder
    precision: str
    sample_rate: int

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Returns (params, extra); the engine adds the teacher."""
        o, keys = self.options, jax.random.split(key, 3)
        encoder, encoded = encoder_lib.init(self.encoder, keys[0], batch)
        size = encoded.valid.shape[1] - encoded.prefix
        head = self._head.init(keys[1], encoded.hidden_states[-1])["params"]
        width = self._target_width(self.teacher())
        codes, everywhere = jnp.zeros((1, size, o.codebook.width)), jnp.ones((1, size), bool)
        places = encoder_lib.places(self.encoder, size)
        estimator = self._estimator(width).init(keys[2], codes, everywhere, places)["params"]
        extra = {"codebook": _empty(o.codebook)}
        center = o.centering.init(size, width)
        extra |= {"center": center} if center else {}
        return {"encoder": encoder, "head": head, "estimator": estimator}, extra

    def untrained(self, key: Array, batch: Batch) -> Tree:
        """Returns the parameters of `init` that need no teacher."""
        key = jax.random.split(key, 3)[0]
        return {"encoder": encoder_lib.init(self.encoder, key, batch)[0]}

    def update(self, params: Tree, extra: Tree, step: Array) -> Tree:
        """Moves the running mean of the teacher's output, if there is one."""
        del params, step
        if "center" not in extra:
            return extra
        return {**extra, "center": self.options.centering.update(extra["center"])}

    def features(
        self, params: Tree, batch: Batch, layers: tuple[int, ...] | None = None
    ) -> Features:
        """Returns the encoder's hidden states, without prefix tokens."""
        return encoder_lib.features(self.encoder, params["encoder"], batch, layers)

    def tokens(self, params: Tree, extra: Tree, batch: Batch) -> Features:
        """Returns the codes of the tokens as hidden states (1, B, S, 1)."""
        ids, valid = codes_of(self.encoder, params, extra["codebook"]["vectors"], batch)
        hidden = ids[None, ..., None].astype(jnp.float32)
        return Features(hidden, valid, self.encoder.rate, self.encoder.grid)

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, streams: Streams, train: bool
    ) -> Output:
        """Returns the distance of the estimates from the teacher, plus the commitment."""
        o, weight = self.options, encoder_lib.weights(batch)

        with jax.named_scope("frontend"):
            dropout = streams.for_step("frontend_dropout") if train else None
            x, valid = encoder_lib.frontend(self.encoder, params["encoder"], batch, dropout=dropout)

        with jax.named_scope("encoder"):
            dropout = streams.for_step("dropout") if train else None
            encoded = encoder_lib.encode(
                self.encoder, params["encoder"], x, valid, dropout, layers=LAST
            )
            last = encoded.hidden_states[-1][:, encoded.prefix :]
            projected: Any = self._head.apply({"params": params["head"]}, last)
            z = unit(projected)

        with jax.named_scope("targets"):
            targets = self._teach(extra[FROZEN][TEACHER], batch)
            real = valid * weight[:, None]
            targets, center = o.centering.apply(targets, real, extra.get("center", {}))
            extra = {**extra, "center": center} if center else extra

        with jax.named_scope("predictor"):
            vectors, ids, book = self._assign(extra["codebook"], z, real > 0, streams, train)
            quantized = codebook.quantize(z, vectors, ids)
            places = encoder_lib.places(self.encoder, valid.shape[1])
            estimator = self._estimator(targets.shape[-1])
            given = {"params": params["estimator"]}
            estimates: Any = estimator.apply(given, quantized, valid, places)

        with jax.named_scope("loss"):
            distance = 1 - (unit(estimates) * unit(targets)).sum(-1)
            distance, count = losses.masked_mean(distance, real)
            square = jnp.square(z - jax.lax.stop_gradient(vectors[ids])).mean(-1)
            commitment, _ = losses.masked_mean(square, real)
            loss = distance + o.codebook.commitment * commitment

        metrics = {
            "loss": (loss * count, count),
            "estimate_loss": (distance * count, count),
            "commitment_loss": (commitment * count, count),
            "used_rows": encoder_lib.used_rows(batch, weight),
            **self._watch(ids, book, targets, estimates, real > 0),
        }
        return Output(loss, count, metrics, {**extra, "codebook": book})

    def teacher(self) -> frozen.Teacher:
        """Returns the run that teaches; raises ConfigError for one that does not fit."""
        run = frozen.read(self.options.teachers[TEACHER], KEY)
        run.check_tokens(run.encoder(self.precision), self.encoder, self.sample_rate)
        return run

    def _teach(self, params: Tree, batch: Batch) -> Array:
        """Returns what the teacher says of every token (B, S, D), float32."""
        run = self.teacher()
        encoder = run.encoder(self.precision)
        x, valid = encoder_lib.frontend(encoder, params["encoder"], batch)
        encoded = encoder_lib.encode(encoder, params["encoder"], x, valid, layers=LAST)
        last = encoded.hidden_states[-1][:, encoded.prefix :].astype(jnp.float32)
        if self.options.target == "logits":
            options = options_lib.read(heads.HeadOptions, run.config.method.head)
            head = heads.Classifier(self._target_width(run), options, "frames")
            rows = last.reshape(-1, 1, last.shape[-1])
            each: Any = head.apply({"params": params["head"]}, rows, jnp.ones(rows.shape[:2], bool))
            last = each.reshape(*last.shape[:2], -1)
        return jax.lax.stop_gradient(last)

    def _target_width(self, run: frozen.Teacher) -> int:
        """Returns how many numbers the teacher says of a token."""
        if self.options.target == "features":
            return run.encoder(self.precision).width
        return _classes(run)

    def _assign(
        self, book: Tree, z: Array, real: Array, streams: Streams, train: bool
    ) -> tuple[Array, Array, Tree]:
        """z (B, S, C) of length 1, real (B, S) -> codes (K, C), ids (B, S), the codebook after the
        batch; an evaluation leaves it as it is."""
        o = self.options.codebook
        rows, used = jax.lax.stop_gradient(z).reshape(-1, o.width), real.reshape(-1)
        if not train:
            return book["vectors"], codebook.nearest(z, book["vectors"]), book
        if len(rows) < o.codes:
            raise ConfigError(
                f"config.method.codebook.codes is {o.codes}, and a batch has only {len(rows)} "
                f"tokens to begin them with: use a larger config.data.batch_size, or at most "
                f"{len(rows) // 10 or 2} codes"
            )
        draw = jax.vmap(lambda key: jax.random.uniform(key, z.shape[1:2]))
        chance = draw(streams.for_examples("codebook")).reshape(-1)
        vectors = jax.lax.cond(
            book["updates"] == 0,
            lambda: codebook.start(chance, rows, used, o.codes),
            lambda: book["vectors"],
        )
        ids = codebook.nearest(rows, vectors)
        total, number = codebook.sums(rows, ids, used, o.codes)
        moved = codebook.move(vectors, total, number, o.decay)
        idle = jnp.where(number > 0, 0, book["idle"] + 1)
        some = used.sum() > 0
        if o.restart:
            dead = (idle >= o.dead_after) & some
            moved = codebook.restart(moved, dead, chance, rows, used)
            idle = jnp.where(dead, 0, idle)
        book = {"vectors": moved, "updates": book["updates"] + some, "idle": idle}
        return vectors, ids.reshape(real.shape), book

    def _watch(
        self, ids: Array, book: Tree, targets: Array, estimates: Array, real: Array
    ) -> dict[str, tuple[Array, Array]]:
        """Returns how the codes are used, and collapse diagnostics."""
        one, o = jnp.ones(()), self.options.codebook
        found = {
            "code_perplexity": jnp.exp(stats.usage_entropy(ids, o.codes, real)),
            "codes_used": stats.used(ids, o.codes, real),
            "unused_codes": (book["idle"] >= o.dead_after).sum(),
            "target_std": stats.token_std(targets, real),
            "prediction_std": stats.token_std(estimates, real),
            "instance_variance_ratio": stats.instance_variance_ratio(targets, real),
        }
        return {name: (value, one) for name, value in found.items()}

    @property
    def _head(self) -> CodeHead:
        return CodeHead(self.options.codebook.width, self.encoder.dtype)

    def _estimator(self, outputs: int) -> TokenDecoder:
        o = self.options.estimator
        blocks = o.blocks(self.encoder.transformer_options)
        return TokenDecoder(outputs, o.positions, blocks, dtype=self.encoder.dtype)


def _declared(options: Options, precision: str) -> Frozen:
    """Returns which parameters of the teacher's run are needed."""
    reference = options.teachers[TEACHER]
    if options.target == "features":
        return frozen.encoder(reference, precision)

    def fresh(run: frozen.Teacher, key: Array, batch: Batch) -> Tree:
        encoder, encoded = encoder_lib.init(run.encoder("float32"), key, batch)
        head_options = options_lib.read(heads.HeadOptions, run.config.method.head)
        head = heads.Classifier(_classes(run), head_options, "frames")
        made = head.init(key, encoded.hidden_states[-1], encoded.valid, encoded.prefix)
        return {"encoder": encoder, "head": made["params"]}

    return Frozen(reference, ("^encoder/", "^head/"), precision=precision, fresh=fresh)


def _classes(run: frozen.Teacher) -> int:
    """Returns the number of outputs of a fine-tuned run; raises ConfigError for any other."""
    config = run.config
    if config.method.name != "supervised":
        raise ConfigError(
            f"config.method.target is 'logits', and {KEY} {run.reference} is a run of "
            f"{config.method.name!r}, which has none: use a run of configs/supervised, or "
            f"config.method.target='features'"
        )
    count = config.method.outputs or len(config.data.classes)
    if not count and run.folder is not None:
        count = len(json.loads((run.folder / "classes.json").read_text(encoding="utf-8")))
    if not count:
        raise ConfigError(
            f"{KEY} {run.reference} says nowhere how many classes it has: set its "
            f"config.method.outputs"
        )
    return int(count)


def _empty(o: CodebookOptions) -> Tree:
    """Returns the codebook before the first update."""
    return {
        "vectors": jnp.zeros((o.codes, o.width)),
        "updates": jnp.zeros((), jnp.int32),
        "idle": jnp.zeros(o.codes, jnp.int32),
    }
