"""MAViL: masked autoencoders of sound and picture that also tell which sound goes with which clip.

Huang et al., 2212.08071. Each stream has its encoder, which sees a random fifth of the patches. Two
masked views of each stream are encoded. The tokens of the first views pass a fusion of both
streams, and a decoder of each stream predicts what was masked (L_raw). Averaged tokens of the two
streams, before the fusion, find each other among the clips of the batch (L_inter), and so do those
of the two views of a stream (L_intra).

In the second stage, a frozen model of the first (or of an earlier second) stage reads whole clips,
and the decoders predict its fused tokens in place of patches. The released repository has no code:
what the paper leaves open is an option, and configs/mavil says which values are unverified.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ssl_jax.core import options as options_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.rng import Streams
from ssl_jax.core.types import FROZEN, Array, Batch, Features, Frozen, Method, Output, Tree
from ssl_jax.methods.mae import DecoderOptions
from ssl_jax.nn import build, frozen, sharding
from ssl_jax.nn import encoder as encoder_lib
from ssl_jax.nn.decoder import PatchDecoder
from ssl_jax.nn.fusion import Fusion, FusionOptions
from ssl_jax.nn.transformer import LAST, Encoded, Layers, TransformerOptions
from ssl_jax.ops import contrast, losses, masks, norms, stats
from ssl_jax.ops.patches import normalize_patches

SCOPES = ("frontend", "mask", "encoder", "targets", "predictor", "loss")
STREAMS = ("audio", "video")
PIECES = {"audio": "patches", "video": "tubelets"}  # the functions that cut the input
TEACHER = "teacher"
KEY = f"config.method.teachers.{TEACHER}"
NEGATIVES = "MAViL takes its negatives from the other clips of the batch"


@dataclasses.dataclass(frozen=True)
class ContrastOptions:
    """A loss that tells clips apart."""

    weight: float  # 0.0: without this loss
    temperature: float


@dataclasses.dataclass(frozen=True)
class Options:
    """The section config.method of MAViL."""

    name: str
    encoders: Mapping  # audio, of kind spectrogram, and video, of kind video; see nn/build.py
    fusion: FusionOptions
    decoders: Mapping  # {stream: the options of its decoder, as those of MAE}
    mask_ratio: Mapping  # {stream: share}; int(S * (1 - share)) of S patches are visible
    raw: float  # weight of the reconstruction; 0.0: without decoders
    norm_pix: bool  # patches to mean 0 and variance 1 each, in the first stage
    norm_targets: bool  # features of the teacher likewise, in the second
    inter: ContrastOptions  # between the streams
    intra: ContrastOptions  # between two views of a stream
    teachers: Mapping  # {}: the first stage; teacher: a run of MAViL, for the second

    def __post_init__(self) -> None:
        key = "config.method"
        for name in ("encoders", "decoders", "mask_ratio"):
            if set(getattr(self, name)) != set(STREAMS):
                raise ConfigError(
                    f"{key}.{name} has the keys {sorted(getattr(self, name))}: use audio and video"
                )
        if self.teachers:
            frozen.check_names(self.teachers, TEACHER)
        for name in ("inter", "intra"):
            if getattr(self, name).temperature <= 0:
                raise ConfigError(f"{key}.{name}.temperature must be above 0, such as 0.1")
        weights = {"raw": self.raw, "inter.weight": self.inter.weight}
        weights["intra.weight"] = self.intra.weight
        for name, value in weights.items():
            if value < 0:
                raise ConfigError(f"{key}.{name} is {value}: use 0 or more")
        if not any(weights.values()):
            raise ConfigError(
                f"{key}.raw, inter.weight and intra.weight are all 0, so there is no loss: set "
                f"raw to 1.0, or inter.weight to 0.1"
            )

    def decoder(self, stream: str) -> DecoderOptions:
        """Returns the options of the decoder of a stream."""
        return DecoderOptions(**self.decoders[stream])


def make(config: ConfigDict, *, precision: str, sample_rate: int, num_classes: int) -> Method:
    """Returns the method that config.method describes; it needs no classes."""
    del num_classes
    options = options_lib.read(Options, config)
    encoders = build.encoders(options.encoders, precision=precision, sample_rate=sample_rate)
    _check(options, encoders)
    method = Mavil(options, encoders, precision, sample_rate)
    spec = {k: v for stream in STREAMS for k, v in encoder_lib.batch_spec(encoders[stream]).items()}
    couples = {}
    if options.inter.weight or options.intra.weight:
        couples[NEGATIVES] = "config.method.inter.weight=0.0 and config.method.intra.weight=0.0"
    return Method(
        init=method.init,
        untrained=method.untrained,
        loss=method.loss,
        features=method.features_of("audio"),  # whose patches `masks` tells
        masks=method.masks,
        batch=spec,
        rules=sharding.RULES,
        scopes=SCOPES,
        frozen=method.declared(),
        couples=couples,
        streams={
            "audio": method.features_of("audio"),
            "video": method.features_of("video"),
            "fused": method.fused,
        },
    )


def _check(options: Options, encoders: Mapping[str, Any]) -> None:
    """Raises ConfigError where the encoders do not fit each other or their streams."""
    for stream, encoder in encoders.items():
        if stream not in encoder.reads or not hasattr(encoder, PIECES[stream]):
            kind = {"audio": "spectrogram", "video": "video"}[stream]
            raise ConfigError(
                f"config.method.encoders.{stream}.kind is {options.encoders[stream]['kind']!r}, "
                f"which has no patches of {stream}: use {kind!r}"
            )
    width = options.decoder("video").width
    if options.raw and width % 16:
        raise ConfigError(
            f"config.method.decoders.video.width is {width}, which cannot hold positions of time "
            f"and place: use a multiple of 16"
        )
    wide = {stream: encoder.width for stream, encoder in encoders.items()}
    if len(set(wide.values())) > 1:
        raise ConfigError(
            f"config.method.encoders.audio.width is {wide['audio']} and video.width "
            f"{wide['video']}, but their tokens are fused: use the same width"
        )


@dataclasses.dataclass(frozen=True)
class Mavil:
    """The functions of the method. params: encoder and decoder, of each stream, and fusion."""

    options: Options
    encoders: Mapping[str, Any]
    precision: str
    sample_rate: int

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Returns (params, {}); the engine adds the teacher of a second stage."""
        params = self.untrained(key, batch)
        if not self.options.raw:
            return params, {}
        keys = jax.random.split(jax.random.fold_in(key, 1), len(STREAMS))
        outputs = self._outputs(params, batch)
        decoders = {}
        for stream, own in zip(STREAMS, keys, strict=True):
            _, encoded = encoder_lib.init(self.encoders[stream], own, batch)
            last = encoded.hidden_states[-1]
            size = last.shape[1] - encoded.prefix
            places = jnp.arange(size)[None]
            real = jnp.ones(places.shape, bool)
            grid = encoder_lib.places(self.encoders[stream], size)
            decoder = self._decoder(stream, outputs[stream])
            given = (last, places, real, real, grid, encoded.prefix)
            decoders[stream] = decoder.init(own, *given)["params"]
        return {**params, "decoder": decoders}, {}

    def untrained(self, key: Array, batch: Batch) -> Tree:
        """Returns the parameters of `init` that need no teacher: encoders and fusion."""
        keys = jax.random.split(key, len(STREAMS) + 1)
        made, tokens = {}, []
        for stream, own in zip(STREAMS, keys, strict=False):
            made[stream], encoded = encoder_lib.init(self.encoders[stream], own, batch)
            self._visible(stream, encoded.hidden_states.shape[2] - encoded.prefix)
            tokens.append((encoded.hidden_states[-1], encoded.valid))
        fusion = self._fusion().init(keys[-1], *tokens, False)["params"]
        return {"encoder": made, "fusion": fusion}

    def declared(self) -> dict[str, Frozen]:
        """Returns the teacher of a second stage; {} in the first."""
        if not self.options.teachers:
            return {}
        keep = ("^encoder/audio/", "^encoder/video/", "^fusion/")
        given = self.options.teachers[TEACHER], keep, None, self.precision
        return {TEACHER: Frozen(*given, fresh=_fresh)}

    def teacher(self) -> "Mavil":
        """Returns the model of a second stage's teacher.

        Raises ConfigError for a run of another method, and for one with other patches or rate.
        """
        run = frozen.read(self.options.teachers[TEACHER], KEY)
        found = of_run(run, self.precision)
        for stream, own in self.encoders.items():
            run.check_tokens(found.encoders[stream], own, self.sample_rate)
        return found

    def features_of(self, stream: str) -> Any:
        """Returns the features function of the encoder of a stream, of whole clips."""

        def features(params: Tree, batch: Batch, layers: tuple[int, ...] | None = None) -> Features:
            own = params["encoder"][stream]
            return encoder_lib.features(self.encoders[stream], own, batch, layers)

        return features

    def fused(self, params: Tree, batch: Batch, layers: tuple[int, ...] | None = None) -> Features:
        """Returns the hidden states of the fusion of whole clips: tokens of sound, then those of
        the picture. Layer 0 is what the encoders end with."""
        states, parts = self._whole(params, batch, Layers(layers, ()))
        tokens = [states[:, :, start:stop] for start, stop, _ in parts]
        valid = jnp.concatenate([real for *_, real in parts], 1)
        return Features(jnp.concatenate(tokens, 2), valid, 0.0, (0,))

    def masks(self, params: Tree, batch: Batch, streams: Streams) -> Array:
        """Returns which patches of sound an update masks in each view, (B, 1 or 2, rows, columns)
        bool."""
        encoder = self.encoders["audio"]
        real = encoder_lib.real(encoder, params["encoder"]["audio"], batch, batch["weight"])
        found = [self._mask("audio", view, streams, real)[1] for view in range(self._views)]
        grid = encoder_lib.places(encoder, real.shape[1])
        return jnp.stack(found, 1).reshape(len(real), len(found), *grid)

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, streams: Streams, train: bool
    ) -> Output:
        """Returns the weighted sum of reconstruction and contrasts."""
        o, weight = self.options, batch["weight"]

        with jax.named_scope("frontend"):
            tokens = {
                s: encoder_lib.frontend(e, params["encoder"][s], batch)
                for s, e in self.encoders.items()
            }

        with jax.named_scope("mask"):
            drawn = {
                s: [self._mask(s, view, streams, valid) for view in range(self._views)]
                for s, (_, valid) in tokens.items()
            }

        with jax.named_scope("encoder"):
            dropout = streams.for_step("dropout") if train else None
            views = {s: self._encode(params, s, *tokens[s], drawn[s], dropout) for s in STREAMS}

        with jax.named_scope("targets"):
            targets = self._targets(params, extra, batch) if o.raw else {}

        with jax.named_scope("predictor"):
            first = {s: views[s][0] for s in STREAMS}
            predictions = self._predict(params, first, tokens, drawn, targets) if o.raw else {}

        with jax.named_scope("loss"):
            raw = {
                s: self._error(predictions[s], targets[s], drawn[s][0][1], weight) for s in targets
            }
            pooled = {s: [_mean(view) for view in views[s]] for s in STREAMS}
            inter, found = self._inter(pooled, weight)
            intra = self._intra(pooled, weight)
            count = (weight > 0).sum().astype(jnp.float32)
            loss = o.raw * sum(raw.values(), jnp.zeros(()))
            loss += o.inter.weight * inter + o.intra.weight * intra

        one = jnp.ones(())
        metrics = {"loss": (loss * count, count), "retrieval_accuracy": (found * count, count)}
        metrics |= {"inter_loss": (inter * count, count), "intra_loss": (intra * count, count)}
        metrics |= {f"{s}_loss": (error * count, count) for s, error in raw.items()}
        for s in STREAMS:
            mask, valid = drawn[s][0][1], tokens[s][1] & (weight > 0)[:, None]
            metrics[f"{s}_std"] = (stats.token_std(pooled[s][0][:, None], count_of(weight)), one)
            metrics[f"{s}_masked_share"] = ((mask & valid).sum(), valid.sum())
        return Output(loss, count, metrics, extra)

    @property
    def _views(self) -> int:
        """How many masked views of a stream there are."""
        return 2 if self.options.intra.weight else 1

    def _mask(self, stream: str, view: int, streams: Streams, valid: Array) -> tuple[Array, Array]:
        """valid (B, S) -> ids_shuffle (B, S), visible ids first; mask (B, S) bool."""
        counts = self._visible(stream, valid.shape[1])
        keys = streams.for_examples(f"mask {stream} {view}")
        return masks.random_visible(keys, valid, counts)

    def _visible(self, stream: str, size: int) -> list[int]:
        """Returns how many patches of a row with 0 to `size` real ones stay visible."""
        ratio = self.options.mask_ratio[stream]
        kept = int(size * (1 - ratio))
        if not 0 < kept < size:
            raise ConfigError(
                f"config.method.mask_ratio.{stream} is {ratio}, which leaves {kept} of {size} "
                f"patches visible: use a value such as {0.8 if size > 4 else 0.5}"
            )
        return [min(n, max(1, int(n * (1 - ratio)))) for n in range(size + 1)]

    def _encode(
        self,
        params: Tree,
        stream: str,
        x: Array,
        valid: Array,
        drawn: list[tuple[Array, Array]],
        dropout: Array | None,
    ) -> list[Encoded]:
        """Returns the encoded visible patches of each view; all views are one batch."""
        encoder, count = self.encoders[stream], self._visible(stream, x.shape[1])[-1]
        views = len(drawn)
        # a row's views stay side by side, and so on the device that holds the row
        ids = jnp.stack([shuffled[:, :count] for shuffled, _ in drawn], 1)
        x, valid = (jnp.repeat(y, views, axis=0) for y in (x, valid))
        given = x, valid, dropout, ids.reshape(len(x), count), LAST
        encoded = encoder_lib.encode(encoder, params["encoder"][stream], *given)
        states = encoded.hidden_states.reshape(1, -1, views, *encoded.hidden_states.shape[2:])
        real = encoded.valid.reshape(-1, views, encoded.valid.shape[1])
        return [
            Encoded(states[:, :, view], encoded.ffn[:0], real[:, view], encoded.prefix)
            for view in range(views)
        ]

    def _whole(
        self, params: Tree, batch: Batch, layers: Layers
    ) -> tuple[Array, list[tuple[int, int, Array]]]:
        """Returns hidden states of the fusion of whole clips, and of each stream where its patches
        begin and end in them and which are real."""
        tokens, parts, place = [], [], 0
        for stream, encoder in self.encoders.items():
            own = params["encoder"][stream]
            x, valid = encoder_lib.frontend(encoder, own, batch)
            encoded = encoder_lib.encode(encoder, own, x, valid, layers=LAST)
            last = encoded.hidden_states[-1]
            parts.append((place + encoded.prefix, place + last.shape[1], valid))
            place += last.shape[1]
            tokens.append((last, encoded.valid))
        states, _ = self._fusion().apply({"params": params["fusion"]}, *tokens, False, layers)
        return states, parts  # type: ignore

    def _targets(self, params: Tree, extra: Tree, batch: Batch) -> dict[str, Array]:
        """Returns what the decoders predict of each patch, (B, S, P) float32."""
        o = self.options
        if not o.teachers:
            found = {s: self._patches(params, s, batch) for s in STREAMS}
            return {s: normalize_patches(x) if o.norm_pix else x for s, x in found.items()}
        states, parts = self.teacher()._whole(extra[FROZEN][TEACHER], batch, LAST)
        last = jax.lax.stop_gradient(states[-1]).astype(jnp.float32)
        if o.norm_targets:
            last = norms.layer_norm(last)
        return {s: last[:, start:stop] for s, (start, stop, _) in zip(STREAMS, parts, strict=True)}

    def _patches(self, params: Tree, stream: str, batch: Batch) -> Array:
        """Returns the patches (B, S, P) of the normalized input, float32."""
        encoder = self.encoders[stream]
        arrays = [batch[name] for name in encoder.reads]
        own = {"params": params["encoder"][stream]}
        return encoder.apply(own, *arrays, method=PIECES[stream])

    def _outputs(self, params: Tree, batch: Batch) -> dict[str, int]:
        """Returns how many numbers a decoder predicts for a patch."""
        if self.options.teachers:
            width = self.teacher().encoders["audio"].width
            return dict.fromkeys(STREAMS, width)
        found = jax.eval_shape(
            lambda *given: {s: self._patches(given[0], s, given[1]) for s in STREAMS}, params, batch
        )
        return {s: patches.shape[-1] for s, patches in found.items()}

    def _predict(
        self,
        params: Tree,
        encoded: Mapping[str, Encoded],
        tokens: Mapping[str, tuple[Array, Array]],
        drawn: Mapping[str, list[tuple[Array, Array]]],
        targets: Mapping[str, Array],
    ) -> dict[str, Array]:
        """Returns the predictions (B, S, P) of every patch of each stream, float32."""
        given = [(encoded[s].hidden_states[-1], encoded[s].valid) for s in STREAMS]
        states, _ = self._fusion().apply({"params": params["fusion"]}, *given, False, LAST)
        found, place = {}, 0
        for (x, _), s in zip(given, STREAMS, strict=True):
            last, valid = states[-1][:, place : place + x.shape[1]], tokens[s][1]
            place += x.shape[1]
            ids, mask = drawn[s][0]
            grid = encoder_lib.places(self.encoders[s], valid.shape[1])
            decoder = self._decoder(s, targets[s].shape[-1])
            own = {"params": params["decoder"][s]}
            found[s] = decoder.apply(own, last, ids, valid & ~mask, valid, grid, encoded[s].prefix)
        return found  # type: ignore

    def _error(self, predicted: Array, target: Array, mask: Array, weight: Array) -> Array:
        """Returns the squared error at the masked patches."""
        token = losses.smooth_l1(predicted, target, 0.0).mean(-1)
        return losses.masked_mean(token, mask * weight[:, None])[0]

    def _inter(self, pooled: Mapping[str, list[Array]], weight: Array) -> tuple[Array, Array]:
        """Returns the contrast between the streams, and how often the other one is the nearest."""
        if not self.options.inter.weight:
            return jnp.zeros(()), jnp.zeros(())
        pair = pooled["audio"][0], pooled["video"][0]
        return _both_ways(pair, weight, self.options.inter.temperature)

    def _intra(self, pooled: Mapping[str, list[Array]], weight: Array) -> Array:
        """Returns the contrast between the two views of a stream, summed over the streams."""
        if not self.options.intra.weight:
            return jnp.zeros(())
        temperature = self.options.intra.temperature
        found = (_both_ways(pooled[s], weight, temperature)[0] for s in STREAMS)
        return sum(found, jnp.zeros(()))

    def _fusion(self) -> Fusion:
        encoder = self.encoders["audio"]
        return Fusion(self.options.fusion, encoder.transformer_options, encoder.dtype)

    def _decoder(self, stream: str, outputs: int) -> PatchDecoder:
        encoder = self.encoders[stream]
        blocks = encoder.transformer_options
        options = TransformerOptions(
            **dataclasses.asdict(self.options.decoder(stream)),
            norm="pre",
            eps=blocks.eps,
            init=blocks.init,
            remat=blocks.remat,
            unroll=blocks.unroll,
        )
        return PatchDecoder(outputs, options, encoder.dtype, getattr(encoder, "swapped", False))


