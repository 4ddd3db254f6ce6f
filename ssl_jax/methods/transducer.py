"""The transducer: an encoder and a network over the tokens so far learn to transcribe.

The loss of Graves (1211.3711) as in the Conformer of Zhang et al. (2010.10504) and Gulati et al.
(2005.08100): the encoder reads the recording, LSTM layers the tokens so far, and a joint network
both. The encoder has the same place in the parameters as in pre-training, so `config.init_from`
takes it over by path, along with the mask vector if that run has one.

Where this file differs from the paper:
- The projection from encoder to joint network has a LayerNorm after its swish, in place of a
  BatchNorm: recordings of different lengths, spread over many devices, have no single mean.
- `per_frame` bounds how many tokens decoding may say at one frame. A transcript with more tokens
  than its recording can hold has no loss and does not count in the mean; the metric `infeasible` is
  the share of such rows. `python -m ssl_jax.train` rejects them before training.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ssl_jax.core import options as options_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.rng import Streams
from ssl_jax.core.types import Array, Batch, Decoder, Method, Output, Spec, Tree
from ssl_jax.methods import ctc
from ssl_jax.nn import build, prediction, sharding
from ssl_jax.nn import encoder as encoder_lib
from ssl_jax.ops import augment, losses, transducer


@dataclasses.dataclass(frozen=True)
class SpecAugmentOptions:
    """Stripes of log-mel frames that a training step masks; see `ops.augment.spec_augment`."""

    time_masks: int
    time_share: float  # of the recording, the widest stripe
    freq_masks: int
    freq_width: int  # mel bands, the widest stripe

    @property
    def active(self) -> bool:
        """Whether any stripe is drawn."""
        return self.time_masks > 0 or self.freq_masks > 0


@dataclasses.dataclass(frozen=True)
class PredictorOptions:
    """The network over the tokens so far; see `nn.prediction.PredictionNetwork`."""

    embed: int
    width: int
    layers: int
    dropout: float


@dataclasses.dataclass(frozen=True)
class JointOptions:
    """The network over frames and predictions; see `nn.prediction.Joint`."""

    width: int
    norm: bool  # a LayerNorm behind the projection of the encoder
    block: int  # frames whose logits exist at the same time; less is slower and takes less memory


@dataclasses.dataclass(frozen=True)
class Options(ctc.TunedOptions):
    """The section config.method of transducer."""

    spec_augment: SpecAugmentOptions
    predictor: PredictorOptions
    joint: JointOptions
    per_frame: int  # the most tokens that decoding says at one frame

    def __post_init__(self) -> None:
        super().__post_init__()
        key, predictor = "config.method", self.predictor
        for name, value, such in (
            ("predictor.embed", predictor.embed, 128),
            ("predictor.width", predictor.width, 640),
            ("predictor.layers", predictor.layers, 1),
            ("joint.width", self.joint.width, 640),
            ("joint.block", self.joint.block, 8),
            ("per_frame", self.per_frame, 4),
        ):
            if value < 1:
                raise ConfigError(f"{key}.{name} is {value}: use 1 or more, such as {such}")
        for name, share in (
            ("predictor.dropout", predictor.dropout),
            ("spec_augment.time_share", self.spec_augment.time_share),
        ):
            if not 0 <= share < 1:
                raise ConfigError(f"{key}.{name} is {share}: use 0.0 or more and below 1.0")


def make(config: ConfigDict, *, precision: str, sample_rate: int, num_classes: int) -> Method:
    """Returns the method that config.method describes; `num_classes` counts the tokens."""
    options = options_lib.read(Options, config)
    encoder = build.moving(options.encoder, precision=precision, sample_rate=sample_rate)
    ctc.check(options, encoder, num_classes)
    kind = options.encoder.get("kind")
    if options.spec_augment.active and kind not in ("mel_conformer", "keyword_transformer"):
        raise ConfigError(
            f"config.method.spec_augment masks spectral features, which the encoder kind {kind!r} "
            f"does not have: set its masks to 0"
        )
    method = Transducer(options, encoder, num_classes)
    spoken = {"transcript": Spec((None,), "int32"), "transcript_len": Spec((), "int32")}
    masked = options.mask.prob or options.mask.channel_prob
    return Method(
        init=method.init,
        loss=method.loss,
        features=method.features,
        masks=method.masks if options.mask.prob else None,
        emissions=method.emissions,
        decoder=Decoder(method.start, method.extend, method.scores, options.per_frame),
        frames=method.encoder.frames,
        batch=encoder_lib.batch_spec(encoder) | spoken,
        rules=sharding.RULES,
        scopes=ctc.SCOPES if masked else ctc.UNMASKED,
        couples=encoder_lib.coupled(encoder),
    )


@dataclasses.dataclass(frozen=True)
class Transducer(ctc.Tuned):
    """The functions of the method over one encoder.

    params: encoder, predictor, joint, mask/vector (D,).
    """

    options: Options

    @property
    def predictor(self) -> prediction.PredictionNetwork:
        """The network over the tokens so far."""
        o = self.options.predictor
        return prediction.PredictionNetwork(self.tokens, o.embed, o.width, o.layers, o.dropout)

    @property
    def joint(self) -> prediction.Joint:
        """The network over frames and predictions."""
        return prediction.Joint(self.tokens, self.options.joint.width, self.options.joint.norm)

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Returns (params, {})."""
        keys = jax.random.split(key, 4)
        encoder, encoded = encoder_lib.init(self.encoder, keys[0], batch)
        said = jnp.zeros((1, 1), jnp.int32)
        predicted, predictor = self.predictor.init_with_output(keys[1], said)
        frames = encoded.hidden_states[-1, :, :1]
        params = {
            "encoder": encoder,
            "predictor": predictor["params"],
            "joint": self.joint.init(keys[2], frames, predicted)["params"],
        }
        if self.options.mask.prob:
            params["mask"] = {"vector": jax.random.uniform(keys[3], (self.encoder.width,))}
        return params, {}

    def emissions(self, params: Tree, batch: Batch) -> tuple[Array, Array]:
        """Returns what the joint network reads of each frame, (B, S, J), and the frames (B,)."""
        x, valid = encoder_lib.frontend(self.encoder, params["encoder"], batch)
        return self._frames(params, self._encode(params["encoder"], x, valid)[0]), valid.sum(1)

    def start(self, params: Tree, rows: int) -> Tree:
        """Returns the state of `rows` empty transcripts; see `core.types.Decoder`."""
        state = self._predict(params, rows, method="start")
        return self._heard(params, state)

    def extend(self, params: Tree, state: Tree, tokens: Array) -> Tree:
        """Returns the state of transcripts after one more token each, (N,)."""
        found = self._predict(params, state["layers"], tokens, method="extend")
        return self._heard(params, found)

    def scores(self, params: Tree, frames: Array, state: Tree) -> Array:
        """frames (N, J) -> log-probabilities of the next token (N, V)."""
        logits = self._join(params["joint"], frames, state["said"], method="rows")
        return jax.nn.log_softmax(logits)

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, streams: Streams, train: bool
    ) -> Output:
        """Returns the mean over recordings of -log p(transcript), summed over tokens, in nats."""
        weight, encoder = batch["weight"], self._tuned(params["encoder"])

        with jax.named_scope("frontend"):
            augment_fn = self._stripes(streams) if train else None
            x, valid = encoder_lib.frontend(self.encoder, encoder, batch, augment_fn=augment_fn)

        if train:
            with jax.named_scope("mask"):
                x = self._hide(params, streams, x, valid)

        noise = streams if train else None
        with jax.named_scope("encoder"):
            hidden_states, moved = self._encode(encoder, x, valid, noise)

        with jax.named_scope("predictor"):
            frames = self._frames(params, hidden_states)
            rngs = {"dropout": noise.for_step("predictor")} if noise is not None else None
            predicted = self._predict(params, batch["transcript"], train, rngs=rngs)
            said = self._join(params["joint"], predicted, method="said")

        with jax.named_scope("loss"):
            each, feasible = transducer.loss(
                self._pairs,
                params["joint"],
                frames,
                said,
                valid.sum(1),
                batch["transcript"],
                batch["transcript_len"],
                block=self.options.joint.block,
                per_frame=self.options.per_frame,
            )
            loss, num_targets = losses.masked_mean(each, weight * feasible)

        metrics = {
            "loss": (loss * num_targets, num_targets),
            "infeasible": ((weight * ~feasible).sum(), weight.sum()),
        }
        return Output(loss, num_targets, metrics, extra, moved=moved)

    def _stripes(self, streams: Streams) -> Callable | None:
        """Returns what masks stripes of log-mel frames; None where nothing is masked."""
        o = self.options.spec_augment
        if not o.active:
            return None
        keys = streams.for_examples("spec_augment")

        def apply(features: Array, lengths: Array) -> Array:
            return augment.spec_augment(
                keys, features, lengths, fill="mean", **dataclasses.asdict(o)
            )

        return apply

    def _pairs(self, params: Tree, frames: Array, said: Array) -> Array:
        """The joint network as `ops.transducer` calls it."""
        return self._join(params, frames, said, method="pairs")

    def _frames(self, params: Tree, hidden_states: Array) -> Array:
        """hidden_states (N, B, S, D) -> what the joint network reads of each frame, (B, S, J)."""
        return self._join(params["joint"], hidden_states[-1], method="frame")

    def _heard(self, params: Tree, layers: Tree) -> Tree:
        """Returns the state with what the joint network reads of it, (N, J)."""
        said = self._join(params["joint"], layers[0][:, -1], method="said")
        return {"layers": layers, "said": said}

    def _join(self, params: Tree, *given: Array, method: str) -> Array:
        return self.joint.apply({"params": params}, *given, method=method)  # type: ignore

    def _predict(self, params: Tree, *given: Any, **options: Any) -> Any:
        return self.predictor.apply({"params": params["predictor"]}, *given, **options)
