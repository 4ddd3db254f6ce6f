"""The CTC loss against the sum over all paths, and the best path against a plain loop."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.ops import ctc

# frames, transcript: with a repeat, too long, empty, of one unit, of the maximum length
ROWS = [(5, (1, 2)), (4, (2, 2)), (2, (2, 2)), (4, ()), (2, (1,)), (5, (1, 2, 1, 1))]
UNITS = 3


def collapsed(path):
    return tuple(u for u, _ in itertools.groupby(path) if u)


def sum_over_paths(probabilities, transcript):
    """Returns the probability of a transcript, path by path, in float64."""
    frames = len(probabilities)
    paths = itertools.product(range(UNITS), repeat=frames)
    return sum(
        np.prod(probabilities[range(frames), path])
        for path in paths
        if collapsed(path) == tuple(transcript)
    )


@pytest.fixture(scope="module")
def batch():
    frames = np.array([n for n, _ in ROWS])
    labels = np.full((len(ROWS), 4), -1)
    for row, (_, units) in enumerate(ROWS):
        labels[row, : len(units)] = units
    logits = np.random.default_rng(0).normal(0, 2, (len(ROWS), 5, UNITS)).astype(np.float32)
    lengths = np.array([len(units) for _, units in ROWS])
    return logits, frames, labels, lengths


def loss_of(logits, frames, labels, lengths):
    return ctc.loss(jax.nn.log_softmax(logits), frames, labels, lengths)


def test_loss_is_that_of_the_sum_over_all_paths(batch):
    logits, frames, labels, lengths = batch
    each, feasible = jax.jit(loss_of)(logits, frames, labels, lengths)
    shares = np.asarray(jax.nn.softmax(logits), np.float64)
    for row, (n, units) in enumerate(ROWS):
        truth = sum_over_paths(shares[row, :n], units)
        assert bool(feasible[row]) is bool(truth > 0)
        expected = -np.log(truth) if truth else 0.0
        np.testing.assert_allclose(each[row], expected, rtol=1e-5)
    assert not feasible[2] and ctc.needed_frames(labels, lengths).tolist() == [2, 3, 3, 0, 1, 5]


def test_gradient_is_that_of_finite_differences_and_absent_where_nothing_counts(batch):
    logits, frames, labels, lengths = batch

    def total(logits):
        return loss_of(logits, frames, labels, lengths)[0].sum()

    gradient = np.asarray(jax.jit(jax.grad(total))(logits))
    assert not gradient[2].any()
    real = np.arange(5) < frames[:, None]
    assert not gradient[~real].any()
    exact = np.asarray(logits, np.float64)

    def literal(row, x):
        p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
        return -np.log(sum_over_paths(p[: frames[row]], ROWS[row][1]))

    for row, s, unit in ((0, 1, 2), (1, 3, 0), (5, 2, 1)):
        up, down = exact[row].copy(), exact[row].copy()
        up[s, unit] += 1e-4
        down[s, unit] -= 1e-4
        slope = (literal(row, up) - literal(row, down)) / 2e-4
        np.testing.assert_allclose(gradient[row, s, unit], slope, atol=1e-4)


def test_what_lies_behind_the_end_changes_nothing(batch):
    logits, frames, labels, lengths = batch
    real = np.arange(5) < frames[:, None]
    other = np.where(real[..., None], logits, 50.0).astype(np.float32)
    behind = np.where(np.arange(4) < lengths[:, None], labels, 1)
    loss = jax.jit(loss_of)
    np.testing.assert_array_equal(
        loss(logits, frames, labels, lengths)[0], loss(other, frames, behind, lengths)[0]
    )


def test_greedy_is_the_collapsed_best_path():
    draw = np.random.default_rng(1)
    scores = draw.normal(size=(20, 9, UNITS)).astype(np.float32)
    frames = draw.integers(0, 10, 20)
    units, count = jax.jit(ctc.greedy)(scores, frames)
    for row in range(20):
        expected = collapsed(scores[row, : frames[row]].argmax(-1))
        assert tuple(units[row, : count[row]].tolist()) == expected
        assert (units[row, count[row] :] == -1).all()


def test_long_rows_stay_finite():
    logits = jnp.zeros((1, 2000, 32)).at[:, :, 5].set(30.0)
    labels = jnp.arange(200)[None] % 31 + 1

    def loss(x):
        return loss_of(x, jnp.array([2000]), labels, jnp.array([200]))[0].sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(logits)
    assert np.isfinite(value) and value > 1000 and np.isfinite(gradient).all()
