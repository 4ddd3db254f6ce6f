"""The folds of ESC-50 as one sweep, whose report has their mean."""

import pytest

from ssl_jax.sweeps import report, sweep


@pytest.mark.parametrize("name", ["beats", "audiomae"])
def test_every_fold_is_held_out_once_and_their_mean_is_one_row(root, tmp_path, name):
    config = f"{root}/configs/supervised/{name}.py:esc50_1"
    runs = sweep.read(config, ["data.train.esc50.path=here"], tmp_path)
    held_out = [run.config.data.valid.esc50.where.fold for run in runs]
    assert held_out == [("1",), ("2",), ("3",), ("4",), ("5",)]
    for run, fold in zip(runs, held_out, strict=True):
        assert set(run.config.data.train.esc50.where.fold) == set("12345") - set(fold)
        assert run.config.data.train.esc50.path == "here"
    scores = (0.9, 0.8, 1.0, 0.7, 0.6)
    results = [
        report.Result(run, "done", "", (), [{"valid/accuracy": score}])
        for run, score in zip(runs, scores, strict=True)
    ]
    (group,) = report.rank(results, "valid/accuracy", "max")
    assert group.mean == pytest.approx(0.8) and group.values == {}


def test_another_task_has_three_seeds(root, tmp_path):
    runs = sweep.read(f"{root}/configs/supervised/beats.py:ks1", [], tmp_path)
    assert [run.config.seed for run in runs] == [0, 1, 2]
