"""How often each row of a source is drawn for training: from a column, or balanced by class.

`row_weight` of a source is "", every row as often as any other; the name of a column of numbers; or
"balanced": a row has the sum over its labels or tags of 1000 / (rows with that label + 0.01), as in
AudioMAE (2207.06405) on AudioSet. Rows are then drawn with replacement, in proportion. A row
without labels has the weight 0 under "balanced", and is never drawn.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.data import labels as labels_lib
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers.base import Source

BALANCED = "balanced"


def of_sources(
    sources: Sequence[Source],
    options: Sequence[Mapping[str, Any]],
    labels: Sequence[np.ndarray],
    tags: labels_lib.MultiHot | None,
) -> tuple[np.ndarray | None, ...]:
    """Returns the weights (n,) of the rows of each source, None where all are drawn alike.

    labels: those of each source, -1 where there is none; tags: of all rows. Raises DataError.
    """
    names = [o.get("row_weight", "") for o in options]
    shares = balanced(np.concatenate(labels), tags) if BALANCED in names else np.zeros(0)
    out: list[np.ndarray | None] = []
    first = 0
    for source, name in zip(sources, names, strict=True):
        rows = slice(first, first + len(source))
        first = rows.stop
        found = None if not name else shares[rows] if name == BALANCED else _column(source, name)
        if found is not None and not found.any():
            what = "none of its rows has a label" if name == BALANCED else "all of it is 0"
            raise DataError(
                f"config.data.{source.name}.row_weight is {name!r}, but {what}: use '' to draw all "
                f"rows alike"
            )
        out.append(found)
    return tuple(out)


def balanced(labels: np.ndarray, tags: labels_lib.MultiHot | None) -> np.ndarray:
    """Returns the weight (n,) of each row: the rarer its labels (n,) or tags are, the larger."""
    if tags is None:
        counts = np.bincount(labels[labels >= 0], minlength=1)
        return np.where(labels >= 0, 1000 / (counts[np.maximum(labels, 0)] + 0.01), 0.0)
    # a tag that a row has twice counts once
    rows = np.repeat(np.arange(tags.shape[0]), np.diff(tags.starts))
    row, tag = np.divmod(np.unique(rows * tags.classes + tags.codes), tags.classes)
    counts = np.bincount(tag, minlength=tags.classes)
    return np.bincount(row, weights=1000 / (counts[tag] + 0.01), minlength=tags.shape[0])


def _column(source: Source, name: str) -> np.ndarray:
    values = labels_lib.numbers(source, labels_lib.column(source, name, "row_weight"), name)
    wrong = np.flatnonzero(~(values >= 0))
    if len(wrong):
        i = int(wrong[0])
        raise DataError(
            f"config.data.{source.name}: {source.where(i)}: {name} is "
            f"{str(source.columns[name][i])!r}: use a number of 0 or more, as "
            f"config.data.{source.name}.row_weight draws by it"
        )
    return values.astype(np.float64)
