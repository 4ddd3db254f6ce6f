"""Batch normalization against torch, with padding, and over several calls."""

import jax
import numpy as np
import pytest

from ssl_jax.nn.batch_norm import STATISTICS, BatchNorm

RNG = np.random.default_rng(0)
X = (3 + 2 * RNG.standard_normal((5, 7))).astype(np.float32)
NORM = BatchNorm()
VARIABLES = NORM.init(jax.random.key(0), X, np.ones(5, bool), True)


@jax.jit
def run(variables, x, mask):
    return NORM.apply(variables, x, mask, True, mutable=[STATISTICS])


def test_a_new_norm_has_torchs_statistics():
    found = VARIABLES[STATISTICS]
    np.testing.assert_array_equal(found["mean"], np.zeros(7))
    np.testing.assert_array_equal(found["var"], np.ones(7))


@pytest.mark.interop
def test_values_gradients_and_statistics_are_those_of_torch():
    torch = pytest.importorskip("torch")
    theirs, way = torch.nn.BatchNorm1d(7), RNG.standard_normal((5, 7)).astype(np.float32)
    x = torch.tensor(X, requires_grad=True)
    variables = VARIABLES
    for scale in (1, 2):  # two updates of the running statistics
        y = theirs(scale * x)
        found, moved = run(variables, scale * X, np.ones(5, bool))
        np.testing.assert_allclose(found, y.detach(), atol=1e-5)
        variables = {**variables, **moved}
    (y * torch.tensor(way)).sum().backward()
    slope = jax.jit(jax.grad(lambda x: (run(VARIABLES, 2 * x, np.ones(5, bool))[0] * way).sum()))
    np.testing.assert_allclose(slope(X), x.grad, atol=1e-5)
    for ours, name in (("mean", "running_mean"), ("var", "running_var")):
        kept = variables[STATISTICS][ours]
        np.testing.assert_allclose(kept, getattr(theirs, name), rtol=1e-5, err_msg=name)
    theirs.eval()
    y = theirs(torch.tensor(X)).detach()
    np.testing.assert_allclose(NORM.apply(variables, X, np.ones(5, bool), False), y, atol=1e-5)


def test_padding_counts_for_nothing():
    mask = np.array([1, 1, 1, 1, 0], bool)
    padded = np.where(mask[:, None], X, np.nan)
    found, moved = run(VARIABLES, padded, mask)
    alone, kept = run(VARIABLES, X[:4], mask[:4])
    np.testing.assert_allclose(found[:4], alone, atol=1e-6)
    for name in ("mean", "var"):
        np.testing.assert_allclose(moved[STATISTICS][name], kept[STATISTICS][name], rtol=1e-6)


def test_a_batch_of_padding_alone_moves_nothing():
    found, moved = run(VARIABLES, X, np.zeros(5, bool))
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(moved[STATISTICS]["var"], np.ones(7))
