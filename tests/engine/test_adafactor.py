"""Adafactor against its formulas in plain loops, layer by layer, and the size of its state."""

import jax
import numpy as np
from optim_cases import arrays

from ssl_jax.core import tree as tree_lib
from ssl_jax.engine import adafactor

FIRST, SECOND, EPS = 0.9, 0.98, 1e-6


def literal(gradients):
    """Returns the updates of one array after each of some gradients, a matrix or a vector."""
    out, mean, row, column = [], 0.0, 0.0, 0.0
    for n, g in enumerate(np.asarray(gradients, np.float64), 1):
        if g.ndim == 2:
            row = SECOND * row + (1 - SECOND) * (g**2).mean(1)
            column = SECOND * column + (1 - SECOND) * (g**2).mean(0)
            moment = np.outer(row, column) / row.mean()
        else:
            row = SECOND * row + (1 - SECOND) * g**2
            moment = row
        u = g / (np.sqrt(moment / (1 - SECOND**n)) + EPS)
        mean = FIRST * mean + (1 - FIRST) * u
        out.append(mean / (1 - FIRST**n))
    return out


def test_updates_are_those_of_the_formulas():
    steps = [arrays(seed) for seed in (1, 2, 3)]
    tx = adafactor.scale(FIRST, SECOND, EPS, r"(^|/)blocks/")
    state, update, found = tx.init(arrays(0)), jax.jit(tx.update), []
    for gradients in steps:
        moved, state = update(gradients, state)
        found.append(dict(tree_lib.named_leaves(moved)))
    given = [dict(tree_lib.named_leaves(g)) for g in steps]
    for name in given[0]:
        each = [g[name] for g in given]
        if "/blocks/" in name:  # the layers of a stack are factored one by one
            want = np.stack([literal([g[i] for g in each]) for i in range(len(each[0]))], 1)
        else:
            want = literal(each)
        for n in range(3):
            np.testing.assert_allclose(found[n][name], want[n], rtol=2e-5, atol=1e-6, err_msg=name)


def test_the_second_moments_of_a_matrix_are_a_row_and_a_column():
    tx = adafactor.scale(FIRST, SECOND, EPS, "blocks/")
    shapes = jax.eval_shape(tx.init, {"kernel": np.zeros((30, 50), np.float32)})
    sizes = sorted(x.size for x in jax.tree.leaves(shapes) if x.size > 1)
    assert sizes == [30, 50, 30 * 50]
