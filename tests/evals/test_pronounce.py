"""Feedback on frames whose phones are known."""

import math

import numpy as np
import pytest

from ssl_jax.data.errors import DataError
from ssl_jax.data.pronouncing import Word
from ssl_jax.evals import pronounce

VOCABULARY = ("<blank>", "<unk>", "AH", "D", "DH", "SIL", "T")


def frames(*names):
    """Returns log-probabilities (S, V) of one frame per name, "" for the blank."""
    said = [VOCABULARY.index(name or "<blank>") for name in names]
    p = np.full((len(said), len(VOCABULARY)), 0.01)
    p[np.arange(len(said)), said] = 0.94
    return np.log(p)


def judged(words, *names):
    times = 0.01 + 0.02 * np.arange(len(names))
    return pronounce.judge(frames(*names), words, VOCABULARY, times, 0.02)


def test_each_phone_has_what_was_heard_its_score_and_times():
    words = [Word("the", ("DH", "AH")), Word("at", ("AH", "T"))]
    found = judged(words, "SIL", "D", "", "AH", "SIL", "", "AH", "", "T", "", "", "D")
    assert [(p.word, p.canonical, p.heard) for p in found] == [
        ("the", "DH", "D"),
        ("the", "AH", "AH"),
        ("at", "AH", "AH"),
        ("at", "T", "T"),
        ("", "", "D"),
    ]
    assert [phone.mistaken for phone in found] == [True, False, False, False, True]
    assert found[0].score < 0.1 and min(p.score for p in found[1:3]) > 0.5
    assert math.isnan(found[4].score)
    # frames of 20 ms; a gap is halved between two phones of the same side
    np.testing.assert_allclose([found[0].start, found[0].end], [0.02, 0.05])
    np.testing.assert_allclose([found[1].start, found[1].end], [0.05, 0.10])
    np.testing.assert_allclose([found[3].start, found[3].end], [0.15, 0.18])
    np.testing.assert_allclose([found[4].start, found[4].end], [0.20, 0.24])
    lines = str(found).splitlines()
    assert lines[2].split() == ["the", "DH", "D", *lines[2].split()[3:]]
    assert lines[2].endswith("<-") and not lines[3].endswith("<-") and len(found) == 5


def test_a_phone_that_was_left_out():
    found = judged([Word("", ("DH", "AH", "T"))], "DH", "", "AH", "", "", "")
    assert [p.heard for p in found] == ["DH", "AH", ""]
    assert found[2].score < 0.1
    # a long pause does not draw a phone out
    found = judged([Word("", ("DH", "T"))], "DH", *[""] * 40, "T")
    np.testing.assert_allclose([found[0].end, found[1].start], [0.12, 0.72])
    nothing = judged([Word("", ("DH",))], "", "")
    assert [(p.canonical, p.heard) for p in nothing] == [("DH", "")]


def test_text_and_phones():
    assert pronounce.as_words(["DH", "AH"], VOCABULARY) == [Word("", ("DH", "AH"))]
    for odd in ("ZH", "SIL", "<unk>"):
        with pytest.raises(DataError, match=f"phone '{odd}' of .* is none of the model: use its"):
            pronounce.as_words(["DH", odd], VOCABULARY)
    assert pronounce.as_words("the", VOCABULARY) == [Word("the", ("DH", "AH"))]
