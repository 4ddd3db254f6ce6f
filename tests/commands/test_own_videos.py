"""The three commands of docs/video.md, on small folders of frames."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_jax import evaluate, train

ROOT = Path(__file__).resolve().parents[2]
DATA = ("image_size=16", "frames=4", "stride=1", "batch_size=4", "max_bad_share=0.0")
ENCODER = ("image_size=16", "frames=4", "depth=1", "width=16", "heads=2", "mlp_width=16")


def small(*more):
    """Returns the overrides of a run of two steps on clips of 4 frames of 16 pixels."""
    given = [f"--config.data.{x}" for x in DATA] + [f"--config.method.encoder.{x}" for x in ENCODER]
    for split in ("train", "valid"):
        given += [f"--config.data.{split}.own.kind=frame_folder"]
        given += [f"--config.data.{split}.own.part=(0.0, 1.0)"] if split == "train" else []
    given += ["--config.train.duration=2 steps", "--config.eval.every=2 steps"]
    return [*given, "--config.checkpoint.every=2 steps", "--config.optim.warmup=0 steps", *more]


@pytest.mark.slow
def test_your_own_clips_in_three_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    draw = np.random.default_rng(0)
    for i in range(12):
        folder = tmp_path / "videos" / "ab"[i % 2] / f"{i:02}"
        folder.mkdir(parents=True)
        for t in range(5):
            picture = draw.integers(0, 128, (20, 24, 3)) + 127 * (i % 2)
            Image.fromarray(picture.astype(np.uint8)).save(folder / f"{t}.png")
    path = f"--config.data.train.own.path={tmp_path / 'videos'}"
    run, tuned = str(tmp_path / "clips"), str(tmp_path / "tuned")
    part = "--config.data.valid.own.part=(0.5, 1.0)"
    mine = small(path, part, "--config.data.train.own.part=(0.0, 0.5)")
    train.main(["--config", "configs/videomae/video.py:own", "--workdir", run, *mine])
    labels = [f"--config.data.{split}.own.label=label" for split in ("train", "valid")]
    evaluate.main(["--run", run, "--probe", "ridge", *labels])
    found = json.loads((Path(run) / "evaluation.json").read_text())
    assert "single frame" in json.dumps(found) and "random encoder" in json.dumps(found)
    config = "configs/supervised/video.py:own"
    start = ["--config.init_from=" + run]
    train.main(["--config", config, "--workdir", tuned, *start, *mine])
    assert json.loads((Path(tuned) / "classes.json").read_text()) == ["a", "b"]
