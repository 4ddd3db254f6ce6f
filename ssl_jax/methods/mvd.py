"""MVD: predict the features that two frozen teachers have of the hidden tubelets of a clip.

Wang et al., 2212.04500. One teacher is a masked autoencoder of images, and sees the first frame of
every tubelet; the other one is VideoMAE, and sees the clip. Neither is masked. The student encodes
the visible tubelets; a decoder for each teacher predicts the features of the hidden ones, which are
the output of the teacher's last block, without the final norm. The published finding is that a
teacher of images makes a student stronger in what a frame tells, one of video in what motion tells,
and both in both. With one entry in `teachers` there is one teacher and one decoder.
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
from ssl_jax.core.types import FROZEN, Array, Batch, Features, Frozen, Method, Output, Tree
from ssl_jax.methods import videomae
from ssl_jax.nn import encoder as encoder_lib
from ssl_jax.nn import frozen, sharding
from ssl_jax.nn.hidden_decoder import DecoderOptions, HiddenDecoder, predicted
from ssl_jax.nn.transformer import LAST
from ssl_jax.ops import losses, norms, stats

KEY = "config.method.teachers"
# each teacher, and what its loss is called among the metrics
LOSSES = {"image": "frame_loss", "video": "clip_loss"}


@dataclasses.dataclass(frozen=True)
class TargetOptions:
    """How features are compared."""

    norm: str  # of the teachers' features: none (released code) | layer, without parameters
    loss: str  # smooth_l1 | l1 | l2
    beta: float  # where smooth_l1 turns from squares to absolute values
    image_weight: float
    video_weight: float
    # frames are resized to fit the teacher of images, whose patches are of another size (Huge)
    resize: bool

    def __post_init__(self) -> None:
        key = "config.method.targets"
        options_lib.choose(f"{key}.norm", self.norm, ("none", "layer"))
        options_lib.choose(f"{key}.loss", self.loss, ("smooth_l1", "l1", "l2"))
        if not self.beta > 0:
            raise ConfigError(f"{key}.beta is {self.beta}: use a number above 0, such as 1.0")
        for name in LOSSES:
            if self.weight(name) < 0:
                raise ConfigError(f"{key}.{name}_weight is {self.weight(name)}: use 0 or more")

    def weight(self, name: str) -> float:
        """Returns the weight of a teacher's loss."""
        return float(getattr(self, f"{name}_weight"))

    def normalized(self, x: Array) -> Array:
        """Returns a teacher's features as they are predicted, float32."""
        return norms.layer_norm(x, 1e-6) if self.norm == "layer" else x.astype(jnp.float32)

    def distance(self, prediction: Array, target: Array) -> Array:
        """Returns the distance, number by number, float32."""
        if self.loss == "l1":
            return jnp.abs(prediction - target)
        return losses.smooth_l1(prediction, target, self.beta if self.loss == "smooth_l1" else 0.0)


@dataclasses.dataclass(frozen=True)
class Options:
    """The section config.method of MVD."""

    name: str
    encoder: Mapping  # of kind video; see ssl_jax/nn/build.py
    # image: a finished run of MAE, or of another encoder of images; video: of VideoMAE; or one only
    teachers: Mapping
    mask: videomae.MaskOptions
    decoder: DecoderOptions  # of each of them
    targets: TargetOptions

    def __post_init__(self) -> None:
        self.decoder.check("config.method.decoder")
        if not self.teachers or not set(self.teachers) <= set(LOSSES):
            raise ConfigError(
                f"{KEY} has the keys {sorted(self.teachers)}: use {KEY}.image, {KEY}.video, or both"
            )


