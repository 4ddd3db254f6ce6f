"""Edit distance with its alignment: hits, substitutions, deletions and insertions.

Written here so that monitoring word errors in training needs no extra package; the tests compare it
with the library jiwer.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

Pair = tuple[int | None, int | None]
"""Aligned positions in reference and hypothesis; None on one side: a deletion or an insertion."""


class Edits(NamedTuple):
    """Counts of one row or, by `total`, of a corpus."""

    hits: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def length(self) -> int:
        """The length of the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float:
        """Errors over the length of the reference; infinite without one, NaN where both are 0."""
        if not self.length:
            return math.inf if self.errors else math.nan
        return self.errors / self.length


def align(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> list[Pair]:
    """Returns the pairs, in order, of an alignment with the fewest edits (Levenshtein).

    Among equally good alignments, pairs stand as late as possible.
    """
    number = {item: i for i, item in enumerate(dict.fromkeys([*reference, *hypothesis]))}
    a, b = (np.array([number[item] for item in items], int) for items in (reference, hypothesis))
    table = _distances(a, b)
    i, j = len(a), len(b)
    pairs: list[Pair] = []
    while i or j:
        if i and j and table[i, j] == table[i - 1, j - 1] + (a[i - 1] != b[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif i and table[i, j] == table[i - 1, j] + 1:
            i -= 1
            pairs.append((i, None))
        else:
            j -= 1
            pairs.append((None, j))
    return pairs[::-1]


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the edit distances (len(a) + 1, len(b) + 1) of all beginnings of a and b."""
    across = np.arange(len(b) + 1)
    table = np.empty((len(a) + 1, len(b) + 1), int)
    table[0] = across
    for i, item in enumerate(a):
        kept, above = table[i, :-1] + (b != item), table[i, 1:] + 1
        # an insertion comes from the left: the minimum over all cells there, plus their distance
        best = np.concatenate([[i + 1], np.minimum(kept, above)])
        table[i + 1] = np.minimum.accumulate(best - across) + across
    return table


def count(
    reference: Sequence[Hashable], hypothesis: Sequence[Hashable], pairs: list[Pair]
) -> Edits:
    """Returns the counts of an alignment."""
    both = [(i, j) for i, j in pairs if i is not None and j is not None]
    hits = sum(reference[i] == hypothesis[j] for i, j in both)
    return Edits(hits, len(both) - hits, len(reference) - len(both), len(hypothesis) - len(both))


def edits(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> Edits:
    """Returns the counts of one row."""
    return count(reference, hypothesis, align(reference, hypothesis))


def total(rows: Iterable[Edits]) -> Edits:
    """Returns the counts of all rows together."""
    table = np.array(list(rows), int).reshape(-1, 4)
    return Edits(*table.sum(0).tolist())


def show(reference: Sequence[str], hypothesis: Sequence[str]) -> str:
    """Returns an alignment as two lines, one above the other, with every error in capitals.

    A deleted or inserted word stands against stars.
    """
    columns = []
    for i, j in align(reference, hypothesis):
        left = "" if i is None else str(reference[i])
        right = "" if j is None else str(hypothesis[j])
        width = max(len(left), len(right))
        if left == right:
            pair = left.lower(), right.lower()
        else:
            pair = (left or "*" * width).upper(), (right or "*" * width).upper()
        columns.append([text.ljust(width) for text in pair])
    return "\n".join(" ".join(line).rstrip() for line in zip(*columns, strict=True))
