"""The cost of a step of LightHuBERT that trains a subnet, against one of the whole student.

    python -m experiments.benchmarks.elastic_step [--rows 8] [--seconds 4] [--rounds 7]

Stage 2 masks the full width, so that all subnets share one compilation: a step costs no less than
one of stage 1, and should cost hardly more. The steps of both take turns, on the mini configs, and
medians of core-seconds are reported.
"""

import argparse
import os
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks import stepping
from experiments.benchmarks.step_vs_torch import machine
from ssl_jax.core import atomic
from ssl_jax.core import config as config_lib

ROOT = Path(__file__).resolve().parents[2]
ARMS = {"whole": "mini_stage1", "subnet": "mini"}
BAR = 1.15


def batch_of(rows: int, seconds: float) -> dict[str, np.ndarray]:
    """Returns clips of noise."""
    size = round(16_000 * seconds)
    audio = np.random.default_rng(0).normal(0, 3000, (rows, size)).astype(np.int16)
    ids, one = np.arange(rows, dtype=np.uint32), np.ones(rows, np.float32)
    return {"id": ids, "weight": one, "audio": audio, "audio_len": np.full(rows, size, np.int32)}


def measure(
    rows: int, seconds: float, rounds: int, changes: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Returns the core-seconds of a step of each arm, and their ratio."""
    batch, path = batch_of(rows, seconds), f"{ROOT}/configs/lighthubert/speech.py"
    configs = {arm: config_lib.load(f"{path}:{name}", changes) for arm, name in ARMS.items()}
    runs = {arm: stepping.engine_step(config, batch) for arm, config in configs.items()}
    _, cores = stepping.in_turns(runs, rounds)
    medians = {arm: statistics.median(each) for arm, each in cores.items()}
    return {
        "core_seconds": {arm: round(s, 3) for arm, s in medians.items()},
        "ratio": round(medians["subnet"] / medians["whole"], 3),
        "bar": BAR,
        "rows": rows,
        "seconds": seconds,
        "rounds": rounds,
        "load": round(os.getloadavg()[0], 1),
        "machine": machine(),
    }


def main() -> None:
    """Measures, prints and writes the costs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=8, help="clips per batch")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a clip")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    report = measure(options.rows, options.seconds, options.rounds)
    print(f"core-seconds: {report['core_seconds']}, ratio {report['ratio']}")
    atomic.write_json(options.out, report)


if __name__ == "__main__":
    main()
