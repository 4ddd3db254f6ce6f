"""Does masked prediction of a frozen contrastive teacher keep its features and fine-tune better?

    python -m ssl_jax.pipeline experiments/mimco/program.py --data=PATH [--option=value ...]

PATH is a folder with train.tar and test.tar of images named class/name.jpg, for example CIFAR-10.
For each seed: MoCo v3 is trained, or imported with --teacher=FOLDER; a MimCo-style student predicts
its features, and MAE the pixels; all three are probed, and fine-tuned with a share of the labels.
Writes results.json and results.png next to this file.
"""

import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments.mimco import claims, pictures
from ssl_jax.core import config as config_lib
from ssl_jax.core.mesh import make_mesh
from ssl_jax.pipeline import Pipe
from ssl_jax.reports import figures
from ssl_jax.stages import embed, probes
from ssl_jax.stages.graph import Stage

OPTIONS = {
    "data": "data/cifar10",
    "teacher": "",  # the folder of a run of MoCo v3 in place of one that is trained here
    "seeds": 3,
    "moco_steps": 3000,
    "mimco_steps": 1000,
    "mae_steps": 4000,  # as many as both stages of MimCo have together
    "finetune_steps": 200,
    "labels_per_class": 60,  # a tenth
    "batch": 64,
    "ablations": False,  # also the arms of ABLATIONS
    "out": "",
}
SIZE = {"depth": 3, "width": 64, "heads": 4, "mlp_width": 256, "image_size": 24, "patch_size": 4}
DECODER = {"width": 64, "depth": 1, "heads": 4, "mlp_width": 256}
# helps of a small MoCo v3: a stem of convolutions in place of the frozen projection of patches, the
# mean of the patches as readout, and a queue of at most a sixth of the images
HELPED = {
    "pool": "frames",
    "queue": 1024,
    "encoder": {"stem": "convolutions"},
    "ema": {"rules": ((".*", "average"),)},
}
# name: keys of config.method of a further MimCo-style student
ABLATIONS: dict[str, dict[str, Any]] = {
    "MimCo, cosine": {"patch": {"loss": "cosine"}},
    "MimCo, centred keys": {"patch": {"center": "batch"}},
    "MimCo, no image loss": {"image": {"weight": 0.0}},
    "MimCo, no patch loss": {"patch": {"weight": 0.0}},
}
PUBLISHED = "MoCo v3, published form"
HERE = pathlib.Path(__file__).resolve().parent


def main(pipe: Pipe) -> None:
    """Runs every part; complete stages are skipped."""
    o = pipe.options
    found: dict[str, dict[str, list[float]]] = {"ridge": {}, "knn": {}, "fine-tuned": {}}
    for seed in range(o["seeds"]):
        runs = _pretrained(pipe, seed)
        for name, run in runs.items():
            _keep(found, name, _probe(pipe, run, "this run"))
        for name in ("random encoder", "pixels"):
            _keep(found, name, _probe(pipe, runs["MimCo"], name))
        for name in ("MoCo v3", "MAE", "MimCo"):
            _keep(found, name, {"fine-tuned": _tuned(pipe, name, seed, runs[name], True)})
        scratch = _tuned(pipe, "scratch", seed, runs["MimCo"], False)
        _keep(found, "from scratch", {"fine-tuned": scratch})
    out = pathlib.Path(o["out"]) if o["out"] else HERE
    options = {k: v for k, v in o.items() if k not in ("data", "teacher", "out")}
    results = {**found, "options": options, "machine": pipe.machine()}
    results["claims"] = claims.arms(results)
    figures.write_results(out / "results.json", results)
    pictures.draw(out / "results.png", results)


def _pretrained(pipe: Pipe, seed: int) -> dict[str, Stage]:
    """Returns the run of every arm that is pre-trained."""
    o = pipe.options
    runs = {}
    if o["teacher"]:
        teacher = _imported(pipe, o["teacher"])
    else:
        teacher = _train(pipe, "moco", seed, _moco(pipe, HELPED))
    runs["MoCo v3"] = teacher
    runs["MAE"] = _train(pipe, "mae", seed, _config(pipe, "mae", o["mae_steps"]))
    students: dict[str, dict[str, Any]] = {"MimCo": {}}
    if o["ablations"]:
        runs[PUBLISHED] = _train(pipe, "moco-published", seed, _moco(pipe, {}))
        students |= ABLATIONS
    for name, changes in students.items():
        config = _config(pipe, "mimco", o["mimco_steps"], changes)
        slug = name.replace(",", "").replace(" ", "-").lower()
        runs[name] = _train(pipe, slug, seed, config, {"teacher": teacher})
    return runs


def _imported(pipe: Pipe, folder: str) -> Stage:
    """Returns a stage that is a copy of a run folder."""
    signature = (pathlib.Path(folder) / "signature.txt").read_text(encoding="utf-8").strip()

    def work(out: pathlib.Path) -> None:
        shutil.copytree(folder, out, dirs_exist_ok=True)

    return pipe.stage("import", "teacher", {"signature": signature}, work)