def make(config: ConfigDict, *, precision: str, sample_rate: int, num_classes: int) -> Method:
    """Returns the method that config.method describes; it needs no classes."""
    del num_classes
    options = options_lib.read(Options, config)
    encoder = videomae.clips(options.encoder, precision, sample_rate)
    options.mask.hidden(encoder.grid)
    method = MVD(options, encoder, precision)
    # without the final norm, whatever the depth, which the run of the teacher tells later
    keep = ("^encoder/(?!final_norm/)",)
    return Method(
        init=method.init,
        untrained=method.untrained,
        loss=method.loss,
        features=method.features,
        masks=method.masks,
        batch=encoder_lib.batch_spec(encoder),
        rules=sharding.RULES,
        scopes=videomae.SCOPES,
        frozen={
            name: Frozen(reference, keep, None, precision)
            for name, reference in options.teachers.items()
        },
    )


@dataclasses.dataclass(frozen=True)
class MVD:
    """The functions of the method. params: encoder; decoders, by teacher."""

    options: Options
    encoder: encoder_lib.Encoder
    precision: str

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Returns (params, {}); the engine adds the teachers."""
        keys = jax.random.split(key, 1 + len(LOSSES))
        ids = jnp.arange(math.prod(self.encoder.grid))[None]
        x = jnp.zeros((1, 1, self.encoder.width), self.encoder.dtype)
        made = {}
        for name, own in zip(LOSSES, keys[1:], strict=True):
            if name in self.options.teachers:
                decoder = self._decoder(self.teacher(name).width)
                made[name] = decoder.init(own, x, ids, self.encoder.grid)["params"]
        return {**self.untrained(key, batch), "decoders": made}, {}

    def untrained(self, key: Array, batch: Batch) -> Tree:
        """Returns the parameters of `init` that need no teacher."""
        key = jax.random.split(key, 1 + len(LOSSES))[0]
        return {"encoder": encoder_lib.init(self.encoder, key, batch)[0]}

    def features(
        self, params: Tree, batch: Batch, layers: tuple[int, ...] | None = None
    ) -> Features:
        """Returns the encoder's hidden states of whole clips."""
        return encoder_lib.features(self.encoder, params["encoder"], batch, layers)

    def masks(self, params: Tree, batch: Batch, streams: Streams) -> Array:
        """Returns which tubelets an update hides, (B, 1, steps, rows, columns) bool."""
        del params
        return self.options.mask.of_update(batch, streams, self.encoder.grid)

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, streams: Streams, train: bool
    ) -> Output:
        """Returns the weighted distances from the teachers' features at the hidden tubelets."""
        o, weight, grid = self.options, batch["weight"], self.encoder.grid

        with jax.named_scope("frontend"):
            x, valid = encoder_lib.frontend(self.encoder, params["encoder"], batch)

        with jax.named_scope("mask"):
            ids_shuffle, mask = o.mask.draw(streams.for_examples("mask"), grid)
            seen = x.shape[1] - o.mask.hidden(grid)
            ids_keep, ids_hidden = ids_shuffle[:, :seen], ids_shuffle[:, seen:]

        with jax.named_scope("encoder"):
            dropout = streams.for_step("dropout") if train else None
            encoded = encoder_lib.encode(
                self.encoder, params["encoder"], x, valid, dropout, ids_keep, LAST
            )

        with jax.named_scope("targets"):
            targets = self._targets(extra[FROZEN], batch["video"], ids_hidden)

        with jax.named_scope("predictor"):
            predictions = {}
            for name, y in targets.items():
                key = streams.for_step(f"decoder/{name}") if train else None
                given = (params["decoders"][name], encoded.hidden_states[-1], ids_shuffle, grid)
                predictions[name] = predicted(self._decoder(y.shape[-1]), *given, key)

        with jax.named_scope("loss"):
            counted = jnp.broadcast_to(weight[:, None], ids_hidden.shape)
            found, total, num_targets = {}, jnp.zeros(()), jnp.zeros(())
            for name, y in targets.items():
                token = o.targets.distance(predictions[name], y).mean(-1)
                found[name], num_targets = losses.masked_mean(token, counted)
                total += o.targets.weight(name) * found[name]

        one, weighted = jnp.ones(()), (weight > 0)[:, None]
        real = jnp.broadcast_to(weighted, ids_hidden.shape)
        metrics = {
            "loss": (total * num_targets, num_targets),
            **{LOSSES[n]: (value * num_targets, num_targets) for n, value in found.items()},
            "target_std": (_least_std(targets, real), one),
            "prediction_std": (_least_std(predictions, real), one),
            "masked_share": ((mask & weighted).sum(), (valid & weighted).sum()),
        }
        return Output(total, num_targets, metrics, extra)

    def teacher(self, name: str) -> encoder_lib.Encoder:
        """Returns the encoder of a teacher up to the output of its last block.

        Raises ConfigError for a teacher that does not fit the student.
        """
        key = f"{KEY}.{name}"
        run = frozen.read(self.options.teachers[name], key)
        teacher, own = run.encoder(self.precision, run.depth), self.encoder
        if name not in teacher.reads:
            raise ConfigError(
                f"{key} {run.reference} reads {' and '.join(teacher.reads)}: use a run that reads "
                f"{'images' if name == 'image' else 'clips'}"
            )
        grid = own.grid if name == "video" else own.grid[1:]
        size, fitting = own.options.image_size, teacher.options.image_size
        if name == "image" and self.options.targets.resize:
            fitting = size = grid[0] * teacher.options.patch_size
            if teacher.options.positions not in ("sincos", "none"):
                raise ConfigError(
                    f"{key} {run.reference} has positions that were learned for its own size, and "
                    f"config.method.targets.resize asks for another: set it to False"
                )
            teacher = run.encoder(self.precision, run.depth, image_size=size)
        if teacher.grid != grid or size != fitting:
            raise ConfigError(
                f"{key} {run.reference} reads {fitting} x {fitting} pixels as "
                f"{' x '.join(map(str, teacher.grid))} tokens, and the student {size} x {size} as "
                f"{' x '.join(map(str, grid))}: use a teacher with the student's image_size, "
                f"patch_size, frames and tubelet"
                + (", or set config.method.targets.resize to True" if name == "image" else "")
            )
        return teacher

    def _targets(self, teachers: Tree, video: Array, ids_hidden: Array) -> dict[str, Array]:
        """Returns the features (B, M, E) of hidden tubelets as they are predicted, by teacher."""
        found = {}
        for name in self.options.teachers:
            y = self._features(name, teachers[name]["encoder"], video)
            y = jnp.take_along_axis(y, ids_hidden[..., None], axis=1)
            found[name] = self.options.targets.normalized(y)
        return found

    def _features(self, name: str, params: Tree, video: Array) -> Array:
        """video (B, T, H, W, 3) uint8 -> the features (B, S, E) of a teacher, no gradient."""
        teacher = self.teacher(name)
        if name == "image":
            video = video[:, :: self.encoder.options.tubelet]
            frames = video.reshape(-1, *video.shape[2:])
            size = teacher.options.image_size
            if size != frames.shape[1]:
                shape = (len(frames), size, size, 3)
                frames = jax.image.resize(frames.astype(jnp.float32), shape, "cubic").clip(0, 255)
            video = frames
        x, valid = encoder_lib.frontend(teacher, params, {name: video})
        encoded = encoder_lib.encode(teacher, params, x, valid, layers=LAST)
        y = encoded.hidden_states[-1][:, encoded.prefix :]
        y = y.reshape(-1, math.prod(self.encoder.grid), y.shape[-1])
        return jax.lax.stop_gradient(y)

    def _decoder(self, outputs: int) -> HiddenDecoder:
        """Returns the decoder to `outputs` features of a teacher."""
        like = self.encoder.transformer_options
        blocks = self.options.decoder.blocks(like)
        positions = self.encoder.options.positions
        return HiddenDecoder(
            outputs, blocks, positions, embed_init=like.init, dtype=self.encoder.dtype
        )


def _least_std(found: Mapping[str, Array], real: Array) -> Array:
    """Returns the spread over tokens where it is smallest."""
    return jnp.stack([stats.token_std(y, real) for y in found.values()]).min()
