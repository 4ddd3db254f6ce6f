"""Does data2vec 2.0 reach the same linear-probe accuracy sooner than data2vec and MAE?

    python -m ssl_jax.pipeline experiments/data2vec2/program.py --data=PATH [--option=value ...]

PATH is a folder with train.tar and test.tar of images named class/name.jpg, for example CIFAR-10.
Pre-trains encoders of the same size with three methods without labels, probes them during
training, times a step of each in turns, and writes results.json and results.png next to this file.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import clock
import time_to_accuracy
from ml_collections import ConfigDict

from experiments.data2vec2 import claims, pictures
from ssl_jax import evaluate
from ssl_jax.core import config as config_lib
from ssl_jax.evals import table
from ssl_jax.pipeline import Pipe
from ssl_jax.reports import figures
from ssl_jax.stages.graph import Stage

OPTIONS = {
    "data": "data/cifar10",
    "seeds": 3,
    # updates, chosen so that all methods take about the same time
    "data2vec2_steps": 480,
    "data2vec_steps": 800,
    "mae_steps": 1600,
    "supervised_steps": 400,
    # images per update; data2vec 2.0 makes eight views of each
    "data2vec2_batch": 32,
    "batch": 64,
    "probes": 4,  # during training
    "ablation_steps": 200,
    "ablation_clones": 4,
    "timing_rounds": 15,
    "allow_low_turnover": True,  # see the README
    "out": "",
}
DATA = {"data": "cifar10"}  # option: its layout in `convert index`
METHODS = {
    "data2vec 2.0": ("data2vec2", "configs/data2vec2/image.py:mini"),
    "data2vec": ("data2vec", "configs/data2vec/image.py:mini"),
    "MAE": ("mae", "configs/mae/image.py:mini"),
}
# the size of all encoders; each method keeps the block layout and positions of its paper
SIZE = {"depth": 4, "width": 96, "heads": 3, "mlp_width": 384, "image_size": 32, "patch_size": 4}
MAE_DECODER = {"depth": 2, "width": 64, "heads": 4, "mlp_width": 256}
ABLATIONS = {
    "as is": (),
    "random mask": ("method.mask.kind=random",),
    "1 target layer": ("method.targets.layers=1",),
    "no decoder": ("method.decoder.layers=0",),
}
PROBE = "monitor/ridge/accuracy"
HERE = pathlib.Path(__file__).resolve().parent


def main(pipe: Pipe) -> None:
    """Runs every part; complete stages are skipped."""
    o = pipe.options
    configs = {
        name: _config(pipe, path, o[f"{key}_steps"]) for name, (key, path) in METHODS.items()
    }
    seconds = _speed(pipe, configs)
    runs = {
        name: [_train(pipe, METHODS[name][0], config, seed) for seed in range(o["seeds"])]
        for name, config in configs.items()
    }
    starts = {name: [_untrained(pipe, run) for run in stages] for name, stages in runs.items()}
    curves = {name: [_curve(pipe.folder(s)) for s in stages] for name, stages in runs.items()}
    random = {name: [found["random encoder"] for found in s] for name, s in starts.items()}
    found = {
        "seconds_per_step": seconds,
        "flops_per_step": {name: clock.flops_per_step(config) for name, config in configs.items()},
        "curves": curves,
        "random": random,
        "levels": _times(curves, seconds, random),
        "baselines": {
            "random encoder": random["data2vec 2.0"],
            "pixels": [starts["data2vec 2.0"][0]["pixels"]],
            "supervised": _supervised(pipe, configs["data2vec 2.0"]),
        },
    }
    _write(pipe, found | {"ablations": {}})  # the first part is available while the rest runs
    _write(pipe, found | {"ablations": _ablations(pipe, configs["data2vec 2.0"])})


def _config(pipe: Pipe, path: str, steps: int) -> ConfigDict:
    """Returns a mini config on the images, at the common size of all methods."""
    o = pipe.options
    config = config_lib.load(path).copy_and_resolve_references().unlock()
    folder = pathlib.Path(o["data"])
    for split, file in {"train": "train.tar", "valid": "test.tar"}.items():
        source = {"kind": "image_tar", "path": str(folder / file)}
        config.data[split] = ConfigDict({"images": source})
    config.data.eval_transforms = ConfigDict({"center_crop": {"share": 1.0}})
    config.data.batch_size = o["data2vec2_batch" if config.method.name == "data2vec2" else "batch"]
    config.method.encoder.update(SIZE)
    if config.method.name == "mae":
        config.method.decoder.update(MAE_DECODER)
    config.eval.monitors = ("ridge",)
    config.eval.pool = "raw_mean_std"  # the mean of the encoder's states, as published
    every = max(1, steps // o["probes"])
    changes = [f"train.duration={steps} steps", f"eval.every={every} steps", "eval.valid=False"]
    changes += [f"checkpoint.every={steps} steps", f"guard.after={steps // 2}"]
    if "ema" in config.method:
        changes.append(f"method.ema.anneal={steps}")
    return config_lib.override(config, changes)


def _train(pipe: Pipe, name: str, config: ConfigDict, seed: int) -> Stage:
    return pipe.train(f"{name}-{seed}", config_lib.override(config, [f"seed={seed}"]))


def _curve(folder: pathlib.Path) -> dict[str, list[float]]:
    """Returns {"step": [...], "accuracy": [...]} of the probe during a run."""
    steps, values = figures.read_metrics(folder, PROBE)
    return {"step": steps.tolist(), "accuracy": values.tolist()}


def _untrained(pipe: Pipe, run: Stage) -> dict[str, float]:
    """Returns the accuracy of the probe on the untrained encoder of a run, and on pixels."""
    folder = pipe.folder(run)

    def work(out: pathlib.Path) -> None:
        rows = evaluate.run(folder, ("ridge",))["results"]
        figures.write_results(out / "rows.json", {"rows": rows})

    stage = pipe.stage("eval", f"eval-{run.name}", {"probe": "ridge"}, work, (run,))
    rows = json.loads((pipe.folder(stage) / "rows.json").read_text(encoding="utf-8"))["rows"]
    return {row["features"]: row["test"][0] for row in rows}


def _times(
    curves: Mapping[str, Sequence[time_to_accuracy.Curve]],
    seconds: Mapping[str, float],
    random: Mapping[str, Sequence[float]],
) -> dict[str, dict[str, list[float | None]]]:
    """Returns {accuracy: {method: training seconds of each seed, None if not reached}}.

    The accuracies are those above every untrained encoder that at least one run reaches.
    """
    starts = {name: table.interval(values)[0] for name, values in random.items()}
    wanted = time_to_accuracy.between(max(starts.values()), curves)
    return {f"{x:.2f}": time_to_accuracy.times(curves, seconds, x, starts) for x in wanted}


def _supervised(pipe: Pipe, like: ConfigDict) -> list[float]:
    """Trains the encoder of data2vec 2.0 with all labels; returns the final accuracies."""
    o = pipe.options
    config = _config(pipe, "configs/supervised/imagenet.py:mini", o["supervised_steps"])
    config = config.copy_and_resolve_references().unlock()
    config.method.encoder = like.method.encoder
    config.method.mix.update({"mixup": 0.0, "cutmix": 0.0})
    config.optim.layer_decay = 1.0  # from scratch
    config.eval.monitors = ()
    config.eval.valid = True
    config.checkpoint.best_metric = ""
    runs = [_train(pipe, "supervised", config, seed) for seed in range(o["seeds"])]
    found = [figures.read_metrics(pipe.folder(run), "valid/accuracy")[1][-1] for run in runs]
    return [float(value) for value in found]


def _ablations(pipe: Pipe, config: ConfigDict) -> dict[str, list[float]]:
    """Trains ablations of data2vec 2.0 in short runs; returns the final probe accuracies."""
    o = pipe.options
    steps = o["ablation_steps"]
    short = [f"train.duration={steps} steps", f"eval.every={steps} steps"]
    short += [f"checkpoint.every={steps} steps", f"method.ema.anneal={steps}"]
    short += [f"method.clones={o['ablation_clones']}"]
    found = {}
    for name, changes in ABLATIONS.items():
        own = config_lib.override(config, [*short, *changes])
        tag = "ablation-" + name.replace(" ", "-")
        runs = [_train(pipe, tag, own, seed) for seed in range(o["seeds"])]
        found[name] = [_curve(pipe.folder(run))["accuracy"][-1] for run in runs]
    return found


def _speed(pipe: Pipe, configs: Mapping[str, ConfigDict]) -> dict[str, float]:
    """Times a step of each method in turns, once; the times are kept with the runs."""
    rounds = pipe.options["timing_rounds"]
    timed = {name: clock.to_json(config) for name, config in configs.items()}

    def work(out: pathlib.Path) -> None:
        figures.write_results(out / "seconds.json", clock.seconds_per_step(configs, rounds))

    stage = pipe.stage("eval", "speed", {"rounds": rounds, "methods": timed}, work)
    return json.loads((pipe.folder(stage) / "seconds.json").read_text(encoding="utf-8"))


def _write(pipe: Pipe, found: Mapping[str, Any]) -> None:
    """Writes results.json and results.png, and prints the times."""
    out = pathlib.Path(pipe.options["out"]) if pipe.options["out"] else HERE
    options = {k: v for k, v in pipe.options.items() if k not in ("data", "out")}
    results = {**found, "options": options, "machine": pipe.machine()}
    results["claims"] = claims.images(results)
    figures.write_results(out / "results.json", results)
    pictures.draw(out / "results.png", results)
    for accuracy, methods in found["levels"].items():
        pipe.notify(f"{accuracy}: " + ", ".join(f"{k} {cell(v)}" for k, v in methods.items()))


def cell(seconds: Sequence[float | None]) -> str:
    """Returns the seconds to an accuracy as text, or how many seeds reach it."""
    reached = [s for s in seconds if s is not None]
    if len(reached) < len(seconds):
        return f"{len(reached)} of {len(seconds)} seeds"
    mean, half = table.interval(reached)
    return f"{mean:.0f} ± {half:.0f} s"
