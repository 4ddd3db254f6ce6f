"""MimCo-style pre-training: masked prediction of the features of a frozen contrastive teacher.

After Zhou et al., 2209.03063, whose code and details are not public: what is known is that there
are two stages, that the teacher is a contrastive model such as MoCo v3, and that the student learns
from a contrastive loss of the masked patches and one of the whole image. Everything else here is a
reading of it, and a key of the config: masking and decoder of MAE, heads, temperatures, negatives,
weights. So call a result "MimCo-style".

The teacher reads the whole crop. The student reads the visible patches of the same crop, and a
light decoder predicts from them the teacher's features of the masked ones.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ssl_jax.core import options as options_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.rng import Streams
from ssl_jax.core.types import FROZEN, Array, Batch, Features, Method, Output, Tree
from ssl_jax.methods import mae
from ssl_jax.nn import build, frozen, heads, sharding
from ssl_jax.nn import encoder as encoder_lib
from ssl_jax.nn.transformer import LAST, Encoded, gelu
from ssl_jax.ops import contrast, losses, stats
from ssl_jax.ops.center import Center

TEACHER = "teacher"
KEY = f"config.method.teachers.{TEACHER}"
LOSSES = ("infonce", "cosine", "smooth_l1")
NEGATIVES = ("image", "place", "both")


@dataclasses.dataclass(frozen=True)
class PatchOptions:
    """The loss of the masked patches. None of its values is published."""

    weight: float  # 0: none, and no decoder
    loss: str  # infonce | cosine: 1 - cosine | smooth_l1
    temperature: float  # infonce
    # infonce: the other patches of the image | the same place in the other images | both
    negatives: str
    beta: float  # smooth_l1
    center: str  # of the teacher's patches: none | batch | running, see ops/center.py
    center_decay: float


@dataclasses.dataclass(frozen=True)
class ImageOptions:
    """The loss of the whole image. None of its values is published."""

    weight: float  # 0: none
    loss: str  # infonce, times 2 * temperature as in MoCo v3 | cosine | smooth_l1
    temperature: float  # infonce
    beta: float  # smooth_l1
    pool: str  # of the teacher: frames, the mean of its patches | cls


@dataclasses.dataclass(frozen=True)
class Options:
    """The section config.method of MimCo."""

    name: str
    encoder: Mapping  # of kind vit
    teachers: Mapping  # teacher: a finished run of MoCo v3, or of any other encoder of images
    mask_ratio: float
    decoder: mae.DecoderOptions
    hidden: int  # width between the two layers of each head
    patch: PatchOptions
    image: ImageOptions

    def __post_init__(self) -> None:
        choose, key = options_lib.choose, "config.method"
        choose(f"{key}.encoder.kind", self.encoder.get("kind", ""), ("vit",))
        choose(f"{key}.patch.negatives", self.patch.negatives, NEGATIVES)
        choose(f"{key}.image.pool", self.image.pool, ("frames", "cls"))
        self.center.check(f"{key}.patch.center")
        for name in ("patch", "image"):
            section = getattr(self, name)
            choose(f"{key}.{name}.loss", section.loss, LOSSES)
            if section.temperature <= 0:
                raise ConfigError(
                    f"{key}.{name}.temperature is {section.temperature}: use more than 0, such as "
                    f"0.1"
                )
        if min(self.patch.weight, self.image.weight) < 0 or not (
            self.patch.weight or self.image.weight
        ):
            raise ConfigError(
                f"{key}.patch.weight is {self.patch.weight} and {key}.image.weight "
                f"{self.image.weight}: use 0 or more, and more than 0 for one of them"
            )
        frozen.check_names(self.teachers, TEACHER)

    @property
    def center(self) -> Center:
        """How the teacher's patches are centred."""
        return Center(self.patch.center, self.patch.center_decay)

    def couples(self) -> dict[str, str]:
        """Returns how the rows of a batch are coupled, for `Method.couples`."""
        found = {}
        if self.image.weight and self.image.loss == "infonce":
            how = "the image loss of MimCo takes its negatives from the other images of the batch"
            found[how] = "config.method.image.loss='cosine'"
        if self.patch.weight and self.patch.loss == "infonce" and self.patch.negatives != "image":
            how = "the patch loss of MimCo takes negatives from the other images of the batch"
            found[how] = "config.method.patch.negatives='image'"
        return found | self.center.couples("config.method.patch.center")


