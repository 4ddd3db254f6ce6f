"""Linear probes by gradient descent: learning rates x layers x seeds in one vectorized run.

The learning rate often changes a probe's accuracy more than the choice of model does, so the whole
grid is trained at once on cached pooled features, one member is chosen on validation, and that one
is reported on test. Besides single layers there is the learned softmax mix of all layers
(zero-initialized logits), as in SUPERB (2105.01051).
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax.core.types import Array
from ssl_jax.evals import scores as scores_lib
from ssl_jax.evals.pool import Labelled

MIX = -1


@dataclasses.dataclass(frozen=True)
class Grid:
    """The grid: learning rates of Adam, layers (None: each one and the mix, MIX), seeds."""

    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    layers: tuple[int, ...] | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 500
    batch_size: int = 256

    def layers_of(self, count: int) -> tuple[int, ...]:
        """Returns the layers to try for a model of `count` hidden states."""
        layers = tuple(range(count)) + (MIX,) if self.layers is None else self.layers
        if not layers or any(not MIX <= layer < count for layer in layers):
            raise ValueError(f"layers {layers}: use 0 to {count - 1}, or {MIX} for the mix")
        return layers


class Member(NamedTuple):
    """One probe of the grid: seed, rate and layer, arrays of equal leading shape."""

    seed: Array
    rate: Array
    layer: Array


class Scores(NamedTuple):
    """Accuracies of the grid: select and test (seeds, rates, layers), and the layers' numbers."""

    select: np.ndarray
    test: np.ndarray
    rates: tuple[float, ...]
    layers: tuple[int, ...]

    def best(self) -> tuple[int, int]:
        """Returns the (rate, layer) positions that are best on the selection rows, over seeds."""
        mean = scores_lib.known(self.select.mean(0))
        return divmod(int(mean.argmax()), mean.shape[1])

    def chosen(self) -> np.ndarray:
        """Returns the test accuracy of every seed at the chosen rate and layer."""
        rate, layer = self.best()
        return self.test[:, rate, layer]

    def by_layer(self) -> dict[int, np.ndarray]:
        """Returns, for each layer at its own chosen rate, the test accuracy of every seed."""
        rates = scores_lib.known(self.select.mean(0)).argmax(0)
        return {n: self.test[:, rates[i], i] for i, n in enumerate(self.layers)}


