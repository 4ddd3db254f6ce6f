"""What `ssl_jax.plan` predicts for a step on a GPU, beside what step_vs_torch.py measured there.

    python -m experiments.benchmarks.plan_vs_step

Needs no GPU: measurements are those of step_vs_torch_gpu.json, of the same configs and batches.
"""

import argparse
import json
from pathlib import Path

from experiments.benchmarks import step_vs_torch
from ssl_jax import plan
from ssl_jax.core import chips

HERE = Path(__file__).resolve().parent
# {the beginning of a device's name: what plan calls one of them}
TOPOLOGIES = {"NVIDIA H100": "h100:1", "NVIDIA A100": "a100:1"}


def predict(system: str, rows: int, masks: int, depth: int, topology: str) -> dict[str, float]:
    """Returns the seconds of a step that plan predicts, and the share of the chip's peak."""
    config = step_vs_torch.base_config(system, depth, masks).unlock()
    config.precision = "bfloat16"
    config.data.batch_size = rows
    if system.endswith("audio"):
        config.data.buckets = (float(step_vs_torch.SECONDS),)
    found = plan.step(config.lock(), topology)
    peak = chips.topology(topology).chip.flops
    return {
        "seconds": round(found.times.total, 4),
        "utilization": round(found.utilization(peak), 3),
    }


def topology_of(machine: str) -> str:
    """Returns what plan calls the device of a machine in words; raises SystemExit for another."""
    for name, topology in TOPOLOGIES.items():
        if name in machine:
            return topology
    raise SystemExit(f"{machine}: plan knows {', '.join(TOPOLOGIES)}")


def main() -> None:
    """Predicts every step that was measured, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--measured", type=Path, default=HERE / "step_vs_torch_gpu.json")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    measured = json.loads(options.measured.read_text())
    topology, systems = topology_of(measured["machine"]), {}
    for system, row in measured["systems"].items():
        made = predict(system, row["rows"], row["masks"], row["depth"], topology)
        seconds = row["seconds"]["ours"]
        systems[system] = {
            "measured": {"seconds": seconds, "utilization": row["utilization"]},
            "predicted": made,
            "ratio": round(made["seconds"] / seconds, 3),
        }
        print(system, systems[system])
    report = {"systems": systems, "topology": topology, "machine": measured["machine"]}
    options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
