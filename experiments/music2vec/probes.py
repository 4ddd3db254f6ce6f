"""Linear probes of frozen features: the instrument and pitch of notes, key and tempo of pieces."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import ssl_jax
from ssl_jax.core.mesh import make_mesh
from ssl_jax.core.types import Array
from ssl_jax.data.corpus import SPLITS
from ssl_jax.evals import mlp_probe, ridge
from ssl_jax.evals.pool import Pooled
from ssl_jax.stages import embed

WINDOW = 2.0  # seconds per window of an encoder, whatever it was trained on
LOG_MEL = "log-mel"
POOL = "raw_mean_std"  # the published tables pool encoders to the mean, log-mel to both
# task: (set, column of its index.tsv, kind, scores); layer and penalty are chosen by the first
TASKS = {
    "instrument": ("notes", "instrument", "label", ("accuracy",)),
    "pitch": ("notes", "pitch", "label", ("accuracy",)),
    "key": ("pieces", "key", "label", ("weighted_key", "accuracy")),
    "tempo": ("pieces", "tempo", "target", ("r2",)),
}
SHOWN = {task: scores[0] for task, (_, _, _, scores) in TASKS.items()}


def evaluate(
    folder: pathlib.Path, sets: Mapping[str, tuple[str, float]], with_baselines: bool
) -> dict[str, dict[str, dict[str, float]]]:
    """Probes a run -> {features: {task: {score: value}}}; without baselines, only the run.

    sets: name -> (folder with index.tsv, seconds of its clips).
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    model = ssl_jax.load(folder)
    mesh = make_mesh({"data": -1})
    for name, (path, seconds) in sets.items():
        corpora = embed.open_splits(_config(model.config, path, seconds), folder, mesh.size)
        encoders = embed.encoders(
            model.method,
            model.params,
            model.config,
            model.step,
            corpora["train"],
            mesh,
            min(seconds, WINDOW),
            pool=POOL,
        )
        for encoder in encoders[: None if with_baselines else 1]:
            pooled = embed.pooled(encoder, corpora, mesh, folder)
            columns = {split: corpora[split].corpus.sources[0].columns for split in SPLITS}
            own = found.setdefault(encoder.name, {})
            own |= {t: _task(t, pooled, columns) for t in TASKS if TASKS[t][0] == name}
    return found


def _config(config: ConfigDict, path: str, seconds: float) -> ConfigDict:
    config = config.copy_and_resolve_references().unlock()
    for split in SPLITS:
        source = {"kind": "table", "path": path, "where": {"split": split}}
        config.data[split] = ConfigDict({"music": source})
    config.data.update({"buckets": (seconds,), "batch_size": 50, "min_seconds": 0.0})
    return config


def _task(
    name: str, pooled: Mapping[str, Pooled], columns: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, float]:
    """Fits on train, chooses layer and penalty on valid, scores test."""
    _, column, kind, scores = TASKS[name]
    texts = {s: np.array([*map(str, columns[s][column][pooled[s].ids])]) for s in SPLITS}
    classes = tuple(np.unique(texts["train"])) if kind == "label" else (column,)
    task = mlp_probe.Task(kind, classes, scores)
    truth = {s: _truth(text, task) for s, text in texts.items()}
    target = np.eye(len(classes))[truth["train"]] if kind == "label" else truth["train"]
    layers = pooled["train"].features.shape[1]
    best: dict[str, Any] = {"value": -np.inf}
    for layer in range(layers):
        x = {s: pooled[s].features[:, layer] for s in SPLITS}
        outputs = _outputs(x["train"], jnp.asarray(target, jnp.float32), x["valid"], x["test"])
        for valid, test in zip(*map(np.asarray, outputs), strict=True):
            value = task.score(valid, truth["valid"])[scores[0]]
            if value > best["value"]:
                best = {"value": value, "layer": layer, "test": test}
    return task.score(best["test"], truth["test"]) | {"layer": best["layer"]}


def _truth(text: np.ndarray, task: mlp_probe.Task) -> np.ndarray:
    """Returns the indices of labels among the classes (n,), or the numbers (n, 1)."""
    if task.kind == "target":
        return text.astype(float)[:, None]
    return np.array([task.names.index(t) for t in text])


@jax.jit
def _outputs(train: Array, target: Array, valid: Array, test: Array) -> tuple[Array, Array]:
    """Returns the outputs (R, n, C) of a linear map for every penalty, on valid and test."""
    maps = ridge.regress(train, target, jnp.asarray(ridge.L2S))
    return ridge.outputs(maps, valid), ridge.outputs(maps, test)
