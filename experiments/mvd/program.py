"""Do teachers of images give a student of clips strength in space, and teachers of video in time?

    python -m ssl_jax.pipeline experiments/mvd/program.py [--data=PATH] [--option=value ...]

Draws clips of objects that move over a texture (with --data, a folder with train.tar of images
named class/name.jpg such as CIFAR-10, the objects are cut out of these), trains a teacher of images
on their frames and one of video, then for each seed students of either, of both, and VideoMAE
alone, and probes what frozen features tell of space and of time. With --droid, a folder of short
videos with index.tsv, VideoMAE is also trained and probed on these. Writes results.json and
results.png next to this file.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments.mvd import claims, clips, pictures, probes
from ssl_jax.core import config as config_lib
from ssl_jax.pipeline import Pipe
from ssl_jax.reports import figures
from ssl_jax.stages.graph import Stage

OPTIONS = {
    "data": "",  # images that objects are cut out of
    "droid": "",  # real videos, for a second test
    "train": 3000,  # clips, of which the probes read the labels too
    "test": 800,
    "seeds": 3,
    "image_steps": 1500,  # of the teacher of images, in batches of frames
    "video_steps": 2000,  # of the teacher of video
    "steps": 800,  # of a student
    "batch": 32,
    "droid_steps": 1500,
    "out": "",
}
# an update of a student of both costs about as much as three of VideoMAE
COST = 3
SIZE = {"depth": 4, "width": 96, "heads": 3, "mlp_width": 384}
DECODER = {"width": 64, "depth": 1, "heads": 2, "mlp_width": 256}
STUDENTS = {"image teacher": ("image",), "video teacher": ("video",), "both": ("image", "video")}
ALONE, UNTRAINED, FRAME = "VideoMAE alone", "untrained", "single frame"
HERE = pathlib.Path(__file__).resolve().parent


def main(pipe: Pipe) -> None:
    """Runs every part; complete stages are skipped."""
    o = pipe.options
    drawn = {split: clips.drawn(pipe, split) for split in ("train", "test")}
    needs = tuple(drawn.values())
    video = _config(pipe, drawn, "videomae", o["video_steps"])
    teachers = {
        "image": pipe.train("teacher-image", _image_config(pipe, drawn), needs),
        "video": pipe.train("teacher-video", video, needs),
    }
    asked: dict[str, list[Stage]] = {}
    shown: list[Stage] = []
    for seed in range(o["seeds"]):
        longer = o["video_steps"] + COST * o["steps"]
        config = _config(pipe, drawn, "videomae", longer, seed)
        alone = pipe.train(f"alone-{seed}", config, needs)
        _keep(asked, ALONE, probes.frozen(pipe, alone, drawn))
        _keep(asked, UNTRAINED, probes.frozen(pipe, alone, drawn, untrained=True))
        if not seed:
            shown.append(alone)
        for arm, names in STUDENTS.items():
            config = _config(pipe, drawn, "mvd", o["steps"], seed, names)
            own = {name: teachers[name] for name in names}
            run = pipe.train(f"{arm.replace(' ', '-')}-{seed}", config, needs, teachers=own)
            _keep(asked, arm, probes.frozen(pipe, run, drawn))
    asked[FRAME] = [probes.single_frame(pipe, drawn)] * o["seeds"]
    # of the teacher itself, which serves all seeds
    asked["teacher of video"] = [probes.frozen(pipe, teachers["video"], drawn)] * o["seeds"]
    real = _droid(pipe) if o["droid"] else {}
    found = {arm: probes.read(pipe, stages) for arm, stages in asked.items()}
    _write(pipe, {"probe": found, "droid": real}, shown[0], drawn)


def _droid(pipe: Pipe) -> dict[str, dict[str, list[float]]]:
    """Returns the probes of real videos, by arm and label."""
    kept = {split: clips.real(pipe, split) for split in ("train", "test")}
    asked: dict[str, list[Stage]] = {}
    for seed in range(pipe.options["seeds"]):
        config = _config(pipe, kept, "videomae", pipe.options["droid_steps"], seed)
        run = pipe.train(f"droid-{seed}", config, tuple(kept.values()))
        _keep(asked, "VideoMAE", probes.frozen(pipe, run, kept))
        _keep(asked, UNTRAINED, probes.frozen(pipe, run, kept, untrained=True))
    asked[FRAME] = [probes.single_frame(pipe, kept)] * pipe.options["seeds"]
    return {arm: probes.read(pipe, stages) for arm, stages in asked.items()}


def _config(
    pipe: Pipe,
    data: Mapping[str, Stage],
    method: str,
    steps: int,
    seed: int = 0,
    teachers: tuple[str, ...] = (),
) -> ConfigDict:
    """Returns the mini config of a method of clips at the sizes of this experiment."""
    config = config_lib.load(f"configs/{method}/video.py:mini").copy_and_resolve_references()
    config.unlock()
    config.method.encoder.update(SIZE)
    config.method.decoder.update(DECODER)
    if teachers:
        config.method.teachers = ConfigDict(dict.fromkeys(teachers, ""))
    for split, own in (("train", "train"), ("valid", "test")):
        config.data[split].clips.path = str(pipe.graph.folder(data[own]))
    return _finished(pipe, config, steps, seed)


def _image_config(pipe: Pipe, data: Mapping[str, Stage]) -> ConfigDict:
    """Returns the mini config of MAE on the frames of the clips."""
    config = config_lib.load("configs/mae/image.py:mini").copy_and_resolve_references()
    config.unlock()
    config.method.encoder.update(SIZE)
    config.method.decoder.update(DECODER)
    for split, own in (("train", "train"), ("valid", "test")):
        folder = str(pipe.graph.folder(data[own]))
        config.data[split] = ConfigDict({"frames": {"kind": "image_folder", "path": folder}})
    # as the students see them: not flipped and not cut
    config.data.transforms = ConfigDict({"center_crop": {"share": 1.0}})
    config.data.eval_transforms = ConfigDict({"center_crop": {"share": 1.0}})
    config.data.batch_size = 2 * pipe.options["batch"]
    return _finished(pipe, config, pipe.options["image_steps"], 0)


def _finished(pipe: Pipe, config: ConfigDict, steps: int, seed: int) -> ConfigDict:
    config.seed = seed
    if config.data.modality == "video":
        config.data.batch_size = pipe.options["batch"]
    config.train.duration = config.checkpoint.every = config.eval.every = f"{steps} steps"
    config.eval.valid, config.guard.after = False, steps
    config.log.every = f"{max(1, steps // 30)} steps"
    return config_lib.override(config, [])


def _keep(found: dict[str, list[Stage]], name: str, stage: Stage) -> None:
    found.setdefault(name, []).append(stage)


def _write(pipe: Pipe, found: dict[str, Any], run: Stage, data: Mapping[str, Stage]) -> None:
    """Writes results.json, results.png and the gallery of reconstructions."""
    out = pathlib.Path(pipe.options["out"]) if pipe.options["out"] else HERE
    options = {k: v for k, v in pipe.options.items() if k not in ("data", "droid", "out")}
    results = {**found, "options": options, "machine": pipe.machine()}
    results["claims"] = claims.students(results)
    figures.write_results(out / "results.json", results)
    pictures.draw(out / "results.png", results)
    pictures.gallery(out / "clips.png", pipe.load(run), clips.arrays(pipe.folder(data["test"]), 4))
