"""The cost of a step of LightHuBERT that trains a subnet, against one of the whole student.

    python -m experiments.benchmarks.elastic_step [--rows 4] [--seconds 4] [--rounds 9]

Stage 2 masks the full width, so that all subnets share one compilation: a step costs no less than
one of stage 1, and should cost hardly more. The steps of both take turns, on the mini configs, in
two processes, and medians are reported; every step of stage 2 draws another subnet.
"""

import argparse
import functools
import os
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks import stepping
from experiments.benchmarks.step_vs_torch import machine
from ssl_jax.core import atomic
from ssl_jax.core import config as config_lib

ROOT = Path(__file__).resolve().parents[2]
# arm: (size of the config, changes to it)
Arms = Mapping[str, tuple[str, tuple[str, ...]]]
ARMS: Arms = {"whole": ("mini_stage1", ()), "subnet": ("mini", ())}
BAR = 1.15


def batch_of(rows: int, seconds: float) -> dict[str, np.ndarray]:
    """Returns clips of noise."""
    size = round(16_000 * seconds)
    audio = np.random.default_rng(0).normal(0, 3000, (rows, size)).astype(np.int16)
    ids, one = np.arange(rows, dtype=np.uint32), np.ones(rows, np.float32)
    return {"id": ids, "weight": one, "audio": audio, "audio_len": np.full(rows, size, np.int32)}


def measure(rows: int, seconds: float, rounds: int, arms: Arms = ARMS) -> dict[str, Any]:
    """Returns the seconds and core-seconds of a step of each arm, and the ratio of the seconds."""
    batch, path = batch_of(rows, seconds), f"{ROOT}/configs/lighthubert/speech.py"
    makers = {
        arm: functools.partial(
            stepping.engine_step, config_lib.load(f"{path}:{size}", changes), batch
        )
        for arm, (size, changes) in arms.items()
    }
    with stepping.processes(makers) as runs:
        stepping.warm(runs)
        found = stepping.in_turns(runs, rounds)
    walls, cores = ({arm: statistics.median(v) for arm, v in each.items()} for each in found)
    return {
        "seconds": {arm: round(s, 4) for arm, s in walls.items()},
        "core_seconds": {arm: round(s, 4) for arm, s in cores.items()},
        "ratio": round(walls["subnet"] / walls["whole"], 3),
        "bar": BAR,
        "rows": rows,
        "clip": seconds,
        "rounds": rounds,
        "load": round(os.getloadavg()[0], 1),
        "machine": machine(),
    }


def rows(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """Returns the rows of the table in docs/speed.md."""
    wall, cores = report["seconds"], report["core_seconds"]
    return [
        {
            "step": f"{report['rows']} clips of {report['clip']:g} s",
            "the whole student": f"{1000 * wall['whole']:.0f} ms",
            "a drawn subnet": f"{1000 * wall['subnet']:.0f} ms",
            "ratio": f"{report['ratio']:.2f}",
            "ratio of core-seconds": f"{cores['subnet'] / cores['whole']:.2f}",
            "at most": f"{report['bar']:g}",
        }
    ]


def main() -> None:
    """Measures, prints and writes the costs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=4, help="clips per batch")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a clip")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    report = measure(options.rows, options.seconds, options.rounds)
    print(f"seconds: {report['seconds']}, ratio {report['ratio']}, at most {BAR}")
    atomic.write_json(options.out, report)


if __name__ == "__main__":
    main()