def epoch_order(seed: int, rows: int, batch_size: int, steps: int) -> np.ndarray:
    """Returns row numbers (steps, B): whole epochs in a new order each, cut into batches."""
    rng = np.random.default_rng(seed)
    need = batch_size * steps
    order = [rng.permutation(rows) for _ in range(-(-need // rows))]
    return np.concatenate(order)[:need].reshape(steps, batch_size).astype(np.int32)


def head_input(x: Array, mix: Array, layer: Array) -> Array:
    """Returns one layer of x (B, L + 1, D), or the softmax mix of all where layer is MIX."""
    single = jax.nn.one_hot(layer, x.shape[1])
    weight = jnp.where(layer == MIX, jax.nn.softmax(mix), single)
    return jnp.einsum("l,bld->bd", weight, x, precision="highest")


def logits(params: dict[str, Array], x: Array, layer: Array) -> Array:
    """Returns the class scores (B, C) of x (B, L + 1, D)."""
    pooled = head_input(x, params["mix"], layer)
    return jnp.dot(pooled, params["kernel"], precision="highest") + params["bias"]


def train(x: Array, y: Array, order: Array, member: Member, classes: int) -> dict[str, Array]:
    """Trains one member on standardized x (N, L + 1, D), y (N,) in the order (steps, B).

    Adam with cosine decay to zero; returns mix (L + 1,), kernel (D, C) and bias (C,).
    """
    key = jax.random.key(member.seed)
    params = {
        "mix": jnp.zeros(x.shape[1]),
        "kernel": 0.01 * jax.random.normal(key, (x.shape[2], classes)),
        "bias": jnp.zeros(classes),
    }
    adam = optax.scale_by_adam()
    steps = len(order)

    def loss(params: dict[str, Array], rows: Array) -> Array:
        scores = logits(params, x[rows], member.layer)
        return optax.softmax_cross_entropy_with_integer_labels(scores, y[rows]).mean()

    def update(carry, step_rows):
        params, state = carry
        step, rows = step_rows
        change, state = adam.update(jax.grad(loss)(params, rows), state)
        rate = member.rate * 0.5 * (1 + jnp.cos(jnp.pi * step / steps))
        return (jax.tree.map(lambda p, c: p - rate * c, params, change), state), None

    (params, _), _ = jax.lax.scan(update, (params, adam.init(params)), (jnp.arange(steps), order))
    return params


@functools.partial(jax.jit, static_argnames=("classes",))
def train_grid(
    x: Array, y: Array, orders: Array, seeds: Array, rates: Array, layers: Array, *, classes: int
) -> dict[str, Array]:
    """Trains every (seed, rate, layer) together; leaves gain the axes (seeds, rates, layers).

    orders (seeds, steps, B): members of one seed see the same batches.
    """

    def one(order: Array, seed: Array, rate: Array, layer: Array) -> dict[str, Array]:
        return train(x, y, order, Member(seed, rate, layer), classes)

    by_layer = jax.vmap(one, (None, None, None, 0))
    by_rate = jax.vmap(by_layer, (None, None, 0, None))
    return jax.vmap(by_rate, (0, 0, None, None))(orders, seeds, rates, layers)


@jax.jit
def grid_accuracies(params: dict[str, Array], x: Array, y: Array, layers: Array) -> Array:
    """Scores every member on x (M, L + 1, D), y (M,), one member at a time to bound memory."""
    shape = params["bias"].shape[:-1]
    flat = jax.tree.map(lambda a: a.reshape(-1, *a.shape[len(shape) :]), params)
    layer = jnp.broadcast_to(layers, shape).reshape(-1)
    score = jax.lax.map(lambda m: (logits(m[0], x, m[1]).argmax(-1) == y).mean(), (flat, layer))
    return score.reshape(shape)


def standardize(train_x: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Standardizes each feature by the mean and deviation of the training rows.

    The map is affine, so the probe stays linear, and one grid of rates serves every layer.
    Constant features become 0.
    """
    mean, std = train_x.mean(0), train_x.std(0)
    scale = np.where(std > 1e-6 * (1e-6 + np.abs(mean)), 1 / np.maximum(std, 1e-30), 0)
    return [((x - mean) * scale).astype(np.float32) for x in (train_x, *others)]


def probe(
    train: Labelled, select: Labelled, test: Labelled, *, classes: int, grid: Grid | None = None
) -> Scores:
    """Trains the grid on `train`, and scores it on `select` (to choose by) and on `test`.

    The scores of no rows are NaN, and so are all where `train` has none.
    """
    grid = grid or Grid()
    layers = grid.layers_of(train[0].shape[1])
    if not len(train[0]):
        nothing = np.full((len(grid.seeds), len(grid.rates), len(layers)), np.nan)
        return Scores(nothing, nothing, grid.rates, layers)
    x, select_x, test_x = standardize(train[0], select[0], test[0])
    size = min(grid.batch_size, len(x))
    orders = np.stack([epoch_order(seed, len(x), size, grid.steps) for seed in grid.seeds])
    layer = np.asarray(layers, np.int32)
    seeds, rates = np.asarray(grid.seeds, np.int32), np.asarray(grid.rates, np.float32)
    params = train_grid(x, train[1], orders, seeds, rates, layer, classes=classes)
    queries = ((select_x, select[1]), (test_x, test[1]))
    scores = [grid_accuracies(params, q, y, layer) for q, y in queries]
    selected, tested = jax.device_get(scores)
    return Scores(selected, tested, grid.rates, layers)
