"""The equal error rate by hand and by a scan of thresholds; trials and their errors."""

import numpy as np
import pytest

from ssl_jax.data.errors import DataError
from ssl_jax.evals import speaker_verification


def scanned(scores, same):
    """Returns the error rate where both agree best, over a fine grid of thresholds."""
    grid = np.linspace(scores.min() - 0.1, scores.max() + 0.1, 20_001)
    missed = (scores[same][:, None] < grid).mean(0)
    taken = (scores[~same][:, None] >= grid).mean(0)
    best = np.argmin(np.abs(missed - taken))
    return (missed[best] + taken[best]) / 2, grid[best]


def test_rate_and_threshold_are_those_of_a_scan():
    draw = np.random.default_rng(0)
    same = draw.random(4000) < 0.3
    scores = draw.normal(size=4000) + 1.5 * same
    rate, threshold = speaker_verification.eer(scores, same)
    expected, place = scanned(scores, same)
    assert rate == pytest.approx(expected, abs=1e-3) and threshold == pytest.approx(place, abs=0.02)
    assert rate == pytest.approx(0.2266, abs=0.02)  # of two normal curves 1.5 apart


@pytest.mark.parametrize(
    ("scores", "same", "rate"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 0.0),
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0], 1.0),
        ([0.1, 0.3, 0.2, 0.4], [0, 0, 1, 1], 0.5),
        ([0.5, 0.5], [0, 1], 0.5),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0, 0, 1, 0, 1, 1], 1 / 3),
    ],
)
def test_small_cases_by_hand(scores, same, rate):
    assert speaker_verification.eer(np.array(scores), np.array(same))[0] == pytest.approx(rate)


def test_one_kind_of_pairs_has_no_rate():
    with pytest.raises(ValueError, match="every trial is of one kind"):
        speaker_verification.eer(np.array([0.1, 0.2]), np.array([1, 1]))


def test_trials_are_read_and_scored(tmp_path):
    path = tmp_path / "trials.txt"
    path.write_text("1 a/1.wav a/2.wav\n\n0 a/1.wav b/1.wav\n")
    trials = speaker_verification.read_trials(path)
    assert trials[1] == (False, "a/1.wav", "b/1.wav")
    place = {"a/1.wav": 0, "a/2.wav": 2, "b/1.wav": 1}
    vectors = np.array([[1.0, 0], [0, 1], [0.6, 0.8]])
    scores, same = speaker_verification.score(trials, place, vectors)
    np.testing.assert_allclose(scores, [0.6, 0.0])
    assert same.tolist() == [True, False]
    with pytest.raises(DataError, match=r"names 'a/2\.wav', which the test split does not have"):
        speaker_verification.score(trials, {"a/1.wav": 0}, vectors)
    path.write_text("1 a/1.wav a/2.wav\nyes a b\n")
    with pytest.raises(DataError, match="row 2: expected '1 path path', found 'yes a b'"):
        speaker_verification.read_trials(path)
    with pytest.raises(DataError, match="does not exist"):
        speaker_verification.read_trials(tmp_path / "none.txt")
