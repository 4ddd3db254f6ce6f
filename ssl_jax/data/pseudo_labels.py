"""Pseudo-labels on disk: the transcripts that a model made of recordings, row by row.

A store is a folder with two files: `labels.tsv`, whose columns are the key of a recording, its
text, and what is known of it (such as its score), and `header.json` with the signature of the model
and the language model that made them. A row is found by the key of its recording,
`corpus.key(i)`: the name of its source and its path there. So a source of training finds its
labels if it has the name that it had when they were made:

    config.data.train.pool = dict(
        kind="folder", path="data/pool", pseudo_labels="runs/nst/labels-1", transcript="text")

Recordings without a label in the store are left out.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.core import atomic, paths
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import base

TEXT = "text"
_TABLE, _HEADER = "labels.tsv", "header.json"
_REMEDY = "make the pseudo-labels anew"


class Store(NamedTuple):
    """A store that was read: its header, and its columns by name, each of n rows of text."""

    path: pathlib.Path
    header: dict[str, Any]
    columns: dict[str, list[str]]

    @property
    def teacher(self) -> str:
        """The signature of the model and the language model that made the labels."""
        return str(self.header["teacher"])


def write(
    folder: str | os.PathLike, header: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> Store:
    """Writes a store: `header` has a `teacher`, each row a `key` and a `text`; all rows have the
    same columns. Raises DataError where no row is left."""
    path = pathlib.Path(folder)
    if not rows:
        raise DataError(
            f"{path}: no pseudo-label is left after the filters: use a better teacher, or filters "
            f"that keep more"
        )
    names = list(rows[0])
    lines = ["\t".join(names)]
    lines += ["\t".join(_cell(row[name]) for name in names) for row in rows]
    path.mkdir(parents=True, exist_ok=True)
    atomic.write_text(path / _TABLE, "\n".join(lines) + "\n")
    atomic.write_json(path / _HEADER, {**header, "rows": len(rows)})
    return read(path)


def read(folder: str | os.PathLike) -> Store:
    """Reads a store; raises DataError, naming the file, for anything else."""
    path = paths.of(folder)
    if not (path / _HEADER).exists():
        raise DataError(
            f"{path} holds no complete store of pseudo-labels: it has no {_HEADER}; {_REMEDY}"
        )
    header = atomic.read_json(path / _HEADER, _REMEDY)
    names, *rows = (line.split("\t") for line in _lines(path / _TABLE))
    for number, row in enumerate(rows, 2):
        if len(row) != len(names):
            raise DataError(
                f"{path / _TABLE}, row {number}: {len(row)} fields, and the header has "
                f"{len(names)}: {_REMEDY}"
            )
    if not {"key", TEXT} <= set(names) or header.get("rows") != len(rows):
        raise DataError(
            f"{path / _TABLE} has the columns {', '.join(names)} and {len(rows)} rows, and "
            f"{_HEADER} says {header.get('rows')}: {_REMEDY}"
        )
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    return Store(path, header, columns)


def attached(source: base.Recordings, option: Mapping[str, Any]) -> base.Recordings:
    """Returns a source with the columns of the store that its option `pseudo_labels` names, and
    only those rows that it labels; without the option, as it is.

    Raises DataError where `teacher` names another model than the store, and where the store labels
    none of these recordings, or some that are not among them.
    """
    if not option.get("pseudo_labels"):
        return source
    key, store = f"config.data.{source.name}", read(option["pseudo_labels"])
    wanted = option.get("teacher") or store.teacher
    if wanted != store.teacher:
        raise DataError(
            f"{key}.pseudo_labels={option['pseudo_labels']!r} was made by the teacher "
            f"{store.teacher!r}, and {key}.teacher is {wanted!r}: name the store of that teacher, "
            f"or set {key}.teacher={store.teacher!r}"
        )
    place = {name: row for row, name in enumerate(store.columns["key"])}
    keys = [source.key(i) for i in range(len(source))]
    found = [i for i, name in enumerate(keys) if name in place]
    own = [name for name in place if name.partition("/")[0] == source.name.partition(".")[2]]
    chosen = tuple(option.get("part", (0, 1))) != (0, 1) or bool(option.get("where"))
    if not found or (len(found) < len(own) and not chosen):
        missing = next(name for name in [*own, *place] if name not in set(keys))
        raise DataError(
            f"{key}.pseudo_labels={option['pseudo_labels']!r} labels {missing!r}, which is not a "
            f"recording of this source: keep the source's name and files as they were when the "
            f"labels were made"
        )
    source = source.take(np.array(found))
    rows = [place[keys[i]] for i in found]
    columns = {
        name: base.text([values[row] for row in rows])
        for name, values in store.columns.items()
        if name != "key"
    }
    return dataclasses.replace(source, columns={**source.columns, **columns})


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.split())  # a tab or a line end would be read as another cell


def _lines(path: pathlib.Path) -> list[str]:
    return atomic.read_text(path, _REMEDY).rstrip("\n").split("\n")
