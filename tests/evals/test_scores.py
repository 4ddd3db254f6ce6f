"""Scores against scikit-learn, and the weighted key score against cases worked by hand."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from ssl_jax.evals import scores


def draw(rows=60, columns=4, levels=0):
    rng = np.random.default_rng(0)
    tags = (rng.random((rows, columns)) < 0.3).astype(np.float32)
    values = rng.normal(size=(rows, columns)) + tags
    return (np.round(values * levels) / levels if levels else values), tags


@pytest.mark.parametrize("levels", [0, 2], ids=["distinct", "ties"])
def test_tagging_scores_equal_scikit_learn(levels):
    values, tags = draw(levels=levels)
    want = metrics.roc_auc_score(tags, values, average="macro")
    np.testing.assert_allclose(scores.roc_auc(values, tags), want, rtol=1e-12)
    want = metrics.average_precision_score(tags, values, average="macro")
    np.testing.assert_allclose(scores.average_precision(values, tags), want, rtol=1e-12)


@pytest.mark.parametrize("score", [scores.roc_auc, scores.average_precision])
def test_a_tag_without_both_kinds_of_rows_is_left_out(score):
    values, tags = draw()
    more = np.concatenate([tags, np.ones((60, 1)), np.zeros((60, 1))], 1)
    wide = np.concatenate([values, values[:, :2]], 1)
    assert score(wide, more) == score(values, tags)
    with pytest.raises(ValueError, match="rows of both kinds"):
        score(values, np.ones_like(tags))


def test_r2_equals_scikit_learn_and_skips_what_is_not_known():
    rng = np.random.default_rng(1)
    truth, guess = rng.normal(size=(2, 50, 2))
    want = metrics.r2_score(truth, guess + truth, multioutput="raw_values")
    np.testing.assert_allclose(scores.r2(guess + truth, truth), want, rtol=1e-12)
    half = truth.copy()
    half[10:, 1] = np.nan
    want = metrics.r2_score(truth[:10, 1], guess[:10, 1])
    np.testing.assert_allclose(scores.r2(guess, half)[1], want, rtol=1e-12)
    with pytest.raises(ValueError, match="only one value"):
        scores.r2(guess, np.ones_like(truth))


@pytest.mark.parametrize(
    ("estimate", "truth", "relation"),
    [
        ("C major", "C major", "correct"),
        ("Db minor", "C# minor", "correct"),
        ("G major", "C major", "fifth"),
        ("F major", "C major", "other"),
        ("E minor", "A minor", "fifth"),
        ("A minor", "C major", "relative"),
        ("Eb major", "C minor", "relative"),
        ("C minor", "C major", "parallel"),
        ("C major", "A minor", "relative"),
        ("Eb minor", "C major", "other"),
        ("A major", "C minor", "other"),
        ("D major", "C major", "other"),
    ],
)
def test_what_one_key_is_to_another(estimate, truth, relation):
    assert scores.key_relation(estimate, truth) == relation


def test_a_fifth_below_counts_on_request():
    assert scores.key_relation("F major", "C major", descending_fifths=True) == "fifth"


def test_the_weighted_key_score_of_five_cases():
    classes = ("A minor", "C major", "C minor", "F major", "G major")
    chosen = [1, 4, 0, 2, 3]  # of C major: itself, a fifth, relative, parallel, something else
    value = scores.weighted_key_score(np.eye(5)[chosen], np.ones(5, int), classes)
    assert value == pytest.approx((1 + 0.5 + 0.3 + 0.2 + 0) / 5)


def test_keys_are_read_and_what_is_none_is_named():
    assert scores.parse_key("bb maj") == (10, "major")
    assert scores.parse_key(" F# minor ") == (6, "minor")
    for text in ("H major", "C", "C lydian"):
        with pytest.raises(ValueError, match="write it as 'C# minor'"):
            scores.parse_key(text)


def test_accuracy_counts_the_largest():
    assert scores.accuracy(np.array([[0, 2, 1], [3, 0, 0]]), np.array([1, 2])) == 0.5


def test_scores_of_glue_equal_scikit_learn_and_scipy():
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(80, 3))
    labels = np.where(rng.random(80) < 0.5, logits.argmax(-1), rng.integers(0, 3, 80))
    want = metrics.matthews_corrcoef(labels, logits.argmax(-1))
    np.testing.assert_allclose(scores.mcc(logits, labels), want, rtol=1e-12)
    two, labels = logits[:, :2], labels % 2
    want = metrics.f1_score(labels, two.argmax(-1))
    np.testing.assert_allclose(scores.f1(two, labels), want, rtol=1e-12)
    truth = np.round(rng.normal(size=(80, 2)), 1)
    guess = truth**3 + rng.normal(size=(80, 2))
    truth[::9, 1] = np.nan
    known = ~np.isnan(truth[:, 1])
    for score, of in ((scores.pearson, stats.pearsonr), (scores.spearman, stats.spearmanr)):
        want = [of(guess[:, 0], truth[:, 0])[0], of(guess[known, 1], truth[known, 1])[0]]
        np.testing.assert_allclose(score(guess, truth), np.mean(want), rtol=1e-12)


def test_heads_that_say_one_thing_only_have_a_score_and_such_truths_have_none():
    same, labels = np.tile([[0.0, 1.0]], (6, 1)), np.array([0, 1, 0, 1, 1, 0])
    assert scores.mcc(same, labels) == 0
    np.testing.assert_allclose(scores.f1(same, labels), 2 / 3)
    assert scores.f1(-same, labels * 0) == 0
    assert scores.pearson(same[:, :1], labels[:, None]) == 0
    with pytest.raises(ValueError, match="only one value"):
        scores.spearman(labels[:, None], same[:, :1])
    with pytest.raises(ValueError, match="use 'mcc'"):
        scores.f1(np.zeros((6, 3)), labels)


def test_the_score_of_no_row_is_nan_and_never_the_best():
    logits, labels = np.zeros((0, 2)), np.zeros(0, int)
    for score in (scores.accuracy, scores.mcc, scores.f1):
        assert math.isnan(score(logits, labels))
    keys = ("C major", "A minor")
    assert math.isnan(scores.weighted_key_score(logits, labels, keys))
    assert math.isnan(scores.all_slots(logits, logits, [(0, 1)]))
    assert math.isnan(scores.all_slots(np.zeros((3, 0)), np.zeros((3, 0)), []))
    assert scores.known(np.array([math.nan, -2.0, -3.0])).argmax() == 1


@pytest.mark.parametrize("score", [scores.pearson, scores.spearman, scores.r2])
def test_a_score_of_numbers_needs_rows(score):
    with pytest.raises(ValueError, match="only one value"):
        score(np.zeros((0, 1)), np.zeros((0, 1)))


def test_d_prime_is_that_of_two_normal_distributions():
    rng = np.random.default_rng(3)
    tags = rng.random((200, 4)) < 0.4
    guess = rng.normal(size=(200, 4)) + 1.5 * tags
    areas = [metrics.roc_auc_score(tags[:, i], guess[:, i]) for i in range(4)]
    want = 2**0.5 * stats.norm.ppf(np.mean(areas))
    assert scores.d_prime(guess, tags) == pytest.approx(want, rel=1e-12) and 1 < want < 2
    assert scores.d_prime(np.zeros((200, 4)), tags) == 0
