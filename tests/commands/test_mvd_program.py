"""The program of MVD at toy size: every arm, its claims and its pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_program import smaller
from test_lighthubert_program import created

from experiments.mvd import claims, clips
from ssl_jax import pipeline
from ssl_jax.data.synthetic import moving_objects

ROOT = Path(__file__).resolve().parents[2]
ARMS = {"VideoMAE alone", "untrained", "image teacher", "video teacher", "both", "single frame"}
SMALL = {"depth": 1, "width": 16, "heads": 1, "mlp_width": 16}


@pytest.mark.slow
def test_mvd_trains_teachers_and_students_and_compares(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    # compiling steps is most of the time: the runs stay as they begin
    monkeypatch.setattr(pipeline, "_train", lambda config, folder, *_: created(folder, config))
    options = {"train": 200, "test": 10, "seeds": 1, "batch": 4, "out": tmp_path}
    overrides = [f"--{k}={v}" for k, v in options.items()]
    smaller(monkeypatch, SIZE=SMALL, DECODER={"width": 16, "heads": 1, "mlp_width": 16})
    pipeline.run("experiments/mvd/program.py", str(tmp_path / "run"), overrides)
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["probe"]) == {*ARMS, "teacher of video"}
    for labels in results["probe"].values():
        assert set(labels) == set(moving_objects.LABELS)
        assert all(0 <= v <= 1 for values in labels.values() for v in values)
    assert len(results["claims"]) == 6 and results["droid"] == {}
    assert (tmp_path / "results.png").stat().st_size > 20_000
    assert (tmp_path / "clips.png").stat().st_size > 5_000


def test_the_interaction_is_between_teachers_and_kinds_of_labels():
    space, time = dict.fromkeys(claims.SPACE), dict.fromkeys(claims.TIME)

    def arm(of_space, of_time):
        return {n: [of_space] * 3 for n in space} | {n: [of_time] * 3 for n in time}

    probe = {
        "image teacher": arm(0.6, 0.3),
        "video teacher": arm(0.5, 0.5),
        "both": arm(0.595, 0.48),
        "VideoMAE alone": arm(0.4, 0.4),
    }
    held = [one["held"] for one in claims.students({"probe": probe})]
    assert held == [True, True, True, False, True, True]
    probe["image teacher"]["object"][1] = 0.4
    assert not claims.students({"probe": probe})[0]["held"]


def test_clips_come_back_as_they_were_drawn(tmp_path):
    folder = moving_objects.write(tmp_path / "clips", 3, seed=4)
    videos, labels = clips.arrays(folder, 2)
    np.testing.assert_array_equal(videos[1], moving_objects.clip(4, 1).video)
    assert labels["faster"][0] == moving_objects.clip(4, 0).labels["faster"]
    assert set(labels) == set(moving_objects.LABELS)
