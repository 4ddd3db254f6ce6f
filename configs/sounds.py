"""Data sections of the tasks on which encoders of sounds are fine-tuned; see docs/data.md."""

from typing import Any

from ml_collections import ConfigDict

from configs import common

FOLDS = ("1", "2", "3", "4", "5")
TASKS = ("as20k", "as2m", *(f"esc50_{n}" for n in FOLDS), "ks1", "ks2", "fsd50k")
TAGS = ("as20k", "as2m", "fsd50k")
SECONDS = {"esc50": 5.0, "ks1": 1.0, "ks2": 1.0}  # 10.0 of the others
SCORES = ("average_precision", "roc_auc", "d_prime")


def tune(config: ConfigDict, task: str) -> None:
    """Sets config.data of one of TASKS, and what is judged.

    AudioSet and ESC-50 have no part for validation: valid is what they are judged on, and the last
    step counts.
    """
    task, _, fold = task.partition("_")
    config.data = common.audio_data()
    config.data.update({"buckets": (SECONDS.get(task, 10.0),), "workers": 8})
    tags = task in TAGS
    config.method.update({"task": "tag" if tags else "classify", "smoothing_spread": "uniform"})
    config.checkpoint.every = config.eval.every = "1 epochs"
    config.eval.scores = SCORES if tags else ()
    if task in ("as20k", "as2m"):
        _audioset(config.data, task == "as2m")
    elif task == "esc50":
        _esc50(config.data, fold)
    else:
        _three_splits(config.data, task)
        config.eval.test = True
        best = "average_precision" if tags else "accuracy"
        config.checkpoint.best_metric = f"valid/{best}"


def folds(s: Any, task: str) -> Any:
    """Returns the runs of a sweep of one of TASKS: the folds of ESC-50, or three seeds."""
    if not task.startswith("esc50"):
        return s.product({"seed": range(3)})
    others = tuple(tuple(n for n in FOLDS if n != fold) for fold in FOLDS)
    where = "data.{}.esc50.where.fold"
    held_out = tuple((fold,) for fold in FOLDS)
    return s.zip({where.format("train"): others, where.format("valid"): held_out})


def _audioset(data: ConfigDict, whole: bool) -> None:
    source = {"kind": "audioset", "path": "data/audioset", "tags": "tags"}
    parts = ("balanced_train", "unbalanced_train") if whole else ("balanced_train",)
    draw = {"segments": parts, "row_weight": "balanced" if whole else ""}
    data.train.audioset, data.valid.audioset = ConfigDict({**source, **draw}), ConfigDict(source)


def _esc50(data: ConfigDict, fold: str) -> None:
    others = tuple(n for n in FOLDS if n != fold)
    for split, folds in (("train", others), ("valid", (fold,))):
        source = {"kind": "esc50", "path": "data/ESC-50", "where": {"fold": folds}}
        data[split].esc50 = ConfigDict(source)


def _three_splits(data: ConfigDict, task: str) -> None:
    kind, path, truth = {
        "ks1": ("table", "data/ks", {"label": "label"}),
        "ks2": ("speech_commands", "data/speech_commands_v2", {"label": "label"}),
        "fsd50k": ("fsd50k", "data/FSD50K", {"tags": "tags"}),
    }[task]
    for split in ("train", "valid", "test"):
        where = {"where": {"split": split}} if kind == "table" else {}
        data[split][task] = ConfigDict({"kind": kind, "path": path, **truth, **where})
