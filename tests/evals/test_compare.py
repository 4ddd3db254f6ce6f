import numpy as np
import pytest

from ssl_jax.evals import compare, linear_probe, mlp_probe
from ssl_jax.evals.pool import Pooled


def pooled(split):
    return Pooled(split[0], np.arange(len(split[1])), split[1])


@pytest.fixture(autouse=True)
def small_grid(monkeypatch, grid):
    monkeypatch.setattr(compare.linear_probe, "Grid", lambda: grid)


@pytest.mark.parametrize("name", compare.PROBES)
def test_test_is_reported_and_validation_chooses(splits, name):
    train, valid, test = map(pooled, splits)
    row = compare.row("x", name, {"train": train, "valid": valid, "test": test}, 5)
    assert (row["features"], row["probe"]) == ("x", name)
    assert row["layer"] in (2, linear_probe.MIX)
    assert min(row["test"]) > 0.97 and len(row["test"]) == len(row["selection"])
    assert row["layers"][compare.layer_name(row["layer"])] == row["test"] and len(row["layers"]) > 1
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


def test_the_mlp_probe_has_tags_and_numbers_too(splits):
    quick = mlp_probe.Options(width=8, rates=(1e-2,), layers=(2,), batch_size=50, epochs=8)
    found = {name: pooled(split) for name, split in zip(("train", "test"), splits, strict=False)}
    tags = {name: np.eye(5, dtype=np.float32)[p.labels] for name, p in found.items()}
    fields = {name: {"tags": tags[name]} for name in found}
    scores = {"scores": ("roc_auc", "average_precision")}
    task = mlp_probe.task_of(tuple("abcde"), fields["train"], scores)
    options = {"classes": 0, "task": task, "options": quick}
    (row,) = compare.rows("x", ("mlp",), found, fields, **options)
    assert (row["features"], row["probe"], row["layer"]) == ("x", "mlp", 2)
    assert row["score"] == "roc_auc" and set(row["scores"]) == set(scores["scores"])
    assert row["test"] == row["scores"]["roc_auc"] == row["layers"]["2"]
    assert row["test"][0] > 0.9 and row["selection"][0] > 0.9 and row["rate"] == 1e-2
    with pytest.raises(ValueError, match=r"config\.data\.train has no target to predict"):
        mlp_probe.task_of((), {}, {"kind": "target"})
    with pytest.raises(ValueError, match=r"config\.data\.test names no source"):
        compare.mlp_row("x", {"train": (found["train"].features, tags["train"])}, task, quick)


def test_the_task_is_that_of_the_data():
    fields = {"target": np.zeros((3, 2), np.float32)}
    assert mlp_probe.task_of(("a", "b"), fields, {}).kind == "label"
    found = mlp_probe.task_of(("a",), fields, {})
    assert (found.kind, found.names, found.scores) == ("target", ("0", "1"), ("r2",))
    assert mlp_probe.task_of(("a", "b"), fields, {"kind": "target"}) == found
    named = mlp_probe.task_of((), fields, {"names": ("valence", "arousal")})
    assert named.names == ("valence", "arousal")
    tags = {"tags": np.zeros((3, 2), np.float32)}
    assert mlp_probe.task_of(("a", "b"), tags, {}).kind == "tags"
    with pytest.raises(ValueError, match="has no label to predict"):
        mlp_probe.task_of(("a", "b"), tags, {"kind": "label"})
