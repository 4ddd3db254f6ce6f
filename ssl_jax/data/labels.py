"""Prediction targets: classes, tags and numbers from columns of the sources of a split."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.data import hashing
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import lines
from ssl_jax.data.readers.base import Source, text

Config = Mapping[str, Any]
_LARGEST = float(np.finfo(np.float32).max)


def class_columns(sources: Sequence[Source], options: Sequence[Config]) -> list[Any]:
    """Returns the class column of each source, or None; all None where any source has tags."""
    tagged = [s for s, o in zip(sources, options, strict=True) if o.get("tags")]
    labelled = [s for s, o in zip(sources, options, strict=True) if o.get("label")]
    if tagged and labelled:
        raise DataError(
            f"config.data.{labelled[0].name}.label gives one class per row and config.data."
            f"{tagged[0].name}.tags several: use one of the two"
        )
    if tagged:
        return [None] * len(sources)
    named = [(s, o.get("label", "")) for s, o in zip(sources, options, strict=True)]
    return [column(s, x, "label") if x else s.columns.get("label") for s, x in named]


def tag_columns(sources: Sequence[Source], options: Sequence[Config]) -> list[Any]:
    """Returns the tag column of each source, or None."""
    named = [(s, o.get("tags", "")) for s, o in zip(sources, options, strict=True)]
    return [_tag_column(s, x) if x else None for s, x in named]


def _tag_column(source: Source, name: str) -> np.ndarray:
    """Returns a column of tags; for columns "a,b", the tags "a=value|b=value" of each row."""
    names = [part.strip() for part in name.split(",")]
    if len(names) == 1:
        return column(source, name, "tags")
    columns = [column(source, part, "tags") for part in names]
    pairs = [[f"{n}={v}" if str(v) else "" for v in c] for n, c in zip(names, columns, strict=True)]
    return text(["|".join(filter(None, row)) for row in zip(*pairs, strict=True)])


def column(source: Source, name: str, option: str) -> np.ndarray:
    """Returns the column that an option of a source names; raises DataError if it has none."""
    name = lines.composed(name)
    if name not in source.columns:
        raise DataError(
            f"config.data.{source.name}.{option} is {name!r}, not a column: use one of "
            f"{', '.join(sorted(source.columns))}"
        )
    return source.columns[name]


def class_names(
    config: Config,
    split: str,
    classes: Sequence[str] | None,
    texts: Sequence[np.ndarray | None],
    tags: Sequence[np.ndarray | None],
    of_train: Callable[[], tuple[str, ...]],
) -> tuple[str, ...]:
    """Returns the class names in order: those given, else config.data.classes, else those of the
    training split, which are its own labels and tags, sorted."""
    chosen = tuple(config["classes"]) if classes is None else tuple(classes)
    if chosen:
        names = [lines.composed(str(c)) for c in chosen]
        twice = [n for i, n in enumerate(names) if n in names[:i]] if classes is None else []
        if twice:
            raise DataError(f"config.data.classes has {twice[0]!r} twice: list every class once")
        return tuple(str(c) for c in chosen)
    if classes is None and split != "train" and len(config["train"]):
        return of_train()
    found = {str(v) for t in texts if t is not None for v in np.unique(t)}
    for tagged in tags:
        if tagged is not None:
            found |= {tag for v in np.unique(tagged) for tag in _tags(v)}
    return tuple(sorted(found - {""}))


def encode(source: Source, values: np.ndarray | None, classes: tuple[str, ...]) -> np.ndarray:
    """Turns class names (n,) into int32 (n,), -1 where empty."""
    if values is None:
        return np.full(len(source), -1, np.int32)
    names, inverse = np.unique(values, return_inverse=True)
    number = {**numbers_of(classes), "": -1}
    codes = [number.get(str(name), -2) for name in names]
    labels = np.array(codes, np.int32)[inverse.reshape(-1)]
    if -2 in codes:
        i = int(np.flatnonzero(labels == -2)[0])
        raise DataError(
            f"config.data.{source.name}: {source.where(i)}: label {str(values[i])!r} is not among "
            f"the {len(classes)} classes ({', '.join(classes[:8])}...): see config.data.classes"
        )
    return labels


def numbers_of(names: Sequence[str]) -> dict[str, int]:
    """Returns the index of each name by its composed form; of equal ones, the first."""
    return {lines.composed(name): i for i, name in reversed([*enumerate(names)])}


def chosen(labels: list[np.ndarray], classes: int, config: Config) -> list[np.ndarray]:
    """Returns the rows of each source to train on: all, or the chosen share of each class.

    With the same seed, a smaller choice is a subset of a larger one.
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


