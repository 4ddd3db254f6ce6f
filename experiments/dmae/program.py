"""Does aligning with a better masked autoencoder beat more training, and survive harder masks?

    python -m ssl_jax.pipeline experiments/dmae/program.py --data=PATH [--option=value ...]

PATH is a folder with train.tar and test.tar of images named class/name.jpg, for example CIFAR-10;
--other names a second one that is only probed. Trains one teacher, then for each seed students by
MAE and by DMAE, probes their frozen features, and writes results.json and results.png next to this
file. With --few_labels="(0.05, 0.2)" it also fine-tunes students with these shares of the labels,
beside one that learns from the outputs of the teacher, which is fine-tuned with the same labels.
"""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments.dmae import claims, pictures
from ssl_jax.core import config as config_lib
from ssl_jax.core.mesh import make_mesh
from ssl_jax.evals import table
from ssl_jax.pipeline import Pipe
from ssl_jax.reports import figures
from ssl_jax.stages import embed, probes
from ssl_jax.stages.graph import Stage

OPTIONS = {
    "data": "data/cifar10",
    "other": "",  # a second folder of images, such as Caltech-101
    "seeds": 3,
    "teacher_steps": 1000,
    "steps": 250,  # of a student
    "longer": 4,  # times as many for the longest MAE
    "batch": 64,
    "few_labels": (),  # shares of the labels; two take about 7 minutes a seed on two cores
    "tune_steps": 100,
    "out": "",
}
# 100 patches, so that five are left where 95 % are masked
IMAGE = {"image_size": 20, "patch_size": 2}
TEACHER = {"depth": 4, "width": 128, "heads": 4, "mlp_width": 512}
STUDENT = {"depth": 3, "width": 64, "heads": 2, "mlp_width": 256}
DECODER = {"depth": 1, "width": 48, "heads": 2, "mlp_width": 192}
# Both sides have unit variance, without what depends on the place alone. Features weigh four times
# as much as pixels: late in a run of a student their gradients by the encoder are then about equal,
# and with a weight of 1 that of the pixels is 3.4 times as long.
ALIGN = {
    "student": (2,),
    "teacher": (3,),
    "alpha": 4.0,
    "normalize_features": "layer",
    "center": "batch",
}
# name: (method, share of masked patches, multiple of the steps)
ARMS = {
    "MAE 75 %": ("mae", 0.75, 1),
    "DMAE 75 %": ("dmae", 0.75, 1),
    "MAE 90 %": ("mae", 0.9, 1),
    "DMAE 90 %": ("dmae", 0.9, 1),
    "MAE 95 %": ("mae", 0.95, 1),
    "DMAE 95 %": ("dmae", 0.95, 1),
    "MAE 75 %, longer": ("mae", 0.75, 0),
}
TUNED = ("MAE 75 %", "DMAE 75 %")
PROBED_TWICE = ("MAE 75 %", "DMAE 75 %", "MAE 75 %, longer")
UNTRAINED = "random encoder"
LEAST_GAP = 0.05  # of the teacher over the student's MAE: less, and there is nothing to learn
HERE = pathlib.Path(__file__).resolve().parent


