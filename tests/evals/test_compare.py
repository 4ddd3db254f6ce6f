import numpy as np
import pytest

from ssl_jax.evals import compare, probe
from ssl_jax.evals.pool import Pooled


def pooled(split):
    return Pooled(split[0], np.arange(len(split[1])), split[1])


@pytest.fixture(autouse=True)
def small_grid(monkeypatch, grid):
    monkeypatch.setattr(compare.probe, "Grid", lambda: grid)


@pytest.mark.parametrize("name", compare.PROBES)
def test_test_is_reported_and_validation_chooses(splits, name):
    train, valid, test = map(pooled, splits)
    row = compare.row("x", name, {"train": train, "valid": valid, "test": test}, 5)
    assert (row["features"], row["probe"]) == ("x", name)
    assert row["layer"] in (2, probe.MIX)
    assert min(row["test"]) > 0.97 and len(row["test"]) == len(row["selection"])
    shuffled = Pooled(test.features, test.ids, np.roll(test.labels, 1))
    other = compare.row("x", name, {"train": train, "valid": valid, "test": shuffled}, 5)
    assert max(other["test"]) < 0.5 and other["selection"] == row["selection"]


@pytest.mark.parametrize("name", compare.PROBES)
def test_without_a_test_split_validation_is_reported(splits, name):
    train, valid, _ = map(pooled, splits)
    shuffled = Pooled(valid.features, valid.ids, np.roll(valid.labels, 1))
    row = compare.row("x", name, {"train": train, "valid": shuffled}, 5)
    assert min(row["selection"]) > 0.9 and max(row["test"]) < 0.5
    with pytest.raises(ValueError, match=r"config\.data\.test"):
        compare.row("x", name, {"train": train}, 5)
