"""The call path from the train command to a loss is short and is the one in the README."""

import re
import traceback
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

from ssl_jax import train
from ssl_jax.engine import step
from ssl_jax.methods import data2vec2

ROOT = Path(__file__).resolve().parents[2]
MOST = 7  # calls from the command to the loss


class Reached(Exception):
    """The loss was called."""


def described() -> list[str]:
    """Returns `file:function` of every step of the path in the README."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^\d\. `(ssl_jax/[\w/]+\.py:\w+)`", page, re.MULTILINE)


def zeros(config, method, tx, mesh, shapes, checkpoints):
    """Returns the same as `setup.begin`, without compiling anything."""
    del config, checkpoints
    state = step.abstract_state(method, tx, shapes)
    shardings = step.state_sharding(state, method.rules, mesh)
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state), shardings


def test_the_readme_lists_the_calls_from_the_command_to_the_loss(tmp_path, monkeypatch):
    clips = tmp_path / "clips"
    clips.mkdir()
    for i in range(8):
        soundfile.write(clips / f"{i}.wav", 0.1 * np.sin(np.arange(8000) / (9 + i)), 16000)
    stack: list[str] = []

    def loss(*_, **__):
        for frame in traceback.extract_stack():
            path = Path(frame.filename)
            if ROOT / "ssl_jax" in path.parents:
                stack.append(f"{path.relative_to(ROOT).as_posix()}:{frame.name}")
        raise Reached

    monkeypatch.setattr(data2vec2.Data2Vec2, "loss", loss)
    monkeypatch.setattr(train.setup, "begin", zeros)
    monkeypatch.setattr(train.setup, "use_compilation_cache", lambda: None)
    flags = [f"--config.data.{split}.own.path={clips}" for split in ("train", "valid")]
    flags += ["--config.data.train.own.part=(0.0, 0.5)", "--config.data.valid.own.part=(0.5, 1.0)"]
    flags += ["--config.data.buckets=(0.5,)", "--config.data.batch_size=4"]
    config = f"{ROOT}/configs/data2vec2/audio.py:own_toy"
    with pytest.raises(Reached):
        train.main(["--config", config, "--workdir", str(tmp_path / "run"), *flags])
    assert [*stack, "ssl_jax/methods/data2vec2.py:loss"] == described()
    assert len(stack) <= MOST
