"""Ridge probes of every label of the clips at once, from features that are computed once."""

import json
import pathlib
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from experiments.mvd import clips
from ssl_jax.core.types import Method
from ssl_jax.evals import pool, ridge
from ssl_jax.pipeline import Pipe
from ssl_jax.reports import figures
from ssl_jax.stages.graph import Stage

BATCH = 50
FEWEST = 10  # clips of a class: rarer ones are left out


def frozen(pipe: Pipe, run: Stage, data: Mapping[str, Stage], untrained: bool = False) -> Stage:
    """Returns the probe of a run's frozen features, or of its encoder before training."""

    def work(out: pathlib.Path) -> None:
        model = pipe.load(run)
        params = _untrained(model.method, model.config.seed) if untrained else model.params
        apply = pool.pooler(model.method.features, how="mean_std")
        features = {}
        for split, stage in data.items():
            videos, _ = clips.arrays(pipe.folder(stage))
            features[split] = pool.pool(apply, params, _batches(videos), name=split).features
        _score(pipe, data, features, out)

    name = f"probe{'-untrained' if untrained else ''}-{run.name}"
    return pipe.stage("eval", name, {"untrained": untrained}, work, (run, *data.values()))


def single_frame(pipe: Pipe, data: Mapping[str, Stage]) -> Stage:
    """Returns the probe of the pixels of the frame in the middle, two by two."""

    def work(out: pathlib.Path) -> None:
        features = {}
        for split, stage in data.items():
            videos, _ = clips.arrays(pipe.folder(stage))
            frame = videos[:, videos.shape[1] // 2].astype(np.float32)
            rows, columns = frame.shape[1] // 2, frame.shape[2] // 2
            small = frame.reshape(len(frame), rows, 2, columns, 2, 3).mean((2, 4))
            features[split] = small.reshape(len(frame), 1, -1)
        _score(pipe, data, features, out)

    names = "-".join(stage.name for stage in data.values())
    return pipe.stage("eval", f"probe-frame-{names}", {}, work, tuple(data.values()))


def read(pipe: Pipe, stages: list[Stage]) -> dict[str, list[float]]:
    """Returns the accuracies of each label, by seed."""
    found = [
        json.loads((pipe.folder(stage) / "scores.json").read_text(encoding="utf-8"))
        for stage in stages
    ]
    return {label: [scores[label] for scores in found] for label in found[0]}


def _score(
    pipe: Pipe,
    data: Mapping[str, Stage],
    features: Mapping[str, np.ndarray],
    out: pathlib.Path,
) -> None:
    """Writes scores.json: the accuracy of each label, of the layer that is best on a fifth of the
    training clips."""
    texts = {split: clips.arrays(pipe.folder(stage))[1] for split, stage in data.items()}
    scores = {}
    for label in texts["train"]:
        names, counts = np.unique(texts["train"][label], return_counts=True)
        known = {name: i for i, name in enumerate(names[counts >= FEWEST].tolist())}
        sets = {}
        for split, columns in texts.items():
            codes = np.array([known.get(name, -1) for name in columns[label]])
            sets[split] = (features[split][codes >= 0], codes[codes >= 0])
        result = ridge.probe(sets["train"], sets["test"], classes=len(known))
        scores[label] = float(result.test[np.argmax(result.select)])
    figures.write_results(out / "scores.json", scores)


def _batches(videos: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches of one size; the last is filled up with rows of weight 0."""
    for start in range(0, len(videos), BATCH):
        part = videos[start : start + BATCH]
        real = np.arange(BATCH) < len(part)
        yield {
            "video": np.concatenate([part, np.repeat(part[-1:], BATCH - len(part), 0)]),
            "id": (start + np.arange(BATCH)).astype(np.uint32),
            "weight": real.astype(np.float32),
            "label": np.full(BATCH, -1, np.int32),
        }


def _untrained(method: Method, seed: int) -> dict:
    """Returns the parameters of the encoder before training."""
    shapes = {
        name: jax.ShapeDtypeStruct((1, *spec.shape), spec.dtype)
        for name, spec in method.batch.items()
    }
    return jax.jit(lambda key: method.init(key, shapes)[0])(jax.random.key(seed))