def of_run(run: frozen.Teacher, precision: str) -> Mavil:
    """Returns the model of a run. Raises ConfigError for a run of another method."""
    method, rate = run.config.method, int(run.config.data.sample_rate)
    if method.name != "mavil":
        raise ConfigError(
            f"{run.key} {run.reference} is a run of {method.name!r}: use a run of 'mavil'"
        )
    options = options_lib.read(Options, method)
    encoders = build.encoders(options.encoders, precision=precision, sample_rate=rate)
    return Mavil(options, encoders, precision, rate)


def _fresh(run: frozen.Teacher, key: Array, batch: Batch) -> Tree:
    """Returns initial values of a teacher's parameters."""
    return of_run(run, "float32").untrained(key, batch)


def count_of(weight: Array) -> Array:
    """weight (B,) -> which rows count, (B, 1) bool."""
    return (weight > 0)[:, None]


def _mean(encoded: Encoded) -> Array:
    """Returns the mean (B, D) of the real tokens of a view, without those ahead of the patches."""
    x = encoded.hidden_states[-1][:, encoded.prefix :].astype(jnp.float32)
    real = encoded.valid[:, encoded.prefix :, None]
    return jnp.where(real, x, 0).sum(1) / jnp.maximum(real.sum(1), 1)


def _both_ways(pair: Sequence[Array], weight: Array, temperature: float) -> tuple[Array, Array]:
    """pair: two times (B, D), weight (B,) -> the contrast of both directions, averaged, and the
    share of rows whose own counterpart is the nearest."""
    one, other = pair
    found = [contrast.batch_logits(*x, weight, temperature) for x in ((one, other), (other, one))]
    entropy = (contrast.batch_info_nce(found[0]) + contrast.batch_info_nce(found[1])) / 2
    hits = [(x.argmax(1) == jnp.arange(len(x))).astype(jnp.float32) for x in found]
    right = (hits[0] + hits[1]) / 2
    return losses.masked_mean(entropy, weight)[0], losses.masked_mean(right, weight)[0]
