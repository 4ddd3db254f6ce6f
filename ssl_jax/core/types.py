"""The few types shared by every floor: Batch, TrainState, Output, Features, Method."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax

from ssl_jax.core.rng import Streams

Array = jax.Array
Tree = Any
Batch = dict[str, Array]
"""A flat dict of arrays, example axis first.

Reserved keys: id (B,) uint32, weight (B,) float32 (0 for padding and skipped rows),
audio (B, N) int16, audio_len (B,) int32 in samples, image (B, H, W, 3) uint8, or
(B, V, H, W, 3) where config.data.views is V > 1, tokens (B, L) int32, tokens_len (B,) int32;
units (B, K, U) int32, frame labels of K sets (-1: none); label (B,) int32 (-1: none), tags (B, C)
float32 of 0 and 1, target (B, K) float32 (NaN: none); transcript (B, L) int32 (-1: padding),
transcript_len (B,) int32.
"""

Rules = tuple[tuple[str, tuple[str | None, ...]], ...]
"""Ordered (regex on the parameter path, mesh axis or None per array axis); see core.mesh."""


class Spec(NamedTuple):
    """One array of a batch: shape without the example axis (None: set by the length bucket)."""

    shape: tuple[int | None, ...]
    dtype: str


AUDIO = {"audio": Spec((None,), "int16"), "audio_len": Spec((), "int32")}
"""What an encoder of waveforms reads."""


@flax.struct.dataclass
class TrainState:
    """All that training changes; arrays only, so it is sharded, donated and saved as it is."""

    step: Array  # () int32, updates done so far
    params: Tree
    extra: Tree  # the method's own: EMA teacher, queue, codebook counts; see FROZEN
    opt_state: Tree
    key: Array  # (2,) uint32, the key data of the run's seed; never changes


@flax.struct.dataclass
class Output:
    """What `Method.loss` returns.

    `loss` is a mean over `weight` terms (masked tokens, examples); micro-batches are combined
    as sum(weight * gradient) / sum(weight), so accumulation equals one large batch. A loss that
    is not such a mean has `sums`, a tree of float32 arrays that are sums over rows, and a method
    that defines how to `combine` them. `metrics` holds (sum, count) pairs. `moved` has the new
    values of parameters that no gradient trains, such as running statistics, as a part of the tree
    of params; a method that has some couples the rows of a batch.
    """

    loss: Array
    weight: Array
    metrics: dict[str, tuple[Array, Array]]
    extra: Tree
    sums: Tree = None
    moved: Tree = flax.struct.field(default_factory=dict)


@flax.struct.dataclass
class Features:
    """Hidden states of a batch: input of the first block, then the output of each."""

    hidden_states: Array  # (L + 1, B, S, D), or fewer where only some layers were asked for
    mask: Array  # (B, S) bool, true where a frame is real
    # steps per second along the first axis of `grid`; 0 where there is no time
    rate: float = flax.struct.field(pytree_node=False)
    # shape of the S tokens, of one to three axes: (0,) a sequence, (0, 8) 8 per step, (8, 14, 14) a
    # clip; 0: as many as the input has
    grid: tuple[int, ...] = flax.struct.field(pytree_node=False, default=(0,))

    @property
    def token_rate(self) -> float:
        """Tokens per second: tokens per step times steps per second."""
        return self.rate * math.prod(self.grid[1:])


FROZEN = "frozen"
"""Where `extra` holds the frozen teachers of a run, by name. A step passes them on, and no
checkpoint holds them."""


def split_frozen(extra: Tree) -> tuple[Tree, dict[str, Tree]]:
    """Returns (what is the method's own in `extra`, {FROZEN: the frozen teachers} or {})."""
    if not isinstance(extra, dict) or FROZEN not in extra:
        return extra, {}
    return {k: v for k, v in extra.items() if k != FROZEN}, {FROZEN: extra[FROZEN]}


@dataclasses.dataclass(frozen=True)
class Frozen:
    """A frozen teacher of a method: which parameters of which run; see nn/frozen.py.

    folder: the value of config.method.teachers.<name>. keep: regexes of the names of parameters
    that are loaded. depth: stacked blocks are cut off behind that many; None: all are kept.
    precision: matrices are held in the type that config.precision names. `extra` of the run counts
    as a parameter of that name. fresh(run, key, batch) -> initial values of these parameters, in
    place of a run that is not there yet; None: those of its encoder. same_classes: its classes must
    be those of the run that it teaches.
    """

    folder: str
    keep: tuple[str, ...]
    depth: int | None = None
    precision: str = "float32"
    fresh: Callable[[Any, Array, Batch], Tree] | None = None
    same_classes: bool = False


@dataclasses.dataclass(frozen=True)
class Decoder:
    """How a method transcribes whose next token depends on those before it.

    Its `emissions` are what these functions read of each frame, (B, S, E). They hold transcripts in
    N rows:
    start(params, N) -> the state of empty ones, a tree of arrays with an axis of N in front.
    extend(params, state, tokens (N,)) -> the state after one more token each.
    scores(params, frames (N, E), state) -> log-probabilities of the next token (N, V), of which the
    blank, token 0, leads to the next frame. per_frame: the most tokens at one frame.
    """

    start: Callable[[Tree, int], Tree]
    extend: Callable[[Tree, Tree, Array], Tree]
    scores: Callable[[Tree, Array, Tree], Array]
    per_frame: int


def _keep_extra(params: Tree, extra: Tree, step: Array) -> Tree:
    del params, step
    return extra


@dataclasses.dataclass(frozen=True)
class Method:
    """A training objective as pure functions; built by `make(config)` in `methods/<name>.py`.

    init(key, batch) -> (params, extra); `batch` may be abstract. untrained(key, batch) -> those of
    these params that `features` reads, of a method whose init reads its frozen teachers, which may
    be gone when a run is evaluated; None: init reads no teacher.
    loss(params, extra, batch, streams, train) -> Output
    features(params, batch, layers=None) -> Features, deterministic. layers: the indices of the
    hidden states that are asked for, which come in the order of depth, and no others are kept;
    None: all. streams: more of these by name, such as audio, video and fused, of which
    evaluations, monitors and k-means take one.
    predict(params, batch) -> (B, K), predictions of a method that learns from labels; else None.
    emissions(params, batch) -> (log-probabilities (B, S, V) float32, frames (B,) int32) of a method
    that transcribes; else None; with a `decoder`, what that reads. frames(samples (n,)) -> (n,):
    how many frames these are.
    embed(params, batch) -> (B, W): vectors that are close for the same speaker; else None.
    masks(params, batch, streams) -> (B, M, S) bool, or (B, M, rows, columns) and so on of a grid:
    what an update masks in each of M views of an example; None for a method that masks nothing.
    update(params, extra, step) -> extra, after each optimizer step; `step` counts from 1.
    decay(step) -> the decay of its moving-average teacher at that update, also of an array of
    steps; None where no teacher follows. Its sum over a run is in engine/turnover.py.
    combine(sums) -> the loss of a batch from its `Output.sums`, for a loss that is not one mean:
    its terms have different denominators, or depend on the batch (how evenly it uses codes). It
    makes accumulation exact. couples: what else couples the rows of a batch (batch statistics,
    negatives from other rows), each with the change that avoids it: accumulation is then refused.
    tokens(params, extra, batch) -> Features whose hidden states (1, B, S, 1) are the discrete
    tokens of a method that learns them; else None.
    frozen: the teachers that never train, by their names in config.method.teachers; `loss` finds
    their parameters at extra["frozen"][name], as the run had them: {"encoder": ...}.
    batch: the arrays the method reads. rules: sharding of params (a teacher's path contains
    its student's, so it inherits the rule). scopes: the named scopes of its loss, in order.
    """

    init: Callable[[Array, Batch], tuple[Tree, Tree]]
    loss: Callable[[Tree, Tree, Batch, Streams, bool], Output]
    features: Callable[..., Features]
    batch: Mapping[str, Spec]
    rules: Rules
    scopes: tuple[str, ...]
    untrained: Callable[[Array, Batch], Tree] | None = None
    update: Callable[[Tree, Tree, Array], Tree] = _keep_extra
    decay: Callable[[Any], Any] | None = None
    predict: Callable[[Tree, Batch], Array] | None = None
    emissions: Callable[[Tree, Batch], tuple[Array, Array]] | None = None
    decoder: Decoder | None = None
    frames: Callable[[Any], Any] | None = None
    embed: Callable[[Tree, Batch], Array] | None = None
    masks: Callable[[Tree, Batch, Streams], Array] | None = None
    tokens: Callable[[Tree, Tree, Batch], Features] | None = None
    combine: Callable[[Tree], Array] | None = None
    couples: Mapping[str, str] = dataclasses.field(default_factory=dict)
    frozen: Mapping[str, Frozen] = dataclasses.field(default_factory=dict)
    streams: Mapping[str, Callable[..., Features]] = dataclasses.field(default_factory=dict)
    stream: str = ""  # whose features `features` are, as `of_stream` sets it
    layers: tuple[int, ...] = ()  # those that `features` gives, as `of_layers` sets it; (): all

    def of_stream(self, stream: str, key: str) -> "Method":
        """Returns the method with the features of one of its streams; for "" as it is.

        Raises ValueError for a stream that does not exist, whose name comes from `key`.
        """
        if not stream:
            return self
        if stream not in self.streams:
            use = "leave it empty, as this method has no streams"
            if self.streams:
                use = f"use one of {', '.join(sorted(self.streams))}"
            raise ValueError(f"{key} is {stream!r}, a stream that does not exist: {use}")
        return dataclasses.replace(self, features=self.streams[stream], stream=stream)

    def of_layers(self, layers: Sequence[int]) -> "Method":
        """Returns the method with the features of some layers alone; for () as it is."""
        if not layers:
            return self
        layers = tuple(sorted(set(layers)))
        return dataclasses.replace(self, features=of_layers(self.features, layers), layers=layers)


def of_layers(features: Callable[..., Features], layers: Sequence[int]) -> Callable[..., Features]:
    """Returns the features of some layers, in the order of depth; no other is kept.

    Raises ValueError for features that do not take `layers`.
    """
    if "layers" not in inspect.signature(features).parameters:
        raise ValueError(
            "the features of this method have no argument `layers`: write "
            "`def features(params, batch, layers=None)`, and pass it on to the encoder "
            "(docs/method.md)"
        )
    return functools.partial(features, layers=tuple(layers))