def make(config: ConfigDict, *, precision: str, sample_rate: int, num_classes: int) -> Method:
    """Returns the method that config.method describes; it needs no classes."""
    del num_classes
    options = options_lib.read(Options, config)
    encoder = build.encoder(options.encoder, precision=precision, sample_rate=sample_rate)
    method = MimCo(options, encoder, precision)
    method.student.visible(encoder.grid[0] * encoder.grid[1])
    return Method(
        init=method.init,
        untrained=method.untrained,
        loss=method.loss,
        update=method.update,
        features=method.features,
        masks=method.student.masks,
        batch=encoder_lib.batch_spec(encoder),
        rules=sharding.RULES,
        scopes=mae.SCOPES,
        frozen={TEACHER: frozen.encoder(options.teachers[TEACHER], precision)},
        couples=options.couples(),
    )


@dataclasses.dataclass(frozen=True)
class MimCo:
    """The functions of the method.

    params: encoder; decoder, whose last layer is the first of the patch head, and patch_head;
    image_head. extra: center, where a running mean of the teacher's patches is kept.
    """

    options: Options
    encoder: encoder_lib.Encoder
    precision: str

    @property
    def student(self) -> mae.MAE:
        """The student as a masked autoencoder: how it masks, and its decoder."""
        o = self.options
        given = mae.plain(o.encoder, o.mask_ratio, True, True, o.decoder)
        return mae.MAE(given, self.encoder)

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Returns (params, extra); the engine adds the teacher."""
        o, keys, width = self.options, jax.random.split(key, 4), self.teacher().width
        encoder, encoded = encoder_lib.init(self.encoder, keys[0], batch)
        size = self.encoder.grid[0] * self.encoder.grid[1]
        params, extra = {"encoder": encoder}, {}
        if o.patch.weight:
            decoder = self.student.init_decoder(keys[1], encoded, size, o.hidden)
            head = self._patch_head(width).init(keys[2], jnp.zeros((1, o.hidden)))
            params |= {"decoder": decoder, "patch_head": head["params"]}
            center = o.center.init(size, width)
            extra = {"center": center} if center else {}
        if o.image.weight:
            row = jnp.zeros((1, self.encoder.width))
            params["image_head"] = self._image_head(width).init(keys[3], row)["params"]
        return params, extra

    def untrained(self, key: Array, batch: Batch) -> Tree:
        """Returns the parameters of `init` that need no teacher."""
        key = jax.random.split(key, 4)[0]
        return {"encoder": encoder_lib.init(self.encoder, key, batch)[0]}

    def update(self, params: Tree, extra: Tree, step: Array) -> Tree:
        """Moves the running mean of the teacher's patches, if there is one."""
        del params, step
        if "center" not in extra:
            return extra
        return {**extra, "center": self.options.center.update(extra["center"])}

    def features(
        self, params: Tree, batch: Batch, layers: tuple[int, ...] | None = None
    ) -> Features:
        """Returns the encoder's hidden states of unmasked examples, without the class token."""
        return encoder_lib.features(self.encoder, params["encoder"], batch, layers)

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, streams: Streams, train: bool
    ) -> Output:
        """Returns the weighted sum of the losses of the masked patches and of the image."""
        o, student, weight = self.options, self.student, batch["weight"]

        with jax.named_scope("frontend"):
            x, valid = encoder_lib.frontend(self.encoder, params["encoder"], batch)

        with jax.named_scope("mask"):
            ids_shuffle, mask = student.mask(streams, valid)
            ids_keep = ids_shuffle[:, : student.visible(x.shape[1])[-1]]

        with jax.named_scope("encoder"):
            dropout = streams.for_step("dropout") if train else None
            encoded = encoder_lib.encode(
                self.encoder, params["encoder"], x, valid, dropout, ids_keep, LAST
            )

        with jax.named_scope("targets"):
            keys, pooled = self._teach(extra[FROZEN][TEACHER]["encoder"], batch)
            real = valid * weight[:, None]
            center = extra.get("center", {})
            if o.patch.weight:
                keys, center = o.center.apply(keys, real, center)
                extra = {**extra, "center": center} if center else extra

        loss, one, metrics = jnp.zeros(()), jnp.ones(()), {}
        with jax.named_scope("predictor"):
            places = self._predict_patches(params, encoded, ids_shuffle, valid & ~mask, valid)
            image = self._predict_image(params, encoded)

        with jax.named_scope("loss"):
            if places is not None:
                token = patch_loss(o.patch, places, keys, weight)
                patches, _ = losses.masked_mean(token, mask * weight[:, None])
                loss += o.patch.weight * patches
                seen = mask & (weight > 0)[:, None]
                metrics["patch_loss"] = (patches * weight.sum(), weight.sum())
                metrics["target_std"] = (stats.token_std(contrast.unit(keys), seen), one)
                own_share = stats.instance_variance_ratio(keys, real > 0)
                metrics["instance_variance_ratio"] = (own_share, one)
                metrics["prediction_std"] = (stats.token_std(contrast.unit(places), seen), one)
            if image is not None:
                row, _ = losses.masked_mean(image_loss(o.image, image, pooled, weight), weight)
                loss += o.image.weight * row
                metrics["image_loss"] = (row * weight.sum(), weight.sum())

        weighted = (weight > 0)[:, None]
        metrics["loss"] = (loss * weight.sum(), weight.sum())
        metrics["masked_share"] = ((mask & weighted).sum(), (valid & weighted).sum())
        # every image has as many masked patches, so both losses are means over images
        return Output(loss, weight.sum(), metrics, extra)

    def teacher(self) -> encoder_lib.Encoder:
        """Returns the teacher's encoder; raises ConfigError for one that does not fit."""
        run = frozen.read(self.options.teachers[TEACHER], KEY)
        teacher, own = run.encoder(self.precision), self.encoder
        run.check_patches(teacher, own, class_token=False)
        if self.options.image.pool == "cls" and not teacher.prefix:
            raise ConfigError(
                f"config.method.image.pool is 'cls', and {KEY} {run.reference} has no class token: "
                f"use 'frames'"
            )
        return teacher

    def _teach(self, params: Tree, batch: Batch) -> tuple[Array, Array]:
        """Returns the teacher's last features of the patches (B, S, D) and of the image (B, D)."""
        teacher = self.teacher()
        x, valid = encoder_lib.frontend(teacher, params, batch)
        encoded = encoder_lib.encode(teacher, params, x, valid, layers=LAST)
        last = jax.lax.stop_gradient(encoded.hidden_states[-1]).astype(jnp.float32)
        pooled = heads.pool(last, encoded.valid, encoded.prefix, self.options.image.pool)
        return last[:, encoded.prefix :], pooled

    def _predict_patches(
        self, params: Tree, encoded: Encoded, ids_shuffle: Array, visible: Array, valid: Array
    ) -> Array | None:
        """Returns predictions of every patch (B, S, D of the teacher), None without their loss."""
        if "patch_head" not in params:
            return None
        x = self.student.predict(params, encoded, ids_shuffle, visible, valid, self.options.hidden)
        width = self.teacher().width
        variables = {"params": params["patch_head"]}
        return self._patch_head(width).apply(variables, gelu(x))  # type: ignore

    def _predict_image(self, params: Tree, encoded: Encoded) -> Array | None:
        """Returns predictions of each image (B, D of the teacher), None without their loss."""
        if "image_head" not in params:
            return None
        x = heads.pool(encoded.hidden_states[-1], encoded.valid, encoded.prefix, "frames")
        head = self._image_head(self.teacher().width)
        return head.apply({"params": params["image_head"]}, x)  # type: ignore

    def _patch_head(self, width: int) -> heads.MLP:
        return heads.MLP((width,), self.encoder.transformer_options.init)

    def _image_head(self, width: int) -> heads.MLP:
        return heads.MLP((self.options.hidden, width), self.encoder.transformer_options.init)


