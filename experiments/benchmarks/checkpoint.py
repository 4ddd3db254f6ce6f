"""The cost of a checkpoint: how long a save blocks the loop, relative to a step, and a restore.

    python -m experiments.benchmarks.checkpoint [--system data2vec2_audio] [--depth 12] [--rows 2] \
        [--out experiments/benchmarks/checkpoint.json]

The state is that of a system of step_vs_torch.py at Base width; data2vec 2.0 has the largest,
because it includes a teacher. "blocked" is the time in `Checkpoints.save` after the previous step
has ended, during which the loop waits; as a share of a step, it should be at most 5 %. Copying and
writing in the background slow the following steps: "step beside" is the first of them, and "extra"
the total time, including the save, by which the loop lags behind one without a save once everything
is written.
"""

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.benchmarks import step_vs_torch, stepping
from ssl_jax.core import atomic
from ssl_jax.engine import checkpoint

CEILING = 0.05
STEPS = 5


def measure(config: ConfigDict, batch: Mapping[str, np.ndarray], saves: int) -> dict[str, Any]:
    """Returns the medians over `saves`, after a first one that compiles and is not counted."""
    run, held, shardings = stepping.engine(config, batch)
    run()
    step = statistics.median(stepping.clocked(run)[1] for _ in range(STEPS))
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = checkpoint.Checkpoints(folder, config)
        times = [timed_save(checkpoints, n, run, held, step) for n in range(saves + 1)]
        expected = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), held["state"])
        size = sum(x.nbytes for x in jax.tree.leaves(held.pop("state")))
        start = time.perf_counter()
        jax.block_until_ready(checkpoints.restore(expected, shardings))
        restore = time.perf_counter() - start
        checkpoints.close()
    seconds = {"step": step}
    for name in ("blocked", "step beside", "extra", "written"):
        seconds[name] = statistics.median(t[name] for t in times[1:])
    seconds["restore"] = restore
    return {
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "share": round(seconds["blocked"] / step, 4),
        "gigabytes": round(size / 1e9, 3),
        "saves": saves,
        "load": round(os.getloadavg()[0], 1),
        "machine": step_vs_torch.machine(),
        "jax": jax.__version__,
    }


def timed_save(
    checkpoints: checkpoint.Checkpoints,
    number: int,
    run: Callable[[], float],
    held: Mapping[str, Any],
    step: float,
) -> dict[str, float]:
    """Returns the seconds of one save during steps that otherwise take `step` seconds."""
    start = time.perf_counter()
    checkpoints.save(number, held["state"])
    found = {"blocked": time.perf_counter() - start}

    def wait() -> None:
        checkpoints.wait()
        found["written"] = time.perf_counter() - start

    writing = threading.Thread(target=wait)
    writing.start()
    found["step beside"], steps = stepping.clocked(run)[1], 1
    while writing.is_alive():
        run()
        steps += 1
    writing.join()
    found["extra"] = time.perf_counter() - start - steps * step
    return found


def line(report: Mapping[str, Any]) -> str:
    """Returns the report as a line for the terminal."""
    s = report["seconds"]
    return (
        f"{report['gigabytes']:.2f} GB: a step {s['step']:.3f} s, blocked {s['blocked']:.3f} s, "
        f"{report['share']:.1%} of it (at most {CEILING:.0%}); behind by {s['extra']:.2f} s when "
        f"written after {s['written']:.2f} s, restored in {s['restore']:.2f} s"
    )


def main() -> None:
    """Measures, prints and writes; exits with 1 above the ceiling."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", default="data2vec2_audio", choices=tuple(step_vs_torch.SYSTEMS))
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--clones", type=int, default=4)
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    o = parser.parse_args()
    config = step_vs_torch.base_config(o.system, o.depth, o.clones)
    report = measure(config, step_vs_torch.make_batch(o.system, o.rows), o.saves)
    report |= {"system": o.system, "depth": o.depth, "rows": o.rows}
    atomic.write_json(o.out, report, indent=2)
    print(line(report))
    raise SystemExit(report["share"] > CEILING)


if __name__ == "__main__":
    main()
