"""Ridge probes of frozen, mean-pooled features: a run, its untrained encoder, raw input."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

import ssl_jax
from ssl_jax.core.mesh import make_mesh
from ssl_jax.evals import compare, ridge
from ssl_jax.evals.pool import Pooled
from ssl_jax.stages import embed

Sources = Mapping[str, Mapping[str, Any]]  # split -> its only source
Scores = dict[str, dict[str, float]]  # features -> {task: accuracy}
POOL = "raw_mean_std"  # the published tables pool encoders to the mean, log-mel to both


def evaluate(
    folder: pathlib.Path, sources: Sources, columns: Sequence[str], seconds: float = 0.0
) -> Scores:
    """Returns the test accuracy of each label column; the test chooses neither layer nor penalty.

    seconds: length of the sound clips.
    """
    found: Scores = {}
    for column in columns:
        for name, pooled, corpora in _features(folder, sources, column, seconds):
            labelled = {split: rows.labelled() for split, rows in pooled.items()}
            classes = len(corpora["train"].corpus.classes)
            row = compare.row(name, "ridge", labelled, classes)
            found.setdefault(name, {})[column] = row["test"][0]
    return found


def evaluate_folds(
    folder: pathlib.Path,
    source: Mapping[str, Any],
    column: str,
    seconds: float,
    window: float,
    only: str = "",
) -> dict[str, dict[str, float]]:
    """Returns {features: {fold: accuracy}}, fitted on the other folds.

    A fifth of those chooses layer and penalty. window: seconds per window of the encoder; only: a
    single fold.
    """
    found: dict[str, dict[str, float]] = {}
    both = {"train": source, "test": source}  # one cache entry each; "train" is used
    for name, pooled, corpora in _features(folder, both, column, seconds, window):
        rows, corpus = pooled["train"].labelled(), corpora["train"].corpus
        folds = np.array(corpus.sources[0].columns["fold"][rows.ids].tolist())
        for fold in [only] if only else np.unique(folds):
            out = folds == fold
            train, test = ((rows.features[r], rows.labels[r]) for r in (~out, out))
            scores = ridge.probe(train, test, classes=len(corpus.classes))
            found.setdefault(name, {})[str(fold)] = float(scores.test[scores.layer])
    return found


def _features(
    folder: pathlib.Path, sources: Sources, column: str, seconds: float, window: float = 0.0
) -> Iterator[tuple[str, dict[str, Pooled], embed.Splits]]:
    """Yields (name, pooled features of every split, the splits) of each kind of features."""
    model, mesh = ssl_jax.load(folder), make_mesh({"data": -1})
    config = _config(model.config, sources, column, seconds)
    corpora = embed.open_splits(config, folder, mesh.size)
    train = corpora["train"]
    for encoder in embed.encoders(
        model.method, model.params, model.config, model.step, train, mesh, window, pool=POOL
    ):
        yield encoder.name, embed.pooled(encoder, corpora, mesh, folder), corpora


def _config(config: ConfigDict, sources: Sources, column: str, seconds: float) -> ConfigDict:
    config = config.copy_and_resolve_references().unlock()
    for split in ("train", "valid", "test"):
        own = {"probed": {**sources[split], "label": column}} if split in sources else {}
        config.data[split] = ConfigDict(own)
    if seconds:
        config.data.update({"buckets": (seconds,), "min_seconds": 0.0})
    config.data.batch_size = 20
    return config