@dataclasses.dataclass(frozen=True)
class MultiHot:
    """Tags of n rows as an array (n, classes) of zeros and ones, whose rows are made when indexed.

    The classes of row i are codes[starts[i] : starts[i + 1]].
    """

    starts: np.ndarray
    codes: np.ndarray
    classes: int
    dtype = np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, classes)."""
        return len(self.starts) - 1, self.classes

    def __getitem__(self, ids: np.ndarray) -> np.ndarray:
        out = np.zeros((len(ids), self.classes), self.dtype)
        for row, i in enumerate(ids.tolist()):
            out[row, self.codes[self.starts[i] : self.starts[i + 1]]] = 1
        return out


def encode_tags(
    sources: Sequence[Source], columns: Sequence[np.ndarray | None], classes: tuple[str, ...]
) -> MultiHot:
    """Encodes columns of tags row by row; a repeated tag counts once."""
    number = numbers_of(classes)
    codes: list[int] = []
    counts = [0]
    for source, tagged in zip(sources, columns, strict=True):
        for i, value in enumerate([""] * len(source) if tagged is None else tagged):
            for tag in _tags(value):
                if tag not in number:
                    raise DataError(
                        f"config.data.{source.name}: {source.where(i)}: tag {tag!r} is not among "
                        f"the {len(classes)} classes ({', '.join(classes[:8])}...): see "
                        "config.data.classes"
                    )
                codes.append(number[tag])
            counts.append(len(codes))
    return MultiHot(np.array(counts, np.int64), np.array(codes, np.int32), len(classes))


def _tags(value: Any) -> list[str]:
    return [tag.strip() for tag in str(value).split("|") if tag.strip()]


def encode_targets(sources: Sequence[Source], options: Sequence[Config]) -> np.ndarray | None:
    """Returns the numbers (n, K) float32 of the columns that `target` names, NaN where empty."""
    named = [o.get("target") or () for o in options]
    names = [(n,) if isinstance(n, str) else tuple(n) for n in named]
    widths = {len(n) for n in names} - {0}
    if not widths:
        return None
    if len(widths) > 1:
        wide = [f"config.data.{s.name}.target={n}" for s, n in zip(sources, names, strict=True)]
        raise DataError(f"every source needs the same number of columns: {', '.join(wide)}")
    width = widths.pop()
    found = []
    for source, own in zip(sources, names, strict=True):
        columns = [numbers(source, column(source, name, "target"), name) for name in own]
        unknown = np.full((len(source), width), np.nan, np.float32)
        found.append(np.stack(columns, axis=1) if columns else unknown)
    return np.concatenate(found)


def numbers(source: Source, values: np.ndarray, name: str) -> np.ndarray:
    """Returns a column (n,) as float32, NaN where it is empty."""
    out = np.full(len(values), np.nan, np.float32)
    for i, value in enumerate(values.tolist()):
        if not str(value).strip():
            continue
        try:
            number = float(value)
        except ValueError as e:
            raise DataError(
                f"config.data.{source.name}: {source.where(i)}: {name} is {value!r}, not a number"
            ) from e
        if abs(number) > _LARGEST:  # false for NaN, which means unknown
            raise DataError(
                f"config.data.{source.name}: {source.where(i)}: {name} is {value!r}, not a "
                f"finite float32: correct it, or leave it empty if it is unknown"
            )
        out[i] = number
    return out
