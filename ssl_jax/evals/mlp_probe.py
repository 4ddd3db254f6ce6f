"""The probe of MARBLE (2306.10548): a small MLP on frozen features averaged over time.

The head has one hidden layer on a single hidden state or on the learned softmax mix of all. All
members of the grid of learning rates and layers train together, with early stopping on the
validation score. Tasks are classes, tags (several at once), one value for each of several slots, or
numbers to regress. Without its ReLU the hidden layer is the projection of SUPERB (2105.01051),
whose utterance heads are linear, so that the average over frames gives the same as the frames.

By default features are standardized by the training rows, an affine map that the first layer could
undo; MARBLE uses them as they are, which suits some rates and layers better.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax.core.progress import Progress
from ssl_jax.core.types import Array
from ssl_jax.evals import scores as scores_lib
from ssl_jax.evals.linear_probe import MIX, epoch_order, head_input, standardize

Split = tuple[np.ndarray, np.ndarray]
"""Pooled features (N, L + 1, D) float32, and labels (N,) int32 or targets (N, C) float32."""
Params = dict[str, Array]

SCORES = {
    "label": ("accuracy", "weighted_key"),
    "tags": ("roc_auc", "average_precision"),
    "slots": ("all_slots",),
    "target": ("r2",),
}


@dataclasses.dataclass(frozen=True)
class Task:
    """What is predicted. kind: label | tags | slots | target. names: of classes, tags or targets.

    Slots are tags named `slot=value` with one value per slot in each row (an intent as action,
    object and place); a row is right if all of its slots are.

    scores: some of SCORES[kind]; members and epochs are chosen by the first.
    """

    kind: str
    names: tuple[str, ...]
    scores: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.kind not in SCORES:
            raise ValueError(f"task.kind is {self.kind!r}: use one of {', '.join(SCORES)}")
        known = SCORES[self.kind]
        if not self.scores or any(name not in known for name in self.scores):
            raise ValueError(f"task.scores is {self.scores}: use some of {', '.join(known)}")

    @property
    def slots(self) -> tuple[tuple[int, ...], ...]:
        """For each slot, the indices of its values among the names; () if there are no slots."""
        if self.kind != "slots":
            return ()
        places: dict[str, list[int]] = {}
        for i, name in enumerate(self.names):
            places.setdefault(name.partition("=")[0], []).append(i)
        return tuple(map(tuple, places.values()))

    def score(self, outputs: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        """Returns every score of a head's outputs (N, C)."""
        found: dict[str, float] = {}
        for name in self.scores:
            if name == "weighted_key":
                found[name] = scores_lib.weighted_key_score(outputs, truth, self.names)
            elif name == "all_slots":
                found[name] = scores_lib.all_slots(outputs, truth, self.slots)
            elif name == "r2":
                each = scores_lib.r2(outputs, truth)
                found[name] = float(each.mean())
                if len(each) > 1:
                    pairs = zip(self.names, each, strict=True)
                    found |= {f"r2/{target}": float(value) for target, value in pairs}
            else:
                found[name] = getattr(scores_lib, name)(outputs, truth)
        return found


def task_of(classes: tuple[str, ...], fields: Mapping[str, Any], given: Mapping[str, Any]) -> Task:
    """Returns the task {kind, scores, names} of a protocol; {}: the one that the data suggest.

    classes: the names of the labels, or of the tags where there are tags. fields: the arrays of
    the data, such as tags (n, C) or target (n, K), whose columns `names` may name.
    """
    tagged = {"tags": classes, "slots": classes}
    have = tagged if "tags" in fields else {"label": classes}
    if len(classes) < 2:
        have = {}
    if "target" in fields:
        numbers = map(str, range(fields["target"].shape[1]))
        have["target"] = tuple(given.get("names") or numbers)
    kind = given.get("kind") or next(iter(have), "label")
    if kind not in have:
        raise ValueError(
            f"config.data.train has no {kind} to predict: name the column, as in "
            f"config.data.train.<name>.{'tags' if kind == 'slots' else kind}='...'"
        )
    return Task(kind, have[kind], tuple(given.get("scores") or SCORES[kind][:1]))


@dataclasses.dataclass(frozen=True)
class Options:
    """The head and the grid: those of MARBLE's constrained track."""

    width: int = 512  # hidden units
    activation: str = "relu"  # or none, which makes the head linear
    dropout: float = 0.2
    standardize: bool = True  # features, by statistics of the training rows
    clip: float = 0.0  # largest gradient norm; 0: no limit
    balance: bool = False  # draw every class equally often; for labels only
    steps: int = 0  # of an "epoch", after which the head is validated; 0: a pass over the rows
    rates: tuple[float, ...] = (1e-2, 5e-3, 1e-3, 5e-4, 1e-4, 5e-5)
    layers: tuple[int, ...] | None = None  # None: each one, and the mix of all (-1)
    batch_size: int = 64
    epochs: int = 100
    patience: int = 10  # epochs without a better validation score
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        for name in ("width", "batch_size", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"probe.{name} is {getattr(self, name)}: use 1 or more")
        if self.activation not in ("relu", "none"):
            raise ValueError(f"probe.activation is {self.activation!r}: use 'relu' or 'none'")
        if self.clip < 0 or self.steps < 0:
            raise ValueError(
                f"probe.clip is {self.clip} and probe.steps {self.steps}: use 0 or more"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"probe.dropout is {self.dropout}: use a value in [0, 1), such as 0.2")


