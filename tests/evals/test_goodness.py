"""Goodness of pronunciation against sums and maxima over all paths of small lattices."""

import itertools

import numpy as np
import pytest

from ssl_jax.evals import goodness


def emissions(frames, units, seed):
    logits = 2 * np.random.default_rng(seed).standard_normal((frames, units))
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def paths(log_probs):
    """Yields every path, with the tokens that it spells and its log-probability."""
    frames, units = log_probs.shape
    for path in itertools.product(range(units), repeat=frames):
        tokens = tuple(k for k, _ in itertools.groupby(path) if k)
        yield path, tokens, sum(log_probs[t, k] for t, k in enumerate(path))


def probabilities(log_probs):
    found = {}
    for _, tokens, value in paths(log_probs):
        found[tokens] = found.get(tokens, 0.0) + np.exp(value)
    return found


CASES = [(1,), (1, 2), (1, 1), (2, 1, 2), (3, 2, 1)]


@pytest.mark.parametrize("tokens", CASES)
def test_posterior_is_the_share_among_all_replacements(tokens):
    log_probs = emissions(5, 4, seed=len(tokens))
    p = probabilities(log_probs)
    expected = []
    for i in range(len(tokens)):
        others = [(*tokens[:i], q, *tokens[i + 1 :]) for q in (1, 2, 3)]
        others.append((*tokens[:i], *tokens[i + 1 :]))
        expected.append(p[tokens] / sum(p.get(other, 0.0) for other in others))
    found = goodness.posterior(log_probs, tokens)
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-9)


@pytest.mark.parametrize("tokens", CASES)
def test_forced_path_is_the_best_of_all(tokens):
    log_probs = emissions(5, 4, seed=7)
    best = max((value, path) for path, spelled, value in paths(log_probs) if spelled == tokens)[1]
    runs, at = [], 0
    for token, run in itertools.groupby(best):
        size = len(list(run))
        runs += [(at, at + size)] if token else []
        at += size
    start, stop = goodness.force(log_probs, tokens)
    assert list(zip(start, stop, strict=True)) == runs


def test_both_scores_find_the_phone_that_was_not_said():
    said = [1, 0, 2, 2, 0, 3]  # 1 2 3; the text has 1 4 3
    log_probs = np.log(np.full((6, 5), 0.02))
    log_probs[np.arange(6), said] = np.log(0.92)
    found = goodness.goodness(log_probs, [1, 4, 3])
    assert found.posterior.argmin() == found.ratio.argmin() == 1
    assert found.posterior[1] < -3 and found.ratio[1] == pytest.approx(np.log(0.02 / 0.92))
    assert found.posterior[0] > -0.7 and found.ratio[0] == 0
    assert found.start[0] == 0 and found.stop[2] == 6
    left_out = goodness.posterior(log_probs, [1, 2, 3, 4])
    assert left_out.argmin() == 3 and left_out[3] < -3


def test_long_rows_stay_finite():
    log_probs = emissions(400, 40, seed=1)
    found = goodness.goodness(log_probs, np.random.default_rng(0).integers(1, 40, 60))
    assert np.isfinite(found.posterior).all() and (found.posterior <= 0).all()
    assert (found.start[1:] >= found.stop[:-1]).all()


def test_phones_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="3 canonical phones need 4 frames, and the recording has"):
        goodness.goodness(emissions(3, 3, 0), [1, 1, 2])
    with pytest.raises(ValueError, match="no canonical phone to score: give one"):
        goodness.posterior(emissions(3, 3, 0), [])


def test_detection_and_its_threshold():
    scores = np.array([-5.0, -4.0, -1.0, -1.0, 0.0, -9.0, np.nan])
    wrong = np.array([1, 1, 0, 1, 0, np.nan, 1])
    assert goodness.detection_auc(scores, wrong) == pytest.approx(5.5 / 6)
    assert goodness.threshold(scores[:5], wrong[:5]) == -1.0
    assert goodness.threshold([-2.0, -1.0, 0.0], [1, 0, 0]) == -2.0
    with pytest.raises(ValueError, match="no phone is wrong"):
        goodness.threshold([0.0], [0])
