"""The codebook of unit vectors, against loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.ops import codebook


def unit(x):
    return x / np.sqrt((x**2).sum(-1, keepdims=True))


@pytest.fixture(scope="module")
def vectors():
    """Forty unit vectors of four channels around five directions, the last ten of them not real."""
    draw = np.random.default_rng(0)
    around = draw.standard_normal((5, 4))[np.arange(40) % 5]
    return unit(around + 0.3 * draw.standard_normal((40, 4))), np.arange(40) < 30


def literal_kmeans(chance, z, codes):
    order = np.argsort(-chance)
    centres = z[order[np.arange(codes) % len(z)]]
    for _ in range(codebook.ROUNDS):
        ids = (z @ centres.T).argmax(1)
        for k in range(codes):
            if (ids == k).any():
                centres[k] = unit(z[ids == k].mean(0))
    return centres


@pytest.mark.parametrize("codes", [6, 35])
def test_kmeans_begins_with_real_vectors_and_may_have_fewer_of_them_than_codes(vectors, codes):
    z, real = vectors
    chance = np.random.default_rng(1).uniform(size=40)
    found = jax.jit(codebook.start, static_argnums=3)(
        jnp.asarray(chance, jnp.float32), jnp.asarray(z, jnp.float32), jnp.asarray(real), codes
    )
    expected = literal_kmeans(chance[real], z[real].copy(), codes)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_used_codes_move_towards_their_mean_direction_and_others_stay_to_the_bit(vectors):
    z, real = vectors
    codes = np.float32(unit(np.random.default_rng(2).standard_normal((9, 4))))
    codes[0] = -codes[1:].mean(0)  # hardly anything is nearest to it
    ids = codebook.nearest(jnp.float32(z), codes)
    np.testing.assert_array_equal(ids, (z @ codes.T).argmax(1))
    moved = codebook.move(codes, *codebook.sums(jnp.float32(z), ids, real, 9), 0.9)
    unused = 0
    for k, before in enumerate(codes):
        own = z[real & (np.asarray(ids) == k)]
        if len(own):
            expected = unit(0.9 * before + 0.1 * unit(own.mean(0)))
            np.testing.assert_allclose(moved[k], expected, atol=1e-6)
        else:
            unused += 1
            np.testing.assert_array_equal(moved[k], before)
    assert unused and np.abs(np.linalg.norm(moved, axis=1)[1:] - 1).max() < 1e-6


def test_quantized_vectors_pass_the_gradient_straight_through(vectors):
    z, codes = (jnp.float32(x) for x in (vectors[0][:3], vectors[0][5:9]))
    ids = codebook.nearest(z, codes)
    weight = jnp.arange(12.0).reshape(3, 4)
    value, slope = jax.value_and_grad(lambda z: (codebook.quantize(z, codes, ids) * weight).sum())(
        z
    )
    np.testing.assert_allclose(value, (codes[ids] * weight).sum(), rtol=1e-6)
    np.testing.assert_array_equal(slope, weight)


def test_dead_codes_become_different_real_vectors(vectors):
    z, real = (jnp.asarray(x) for x in vectors)
    codes, dead = jnp.zeros((6, 4)), jnp.array([True, False, True, True, False, False])
    found = np.asarray(codebook.restart(codes, dead, jnp.arange(40.0), z, real))
    # the last real ones have the largest chance
    np.testing.assert_allclose(found[[0, 2, 3]], vectors[0][[29, 28, 27]], rtol=1e-6)
    assert not found[[1, 4, 5]].any()