class Member(NamedTuple):
    """One head of the grid: its rate and layer; arrays of equal leading shape."""

    rate: Array
    layer: Array


class Result(NamedTuple):
    """Scores of the grid: name -> (seeds, rates, layers), on validation and on test."""

    select: dict[str, np.ndarray]
    test: dict[str, np.ndarray]
    rates: tuple[float, ...]
    layers: tuple[int, ...]
    first: str  # the score by which members were chosen

    def best(self) -> tuple[int, int]:
        """Returns the (rate, layer) positions that are best on validation, over seeds."""
        mean = scores_lib.known(self.select[self.first].mean(0))
        return divmod(int(mean.argmax()), mean.shape[1])

    def chosen(self, where: dict[str, np.ndarray]) -> dict[str, list[float]]:
        """Returns score name -> value of each seed at the chosen rate and layer."""
        rate, layer = self.best()
        return {name: values[:, rate, layer].tolist() for name, values in where.items()}

    def by_layer(self) -> dict[int, list[float]]:
        """Returns, for each layer at its own chosen rate, the test score of every seed."""
        rates = scores_lib.known(self.select[self.first].mean(0)).argmax(0)
        test = self.test[self.first]
        return {n: test[:, rates[i], i].tolist() for i, n in enumerate(self.layers)}


def init(key: Array, states: int, features: int, width: int, outputs: int) -> Params:
    """Returns the parameters of one head, uniform by fan-in as in torch."""
    keys = jax.random.split(key, 4)

    def uniform(key: Array, shape: tuple[int, ...], fan_in: int) -> Array:
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

    return {
        "mix": jnp.zeros(states),
        "hidden": uniform(keys[0], (features, width), features),
        "hidden_bias": uniform(keys[1], (width,), features),
        "kernel": uniform(keys[2], (width, outputs), width),
        "bias": uniform(keys[3], (outputs,), width),
    }


def head(params: Params, x: Array, layer: Array, o: Options, key: Any = None) -> Array:
    """Returns the outputs (B, C) for x (B, L + 1, D); `key`: for dropout, in training."""
    pooled = head_input(x, params["mix"], layer)
    hidden = jnp.dot(pooled, params["hidden"], precision="highest") + params["hidden_bias"]
    if o.activation == "relu":
        hidden = jax.nn.relu(hidden)
    if key is not None and o.dropout:
        kept = jax.random.bernoulli(key, 1 - o.dropout, hidden.shape)
        hidden = jnp.where(kept, hidden / (1 - o.dropout), 0)
    return jnp.dot(hidden, params["kernel"], precision="highest") + params["bias"]


def loss(kind: str, outputs: Array, truth: Array, slots: tuple[tuple[int, ...], ...] = ()) -> Array:
    """Returns the cross-entropy of classes or tags, or summed over slots, or the squared error
    of known targets."""
    if kind == "slots":
        parts = [(outputs[:, list(s)], truth[:, list(s)]) for s in slots]
        return sum((optax.softmax_cross_entropy(*part).mean() for part in parts), jnp.zeros(()))
    if kind == "label":
        return optax.softmax_cross_entropy_with_integer_labels(outputs, truth).mean()
    if kind == "tags":
        return optax.sigmoid_binary_cross_entropy(outputs, truth).mean()
    known = ~jnp.isnan(truth)
    error = jnp.where(known, outputs - jnp.where(known, truth, 0), 0)
    return jnp.square(error).sum() / jnp.maximum(known.sum(), 1)


_ADAM = optax.scale_by_adam()


@functools.partial(jax.jit, static_argnames=("task", "o"), donate_argnums=(0,))
def _epoch(
    state: tuple[Params, Any],
    member: Member,
    x: Array,
    y: Array,
    order: Array,
    key: Array,
    *,
    task: Task,
    o: Options,
) -> tuple[Params, Any]:
    """Trains every member on the batches order (steps, B) of x (N, L + 1, D), y."""

    def of_batch(params: Params, layer: Array, rows: Array, truth: Array, key: Array) -> Array:
        return loss(task.kind, head(params, rows, layer, o, key), truth, task.slots)

    def one(
        params: Params, adam: Any, member: Member, rows: Array, truth: Array, key: Array
    ) -> tuple[Params, Any]:
        gradient = jax.grad(of_batch)(params, member.layer, rows, truth, key)
        if o.clip:
            norm = optax.global_norm(gradient)
            gradient = jax.tree.map(lambda g: g * jnp.minimum(1, o.clip / norm), gradient)
        change, adam = _ADAM.update(gradient, adam)
        return jax.tree.map(lambda p, c: p - member.rate * c, params, change), adam

    def step(
        state: tuple[Params, Any], batch: tuple[Array, Array]
    ) -> tuple[tuple[Params, Any], None]:
        rows, n = batch
        # members of one seed get the same batches and the same dropout
        every = jax.vmap(one, (0, 0, 0, None, None, None))
        return every(*state, member, x[rows], y[rows], jax.random.fold_in(key, n)), None

    state, _ = jax.lax.scan(step, state, (order, jnp.arange(len(order))))
    return state


