"""Both evaluators against the published counts, the toy of their authors, and each event alone."""

import math

import numpy as np
import pytest

from ssl_jax.evals import edit_distance, mdd
from ssl_jax.evals.mdd import Counts, Spoken

# of the 900 test utterances of L2-ARCTIC that the first evaluator was published with
PUBLISHED = Counts(23_884, 1_830, 1_914, 1_810, 567)
TOY = ["SH", "AE", "L", "AY", "K", "AE", "R", "IY", "Y", "UW"]


def row(canonical, perceived, hypothesis, **more):
    return Spoken(canonical.split(), perceived.split(), hypothesis.split(), **more)


def counts(name, *given):
    return mdd.count(mdd.EVALUATORS[name](row(*given)))


def test_rates_of_the_published_counts():
    assert PUBLISHED.true_accept + PUBLISHED.false_reject == 25_714
    assert PUBLISHED.true_reject + PUBLISHED.false_accept == 3_154 + 918 + 219
    found = [round(getattr(PUBLISHED, name), 4) for name in mdd.RATES[:6]]
    assert found == [0.5650, 0.5540, 0.5594, 0.4460, 0.0712, 0.2385]
    assert round(PUBLISHED.diagnosed_f1, 4) == 0.4564
    assert round(4_423 / 29_087, 4) == 0.1521


def test_the_toy_of_both_evaluators():
    heard = [*TOY[:4], "M", *TOY[4:]]
    guess = [*TOY[:4], "M", "M", "M", "X", *TOY[4:]]
    spoken = Spoken(TOY, heard, guess)
    paper = mdd.count(mdd.paper(spoken))
    assert paper == (10, 0, 0, 1, 0) and paper.f1 == 1.0
    other = mdd.count(mdd.repository(spoken))
    assert (other.true_accept, other.true_reject, other.false_reject) == (10, 1, 3)
    assert other.f1 == 0.4


# canonical, perceived, hypothesis -> counts by the paper and by the repository, by hand
EVENTS = {
    "accepted": ("B AA T", "B AA T", "B AA T", (3, 0, 0, 0, 0), None),
    "right phone replaced": ("B AA T", "B AA T", "B IY T", (2, 1, 0, 0, 0), None),
    "right phone left out": ("B AA T", "B AA T", "B AA", (2, 1, 0, 0, 0), None),
    "diagnosed": ("B AA T", "B AH T", "B AH T", (2, 0, 0, 1, 0), None),
    "missed": ("B AA T", "B AH T", "B AA T", (2, 0, 1, 0, 0), None),
    "another phone": ("B AA T", "B AH T", "B IY T", (2, 0, 0, 0, 1), None),
    "left out of a replaced one": ("B AA T", "B AH T", "B T", (2, 0, 0, 0, 1), None),
    "insertion found": ("B AA T", "B AA T AH", "B AA T AH", (3, 0, 0, 1, 0), None),
    "insertion missed": ("B AA T", "B AA T AH", "B AA T", (3, 0, 1, 0, 0), None),
    "insertion of another phone": (
        "B AA T",
        "B AA T AH",
        "B AA T IY",
        (3, 0, 0, 0, 1),
        (3, 0, 0, 1, 0),  # an insertion has no phone to compare
    ),
    "deletion found": ("B AA T", "B AA", "B AA", (2, 0, 0, 1, 0), None),
    "deletion missed": ("B AA T", "B AA", "B AA T", (2, 0, 1, 0, 0), None),
    "deletion replaced": ("B AA T", "B AA", "B AA S", (2, 0, 0, 0, 1), None),
    "only the model inserts": ("B AA", "B AA", "B S AA", (2, 0, 0, 0, 0), (2, 1, 0, 0, 0)),
    "pauses": ("SIL B AA sil", "B SP AA", "sil B AA", (2, 0, 0, 0, 0), None),
    "nothing said": ("B", "", "", (0, 0, 0, 1, 0), None),
    "empty": ("", "", "", (0, 0, 0, 0, 0), None),
}


@pytest.mark.parametrize("name", EVENTS)
def test_every_event_by_itself(name):
    *given, paper, repository = EVENTS[name]
    assert counts("paper", *given) == paper
    assert counts("repository", *given) == (repository or paper)


def test_ties_go_to_pairs_then_deletions_then_insertions():
    # seen from the end: a substitution before a deletion, a deletion before an insertion
    assert edit_distance.align("ab", "c") == [(0, None), (1, 0)]
    assert edit_distance.align("a", "bc") == [(None, 0), (0, 1)]
    assert edit_distance.align("aab", "ab") == [(0, None), (1, 0), (2, 1)]
    assert edit_distance.align("ab", "bc") == [(0, 0), (1, 1)]
    assert edit_distance.align("abc", "cd") == [(0, None), (1, 0), (2, 1)]
    # three edits whichever way: the deletion of c comes first on the way back
    assert edit_distance.align("xac", "cxa") == [(None, 0), (0, 1), (1, 2), (2, None)]


def test_totals_of_drawn_rows_are_those_of_the_alignment():
    draw = np.random.default_rng(0)
    drawn = [["ABC"[i] for i in draw.integers(0, 3, draw.integers(0, 8))] for _ in range(90)]
    for c, h, p in zip(drawn[::3], drawn[1::3], drawn[2::3], strict=True):
        found, edits = mdd.count(mdd.paper(Spoken(c, h, p))), edit_distance.edits(c, h)
        assert found.true_accept + found.false_reject == edits.hits
        assert found.true_reject + found.false_accept == edits.errors
        perfect = mdd.count(mdd.paper(Spoken(c, h, h)))
        assert not perfect.false_reject + perfect.false_accept + perfect.error_diagnosis


def test_the_repository_takes_the_pairs_of_an_annotation():
    spoken = row("T R", "R T", "T R")
    assert mdd.count(mdd.repository(spoken)).false_accept == 2  # two substitutions
    pairs = [("sil", "R"), ("T", "T"), ("R", "sil"), ("sil", "sp")]
    found = mdd.repository(spoken._replace(pairs=pairs))
    assert mdd.count(found) == (1, 0, 2, 0, 0)
    assert [event.canonical for event in found] == ["", "T", "R"]
    assert mdd.count(mdd.paper(spoken._replace(pairs=pairs))) == mdd.count(mdd.paper(spoken))


def test_scores_and_tables_of_a_corpus():
    rows = [
        row("TH IH S", "S IH S", "S IH S", speaker="b"),
        row("TH IH S", "S IH S", "TH IY S", speaker="a"),
        row("TH", "TH", "TH", speaker="a"),
    ]
    found = mdd.evaluate(rows)
    assert found["per"] == 2 / 7
    assert found["paper"]["precision"] == found["paper"]["recall"] == 0.5
    assert found["paper"] == found["repository"]
    a, b = mdd.by_speaker(rows)
    assert (a["speaker"], a["utterances"], a["phones"], a["mispronounced"]) == ("a", 2, 4, 0.25)
    assert (b["per"], b["f1"], a["recall"]) == (0.0, 1.0, 0.0)
    first = mdd.by_phone(rows)[0]
    assert (first["phone"], first["phones"], first["heard_as"]) == ("TH", 3, "S")
    text = mdd.report(rows)
    assert "repository" in text and "heard_as" in text and "none" in text
    assert math.isnan(Counts(0, 0, 0, 0, 0).f1)
