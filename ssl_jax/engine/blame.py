"""Finds what in the data explains an error of the guard; runs on the host, after the error."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from ssl_jax.data.base import Corpus
from ssl_jax.data.batch_schedule import BatchSchedule
from ssl_jax.data.errors import BadFile
from ssl_jax.engine import hooks

NAMED = 3  # rows that an error names

Frames = Callable[[Any], Any]
"""Samples (n,) -> frames (n,) that the encoder of a method makes of them."""


@contextlib.contextmanager
def explained(corpus: Corpus, plan: BatchSchedule, frames: Frames | None) -> Iterator[None]:
    """Adds to an error of the guard what explains it in the data of its batch."""
    try:
        yield
    except hooks.NotFiniteError as error:
        found = bad_targets(corpus, plan, error.steps)
        error.args = (f"{error}. {found}" if found else str(error),)
        raise
    except hooks.CollapseError as error:
        found = nothing_to_tell_apart(corpus, plan, error.step, frames)
        why = "Any encoder has one output for such data, so this only looks like a collapse"
        error.args = (f"{found}. {why}: {error}" if found else str(error),)
        raise


def bad_targets(corpus: Corpus, plan: BatchSchedule, steps: Iterable[int]) -> str:
    """Names the rows in the batches of `steps`, counted from 1, whose targets cannot be learned:
    infinite, out of range, or far from all others; "" if there are none.

    Those that are NaN, which means unknown, come last.
    """
    found: dict[str, bool] = {}
    for step in steps:
        draw = plan[step - 1]
        ids = np.unique(draw.ids[draw.weight > 0])
        for name, values in {"label": corpus.labels, **corpus.fields}.items():
            for k in np.flatnonzero(_bad(name, values, ids, len(corpus.classes))).tolist():
                value = np.asarray(values[ids[k : k + 1]])[0].tolist()
                unknown = bool(np.isnan(value).any())
                found[f"{corpus.where(int(ids[k]))}: its {name} is {value}"] = unknown
    if not found:
        return ""
    named = sorted(found, key=lambda text: found[text])
    more = f", and {len(named) - NAMED} more" if len(named) > NAMED else ""
    note = " (nan means unknown: methods skip it)" if found[named[0]] else ""
    return f"Rows whose target cannot be learned: {'; '.join(named[:NAMED])}{more}{note}"


def _bad(name: str, values: Any, ids: np.ndarray, classes: int) -> np.ndarray:
    """Returns which of the rows `ids` (b,) of a target cannot be learned, (b,) bool."""
    rows = np.asarray(values[ids]).reshape(len(ids), -1)
    if rows.dtype.kind in "iu":  # -1: without a class, or past the end
        known = classes > 0 and not name.endswith("_len")
        outside = (rows < -1) | (rows >= classes)
        return np.asarray((outside & known).any(1))
    bad = ~np.isfinite(rows)
    if isinstance(values, np.ndarray):
        usual = np.abs(values[np.isfinite(values)])
        limit = hooks.CEILING * max(1.0, float(np.median(usual)) if usual.size else 0.0)
        bad |= np.abs(rows) > limit
    return np.asarray(bad.any(1))


def nothing_to_tell_apart(
    corpus: Corpus, plan: BatchSchedule, step: int, frames: Frames | None
) -> str:
    """Returns why any encoder gives one output for the batch of a step: its examples are all the
    same, or shorter than a frame; "" if they are not."""
    draw = plan[step - 1]
    ids = np.unique(draw.ids[draw.weight > 0])
    first = corpus.where(int(ids[0]))
    if frames is not None and not np.asarray(frames(corpus.lengths[ids])).any():
        return (
            f"no example of the batch has a complete frame ({first} has {corpus.lengths[ids[0]]} "
            f"samples): use longer recordings, and raise config.data.min_seconds to leave these out"
        )
    if len(ids) == 1:
        return f"the batch holds only one example ({first}): add others to config.data.train"
    if _all_same(corpus, ids, plan.buckets[draw.bucket]):
        return (
            f"the {len(ids)} examples of the batch are the same ({first} and "
            f"{corpus.where(int(ids[1]))}, for two): remove copies from config.data.train"
        )
    return ""


def _all_same(corpus: Corpus, ids: np.ndarray, seconds: float) -> bool:
    """Returns whether the rows `ids`, read without augmentation, are equal within a bucket."""
    shapes = corpus.shapes(seconds)
    keys = corpus.keys(ids, np.zeros(len(ids), np.int64), seconds, None)
    one: dict[str, np.ndarray] = {}
    for i, key in zip(ids.tolist(), keys, strict=True):
        arrays = {name: np.zeros((1, *shape), kind) for name, (shape, kind) in shapes.items()}
        try:
            corpus.refuse(i)
            corpus.fill(i, key, arrays, 0)
        except BadFile:
            continue  # it was not in the batch
        one = one or arrays
        if any((arrays[name] != x).any() for name, x in one.items()):
            return False
    return bool(one)