@functools.partial(jax.jit, static_argnames=("o",))
def _outputs(params: Params, x: Array, layer: Array, o: Options) -> Array:
    """Returns the outputs (M, N, C) of all members, one after another to bound memory."""
    return jax.lax.map(lambda member: head(member[0], x, member[1], o), (params, layer))


@functools.partial(jax.jit, donate_argnums=(0,))
def _keep(best: Params, new: Params, better: Array) -> Params:
    """Returns for each member the new parameters where better (M,) holds, else the best so far."""

    def choose(old: Array, new: Array) -> Array:
        return jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, best, new)


def probe(
    train: Split, select: Split, test: Split, *, task: Task, options: Options | None = None
) -> Result:
    """Trains the grid on `train`, stops and chooses on `select`, and scores `test`."""
    o = options or Options()
    states = train[0].shape[1]
    layers = (*range(states), MIX) if o.layers is None else o.layers
    if not layers or any(not MIX <= layer < states for layer in layers):
        raise ValueError(f"probe.layers is {layers}: use 0 to {states - 1}, or {MIX} for the mix")
    features = [train[0], select[0], test[0]]
    if o.standardize:
        features = standardize(*features)
    truths = [truth for _, truth in (train, select, test)]
    splits = list(zip(features, truths, strict=True))
    with Progress("probe: epoch", o.epochs * len(o.seeds)) as progress:
        found = [_one_seed(splits, task, o, layers, seed, progress) for seed in o.seeds]
    shape = (len(o.seeds), len(o.rates), len(layers))

    def join(place: int) -> dict[str, np.ndarray]:
        names = found[0][place][0]
        return {
            n: np.array([[m[n] for m in f[place]] for f in found]).reshape(shape) for n in names
        }

    return Result(join(0), join(1), o.rates, layers, task.scores[0])


MemberScores = list[dict[str, float]]
"""The scores of every member, in the order of rates, then layers."""


def _one_seed(
    splits: list[Split],
    task: Task,
    o: Options,
    layers: tuple[int, ...],
    seed: int,
    progress: Progress,
) -> tuple[MemberScores, MemberScores]:
    """Returns the scores of every member at its best epoch: (on validation, on test)."""
    (x, truth), select, test = splits
    mean, std = _scale(truth) if task.kind == "target" else (0.0, 1.0)
    y = (truth - mean) / std if task.kind == "target" else truth
    rate, layer = (a.ravel() for a in np.meshgrid(o.rates, layers, indexing="ij"))
    member = Member(jnp.asarray(rate, jnp.float32), jnp.asarray(layer, jnp.int32))
    key = jax.random.key(seed)
    one = init(key, x.shape[1], x.shape[2], o.width, len(task.names))
    params = jax.tree.map(lambda a: jnp.repeat(a[None], len(rate), 0), one)
    state, best = (params, jax.vmap(_ADAM.init)(params)), jax.tree.map(jnp.copy, params)

    def score(params: Params, split: Split) -> MemberScores:
        outputs = np.asarray(_outputs(params, split[0], member.layer, o)) * std + mean
        return [task.score(output, split[1]) for output in outputs]

    size = min(o.batch_size, len(x))
    steps = o.steps or max(1, len(x) // size)
    if o.balance:
        order = balanced_order(seed, y, size, steps * o.epochs)
    else:
        order = epoch_order(seed, len(x), size, steps * o.epochs)
    orders = order.reshape(o.epochs, steps, size)
    selected: MemberScores = []
    value, since = np.full(len(rate), -np.inf), np.zeros(len(rate), int)
    for epoch, order in enumerate(orders):
        own = jax.random.fold_in(key, epoch)
        state = _epoch(state, member, x, y, order, own, task=task, o=o)
        new = score(state[0], select)
        # a member that diverged has no score
        now = np.nan_to_num([m[task.scores[0]] for m in new], nan=-np.inf)
        better = ((now > value) & (since < o.patience)) | (epoch == 0)
        best = _keep(best, state[0], better)
        pairs = zip(new, better, selected or new, strict=True)
        selected = [n if b else old for n, b, old in pairs]
        value, since = np.where(better, now, value), np.where(better, 0, since + 1)
        progress.step()
        if (since >= o.patience).all():
            break
    return selected, score(best, test)


def balanced_order(seed: int, labels: np.ndarray, size: int, steps: int) -> np.ndarray:
    """Returns row numbers (steps, size), drawn with replacement and all classes equally often."""
    _, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    share = 1 / counts[place.reshape(-1)]
    draw = np.random.default_rng(seed)
    chosen = draw.choice(len(labels), (steps, size), p=share / share.sum())
    return chosen.astype(np.int32)


def _scale(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and deviation (K,) of the known targets (N, K)."""
    std = np.nanstd(targets, 0)
    return np.nanmean(targets, 0), np.where(std > 0, std, 1.0)
