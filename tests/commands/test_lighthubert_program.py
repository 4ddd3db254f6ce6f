"""The program of LightHuBERT at toy size: every arm, its claims and its picture."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_program import one_bucket, smaller

import ssl_jax
from ssl_jax import pipeline
from ssl_jax.stages import weights

ROOT = Path(__file__).resolve().parents[2]
ARMS = {
    "stage 1 alone",
    "stage 1, as long as both",
    "teacher",
    "untrained",
    "whole supernet",
    "searched",
    "random",
    "layers alike",
    "separate, same steps",
    "separate, third of the steps",
    "pruned",
    "pruned and tuned",
    "two layers",
}
REFERENCES = {"teacher", "untrained"}  # have no error of their own


@pytest.mark.slow
def test_lighthubert_searches_extracts_prunes_and_compares(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    # compiling a dozen training steps is most of the time: the runs stay as they begin
    monkeypatch.setattr(pipeline, "_train", lambda config, folder, *_: created(folder, config))
    options = {"train": 40, "test": 4, "seeds": 1, "batch": 2, "clusters": 4, "shares": "(0.5,)"}
    options |= {"population": 2, "generations": 2, "labels": 0, "out": tmp_path}
    overrides = [f"--{k}={v}" for k, v in options.items()]
    space = {"depths": (2, 3), "drop_order": (1,)}
    small = {"depth": 3, "conv_channels": 8, "position_kernel": 8}
    smaller(monkeypatch, SIZE=small, SPACE=space, TARGETS={"layers": 2})
    one_bucket(monkeypatch)
    root = pipeline.run("experiments/lighthubert/program.py", str(tmp_path / "run"), overrides)
    results = json.loads((tmp_path / "results.json").read_text())
    arms = results["arms"]
    assert set(arms) == ARMS and set(arms["searched"]) == {"0.5"}
    assert all(
        np.isfinite(values).all()
        for rows in arms.values()
        for row in rows.values()
        for values in row.values()
    )
    assert all("loss" in row for arm in ARMS - REFERENCES for row in arms[arm].values())
    assert all("pnmi" in arms[arm]["1"] for arm in REFERENCES)
    largest = arms["whole supernet"]["1"]
    assert arms["searched"]["0.5"]["params"][0] <= 0.5 * largest["params"][0]
    # stage 2 begins with the student of stage 1
    assert arms["stage 1 alone"]["1"]["loss"] == pytest.approx(largest["loss"], rel=1e-5)
    assert len(results["claims"]) == 3 and len(results["latency"]) == 4
    assert all(row["ms"] > 0 and row["core_ms"] > 0 for row in results["latency"])
    (search,) = results["searches"]
    assert search["subnets"] == len(results["scored"]) == 4 and search["seconds"] > 0
    assert (tmp_path / "results.png").stat().st_size > 20_000
    (found,) = root.glob("searched-0.5-0-*")
    model = ssl_jax.load(found)
    assert not model.config.method.subnet and model.config.method.sample == "full"


def created(folder, config):
    """Makes the run folder of a config as it is before its first update."""
    weights.create(folder, config, lambda state: state)