def _config(
    pipe: Pipe, method: str, steps: int, changes: Mapping[str, Any] | None = None
) -> ConfigDict:
    """Returns the mini config of a method at the common size; `changes` are keys of its method."""
    o = pipe.options
    config = config_lib.load(f"configs/{method}/image.py:mini").copy_and_resolve_references()
    config.unlock()
    config.method.encoder.update(SIZE)
    if method != "moco_v3":
        config.method.decoder.update(DECODER)
    if method == "mimco":
        config.method.teachers.teacher = ""
        config.method.hidden = 256
    config.method.update(changes or {})
    _data(config, o["data"])
    config.data.batch_size = o["batch"]
    return config_lib.override(config, _durations(steps))


def _moco(pipe: Pipe, changes: Mapping[str, Any]) -> ConfigDict:
    """Returns the config of MoCo v3, its momentum such that the teacher is replaced 12 times."""
    steps = pipe.options["moco_steps"]
    config = _config(pipe, "moco_v3", steps, changes).unlock()
    config.method.head.update({"hidden": 256, "outputs": 64})
    config.method.ema.update({"start": max(0.0, 1 - 24 / steps), "anneal": steps})
    config.optim.lr = 2e-3
    if changes:
        config.optim.frozen = ()
    return config


def _data(config: ConfigDict, folder: str) -> None:
    """Sets the images of a folder; whole ones in evaluations."""
    for split, file in {"train": "train.tar", "valid": "test.tar"}.items():
        source = {"kind": "image_tar", "path": str(pathlib.Path(folder) / file)}
        config.data[split] = ConfigDict({"images": source})
    config.data.eval_transforms = ConfigDict({"center_crop": {"share": 1.0}})
    config.data.image_size = SIZE["image_size"]


def _durations(steps: int) -> list[str]:
    changes = [f"train.duration={steps} steps", f"checkpoint.every={steps} steps"]
    return [*changes, f"eval.every={steps} steps", "eval.valid=False", f"guard.after={steps}"]


def _train(
    pipe: Pipe,
    name: str,
    seed: int,
    config: ConfigDict,
    teachers: Mapping[str, Stage] | None = None,
) -> Stage:
    config = config_lib.override(config, [f"seed={seed}"])
    return pipe.train(f"{name}-{seed}", config, teachers=teachers)


def _probe(pipe: Pipe, run: Stage, features: str) -> dict[str, float]:
    """Returns the accuracy of each probe of frozen features: of a run, of the same encoder
    untrained, or of pixels."""

    def work(out: pathlib.Path) -> None:
        model, mesh = pipe.load(run), make_mesh({"data": -1})
        config = model.config.copy_and_resolve_references()
        with config.unlocked():
            _data(config, pipe.options["data"])
        corpora = embed.open_splits(config, out, mesh.size)
        about = (model.method, model.params, model.config, model.step)
        chosen = embed.encoders(*about, corpora["train"], mesh, only=features)
        kinds = ("ridge", "knn")
        rows, _ = probes.run_probes(lambda: chosen, corpora, ConfigDict({}), kinds, mesh, out)
        figures.write_results(out / "rows.json", {"rows": rows})

    what = {"probes": "ridge, knn", "features": features}
    name = f"probe-{features.replace(' ', '-')}-{run.name}"
    stage = pipe.stage("eval", name, what, work, (run,))
    rows = json.loads((pipe.folder(stage) / "rows.json").read_text(encoding="utf-8"))["rows"]
    return {row["probe"]: float(row["test"][0]) for row in rows}


def _tuned(pipe: Pipe, name: str, seed: int, run: Stage, start: bool) -> float:
    """Returns the test accuracy of a run's encoder after fine-tuning, or after as many steps from
    scratch."""
    o = pipe.options
    config = config_lib.load("configs/supervised/imagenet.py:mini").copy_and_resolve_references()
    config.unlock()
    config.method.encoder = pipe.load(run).config.method.encoder
    config.method.mix.update({"mixup": 0.0, "cutmix": 0.0})
    _data(config, o["data"])
    config.data.update({"batch_size": o["batch"], "labels_per_class": o["labels_per_class"]})
    config.checkpoint.best_metric = ""
    config = config_lib.override(
        config, [*_durations(o["finetune_steps"]), f"seed={seed}", "eval.valid=True"]
    )
    slug = name.replace(" ", "-").lower()
    tuned = pipe.train(f"tuned-{slug}-{seed}", config, start=run if start else None)
    return float(figures.read_metrics(pipe.folder(tuned), "valid/accuracy")[1][-1])


def _keep(found: dict[str, dict[str, list[float]]], name: str, scores: Mapping[str, float]) -> None:
    for metric, value in scores.items():
        found[metric].setdefault(name, []).append(value)
