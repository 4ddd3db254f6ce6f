"""Classes and labels of a split, from columns of its sources; and which labels are kept."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.data import hashing
from ssl_jax.data.errors import DataError
from ssl_jax.data.source import Source

Config = Mapping[str, Any]


def column(source: Source, label: str, option: str = "label") -> np.ndarray | None:
    """Returns the column that an option of a source names, or its column "label", or None."""
    if label and label not in source.columns:
        raise DataError(
            f"config.data.{source.name}.{option} is {label!r}: "
            f"its columns are {sorted(source.columns)}"
        )
    return source.columns.get(label or "label")


def class_names(
    config: Config,
    split: str,
    classes: Sequence[str] | None,
    texts: Sequence[np.ndarray | None],
    of_train: Callable[[], tuple[str, ...]],
) -> tuple[str, ...]:
    """Returns the names in order: those given, config.data.classes, those of the training split,
    or for that split itself its own labels, sorted."""
    chosen = tuple(config["classes"]) if classes is None else tuple(classes)
    if chosen:
        return tuple(str(c) for c in chosen)
    if classes is None and split != "train" and len(config["train"]):
        return of_train()
    found = {str(v) for t in texts if t is not None for v in np.unique(t)}
    return tuple(sorted(found - {""}))


def encode(source: Source, values: np.ndarray | None, classes: tuple[str, ...]) -> np.ndarray:
    """Turns class names (n,) into int32 (n,), -1 where empty."""
    if values is None:
        return np.full(len(source), -1, np.int32)
    names, inverse = np.unique(values, return_inverse=True)
    number = {"": -1, **{c: i for i, c in enumerate(classes)}}
    codes = [number.get(str(name), -2) for name in names]
    labels = np.array(codes, np.int32)[inverse.reshape(-1)]
    if -2 in codes:
        i = int(np.flatnonzero(labels == -2)[0])
        raise DataError(
            f"config.data.{source.name}: {source.where(i)}: label {str(values[i])!r} is not among "
            f"the {len(classes)} classes ({', '.join(classes[:8])}...): see config.data.classes"
        )
    return labels


def chosen(labels: list[np.ndarray], classes: int, config: Config) -> list[np.ndarray]:
    """Returns the rows of each source to train on: all, or the chosen share of each class.

    A smaller choice with the same seed is part of a larger one.
    """
    share, most = config["label_share"], config["labels_per_class"]
    if share == 1 and not most:
        return [np.arange(len(x)) for x in labels]
    every = np.concatenate(labels)
    order = hashing.permutation(len(every), int(config["label_seed"]))
    keep = np.zeros(len(every), bool)
    for c in range(classes):
        own = order[every[order] == c]
        count = max(1, round(share * len(own)))
        keep[own[: min(count, most) if most else count]] = True
    if not keep.any():
        raise DataError(
            "config.data.labels_per_class and label_share choose among labelled rows, but no row "
            "of config.data.train has a label: set config.data.train.<name>.label to its column"
        )
    borders = np.cumsum([len(x) for x in labels])[:-1]
    return [np.flatnonzero(k) for k in np.split(keep, borders)]
