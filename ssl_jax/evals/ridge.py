"""Closed-form linear probe: least squares to one-hot labels with an L2 penalty, all layers at once.

It is exact, has no learning rate, and takes one eigendecomposition per layer for the whole grid of
penalties, which makes it the monitor of choice during training.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.types import Array
from ssl_jax.evals import scores as scores_lib
from ssl_jax.evals.pool import Labelled, held_out

L2S = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


class Fit(NamedTuple):
    """Maps of one layer under R penalties: mean (D,), kernel (R, D, C), bias (C,)."""

    mean: Array
    kernel: Array
    bias: Array


class Scores(NamedTuple):
    """Accuracies by layer: select and test (L + 1,), and the penalty chosen on the former."""

    select: np.ndarray
    test: np.ndarray
    l2: np.ndarray

    @property
    def layer(self) -> int:
        """The layer that is best on the selection rows."""
        return int(scores_lib.known(self.select).argmax())


def fit(x: Array, y: Array, classes: int, l2s: Array) -> Fit:
    """Fits rows x (N, D) to labels y (N,) for every penalty (R,); see `regress`."""
    return regress(x, jax.nn.one_hot(y, classes), l2s)


def regress(x: Array, target: Array, l2s: Array) -> Fit:
    """Fits rows x (N, D) to numbers target (N, C) for every penalty (R,).

    Penalties are relative to the unit variance of standardized features, so one grid serves
    layers of any scale.
    """
    x = x.astype(jnp.float32)
    mean, std = x.mean(0), x.std(0)
    # a constant feature has only rounding noise, which must not be scaled to unit variance
    scale = jnp.where(std > 1e-6 * (1e-6 + jnp.abs(mean)), 1 / jnp.maximum(std, 1e-30), 0)
    z = (x - mean) * scale
    bias = target.mean(0)
    gram = jnp.dot(z.T, z, precision="highest") / len(x)
    cross = jnp.dot(z.T, target - bias, precision="highest") / len(x)
    values, vectors = jnp.linalg.eigh(gram)
    values = jnp.maximum(values, 0)
    rotated = jnp.dot(vectors.T, cross, precision="highest")
    solved = rotated / (values[:, None] + l2s[:, None, None])
    kernel = jnp.einsum("de,rec->rdc", vectors, solved, precision="highest")
    return Fit(mean, kernel * scale[:, None], bias)


def predict(maps: Fit, x: Array) -> Array:
    """Returns the class of rows x (M, D) under every penalty: (R, M)."""
    return outputs(maps, x).argmax(-1)


def outputs(maps: Fit, x: Array) -> Array:
    """Returns the fitted outputs of rows x (M, D) under every penalty: (R, M, C)."""
    centred = x.astype(jnp.float32) - maps.mean
    scores = jnp.einsum("md,rdc->rmc", centred, maps.kernel, precision="highest")
    return scores + maps.bias


@functools.partial(jax.jit, static_argnames=("classes",))
def _layer_accuracies(
    train_x: Array,
    train_y: Array,
    queries: list[Array],
    truths: list[Array],
    l2s: Array,
    classes: int,
) -> list[Array]:
    maps = fit(train_x, train_y, classes, l2s)
    return [(predict(maps, x) == y).mean(-1) for x, y in zip(queries, truths, strict=True)]


def accuracies(
    train: Labelled, queries: Sequence[Labelled], *, classes: int, l2s: Sequence[float] = L2S
) -> list[np.ndarray]:
    """Returns, for each query split, the accuracy (L + 1, R) by layer and penalty; NaN where it,
    or `train`, has no rows."""
    x, y = train
    if not len(y):
        return [np.full((x.shape[1], len(l2s)), np.nan) for _ in queries]
    truths = [labels for _, labels in queries]
    grid = np.asarray(l2s, np.float32)
    by_layer = [
        _layer_accuracies(x[:, i], y, [f[:, i] for f, _ in queries], truths, grid, classes=classes)
        for i in range(x.shape[1])
    ]
    return [np.stack(parts) for parts in zip(*jax.device_get(by_layer), strict=True)]


def probe(
    train: Labelled,
    test: Labelled,
    *,
    classes: int,
    select: Labelled | None = None,
    l2s: Sequence[float] = L2S,
    seed: int = 0,
) -> Scores:
    """Chooses a penalty per layer on `select`, fits on `train`, and scores `test`.

    Without `select` a fifth of each training class chooses the penalty, and the fit is then
    repeated on all training rows.
    """
    if select is not None:
        chosen_on, tested = accuracies(train, [select, test], classes=classes, l2s=l2s)
    else:
        x, y = train
        out = held_out(y, seed=seed)
        (chosen_on,) = accuracies((x[~out], y[~out]), [(x[out], y[out])], classes=classes, l2s=l2s)
        (tested,) = accuracies(train, [test], classes=classes, l2s=l2s)
    # of equally good ones the largest penalty, which gives the simplest map
    best = len(l2s) - 1 - chosen_on[:, ::-1].argmax(1)
    layer = np.arange(len(best))
    return Scores(chosen_on[layer, best], tested[layer, best], np.asarray(l2s)[best])
