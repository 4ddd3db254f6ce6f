"""The scores of a run's own head, of its last and of its best checkpoint."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ssl_jax.core.types import Method, Tree
from ssl_jax.engine import checkpoint, log, splits
from ssl_jax.evals import split_scores

Row = dict[str, Any]


class Saved(NamedTuple):
    """A checkpoint to judge: what it is called, such as "best", its step and its parameters."""

    name: str
    step: int
    params: Tree


def checkpoints(
    folder: Path, config: ConfigDict, step: int, params: Tree, asked: int | str | None
) -> list[Saved]:
    """Returns the last and the best checkpoint of a run, or the one that was asked for.

    step, params: of the one that is loaded, which is the last if none was asked for. A run
    without config.checkpoint.best_metric has no best one.
    """
    if asked is not None:
        return [Saved("best" if asked == "best" else "asked for", step, params)]
    if not config.checkpoint.get("best_metric"):
        return [Saved("last", step, params)]
    try:
        best = checkpoint.best_step(folder)
    except FileNotFoundError:  # none has been evaluated
        return [Saved("last", step, params)]
    if best == step:
        return [Saved("last and best", step, params)]
    loaded = jax.device_put(checkpoint.restore_params(folder, best))
    return [Saved("last", step, params), Saved("best", best, loaded)]


def each(found: list[Saved], judge: Callable[[Tree], list[Row]]) -> list[Row]:
    """Returns the rows of judge(params) for every checkpoint, each with its name and step.

    The examples that were worst are kept for the last of the checkpoints alone.
    """
    rows = []
    for saved in found:
        for row in judge(saved.params):
            if saved is not found[-1] and "worst" in row:
                row["worst"] = []
            rows.append({"checkpoint": saved.name, "step": saved.step, **row})
    return rows


def rows(
    found: list[Saved],
    method: Method,
    opened: Mapping[str, splits.Split],
    classes: tuple[str, ...],
    mesh: Mesh,
) -> list[Row]:
    """Returns a row for every checkpoint and each of validation and test: examples and scores.

    classes: of the run. There are no rows for a method without a head, and for other classes than
    the head tells apart.
    """
    truth = next((name for name in split_scores.FIRST if name in method.batch), "")
    held_out = {name: split for name, split in opened.items() if name != "train"}
    if method.predict is None or not truth or not held_out:
        return []
    there = tuple(opened["train"].corpus.classes)
    if truth == "label" and there != classes:
        log.notify(f"the head is not judged: it tells {classes} apart, and the data have {there}")
        return []
    scorers = {
        name: split_scores.SplitScores(
            tuple(dict.fromkeys((split_scores.FIRST[truth], *split.config.eval.get("scores", ())))),
            method,
            split.in_order(mesh.size, method.batch, mesh),
            mesh,
            name,
        )
        for name, split in held_out.items()
    }

    def judge(params: Tree) -> list[Row]:
        scored = {name: scorer.of(params) for name, scorer in scorers.items()}
        return [{"split": n, "examples": count, **s} for n, (s, count) in scored.items()]

    return each(found, judge)
