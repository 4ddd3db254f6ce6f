"""Speaker verification: a frozen encoder of speech, an x-vector, softmax with a margin.

The task of SUPERB (2105.01051, section 3.2): speakers are classified in training, with the additive
margin of Wang et al. (1801.05599) on the cosine to the true one; then two recordings have the same
speaker if the cosine of their embeddings is above a threshold. The test speakers do not occur in
training. The encoder has its place in the parameters as in pre-training, so that
`config.init_from` takes it over by path.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ssl_jax.core import options as options_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.rng import Streams
from ssl_jax.core.types import Array, Batch, Features, Method, Output, Spec, Tree
from ssl_jax.nn import build, sharding
from ssl_jax.nn import encoder as encoder_lib
from ssl_jax.nn.transformer import STATES, Encoded
from ssl_jax.nn.xvector import XVector, XVectorOptions
from ssl_jax.ops import losses

SCOPES = ("frontend", "encoder", "predictor", "loss")


@dataclasses.dataclass(frozen=True)
class Options:
    """The section config.method of speaker."""

    name: str
    encoder: Mapping  # see ssl_jax/nn/build.py
    head: XVectorOptions
    scale: float  # factor on the cosines, which gives the logits
    margin: float  # subtracted from the cosine of the true speaker, in training

    def __post_init__(self) -> None:
        if self.scale <= 0 or self.margin < 0:
            raise ConfigError(
                f"config.method.scale is {self.scale} and config.method.margin {self.margin}: use "
                f"more than 0, and 0 or more, such as 30.0 and 0.4"
            )


def make(config: ConfigDict, *, precision: str, sample_rate: int, num_classes: int) -> Method:
    """Returns the method that config.method describes; the classes are the speakers."""
    options = options_lib.read(Options, config)
    encoder = build.encoder(options.encoder, precision=precision, sample_rate=sample_rate)
    if "audio" not in encoder.reads or len(encoder.grid) > 1:
        raise ConfigError(
            f"config.method.encoder.kind is {options.encoder.get('kind')!r}: an x-vector needs the "
            f"frames of a recording, so use 'waveform' or 'keyword_transformer'"
        )
    if num_classes < 2:
        raise ConfigError(
            f"the training split has {num_classes} speakers: set config.data.train.<name>.label to "
            f"the column of the speaker"
        )
    method = Speaker(options, encoder, num_classes)
    return Method(
        init=method.init,
        loss=method.loss,
        features=method.features,
        embed=method.embed,
        batch=encoder_lib.batch_spec(encoder) | {"label": Spec((), "int32")},
        rules=sharding.RULES,
        scopes=SCOPES,
    )


@dataclasses.dataclass(frozen=True)
class Speaker:
    """The functions of the method over one encoder. params: encoder, head, speakers (W, K)."""

    options: Options
    encoder: encoder_lib.Encoder
    speakers: int

    @property
    def head(self) -> XVector:
        """From hidden states to embeddings."""
        return XVector(self.options.head)

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Returns (params, {})."""
        keys = jax.random.split(key, 3)
        encoder, encoded = encoder_lib.init(self.encoder, keys[0], batch)
        hidden_states = encoded.hidden_states[:, :, encoded.prefix :]
        lengths = jnp.full((hidden_states.shape[1],), hidden_states.shape[2])
        head = self.head.init(keys[1], hidden_states, lengths)
        shape = (self.options.head.width, self.speakers)
        speakers = jax.nn.initializers.xavier_normal()(keys[2], shape)
        return {
            "encoder": encoder,
            "head": head["params"],
            "speakers": {"kernel": speakers},
        }, {}

    def features(
        self, params: Tree, batch: Batch, layers: tuple[int, ...] | None = None
    ) -> Features:
        """Returns the hidden states of the complete recording."""
        return encoder_lib.features(self.encoder, params["encoder"], batch, layers)

    def embed(self, params: Tree, batch: Batch) -> Array:
        """Returns the embeddings of the speakers (B, W) float32."""
        x, valid = encoder_lib.frontend(self.encoder, params["encoder"], batch)
        encoded = encoder_lib.encode(self.encoder, params["encoder"], x, valid, layers=STATES)
        return self._vectors(params, encoded, valid)[0]

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, streams: Streams, train: bool
    ) -> Output:
        """Returns the mean cross-entropy of the rows whose speaker is known."""
        del streams  # nothing is drawn
        o, label = self.options, batch["label"]
        encoder = jax.lax.stop_gradient(params["encoder"])

        with jax.named_scope("frontend"):
            x, valid = encoder_lib.frontend(self.encoder, encoder, batch)

        with jax.named_scope("encoder"):
            encoded = encoder_lib.encode(self.encoder, encoder, x, valid, layers=STATES)

        with jax.named_scope("predictor"):
            _, vector = self._vectors(params, encoded, valid)
            kernel = _unit(params["speakers"]["kernel"], 0)
            cosine = jnp.matmul(_unit(vector, -1), kernel, precision="highest")

        with jax.named_scope("loss"):
            margin = o.margin if train else 0.0
            logits = o.scale * (cosine - margin * jax.nn.one_hot(label, self.speakers))
            each = losses.cross_entropy(logits, label)
            loss, num_targets = losses.masked_mean(each, batch["weight"] * (label >= 0))

        accuracy = losses.accuracy(cosine, label, batch["weight"])
        return Output(
            loss,
            num_targets,
            {"loss": (loss * num_targets, num_targets), "accuracy": accuracy},
            extra,
        )

    def _vectors(self, params: Tree, encoded: Encoded, valid: Array) -> tuple[Array, Array]:
        """Returns the embeddings, and the vectors after them that training compares; (B, W)."""
        hidden_states = encoded.hidden_states[:, :, encoded.prefix :]
        variables = {"params": params["head"]}
        return self.head.apply(variables, hidden_states, valid.sum(1))  # type: ignore


def _unit(x: Array, axis: int) -> Array:
    """Returns x with vectors of length 1 along an axis; zero vectors stay zero."""
    square = jnp.square(x).sum(axis, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
