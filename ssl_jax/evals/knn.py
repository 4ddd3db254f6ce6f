"""Weighted k-nearest-neighbour classification on frozen features, as in DINO (2104.14294)."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.types import Array
from ssl_jax.evals import scores as scores_lib
from ssl_jax.evals.pool import Labelled, held_out

TEMPERATURE = 0.07
NEIGHBOURS = (1, 5, 10, 20)


class Scores(NamedTuple):
    """Accuracies by layer: select and test (L + 1,), and the k chosen on the selection rows."""

    select: np.ndarray
    test: np.ndarray
    k: np.ndarray

    @property
    def layer(self) -> int:
        """The layer that is best on the selection rows."""
        return int(scores_lib.known(self.select).argmax())


def normalize(x: Array) -> Array:
    """Scales rows (..., D) to unit length; a zero row stays zero."""
    size = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return jnp.where(size > 0, x / jnp.where(size > 0, size, 1), 0)


@functools.partial(jax.jit, static_argnames=("classes", "ks", "block"))
def predict(
    train_x: Array,
    train_y: Array,
    test_x: Array,
    *,
    classes: int,
    ks: tuple[int, ...] = NEIGHBOURS,
    temperature: float = TEMPERATURE,
    block: int = 256,
) -> Array:
    """Returns the predicted class of every test row under every k: (N, D), (N,), (M, D) -> (K, M).

    A neighbour of cosine s votes exp(s / temperature) for its class. Blocks of `block` test rows
    bound the memory at block * N similarities. A k above N uses all N rows.
    """
    rows, size = test_x.shape
    most = min(max(ks), len(train_x))
    train = normalize(train_x)
    padded = jnp.pad(normalize(test_x), ((0, -rows % block), (0, 0)))

    def one_block(x: Array) -> Array:
        near, index = jax.lax.top_k(jnp.dot(x, train.T, precision="highest"), most)
        # relative to the nearest, so that the largest weight is 1 at any temperature
        weight = jnp.exp((near - near[:, :1]) / temperature)
        label = train_y[index]
        row = jnp.arange(block)[:, None]

        def vote(k: int) -> Array:
            counted = jnp.where(jnp.arange(most) < k, weight, 0)
            return jnp.zeros((block, classes)).at[row, label].add(counted).argmax(-1)

        return jnp.stack([vote(k) for k in ks])

    found = jax.lax.map(one_block, padded.reshape(-1, block, size))
    return jnp.moveaxis(found, 1, 0).reshape(len(ks), -1)[:, :rows]


def accuracies(
    train: Labelled,
    test: Labelled,
    *,
    classes: int,
    ks: Sequence[int] = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> np.ndarray:
    """Returns the accuracy (L + 1, K) of each layer and k; NaN without rows on either side."""
    features, labels = train
    queries, truth = test
    if not len(labels) or not len(truth):
        return np.full((features.shape[1], len(ks)), np.nan)
    result = [
        predict(
            features[:, layer],
            labels,
            queries[:, layer],
            classes=classes,
            ks=tuple(ks),
            temperature=temperature,
        )
        for layer in range(features.shape[1])
    ]
    return (np.stack(jax.device_get(result)) == truth).mean(-1)


def probe(
    train: Labelled,
    test: Labelled,
    *,
    classes: int,
    select: Labelled | None = None,
    ks: Sequence[int] = NEIGHBOURS,
    seed: int = 0,
) -> Scores:
    """Chooses k per layer on `select`, and scores `test`; neighbours are the rows of `train`.

    Without `select` a fifth of each training class chooses k, then joins the neighbours again.
    """
    x, y = train
    fitted = train
    if select is None:
        out = held_out(y, seed=seed)
        fitted, select = (x[~out], y[~out]), (x[out], y[out])
    selected = accuracies(fitted, select, classes=classes, ks=ks)
    tested = accuracies(train, test, classes=classes, ks=ks)
    best, layer = selected.argmax(1), np.arange(len(selected))
    return Scores(selected[layer, best], tested[layer, best], np.asarray(ks)[best])
