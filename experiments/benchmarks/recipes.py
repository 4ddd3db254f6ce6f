"""Hours of whole recipes: predicted for one GPU and a TPU slice, from operations for a laptop.

    python -m experiments.benchmarks.recipes && python -m experiments.tables

Needs neither chip (docs/plan.md). The batch of the recipe is kept and split into as few
micro-batches as fit in memory.
"""

import os
from pathlib import Path
from typing import Any

from experiments import results
from ssl_jax import plan
from ssl_jax.core import atomic, chips
from ssl_jax.core import config as config_lib
from ssl_jax.planning import budget, rescale

OUT = Path(__file__).with_suffix(".json")
TOPOLOGIES = {"h100:1": "one H100", "v5e:4x4": "TPU v5e, 16 chips"}
IMAGENET, SPEECH_COMMANDS = 1_281_167, 67_874  # training examples
# recipe: the examples of its data, for one whose length is in epochs
RECIPES = {
    "configs/data2vec2/audio.py:own": 0,
    "configs/data2vec2/audio.py:mini": 0,
    "configs/data2vec/kws.py:kwt1": SPEECH_COMMANDS,
    "configs/music2vec/music2vec.py:base": 0,
    "configs/data2vec/audio.py:base": 0,
    "configs/data2vec/image.py:base": IMAGENET,
    "configs/data2vec/text.py:base": 0,
    "configs/data2vec2/audio.py:base": 0,
    "configs/data2vec2/image.py:base": IMAGENET,
    "configs/data2vec2/text.py:base": 0,
    "configs/hubert/audio.py:base": 0,
    "configs/wav2vec2/audio.py:base": 0,
    "configs/wav2vec2/conformer.py:base": 0,
    "configs/mae/image.py:base": IMAGENET,
    "configs/ctc/speech.py:base_100h": 0,
}
# results file: its program
PROGRAMS = {
    "quickstart.json": "experiments/quickstart.py",
    "music2vec/results.json": "experiments/music2vec/program.py",
    "wav2vec2/results.json": "experiments/wav2vec2/program.py",
    "data2vec2/results.json": "experiments/data2vec2/program.py",
    "hubert/results.json": "experiments/hubert/pipeline.py",
    "kws/results.json": "experiments/kws/program.py",
}
SMALL = "configs/data2vec2/audio.py:own", "configs/data2vec2/audio.py:mini", "kws.py:kwt1"


def planned(name: str, examples: int) -> dict[str, Any]:
    """Returns the steps of a recipe, the operations of one, and the hours on each topology."""
    config = config_lib.load(name, [])
    if config_lib.flatten(config).get("method.mask.same_count"):
        # it trims masks over the whole batch, which micro-batches cannot
        config = config_lib.change(config, {"method.mask.same_count": False})
    run = budget.whole_run(config, examples)
    if run.missing:
        raise ValueError(f"{name}: {run.missing}")
    row: dict[str, Any] = {"steps": run.steps, "flops": plan.step(config, "cpu:1").flops}
    row |= {"hours": {}, "micro_batches": {}}
    for topology in TOPOLOGIES:
        count = chips.topology(topology).chips
        found: dict[str, Any] = {}

        def fits(one: Any, topology: str = topology, found: dict[str, Any] = found) -> bool:
            found[config_lib.sign(one)] = step = plan.step(one, topology)
            return step.spare >= 0

        one = config_lib.change(config, rescale.for_chips(config, count, fits))
        step = found.get(config_lib.sign(one)) or plan.step(one, topology)
        row["hours"][topology] = round(
            step.times.total * budget.whole_run(one, examples).steps / 3600, 3
        )
        row["micro_batches"][topology] = one.train.accumulate
    return row


def rate(small: bool) -> float:
    """Returns FLOP/s that training steps were measured to attain on two cores.

    small: of the mini configs, the slowest of the image experiment; else of Base, the slowest of
    step_vs_torch.py.
    """
    if small:
        found = results.read("data2vec2/results.json")
        seconds = found["seconds_per_step"]
        return min(found["flops_per_step"][name] / seconds[name] for name in seconds)
    rows = results.read("benchmarks/step_vs_torch.json")["systems"].values()
    return min(row["flops"] / row["seconds"]["ours"] for row in rows)


def laptop_hours(name: str, row: dict[str, Any]) -> float:
    """Returns the hours of a recipe on two cores at the measured rate."""
    return row["flops"] * row["steps"] / rate(name.endswith(SMALL)) / 3600


def text(hours: float) -> str:
    """Returns a duration in the unit that reads best, such as "17 min" or "4.2 days"."""
    for limit, factor, unit in ((1.5, 60, "min"), (72, 1, "h"), (24 * 730, 1 / 24, "days")):
        if hours < limit:
            value = hours * factor
            return f"{value:.{int(value < 10)}f} {unit}" if value >= 1 else f"under 1 {unit}"
    return f"{hours / 24 / 365:.0f} years"


def table() -> list[dict[str, str]]:
    """Returns a row per recipe: its updates, and its time on each kind of machine."""
    rows = []
    for name, found in results.read("benchmarks/recipes.json").items():
        short = name.removeprefix("configs/")
        row = {"recipe": f"[{short}](../{name.partition(':')[0]})"}
        row |= {"updates": f"{found['steps']:,}", "two cores": text(laptop_hours(name, found))}
        rows.append(row | {TOPOLOGIES[key]: text(h) for key, h in found["hours"].items()})
    return rows


def programs() -> list[dict[str, str]]:
    """Returns a row per program of the experiments: what it does and its measured time."""
    rows = []
    for file, command in PROGRAMS.items():
        found = results.read(file)
        about = found.get("machine", found)
        row = {"program": f"`{command}`", "cores": str(about["cores"])}
        rows.append(row | {"time": text(about["seconds"] / 3600)})
    return rows


def main() -> None:
    """Plans every recipe and writes the file."""
    found = {}
    for name, examples in RECIPES.items():
        found[name] = planned(name, examples)
        print(name, found[name], flush=True)
        atomic.write_json(OUT, found)


if __name__ == "__main__":
    # stand-ins for the chips; must be set before the first use of jax
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=16"
    main()
