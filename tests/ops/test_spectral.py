"""Augmentation of log-mel levels: identities, what moves, and that rows are independent."""

import jax
import jax.numpy as jnp
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
    return jnp.asarray(np.random.default_rng(0).normal(-40, 10, (B, T, M)), jnp.float32)


def _keys(seed=0):
    return jax.random.split(jax.random.key(seed), B)


def _run(name, level, options, keys=None, lengths=None):
    lengths = jnp.full((B,), T) if lengths is None else lengths
    keys = _keys() if keys is None else keys
    return getattr(spectral, name)(keys, level, lengths, **options)


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
    other = level.at[1:].add(5.0)
    changed = _run(name, other, STRONG[name], keys)[0]
    np.testing.assert_array_equal(changed, _run(name, level, STRONG[name], keys)[0])


def test_shift_moves_frames_within_the_real_ones(level):
    lengths = jnp.array([T, T, 5, 5])
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
    level = jnp.full((B, T, 40), -80.0).at[:, :, 20].set(0.0)
    peaks = np.asarray(_run("warp", level, {"max_share": 0.2}).argmax(-1))
    assert peaks.min() >= 20 / 1.2 - 1 and peaks.max() <= 20 / 0.8 + 1
    assert len(np.unique(peaks)) > 1


def test_equalize_adds_one_curve_to_all_frames(level):
    curve = np.asarray(_run("equalize", level, {"std_db": 3.0}) - level)
    np.testing.assert_allclose(curve, np.broadcast_to(curve[:, :1], curve.shape), atol=1e-4)
    assert np.abs(np.diff(curve[:, 0], axis=-1)).max() < 6


def test_mix_adds_power():
    level = jnp.zeros((B, T, M))
    mixed = _run("mix", level, {"max_share": 0.5})
    np.testing.assert_allclose(mixed, 0.0, atol=1e-4)  # equal levels: shares add up to one
    loud = level.at[0].set(30.0)
    assert float(_run("mix", loud, {"max_share": 0.5})[1].min()) > 1.0


def test_the_floor_lies_where_it_is_asked_for():
    level = jnp.full((B, 100, M), -600.0).at[:, :, 0].set(0.0)
    mean = -540.0
    options = {"below_db": (20.0, 20.0), "tilt_db": 0.0, "spread_db": 0.0}
    floor = spectral.add_floor(_keys(), level, jnp.full((B,), 100), **options)
    np.testing.assert_allclose(floor[:, :, 1:], mean - 20, atol=0.1)
