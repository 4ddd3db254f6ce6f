"""Whether the splits of a config hold different rows: no file may be in two of them."""

import itertools
from collections.abc import Mapping

import numpy as np

from ssl_jax.data import hashing
from ssl_jax.data.base import Corpus
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers.identity import WHOLE


def check(corpora: Mapping[str, Corpus]) -> None:
    """Raises DataError where two splits hold the same row, naming both.

    corpora: those of "train", "valid", "test". Rows are the same where they begin at the same place
    of one file, or one of them is all of it; a file is known whatever it is called.
    """
    keys = {name: _keys(corpus) for name, corpus in corpora.items()}
    for a, b in itertools.combinations(corpora, 2):
        pairs = _shared(*keys[a], *keys[b])
        if pairs:
            i, j = pairs[0]
            raise DataError(
                f"config.data.{b} holds rows of config.data.{a} ({len(pairs)} of "
                f"{len(corpora[b])}), the first is {_where(corpora[b], j)}, which is "
                f"{_where(corpora[a], i)}: keep each file in one split, by other folders or "
                f"tables, or by `where` or `part` of one source"
            )


def _where(corpus: Corpus, row: int) -> str:
    first = np.cumsum([0] + [len(s) for s in corpus.sources])
    source = int(np.searchsorted(first, row, "right")) - 1
    named = corpus.sources[source]
    return f"{named.where(int(row - first[source]))} of config.data.{named.name}"


def _keys(corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    """Returns which file every row of the sources is of, and its start there, (n,) each."""
    files, starts = [], []
    for source in corpus.sources:
        places, states = source.places(), source.states()
        file = np.asarray(places.file)[source.rows]
        files.append(hashing.mix(states[:, 0], states[:, 1])[file])
        starts.append(np.asarray(places.start, np.int64)[source.rows])
    return np.concatenate(files), np.concatenate(starts)


def _shared(
    file_a: np.ndarray, start_a: np.ndarray, file_b: np.ndarray, start_b: np.ndarray
) -> list[tuple[int, int]]:
    """Returns for every row of b that is one of a, in order, (row of a, row of b)."""
    common = np.intersect1d(file_a, file_b)
    if not len(common):
        return []
    known: dict[int, dict[int, int]] = {}
    for i in np.flatnonzero(np.isin(file_a, common)).tolist():
        known.setdefault(int(file_a[i]), {}).setdefault(int(start_a[i]), i)
    found = []
    for j in np.flatnonzero(np.isin(file_b, common)).tolist():
        rows, start = known[int(file_b[j])], int(start_b[j])
        same = rows.get(start, rows.get(WHOLE))
        if start == WHOLE and same is None:
            same = min(rows.values())
        if same is not None:
            found.append((same, j))
    return found
