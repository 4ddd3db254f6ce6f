"""Checks that the splits of a config do not overlap: no row may be in two of them.

A row may be in two sources of one split, and a speaker in two splits, which is reported.
"""

import itertools
from collections.abc import Mapping

import numpy as np

from ssl_jax.data import hashing
from ssl_jax.data.base import Corpus
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers.base import part_of
from ssl_jax.data.readers.identity import WHOLE


def check(corpora: Mapping[str, Corpus]) -> None:
    """Raises DataError if two splits hold the same row, naming both.

    corpora: those of "train", "valid", "test". Two rows of one file are the same if they start at
    the same position, or if one of them is the whole file; files are compared by device and inode,
    not by name.
    """
    keys = {name: _keys(corpus) for name, corpus in corpora.items()}
    for a, b in itertools.combinations(corpora, 2):
        pairs = _shared(*keys[a], *keys[b])
        if pairs:
            i, j = pairs[0]
            raise DataError(
                f"config.data.{b} holds rows of config.data.{a} ({len(pairs)} of "
                f"{len(corpora[b])}), the first is {_where(corpora[b], j)}, which is "
                f"{_where(corpora[a], i)}: keep each file in one split, with separate folders or "
                f"tables, or with `where` or `part` of one source"
            )


def repeated(corpus: Corpus) -> str:
    """Returns a note on rows that are in two sources of a split, or ""; they are drawn twice."""
    files, starts = _keys(corpus)
    borders = np.cumsum([0] + [len(s) for s in corpus.sources]).tolist()
    parts = [(slice(a, b), a) for a, b in itertools.pairwise(borders)]
    for (one, first_a), (two, first_b) in itertools.combinations(parts, 2):
        pairs = _shared(files[one], starts[one], files[two], starts[two])
        if pairs:
            i, j = pairs[0]
            return (
                f"{len(pairs)} rows are in two sources of one split, so they are read twice as "
                f"often: the first is {_where(corpus, first_b + j)}, which is "
                f"{_where(corpus, first_a + i)}"
            )
    return ""


def known_speakers(corpora: Mapping[str, Corpus]) -> list[str]:
    """Returns a note for each split of transcribed speech with speakers of the training split.

    corpora: as in `check`. Speakers are those of a column `speaker`, where there is one.
    """
    spoken = {n: corpus for n, corpus in corpora.items() if "transcript" in corpus.fields}
    found = {name: set(corpus.column("speaker")) - {""} for name, corpus in spoken.items()}
    known, notes = found.pop("train", set()), []
    for name, own in found.items():
        shared = sorted(own & known)
        if shared:
            notes.append(
                f"{len(shared)} of {len(own)} speakers of config.data.{name} are in "
                f"config.data.train too, such as {shared[0]!r}: errors on new voices will be more "
                f"frequent. To test on new ones, give each speaker one split, by `where`"
            )
    return notes


def _where(corpus: Corpus, row: int) -> str:
    """Names a row of the sources, which for text are documents, not blocks."""
    part, number = part_of(np.cumsum([0] + [len(s) for s in corpus.sources]), row)
    source = corpus.sources[part]
    return f"{source.where(number)} of config.data.{source.name}"


def _keys(corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    """Returns a hash of the file of every row of the sources, and its start there, (n,) each."""
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
    """Returns (row of a, row of b) for every row of b that is also in a, in the order of b."""
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
