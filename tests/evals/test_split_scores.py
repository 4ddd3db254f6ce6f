"""Scores over a split: which rows count, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core import mesh as mesh_lib
from ssl_jax.core.types import Method, Spec, TrainState
from ssl_jax.evals import scores
from ssl_jax.evals.split_scores import SplitScores

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 8, 4)).astype(np.float32)
LABEL = RNG.integers(-1, 2, (3, 8)).astype(np.int32)
WEIGHT = np.ones((3, 8), np.float32)
WEIGHT[2, 5:] = 0


def batches():
    for x, label, weight in zip(X, LABEL, WEIGHT, strict=True):
        yield {"x": x, "label": label, "weight": weight, "id": np.arange(8, dtype=np.uint32)}


def method(predict=lambda params, batch: batch["x"] @ params, truth="label"):
    return Method(None, None, None, {truth: Spec((), "int32")}, (), (), predict=predict)


def make(names, **options):
    mesh = mesh_lib.make_mesh({"data": -1})
    return SplitScores(names, method(**options), batches, mesh, "valid")


def test_labelled_rows_with_a_weight_are_scored_as_one_split():
    kernel = RNG.normal(size=(4, 2)).astype(np.float32)
    state = TrainState(np.int32(3), jnp.asarray(kernel), {}, {}, np.zeros(2, np.uint32))
    with jax.transfer_guard("disallow"):
        found = make(("mcc", "f1"))(3, state)
    real = (LABEL >= 0) & (WEIGHT > 0)
    logits, labels = (X @ kernel)[real], LABEL[real]
    np.testing.assert_allclose(found["valid/mcc"], scores.mcc(logits, labels), rtol=1e-6)
    np.testing.assert_allclose(found["valid/f1"], scores.f1(logits, labels), rtol=1e-6)


def test_what_can_not_be_scored_is_named():
    with pytest.raises(ValueError, match=r"config.eval.scores is \('mccc',\): use some of mcc, f1"):
        make(("mccc",))
    with pytest.raises(ValueError, match="use some of pearson, spearman, r2"):
        make(("mcc",), truth="target")
    with pytest.raises(ValueError, match="does not predict"):
        make(("mcc",), predict=None)


def test_a_split_without_a_row_that_counts_has_no_score():
    state = TrainState(np.int32(3), jnp.ones((4, 2)), {}, {}, np.zeros(2, np.uint32))
    nothing = make(("mcc", "f1"))
    for given in ([], [{**next(iter(batches())), "weight": np.zeros(8, np.float32)}]):
        nothing.batches = lambda given=given: given
        assert all(np.isnan(value) for value in nothing(3, state).values())
