"""Speaker verification: trials of two recordings, their scores and the equal error rate."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax.core import paths, stop
from ssl_jax.core.mesh import batch_sharding
from ssl_jax.core.types import Array, Batch, Method, Tree
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import lines
from ssl_jax.evals import table


class Trial(NamedTuple):
    """Two recordings by their paths, and whether they have the same speaker."""

    same: bool
    first: str
    second: str


def read_trials(path: str | os.PathLike) -> list[Trial]:
    """Reads lines of `1 path path` (the same speaker) or `0 path path`, as VoxCeleb has them."""
    path = paths.of(path)
    if not path.is_file():
        raise DataError(f"config.eval.trials: {path} does not exist: give a list of `1 path path`")
    found = []
    for number, line in lines.filled(path):
        fields = lines.words(lines.composed(line))
        if len(fields) != 3 or fields[0] not in ("0", "1"):
            raise DataError(f"{path}, row {number}: expected '1 path path', found {line[:80]!r}")
        found.append(Trial(fields[0] == "1", fields[1], fields[2]))
    return found


def eer(scores: np.ndarray, same: np.ndarray) -> tuple[float, float]:
    """Returns (equal error rate, its threshold) of scores (N,), `same` (N,) bool.

    At that threshold, the share of same-speaker pairs below it equals the share of other pairs at
    or above it; between two thresholds it is interpolated linearly. Raises ValueError without
    pairs of both kinds.
    """
    scores, same = np.asarray(scores, float), np.asarray(same, bool)
    if same.all() or not same.any():
        raise ValueError("every trial is of one kind: an error rate needs pairs of both")
    order = np.argsort(scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # of each run of equal scores
    missed = np.append(0, np.cumsum(same[order])[last]) / same.sum()
    taken = 1 - np.append(0, np.cumsum(~same[order])[last]) / (~same).sum()
    thresholds = np.append(scores[order][last], np.inf)
    after = int(np.argmax(missed >= taken))
    gap = missed - taken
    share = gap[after] / (gap[after] - gap[after - 1])
    rate = missed[after] + share * (missed[after - 1] - missed[after])
    return float(rate), float(thresholds[after - 1])


class Embedder:
    """Computes embeddings of recordings, of unit length. Compiled once: keep it."""

    def __init__(self, method: Method, mesh: Mesh):
        self._sharding = batch_sharding(mesh)
        embed = method.embed
        if embed is None:
            raise ValueError("this method has no embeddings: use config.method.name='speaker'")

        def apply(params: Tree, batch: Batch) -> tuple[Array, Array, Array]:
            vector = embed(params, batch)
            norm = jnp.maximum(jnp.linalg.norm(vector, axis=-1, keepdims=True), 1e-12)
            return vector / norm, batch["id"], batch["weight"]

        self._apply = jax.jit(apply, out_shardings=NamedSharding(mesh, P()))

    def __call__(
        self, params: Tree, batches: Iterable[Mapping[str, Any]], total: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns (ids (N,), embeddings (N, W)) of the rows of host batches that count.

        total: the number of batches, for the time left (0: not known).
        """
        parts = []
        for batch in stop.between(batches, "embedding speakers", total):
            placed = {
                name: jax.make_array_from_process_local_data(self._sharding, x)
                for name, x in batch.items()
            }
            vector, ids, weight = jax.device_get(self._apply(params, placed))
            parts.append((ids[weight > 0], vector[weight > 0]))
        ids, vectors = (np.concatenate(x) for x in zip(*parts, strict=True))
        return ids, vectors


def score(
    trials: Sequence[Trial], place: Mapping[str, int], vectors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the cosines (N,) of the pairs, and which have the same speaker (N,).

    place: path -> row of `vectors` (M, W), which have unit length. Raises DataError for a path
    that is not among them.
    """
    for trial in trials:
        for path in (trial.first, trial.second):
            if path not in place:
                some = ", ".join(list(place)[:2])
                raise DataError(
                    f"config.eval.trials names {path!r}, which the test split does not have: its "
                    f"recordings are {some}, ..."
                )
    pairs = np.array([(place[t.first], place[t.second]) for t in trials])
    cosine = np.einsum("nw,nw->n", vectors[pairs[:, 0]], vectors[pairs[:, 1]])
    return cosine, np.array([t.same for t in trials])


def report(result: Mapping[str, Any]) -> str:
    """Returns an evaluation as a table."""
    rows = [
        {k: table.cell(v, 4) if isinstance(v, float) else v for k, v in row.items()}
        for row in result["results"]
    ]
    return table.text_table(rows)
