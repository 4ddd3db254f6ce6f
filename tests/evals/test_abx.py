"""ABX against a literal oracle, and on tokens whose answer is known."""

import itertools

import numpy as np
import pytest

from ssl_jax.evals import abx


def literal(a, b):
    """Mean angle along the path with the smallest total, by trying every path."""

    def paths(i, j):
        if i == j == 0:
            yield [(0, 0)]
            return
        for di, dj in ((1, 1), (1, 0), (0, 1)):
            if i >= di and j >= dj:
                for path in paths(i - di, j - dj):
                    yield [*path, (i, j)]

    angle = np.arccos(np.clip(a @ b.T, -1, 1)) / np.pi
    all_paths = list(paths(len(a) - 1, len(b) - 1))
    best = min(all_paths, key=lambda path: sum(angle[p] for p in path))
    return np.mean([angle[p] for p in best])


def unit(rng, *shape):
    x = rng.standard_normal(shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_warped_distances_are_those_of_the_best_path():
    rng = np.random.default_rng(0)
    a, b = unit(rng, 6, 4, 3), unit(rng, 6, 3, 3)
    lengths = np.array([4, 3, 1, 2, 4, 1]), np.array([3, 1, 3, 2, 2, 1])
    found = abx.warped(a, b, *lengths)
    for n, (s, t) in enumerate(zip(*lengths, strict=True)):
        assert found[n] == pytest.approx(literal(a[n, :s], b[n, :t]))


def corpus(separation, layers=1, recordings=8, seed=0):
    """Tokens of three phones, each around its own direction, of 1 to 3 frames of 0.02 s."""
    rng, tokens = np.random.default_rng(seed), abx.Tokens()
    centres = np.eye(3, 8) * separation
    for _ in range(recordings):
        phones = rng.permutation([1, 2, 3, 0])
        counts = rng.integers(1, 4, 4)
        rows = [
            np.tile(centres[p - 1] if p else np.zeros(8), (n, 1))
            for p, n in zip(phones, counts, strict=True)
        ]
        frames = np.concatenate(rows)
        frames = np.stack([frames + rng.standard_normal(frames.shape) for _ in range(layers)])
        edges = np.concatenate([[0], np.cumsum(counts)]) * 0.02
        times = (np.arange(frames.shape[1]) + 0.5) * 0.02
        tokens.add(frames, times, edges[:-1], edges[1:], phones)
    return tokens


def test_phones_that_differ_are_told_apart_and_noise_is_at_chance():
    assert corpus(30.0).errors()[0] == 0.0
    chance = corpus(0.0, layers=2, recordings=40).errors(each=100)
    assert chance == pytest.approx([0.5, 0.5], abs=0.06)


def test_triples_take_a_and_b_from_one_recording_and_x_from_another():
    tokens = corpus(1.0)
    phones, recordings = np.array(tokens.phones), np.array(tokens.recordings)
    assert 0 not in phones
    (a, b, x), pair = tokens.triples(5)[0].T, tokens.triples(5)[1]
    assert (recordings[a] == recordings[b]).all() and (recordings[a] != recordings[x]).all()
    assert (phones[a] == phones[x]).all() and (phones[a] != phones[b]).all()
    assert sorted(np.bincount(pair)) == [5] * 6
    seen = set(zip(phones[a].tolist(), phones[b].tolist(), strict=True))
    assert seen == set(itertools.permutations((1, 2, 3), 2))


def test_a_phone_without_a_frame_is_left_out():
    tokens = abx.Tokens()
    times = np.array([0.01, 0.03, 0.05])
    spans = np.array([0.0, 0.012, 0.02]), np.array([0.012, 0.018, 0.06])
    tokens.add(np.ones((2, 3, 4)), times, *spans, np.array([1, 2, 3]))
    assert tokens.phones == [1, 3]
    assert [x.shape for x in tokens.frames] == [(2, 1, 4), (2, 2, 4)]


def test_too_few_recordings_are_an_error():
    with pytest.raises(ValueError, match="more recordings, such as 20"):
        corpus(1.0, recordings=1).errors()
