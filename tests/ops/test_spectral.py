"""Augmentation of log-mels: identities, what changes, and that rows are independent."""

import functools

import jax
import numpy as np
import pytest

from ssl_jax.ops import spectral

B, T, M = 4, 12, 10
STRONG = {
    "shift": {"max_frames": 3},
    "warp": {"max_share": 0.2},
    "equalize": {"std_db": 3.0},
    "mix": {"max_share": 0.5},
    "add_floor": {"below_db": (0.0, 10.0)},
}
NONE = {
    "shift": {"max_frames": 0},
    "warp": {"max_share": 0.0},
    "equalize": {"std_db": 0.0},
    "mix": {"max_share": 0.0},
    "add_floor": {"below_db": (0.0, 10.0), "prob": 0.0},
}


@pytest.fixture
def level():
    return np.random.default_rng(0).normal(-40, 10, (B, T, M)).astype(np.float32)


def _keys(seed=0):
    words = np.random.default_rng(seed).integers(0, 2**32, (B, 2), np.uint32)
    return jax.random.wrap_key_data(words)


@functools.cache
def _compiled(name, options):
    return jax.jit(functools.partial(getattr(spectral, name), **dict(options)))


def _run(name, level, options, keys=None, lengths=None):
    lengths = np.full((B,), level.shape[1]) if lengths is None else lengths
    keys = _keys() if keys is None else keys
    return np.asarray(_compiled(name, tuple(options.items()))(keys, level, lengths))


@pytest.mark.parametrize("name", NONE)
def test_zero_strength_is_the_identity(name, level):
    np.testing.assert_allclose(_run(name, level, NONE[name]), level, atol=1e-4)


@pytest.mark.parametrize("name", STRONG)
def test_every_row_changes_and_another_key_changes_it_otherwise(name, level):
    first = _run(name, level, STRONG[name], _keys(1))
    second = _run(name, level, STRONG[name], _keys(2))
    assert np.all(np.isfinite(first))
    assert np.abs(first - level).max() > 0.1
    assert np.abs(first - second).max() > 0.1


@pytest.mark.parametrize("name", [n for n in STRONG if n != "mix"])
def test_a_row_depends_on_its_own_key_only(name, level):
    keys = _keys()
    other = level.copy()
    other[1:] += 5
    changed = _run(name, other, STRONG[name], keys)[0]
    np.testing.assert_array_equal(changed, _run(name, level, STRONG[name], keys)[0])


def test_shift_moves_frames_within_the_real_ones(level):
    lengths = np.array([T, T, 5, 5])
    keys = _keys()
    moved = _run("shift", level, {"max_frames": 3}, keys, lengths)
    np.testing.assert_array_equal(moved[2:, 5:], level[2:, 5:])
    offsets = [
        [
            s
            for s in range(-3, 4)
            if np.array_equal(moved[b, 4], level[b, min(max(4 - s, 0), n - 1)])
        ]
        for b, n in enumerate(np.asarray(lengths))
    ]
    assert all(offsets) and len({o[0] for o in offsets}) > 1


def test_warp_moves_a_peak_to_where_its_factor_says():
    level = np.full((B, T, 40), -80, np.float32)
    level[:, :, 20] = 0
    peaks = _run("warp", level, {"max_share": 0.2}).argmax(-1)
    assert peaks.min() >= 20 / 1.2 - 1 and peaks.max() <= 20 / 0.8 + 1
    assert len(np.unique(peaks)) > 1


def test_equalize_adds_one_curve_to_all_frames(level):
    curve = _run("equalize", level, {"std_db": 3.0}) - level
    np.testing.assert_allclose(curve, np.broadcast_to(curve[:, :1], curve.shape), atol=1e-4)
    assert np.abs(np.diff(curve[:, 0], axis=-1)).max() < 6


def test_mix_adds_power():
    level = np.zeros((B, T, M), np.float32)
    mixed = _run("mix", level, {"max_share": 0.5})
    np.testing.assert_allclose(mixed, 0.0, atol=1e-4)  # equal log-mels: shares add up to one
    loud = level.copy()
    loud[0] = 30
    assert float(_run("mix", loud, {"max_share": 0.5})[1].min()) > 1.0


def test_the_floor_lies_where_it_is_asked_for():
    level = np.full((B, 100, M), -600, np.float32)
    level[:, :, 0] = 0
    mean = -540.0
    options = {"below_db": (20.0, 20.0), "tilt_db": 0.0, "spread_db": 0.0}
    floor = _run("add_floor", level, options)
    np.testing.assert_allclose(floor[:, :, 1:], mean - 20, atol=0.1)
