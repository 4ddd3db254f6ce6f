"""Run folders of untrained models, as the train command lays them out, in a second."""

import importlib
import json
from pathlib import Path

import jax
import numpy as np

from ssl_jax.core import config as config_lib
from ssl_jax.core import rng
from ssl_jax.core.types import TrainState
from ssl_jax.engine.checkpoint import Checkpoints

RATE = 16000
NAMES = ("no", "yes", "maybe")


def make_run(config_path: str, folder: Path, steps=(4,), overrides=(), scores=()) -> Path:
    """Writes checkpoints of fresh parameters, a different draw per step, and the text files.

    scores: the value of config.checkpoint.best_metric recorded at each step.
    """
    config = config_lib.load(config_path, overrides)
    method = importlib.import_module(f"ssl_jax.methods.{config.method.name}").make(
        config.method, precision="float32", sample_rate=RATE, num_classes=len(NAMES)
    )
    audio = config.data.modality == "audio"
    length = round(config.data.buckets[-1] * RATE) if audio else config.data.get("block_tokens")
    batch = {
        name: jax.ShapeDtypeStruct(
            (1, *(length if n is None else n for n in spec.shape)), spec.dtype
        )
        for name, spec in method.batch.items()
    }
    init = jax.jit(lambda key: method.init(key, batch))
    checkpoints = Checkpoints(folder, config)
    for step, score in zip(steps, scores or [None] * len(steps), strict=True):
        params, extra = init(jax.random.key(step))
        state = TrainState(np.int32(step), params, extra, {}, rng.key_data(0))
        checkpoints.save(step, state, score)
        checkpoints.wait()
    checkpoints.close()
    (folder / "config.json").write_text(config_lib.to_json(config))
    (folder / "classes.json").write_text(json.dumps(NAMES))
    return folder
