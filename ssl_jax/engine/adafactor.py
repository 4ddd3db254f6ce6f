"""Adafactor (Shazeer and Stern, 1804.04235) with momentum and a fixed decay of second moments.

Of a matrix only the means of the squared gradient over its rows and over its columns are kept, in
place of the second moments of Adam: their product over the mean of all is the estimate of rank one.
So a parameter takes 4 bytes of state, not 8. Stacked layers are factored one by one; what is no
matrix keeps its second moments.

As Conformers of a billion parameters were trained (2010.10504): both decays are constants, and
neither relative step sizes nor clipping of the update are used.
"""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ssl_jax.core import tree as tree_lib
from ssl_jax.core.types import Array, Tree


class State(NamedTuple):
    """updates: so far. mean: of the updates. rows, columns: of squared gradients; of what is
    no matrix, rows has all of them and columns is 0."""

    updates: Array
    mean: Tree
    rows: Tree
    columns: Tree


def scale(first: float, second: float, eps: float, stacked: str) -> optax.GradientTransformation:
    """Returns gradient / (root of its factored second moment + eps), averaged with decay `first`.

    Both averages are corrected for their start from zero. stacked: a regex of the names of leaves
    whose first axis counts layers.
    """

    def is_matrix(name: str, x: Array) -> bool:
        return x.ndim - bool(re.search(stacked, name)) >= 2

    def init(params: Tree) -> State:
        def rows(name: str, x: Array) -> Array:
            return jnp.zeros(x.shape[:-1] if is_matrix(name, x) else x.shape, jnp.float32)

        def columns(name: str, x: Array) -> Array:
            shape = (*x.shape[:-2], x.shape[-1]) if is_matrix(name, x) else ()
            return jnp.zeros(shape, jnp.float32)

        mean = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), params)
        made = (tree_lib.map_named(make, params) for make in (rows, columns))
        return State(jnp.zeros((), jnp.int32), mean, *made)

    def update(updates: Tree, state: State, params: Any = None) -> tuple[Tree, State]:
        del params
        count = state.updates + 1
        so_far = 1 - second ** count.astype(jnp.float32)

        def rows(name: str, g: Array, kept: Array) -> Array:
            new = jnp.square(g).mean(-1) if is_matrix(name, g) else jnp.square(g)
            return second * kept + (1 - second) * new

        def columns(name: str, g: Array, kept: Array) -> Array:
            if not is_matrix(name, g):
                return kept
            return second * kept + (1 - second) * jnp.square(g).mean(-2)

        def scaled(name: str, g: Array, row: Array, column: Array) -> Array:
            moment = row
            if is_matrix(name, g):
                whole = jnp.maximum(row.mean(-1, keepdims=True), 1e-30)
                moment = (row / whole)[..., None] * column[..., None, :]
            return g / (jnp.sqrt(moment / so_far) + eps)

        row = tree_lib.map_named(rows, updates, state.rows)
        column = tree_lib.map_named(columns, updates, state.columns)
        steps = tree_lib.map_named(scaled, updates, row, column)
        mean = jax.tree.map(lambda m, u: first * m + (1 - first) * u, state.mean, steps)
        corrected = 1 - first ** count.astype(jnp.float32)
        moved = jax.tree.map(lambda m: m / corrected, mean)
        return moved, State(count, mean, row, column)

    return optax.GradientTransformation(init, update)
