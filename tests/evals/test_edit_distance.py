"""Alignments against a plain recursion and against jiwer; error rates of a corpus by hand."""

import functools
import math

import jiwer
import numpy as np
import pytest

from ssl_jax.evals import edit_distance


def distance(a, b):
    """Returns the edit distance by its definition."""

    @functools.cache
    def of(i, j):
        if not i or not j:
            return i + j
        same = of(i - 1, j - 1) + (a[i - 1] != b[j - 1])
        return min(same, of(i - 1, j) + 1, of(i, j - 1) + 1)

    return of(len(a), len(b))


def drawn(count):
    draw = np.random.default_rng(0)
    rows = [draw.integers(0, 3, draw.integers(0, 9)).tolist() for _ in range(2 * count)]
    return list(zip(rows[::2], rows[1::2], strict=True))


def test_alignments_are_shortest_and_cover_both_sides():
    for a, b in drawn(60):
        pairs = edit_distance.align(a, b)
        assert [i for i, _ in pairs if i is not None] == list(range(len(a)))
        assert [j for _, j in pairs if j is not None] == list(range(len(b)))
        assert edit_distance.edits(a, b).errors == distance(tuple(a), tuple(b))


def test_counts_and_rates_of_a_corpus():
    rows = [("the cat sat", "the cat"), ("on", "on a"), ("mat", "hat")]
    each = [edit_distance.edits(a.split(), b.split()) for a, b in rows]
    assert each == [(2, 0, 1, 0), (1, 0, 0, 1), (0, 1, 0, 0)]
    assert edit_distance.total(each) == (3, 1, 1, 1)
    assert edit_distance.total(each).rate == 3 / 5
    assert math.isnan(edit_distance.edits([], []).rate) and math.isnan(edit_distance.total([]).rate)
    assert edit_distance.edits([], ["a"]).rate == math.inf
    assert edit_distance.total([]) == (0, 0, 0, 0)


def test_show_marks_errors():
    shown = edit_distance.show(["the", "cat", "sat"], ["the", "hats", "a", "sat"])
    assert shown.splitlines() == ["the **** CAT sat", "the HATS A   sat"]


@pytest.mark.slow
def test_totals_are_those_of_jiwer():
    pairs = [(a, b) for a, b in drawn(200) if a]
    said, heard = (["".join(map(str, x)) for x in side] for side in zip(*pairs, strict=True))
    spaced = [[" ".join(x) for x in side] for side in (said, heard)]
    own = edit_distance.total(edit_distance.edits(a, b) for a, b in zip(said, heard, strict=True))
    words = jiwer.process_words(*spaced)
    found = words.substitutions + words.deletions + words.insertions
    assert own.errors == found and abs(own.rate - words.wer) < 1e-12
    assert abs(own.rate - jiwer.cer(said, heard)) < 1e-12