def main(pipe: Pipe) -> None:
    """Runs every part; complete stages are skipped."""
    o = pipe.options
    teacher = pipe.train("teacher", _config(pipe, "mae", 0.75, o["teacher_steps"], TEACHER))
    asked: dict[str, dict[str, list[Stage]]] = {"probe": {}, "other": {}}
    starts: dict[str, list[Stage]] = {}
    for name, (method, ratio, times) in ARMS.items():
        config = _config(pipe, method, ratio, o["steps"] * (times or o["longer"]), STUDENT)
        taught = {"teacher": teacher} if method == "dmae" else {}
        for seed in range(o["seeds"]):
            seeded = config_lib.override(config, [f"seed={seed}"])
            run = pipe.train(f"{_slug(name)}-{seed}", seeded, teachers=taught)
            starts.setdefault(name, []).append(run)
            _keep(asked["probe"], name, _probe(pipe, run, o["data"], "this run"))
            if name in PROBED_TWICE and o["other"]:
                _keep(asked["other"], name, _probe(pipe, run, o["other"], "this run"))
            if name == "MAE 75 %":
                _keep(asked["probe"], UNTRAINED, _probe(pipe, run, o["data"], UNTRAINED))
                if not seed:  # pixels are the same for all seeds
                    asked["probe"]["pixels"] = [_probe(pipe, run, o["data"], "pixels")] * o["seeds"]
    asked["probe"]["teacher"] = [_probe(pipe, teacher, o["data"], "this run")] * o["seeds"]
    chosen = {name: starts[name] for name in TUNED}
    shares = o["few_labels"]
    tuned = {f"{100 * share:g} %": _tuned(pipe, share, chosen, teacher) for share in shares}
    # Results are read once every stage has been asked for: reading one waits for it, and until then
    # stages that do not need each other may run side by side.
    found = {part: _read(pipe, stages, _score) for part, stages in asked.items()}
    _ladder(pipe, found["probe"])
    few = {share: _read(pipe, runs, _accuracy) for share, runs in tuned.items()}
    _write(pipe, {**found, "few labels": few})


def _read(
    pipe: Pipe, stages: Mapping[str, list[Stage]], value: Callable[[Pipe, Stage], float]
) -> dict[str, list[float]]:
    """Returns the value of each stage of each arm."""
    return {name: [value(pipe, stage) for stage in each] for name, each in stages.items()}


def _config(
    pipe: Pipe, method: str, ratio: float, steps: int, size: Mapping[str, int]
) -> ConfigDict:
    """Returns the mini config of a method at the sizes of this experiment."""
    config = config_lib.load(f"configs/{method}/image.py:mini").copy_and_resolve_references()
    config.unlock()
    config.method.encoder.update({**size, **IMAGE})
    config.method.decoder.update(DECODER)
    config.method.update({"mask_ratio": ratio, "norm_pix": False})
    if method == "dmae":
        config.method.align.update(ALIGN)
        config.method.teachers.teacher = ""
    config.data = _data(config.data, pipe.options["data"])
    config.data.update({"image_size": IMAGE["image_size"], "batch_size": pipe.options["batch"]})
    return config_lib.override(config, _durations(steps))


def _slug(name: str) -> str:
    return name.replace(" %", "").replace(",", "").replace(" ", "-").lower()


def _durations(steps: int) -> list[str]:
    changes = [f"train.duration={steps} steps", f"checkpoint.every={steps} steps"]
    return [*changes, f"eval.every={steps} steps", "eval.valid=False", f"guard.after={steps}"]


def _data(data: ConfigDict, folder: str) -> ConfigDict:
    """Returns config.data with the images of a folder; whole ones for the probe."""
    data = data.copy_and_resolve_references()
    with data.unlocked():
        for split, file in {"train": "train.tar", "valid": "test.tar"}.items():
            source = {"kind": "image_tar", "path": str(pathlib.Path(folder) / file)}
            data[split] = ConfigDict({"images": source})
        data.eval_transforms = ConfigDict({"center_crop": {"share": 1.0}})
    return data


def _probe(pipe: Pipe, run: Stage, folder: str, features: str) -> Stage:
    """Returns the ridge probe of frozen features: of a run, of the same encoder untrained, or of
    pixels."""

    def work(out: pathlib.Path) -> None:
        model, mesh = pipe.load(run), make_mesh({"data": -1})
        config = model.config.copy_and_resolve_references()
        with config.unlocked():
            config.data = _data(config.data, folder)
        corpora = embed.open_splits(config, out, mesh.size)
        about = (model.method, model.params, model.config, model.step)
        chosen = embed.encoders(*about, corpora["train"], mesh, only=features)
        rows, _ = probes.run_probes(lambda: chosen, corpora, ConfigDict({}), ("ridge",), mesh, out)
        figures.write_results(out / "rows.json", {"rows": rows})

    name = f"probe-{pathlib.Path(folder).name}-{features.replace(' ', '-')}-{run.name}"
    what = {"probe": "ridge", "features": features, "data": folder}
    return pipe.stage("eval", name, what, work, (run,))


