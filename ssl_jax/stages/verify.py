"""Verifies the speakers of the test recordings of a run, by the trials of config.eval.trials."""

import pathlib
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from ssl_jax.core.types import Method, Tree
from ssl_jax.data import lines
from ssl_jax.engine import splits as splits_lib
from ssl_jax.evals import verify


def judge(
    method: Method,
    params: Tree,
    config: ConfigDict,
    speakers: tuple[str, ...],
    mesh: Mesh,
    folder: pathlib.Path,
) -> list[dict[str, Any]]:
    """Returns one row: trials, recordings, the equal error rate `eer` and its threshold.

    Recordings are heard whole: config.data.buckets grows to the longest. speakers: of the run.
    """
    trials = verify.read_trials(config.eval.get("trials", ""))
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.batch_size = -(-config.data.batch_size // mesh.size) * mesh.size
        config.data.constant_seconds = False
    split = splits_lib.open_split(config, folder / "features", "test", speakers)
    longest = float(split.corpus.seconds.max())
    with config.unlocked():
        buckets = list(config.data.buckets)
        while buckets[-1] < longest:
            buckets.append(2 * buckets[-1])
        config.data.buckets = tuple(buckets)
    split = splits_lib.open_split(config, folder / "features", "test", speakers)
    corpus: Any = split.corpus
    rows = split.in_order(mesh.size, method.batch, mesh)()
    ids, vectors = verify.Embedder(method, mesh)(params, rows)
    # without the name of the source in front
    keys = [lines.composed(corpus.key(int(i)).partition("/")[2]) for i in ids]
    place = {key: row for row, key in enumerate(keys)}
    rate, threshold = verify.eer(*verify.score(trials, place, vectors))
    counts = {"trials": len(trials), "recordings": len(ids)}
    return [{"split": "test", **counts, "eer": rate, "threshold": threshold}]
