"""The cost of a mask in data2vec 2.0, whose masks of an image share one teacher pass.

    python -m experiments.benchmarks.amortization [--rows 2] [--depth 4] [--rounds 5]

Times the full training step on images of 196 patches, 39 visible, at Base width with few blocks:
seconds per image and mask for M = 1, 2, 4, 8 and 16 masks, relative to M = 1, compared with the
prediction from the FLOPs of the step (ssl_jax/engine/flops.py). The five take turns, and medians
are reported. The time of the optimizer does not depend on M, and the prediction excludes it.
"""

import argparse
import os
import statistics
from pathlib import Path
from typing import Any

from experiments.benchmarks import step_vs_torch as steps
from experiments.benchmarks import stepping
from ssl_jax.core import atomic

SYSTEM = "data2vec2_image"
MASKS = (1, 2, 4, 8, 16)


def relative(per_step: dict[int, float]) -> dict[str, float]:
    """Turns {masks: cost of a step} into {masks: cost per mask, relative to a single mask}."""
    return {str(m): round(cost / m / per_step[1], 3) for m, cost in per_step.items()}


def measure(rows: int, depth: int, rounds: int) -> dict[str, Any]:
    """Returns the milliseconds per image and mask for every M, and both relative costs."""
    batch = steps.make_batch(SYSTEM, rows)
    configs = {m: steps.base_config(SYSTEM, depth, m) for m in MASKS}
    runs = {m: stepping.engine_step(config, batch) for m, config in configs.items()}
    seconds, _ = stepping.in_turns(runs, rounds)
    medians = {m: statistics.median(times) for m, times in seconds.items()}
    return {
        "milliseconds": {str(m): round(1e3 * s / m / rows, 1) for m, s in medians.items()},
        "measured": relative(medians),
        "predicted": relative({m: steps.flops(SYSTEM, configs[m], rows) for m in MASKS}),
        "rows": rows,
        "depth": depth,
        "rounds": rounds,
        "load": round(os.getloadavg()[0], 1),
        "machine": steps.machine(),
    }


def main() -> None:
    """Measures, prints and writes the costs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=2, help="images per batch")
    parser.add_argument("--depth", type=int, default=4, help="blocks of the encoder, 3 or more")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    report = measure(options.rows, options.depth, options.rounds)
    for name in ("milliseconds", "measured", "predicted"):
        print(f"{name}: {report[name]}")
    atomic.write_json(options.out, report)


if __name__ == "__main__":
    main()