def _score(pipe: Pipe, stage: Stage) -> float:
    """Returns the accuracy of a probe."""
    (row,) = json.loads((pipe.folder(stage) / "rows.json").read_text(encoding="utf-8"))["rows"]
    return float(row["test"][0])


def _tuned(
    pipe: Pipe, share: float, starts: Mapping[str, list[Stage]], teacher: Stage
) -> dict[str, list[Stage]]:
    """Returns the runs of each arm with a share of the labels, the same ones for all.

    Students start from their runs of pre-training, from scratch, or learn from scratch what the
    fine-tuned teacher says of all images, whose labels they do not see.
    """
    learned, taught = "supervised/imagenet", "distill/image"
    config = _tuning(pipe, learned, TEACHER, share, fresh=False)
    expert = pipe.train(f"tuned-{share}-teacher", config, start=teacher)
    plain = _tuning(pipe, learned, STUDENT, share, fresh=False)
    found: dict[str, list[Stage]] = {}
    for seed in range(pipe.options["seeds"]):
        arms: dict[str, tuple[ConfigDict, dict[str, Any]]] = {
            name: (plain, {"start": runs[seed]}) for name, runs in starts.items()
        }
        arms["from scratch"] = _tuning(pipe, learned, STUDENT, share, fresh=True), {}
        every = _tuning(pipe, taught, STUDENT, 1.0, fresh=True)
        arms["distilled logits"] = every, {"teachers": {"teacher": expert}}
        for name, (config, more) in arms.items():
            slug = f"tuned-{share}-{_slug(name)}-{seed}"
            run = pipe.train(slug, config_lib.override(config, [f"seed={seed}"]), **more)
            _keep(found, name, run)
    found["teacher"] = [expert] * pipe.options["seeds"]
    return found


def _tuning(
    pipe: Pipe, name: str, size: Mapping[str, int], share: float, fresh: bool
) -> ConfigDict:
    """Returns the mini config of a method that learns classes; fresh: from no other run."""
    encoder = _config(pipe, "mae", 0.75, 1, size).method.encoder
    config = config_lib.load(f"configs/{name}.py:mini").copy_and_resolve_references()
    config.unlock()
    config.method.encoder = encoder
    config.method.mix.update({"mixup": 0.0, "cutmix": 0.0})
    if name.startswith("distill"):
        config.method.teachers.teacher = ""
        config.method.soft.label_weight = 0.0
    config.data = _data(config.data, pipe.options["data"])
    config.data.update({"image_size": IMAGE["image_size"], "batch_size": pipe.options["batch"]})
    config.data.label_share = share
    config.checkpoint.best_metric = ""
    config.optim.layer_decay = 1.0 if fresh else config.optim.layer_decay
    return config_lib.override(config, [*_durations(pipe.options["tune_steps"]), "eval.valid=True"])


def _accuracy(pipe: Pipe, run: Stage) -> float:
    """Returns the accuracy on the test images at the end of a run."""
    return float(figures.read_metrics(pipe.folder(run), "valid/accuracy")[1][-1])


def _keep(found: dict[str, list[Stage]], name: str, stage: Stage) -> None:
    found.setdefault(name, []).append(stage)


def _ladder(pipe: Pipe, probe: Mapping[str, list[float]]) -> None:
    """Says whether the teacher knows enough more than a student of MAE to teach it."""
    gap = table.interval(probe["teacher"])[0] - table.interval(probe["MAE 75 %"])[0]
    verdict = "enough" if gap >= LEAST_GAP else "too little to teach anything: train it for longer"
    pipe.notify(f"the teacher is {gap:.3f} above the student's MAE: {verdict}")


def _write(pipe: Pipe, found: dict[str, Any]) -> None:
    """Writes results.json and results.png."""
    out = pathlib.Path(pipe.options["out"]) if pipe.options["out"] else HERE
    options = {k: v for k, v in pipe.options.items() if k not in ("data", "other", "out")}
    results = {**found, "options": options, "machine": pipe.machine()}
    results["claims"] = claims.students(results)
    figures.write_results(out / "results.json", results)
    pictures.draw(out / "results.png", results)
