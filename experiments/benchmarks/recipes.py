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
