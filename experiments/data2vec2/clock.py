"""The cost of a training step of a config: measured in turns with others, and predicted."""

import statistics
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from experiments.benchmarks import stepping
from ssl_jax import plan
from ssl_jax.core import config as config_lib


def seconds_per_step(configs: Mapping[str, ConfigDict], rounds: int) -> dict[str, float]:
    """Returns the median step time of each image config, timed in turns."""
    runs = {name: stepping.engine_step(config, _noise(config)) for name, config in configs.items()}
    seconds, _ = stepping.in_turns(runs, rounds)
    return {name: round(statistics.median(times), 5) for name, times in seconds.items()}


def _noise(config: ConfigDict) -> dict[str, np.ndarray]:
    """Returns a batch of images as the loader would yield it."""
    rng, rows, side = np.random.default_rng(0), config.data.batch_size, config.data.image_size
    made = {"id": np.arange(rows, dtype=np.uint32), "weight": np.ones(rows, np.float32)}
    return {**made, "image": rng.integers(0, 256, (rows, side, side, 3)).astype(np.uint8)}


def flops_per_step(config: ConfigDict) -> float:
    """Returns the FLOPs of one update of a config, counted in its program."""
    return plan.program(config, "cpu:1").flops()


def to_json(config: ConfigDict) -> dict[str, object]:
    """Returns everything a timing depends on, for the signature of its stage."""
    flat = config_lib.flatten(config)
    return {k: v for k, v in flat.items() if k.startswith("method.") or k == "data.batch_size"}
