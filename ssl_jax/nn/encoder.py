"""The interface of encoders, and how to run their two parts, between which a method may mask."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp

from ssl_jax.core.types import Array, Batch, Features, Spec, Tree
from ssl_jax.nn.transformer import ALL, MOVED, Encoded, Layers, TransformerOptions


@runtime_checkable
class Encoder(Protocol):
    """A linen module that maps the arrays of a batch to hidden states, in two parts.

    Axes: B examples, S tokens of an example, V of them encoded, D width.
    """

    dtype: jnp.dtype
    transformer_options: TransformerOptions

    @property
    def options(self) -> Any:
        """The options of its kind, except for those of its blocks."""

    @property
    def reads(self) -> Mapping[str, Spec]:
        """The arrays of a batch that the front end takes, in order, the signal first."""

    @property
    def width(self) -> int:
        """The size of a token, D."""

    @property
    def depth(self) -> int:
        """The number of blocks."""

    @property
    def prefix(self) -> int:
        """The number of tokens that `encode` puts ahead of those of the example."""

    @property
    def rate(self) -> float:
        """Steps per second along the first axis of `grid`; 0 where there is no time."""

    @property
    def grid(self) -> tuple[int, ...]:
        """The shape of the S tokens, time first; 0: as long as the input.

        (0,) is a sequence, (0, 8) a spectrogram with 8 tokens per step, (14, 14) an image,
        (8, 14, 14) a clip of 8 steps.
        """

    @property
    def frontend(self) -> Callable[..., tuple[Array, Array]]:
        """frontend(*arrays, train, ...) -> local tokens x (B, S, D), valid (B, S) bool.

        The arrays are those of `reads`; the tokens have no positions yet.
        """

    def encode(
        self,
        x: Array,
        valid: Array,
        train: bool,
        ids_keep: Array | None = None,
        layers: Layers = ALL,
    ) -> Encoded:
        """x (B, S, D), valid (B, S) -> Encoded of all tokens, or of those in `ids_keep` (B, V).

        It keeps the layers that are asked for, and no others.
        """

    def apply(self, *arguments: Any, **options: Any) -> Any:
        """As in linen: runs the module, or its `method`, with given variables."""

    def init_with_output(self, *arguments: Any, **options: Any) -> Any:
        """As in linen: returns (Encoded, variables)."""


def batch_spec(encoder: Encoder) -> dict[str, Spec]:
    """Returns the arrays that a method of this encoder reads: id, weight and its signal."""
    return {"id": Spec((), "uint32"), "weight": Spec((), "float32"), **encoder.reads}


def weights(batch: Batch) -> Array:
    """Returns the weights (B,) of a batch; 0 for a clip without sound, whose samples are all equal.

    Such a clip has nothing to predict, and the gradient through norms over constant values grows
    with each norm until it is not finite.
    """
    weight = batch["weight"]
    if "audio" not in batch:
        return weight
    audio = batch["audio"]
    real = jnp.arange(audio.shape[1]) < batch["audio_len"][:, None]
    sound = ((audio != audio[:, :1]) & real).any(1)
    return jnp.where(sound, weight, 0)


def used_rows(batch: Batch, weight: Array) -> tuple[Array, Array]:
    """Returns (rows used, rows with a weight in the batch): the metric `used_rows`."""
    return (weight > 0).sum(), (batch["weight"] > 0).sum()


def init(encoder: Encoder, key: Array, batch: Batch) -> tuple[Tree, Encoded]:
    """Returns (parameters, Encoded of one empty example); `batch` may be abstract."""
    arrays = []
    for name, spec in encoder.reads.items():
        shape = (1, *batch[name].shape[1:])
        # lengths, which have no axis but the example's, are those of a full example
        longest = 0 if spec.shape else _longest(encoder, batch)
        arrays.append(jnp.full(shape, longest, batch[name].dtype))
    encoded, variables = encoder.init_with_output(key, *arrays)
    return variables["params"], encoded


def _longest(encoder: Encoder, batch: Batch) -> int:
    return batch[next(iter(encoder.reads))].shape[1]


def frontend(
    encoder: Encoder,
    params: Tree,
    batch: Batch,
    train: bool = False,
    augment_fn: Callable | None = None,
    dropout: Array | None = None,
) -> tuple[Array, Array]:
    """Returns the local tokens x (B, S, D) and which are real, (B, S) bool.

    `augment_fn` is passed to a front end that takes one, for its spectral features or ids. In
    training mode when there is a `dropout` key.
    """
    arrays = [batch[name] for name in encoder.reads]
    more = () if augment_fn is None else (augment_fn,)
    rngs = None if dropout is None else {"dropout": dropout}
    train = train or bool(rngs)
    return encoder.apply({"params": params}, *arrays, train, *more, method=_frontend, rngs=rngs)


def real(encoder: Encoder, params: Tree, batch: Batch, weight: Array | None = None) -> Array:
    """Returns which tokens are real, (B, S) bool; with a weight (B,), those of examples that
    count."""
    _, valid = frontend(encoder, params, batch)
    return valid if weight is None else valid & (weight > 0)[:, None]


def places(encoder: Encoder, size: int) -> tuple[int, ...]:
    """Returns the shape of `size` tokens: a sequence (S,), or a grid such as (rows, columns)."""
    rest = encoder.grid[1:]
    return size // math.prod(rest), *rest


def token_rate(encoder: Encoder) -> float:
    """Returns the tokens per second: tokens per step times steps per second."""
    return encoder.rate * math.prod(encoder.grid[1:])


def frontend_intermediates(
    encoder: Encoder, params: Tree, batch: Batch, dropout: Array | None = None
) -> tuple[Array, Array, dict[str, Array]]:
    """Returns x (B, S, D), valid (B, S), and the stages of the front end that it sows, by name.

    In training mode when there is a `dropout` key.
    """
    arrays = [batch[name] for name in encoder.reads]
    rngs = None if dropout is None else {"dropout": dropout}
    (x, valid), sown = encoder.apply(
        {"params": params},
        *arrays,
        bool(rngs),
        method=_frontend,
        rngs=rngs,
        mutable=["intermediates"],
    )
    return x, valid, {name: found[0] for name, found in sown["intermediates"]["frontend"].items()}


def encode(
    encoder: Encoder,
    params: Tree,
    x: Array,
    valid: Array,
    dropout: Array | None = None,
    ids_keep: Array | None = None,
    layers: Layers = ALL,
) -> Encoded:
    """x (B, S, D), valid (B, S) -> Encoded of the tokens `ids_keep`, by default of all.

    In training mode when there is a `dropout` key. Name the `layers` that you use: the others
    then take no memory.
    """
    rngs = None if dropout is None else {"dropout": dropout}
    more: dict[str, Any] = {} if ids_keep is None else {"ids_keep": ids_keep}
    if layers != ALL:
        more["layers"] = layers
    if rngs is None or not moves(encoder):
        return encoder.apply(
            {"params": params}, x, valid, bool(rngs), method="encode", rngs=rngs, **more
        )
    encoded, found = encoder.apply(
        {"params": params}, x, valid, True, method="encode", rngs=rngs, mutable=[MOVED], **more
    )
    return encoded.replace(moved=found[MOVED])


def moves(encoder: Encoder) -> bool:
    """Returns whether an encoder has running statistics that training moves: `Encoded.moved`."""
    return bool(getattr(getattr(encoder, "options", None), "batch_momentum", 0.0))


def coupled(encoder: Encoder) -> dict[str, str]:
    """Returns how an encoder couples the rows of a batch; see `core.types.Method.couples`."""
    how = "config.method.encoder.depthwise_norm='batch' takes its statistics from all of a batch"
    return {how: "config.method.encoder.depthwise_norm='group'"} if moves(encoder) else {}


def features(
    encoder: Encoder, params: Tree, batch: Batch, layers: tuple[int, ...] | None = None
) -> Features:
    """Returns the hidden states of unmasked examples in evaluation mode, without prefix tokens.

    layers: those asked for, in the order of depth; None: all.
    """
    x, valid = frontend(encoder, params, batch)
    encoded = encode(encoder, params, x, valid, layers=Layers(layers, ()))
    hidden_states = encoded.hidden_states[:, :, encoded.prefix :]
    return Features(hidden_states, valid, encoder.rate, encoder.grid)


def _frontend(encoder: Encoder, *arguments: Any) -> tuple[Array, Array]:
    return encoder.frontend(*arguments)