def patch_loss(o: PatchOptions, predictions: Array, keys: Array, weight: Array) -> Array:
    """predictions, keys (B, S, D), weight (B,) -> the loss of every patch (B, S)."""
    if o.loss != "infonce":
        return _regression(o.loss, o.beta, predictions, keys)
    queries, keys = contrast.unit(predictions), contrast.unit(keys)
    rows, size = keys.shape[:2]
    found = []
    if o.negatives != "place":
        found.append(jnp.einsum("bsd,btd->bst", queries, keys) / o.temperature)
    if o.negatives != "image":
        across = contrast.place_logits(queries, keys, weight, o.temperature)
        if o.negatives == "both":  # the positive is among those of the image already
            own = jnp.eye(rows, dtype=bool)[:, None]
            across = jnp.where(own, contrast.LOWEST, across)
        found.append(across)
    own_image = o.negatives != "place"
    label = jnp.arange(size)[None] if own_image else jnp.arange(rows)[:, None]
    logits = jnp.concatenate(found, -1)
    return losses.cross_entropy(logits, jnp.broadcast_to(label, (rows, size)))


def image_loss(o: ImageOptions, predictions: Array, keys: Array, weight: Array) -> Array:
    """predictions, keys (B, D), weight (B,) -> the loss of every image (B,)."""
    if o.loss != "infonce":
        return _regression(o.loss, o.beta, predictions, keys)
    logits = contrast.batch_logits(predictions, keys, weight, o.temperature)
    return 2 * o.temperature * contrast.batch_info_nce(logits)


def _regression(kind: str, beta: float, predictions: Array, keys: Array) -> Array:
    if kind == "cosine":
        return 1 - (contrast.unit(predictions) * contrast.unit(keys)).sum(-1)
    return losses.smooth_l1(predictions, keys, beta).mean(-1)
