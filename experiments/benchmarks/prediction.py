"""Predictions of `ssl_jax.plan` for the steps that step_vs_torch.py timed on a GPU.

    JAX_PLATFORMS=cpu python -m experiments.benchmarks.prediction

Reads step_vs_torch_gpu.json and needs no GPU: the same configs and batches, planned for that card.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments.benchmarks import step_vs_torch
from ssl_jax import plan
from ssl_jax.core import atomic, chips

HERE = Path(__file__).resolve().parent


def planned(system: str, row: dict[str, Any]) -> ConfigDict:
    """Returns the config of a timed step, with its batch."""
    config = step_vs_torch.base_config(system, row["depth"], row["masks"])
    return step_vs_torch.of_batch(system, config, row["rows"])


def compare(measured: dict[str, Any]) -> dict[str, Any]:
    """Returns the predicted and measured milliseconds of every system, and the predicted parts.

    Raises SystemExit for an unknown GPU.
    """
    kind = measured["machine"].split(", ")[-1]
    chip = chips.of_device(kind)
    if chip is None:
        raise SystemExit(f"the figures of {kind} are unknown: add them to ssl_jax/core/chips.py")
    found = {}
    for system, row in measured["systems"].items():
        step = plan.step(planned(system, row), f"{chip.name}:1")
        seconds = row["seconds"]["ours"]
        parts = {name: round(value * 1e3, 2) for name, value in vars(step.times).items() if value}
        found[system] = {
            "predicted": round(step.times.total * 1e3, 1),
            "measured": round(seconds * 1e3, 1),
            "ratio": round(step.times.total / seconds, 3),
            "parts": parts,
        }
    return {"systems": found, "machine": measured["machine"]}


def main() -> None:
    """Predicts, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--measured", type=Path, default=HERE / "step_vs_torch_gpu.json")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    report = compare(json.loads(options.measured.read_text(encoding="utf-8")))
    for system, row in report["systems"].items():
        print(f"{system}: {row['predicted']} ms predicted, {row['measured']} ms measured")
    atomic.write_json(options.out, report)


if __name__ == "__main__":
    main()
