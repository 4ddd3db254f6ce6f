import numpy as np
import pytest

from ssl_jax.evals import compare, few_labels, linear_probe, mlp_probe
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


@pytest.mark.parametrize("tested", [("valid", "test"), ("valid",)])
def test_few_labels_are_a_row_for_each_share_with_a_value_for_each_draw(splits, tested):
    noise = np.random.default_rng(0).normal(0, 2.0, (300, *splits[0][0].shape[1:]))
    harder = [pooled((x + noise[: len(y)].astype(x.dtype), y)) for x, y in splits]
    found = dict(zip(("train", "valid", "test"), harder, strict=True))
    given = {name: found[name] for name in ("train", *tested)}
    rows = compare.rows("x", ("few",), given, {}, classes=5, task=None, options=None)
    names = [f"ridge, {share} of labels" for share in ("1%", "5%", "10%", "100%")]
    assert [row["probe"] for row in rows] == names
    assert [len(row["test"]) for row in rows] == [5, 5, 5, 1]
    for row in rows:
        assert row["test"] == row["layers"][str(row["layer"])] and len(row["layers"]) == 3
    assert 0.2 < np.mean(rows[0]["test"]) < rows[-1]["test"][0] - 0.05
    if len(tested) == 2:
        (ridge,) = compare.rows("x", ("ridge",), given, {}, classes=5, task=None, options=None)
        assert rows[-1]["test"] == ridge["test"] and rows[-1]["layer"] == ridge["layer"]


def test_a_draw_has_its_share_of_each_class_and_depends_on_the_labels_alone():
    labels = np.repeat(np.arange(3), (100, 40, 3))
    for share, counts in ((0.01, (1, 1, 1)), (0.1, (10, 4, 1)), (1.0, (100, 40, 3))):
        kept = few_labels.drawn(labels, share, draw=0)
        assert tuple(np.bincount(labels[kept])) == counts
        np.testing.assert_array_equal(kept, few_labels.drawn(labels, share, draw=0))
    assert (few_labels.drawn(labels, 0.1, 0) != few_labels.drawn(labels, 0.1, 1)).any()


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
