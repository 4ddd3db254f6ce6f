"""Filters of pseudo-labels: each by hand, and the balance of tokens against all subsets."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from ssl_jax.core.config import ConfigError
from ssl_jax.evals import label_filters
from ssl_jax.evals.label_filters import Filters, Hypothesis


def row(text, plain=None, score=-1.0, seconds=1.0):
    return Hypothesis("k", text, text if plain is None else plain, score, len(text), seconds)


def kept(rows, filters, usual=None, target=None):
    return label_filters.select(rows, filters, [list(r.text) for r in rows], usual, target or {})


def test_all_but_empty_ones_are_kept_without_a_filter():
    found, dropped = kept([row("ab"), row(""), row("c", plain="xyz")], Filters())
    assert found == [0, 2]
    assert dropped == {"empty": 1, "disagreement": 0, "score": 0, "rate": 0, "balance": 0}


def test_hypotheses_must_agree_with_and_without_language_model():
    rows = [row("abcdefghij"), row("abcdefghij", "abcdefghix"), row("abcdefghij", "abcdefghxy")]
    assert label_filters.disagreement(rows[2]) == pytest.approx(0.2)
    found, dropped = kept(rows, Filters(disagreement=0.1))
    assert found == [0, 1] and dropped["disagreement"] == 1
    # the best path may be empty where the language model says something
    assert kept([row("a", "")], Filters(disagreement=0.1))[0] == []


def test_scores_are_normalized_by_their_number_of_tokens():
    draw = np.random.default_rng(0)
    tokens = draw.integers(4, 60, 4000)
    scores = -0.7 * tokens - 2 + 0.3 * np.sqrt(tokens) * draw.standard_normal(4000)
    rows = [Hypothesis("k", "x", "x", s, int(t), 1.0) for s, t in zip(scores, tokens, strict=True)]
    usual = label_filters.normal(rows)
    np.testing.assert_allclose(usual, (-0.7, -2, 0.3), rtol=0.06)
    each = [usual(r.score, r.tokens) for r in rows]
    assert abs(np.mean(each)) < 0.02 and np.std(each) == pytest.approx(1, abs=0.02)
    found, dropped = kept(rows, Filters(score=-1.0), usual)
    assert dropped["score"] / 4000 == pytest.approx(0.159, abs=0.02)  # of a normal distribution
    assert all(each[i] >= -1 for i in found)
    with pytest.raises(ValueError, match=r"at least 3 transcripts .* and there are 1"):
        label_filters.normal([row("ab"), row("")])


def test_too_fast_and_too_slow_ones_are_dropped():
    rows = [row("a", seconds=1.0), row("abc", seconds=1.0), row("abcdef", seconds=1.0)]
    found, dropped = kept(rows, Filters(rate=(2.0, 5.0)))
    assert found == [1] and dropped["rate"] == 2


def objective(rows, chosen, target):
    counts = Counter(itertools.chain(*(rows[i] for i in chosen)))
    return sum(w * math.log1p(counts[token]) for token, w in target.items())


def test_balance_is_near_the_best_of_all_subsets():
    draw = np.random.default_rng(1)
    rows = ["".join(draw.choice(list("aaaabc"), 4)) for _ in range(10)]
    target = {"a": 1.0, "b": 1.0, "c": 2.0}
    found = label_filters.balanced(rows, target, 0.5)
    assert len(found) == 5
    best = max(objective(rows, s, target) for s in itertools.combinations(range(10), 5))
    # the bound of greedy maximization is 1 - 1 / e
    assert objective(rows, found, target) > 0.95 * best
    texts = [row(r) for r in rows]
    again, dropped = kept(texts, Filters(balance=0.5), target=target)
    assert again == found and dropped["balance"] == 5
    assert label_filters.balanced(rows, target, 1.0) == list(range(10))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"disagreement": -0.1}, "disagreement -0.1 .* use a share such as 0.1"),
        ({"rate": (5.0, 2.0)}, r"rate \(5\.0, 2\.0\)"),
        ({"balance": 0.0}, "balance is 0.0: use the share of the tokens"),
    ],
)
def test_a_wrong_filter_is_named(options, message):
    with pytest.raises(ConfigError, match=message):
        Filters(**options)
