"""Scores of a fine-tuned model over a whole split, for metrics that are not means over batches."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import length_hint
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax.core import stop
from ssl_jax.core.mesh import batch_sharding
from ssl_jax.core.types import Array, Batch, Method, TrainState, Tree
from ssl_jax.evals import scores, table, transcribe

Batches = Callable[[], Iterable[Mapping[str, Any]]]

# name: (the batch array with the labels, fn(outputs (N, K), labels) -> score)
SCORES: dict[str, tuple[str, Callable[[np.ndarray, np.ndarray], Any]]] = {
    "mcc": ("label", scores.mcc),
    "f1": ("label", scores.f1),
    "roc_auc": ("tags", scores.roc_auc),
    "d_prime": ("tags", scores.d_prime),
    "average_precision": ("tags", scores.average_precision),
    "pearson": ("target", scores.pearson),
    "spearman": ("target", scores.spearman),
    "r2": ("target", lambda outputs, truth: np.mean(scores.r2(outputs, truth))),
    "accuracy": ("label", lambda outputs, truth: np.mean(outputs.argmax(-1) == truth)),
}
FIRST = {"label": "accuracy", "tags": "average_precision", "target": "r2"}
"""The score that a head is first judged by, for the batch array with its labels."""


def make(
    names: Sequence[str],
    method: Method,
    batches: Batches,
    mesh: Mesh,
    split: str,
    vocabulary: Sequence[str],
    spelling: str,
) -> Callable[[int, TrainState], dict[str, float]]:
    """Returns the hook that computes the scores `names`: error rates of transcripts for a method
    with emissions, else a SplitScores.

    vocabulary, spelling: the classes of the corpus and config.data.spelling.
    """
    if method.emissions is None:
        return SplitScores(names, method, batches, mesh, split)
    transcriber = transcribe.Transcriber(method, mesh, vocabulary, spelling)
    return transcribe.Monitor(names, transcriber, batches, split)


class SplitScores:
    """A hook of the loop: scores(step, state) -> {"valid/mcc": 0.6, ...}.

    names: of config.eval.scores. batches: called anew each time, returns an iterable of this
    host's batches. Rows of weight 0 and labels of -1 do not count. Raises ValueError on a name
    that is unknown or does not fit the task, and for a method that does not predict.
    """

    def __init__(
        self, names: Sequence[str], method: Method, batches: Batches, mesh: Mesh, split: str
    ):
        if method.predict is None:
            raise ValueError(
                f"config.eval.scores is {tuple(names)}, but this method does not predict: use ()"
            )
        known = [name for name, (truth, _) in SCORES.items() if truth in method.batch]
        if any(name not in known for name in names):
            raise ValueError(
                f"config.eval.scores is {tuple(names)}: use some of {', '.join(known)}"
            )
        self.names, self.batches, self.split = tuple(names), batches, split
        self.truth = SCORES[names[0]][0]
        self._sharding = batch_sharding(mesh)
        predict, truth = method.predict, self.truth

        def apply(params: Tree, batch: Batch) -> tuple[Array, Array, Array]:
            return predict(params, batch), batch[truth], batch["weight"]

        self._apply = jax.jit(apply, out_shardings=NamedSharding(mesh, P()))

    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        """Returns the scores by name; transfers are intended here, so the guard is lifted."""
        del step
        with jax.transfer_guard("allow"):
            found, _ = self.of(state.params)
        return {f"{self.split}/{name}": value for name, value in found.items()}

    def of(self, params: Tree) -> tuple[dict[str, float], int]:
        """Returns the scores of parameters by name, NaN over no rows, and the number of rows."""
        name, total = f"scoring {self.split}", length_hint(self.batches)
        batches = stop.between(self.batches(), name, total)
        parts = [self._rows(params, batch) for batch in batches]
        if not sum(len(truth) for _, truth in parts):  # no row, or none with a label
            return dict.fromkeys(self.names, math.nan), 0
        outputs, truth = (np.concatenate(x) for x in zip(*parts, strict=True))
        return {name: float(SCORES[name][1](outputs, truth)) for name in self.names}, len(truth)

    def _rows(self, params: Tree, batch: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Returns outputs (n, K) and labels of the rows of a batch that count."""
        placed = {
            name: jax.make_array_from_process_local_data(self._sharding, x)
            for name, x in batch.items()
        }
        outputs, truth, weight = jax.device_get(self._apply(params, placed))
        real = weight > 0
        if self.truth == "label":
            real = real & (truth >= 0)
        return outputs[real], truth[real]


def shown(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Returns the rows of `stages.head` as text cells."""
    return [
        {k: table.cell(v) if isinstance(v, float) else str(v) for k, v in row.items()}
        for row in rows
    ]


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the rows of `stages.head` as a table under a heading."""
    note = ""
    if any("best" in row["checkpoint"] for row in rows):
        note = "\nbest was chosen by its validation score, which is too good for that reason"
    return f"the head of the run\n{table.text_table(shown(rows))}{note}"
