"""The product quantizer: draws, straight-through gradient, perplexities, schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from ssl_jax.ops import quantize

LOGITS = np.array([[1.0, 0.0, -1.0, 0.5], [0.0, 2.0, 0.0, 0.0]], np.float32)  # G = 2, V = 4


def test_a_code_is_drawn_with_its_probability():
    rows = 4000
    words = np.random.default_rng(0).integers(0, 2**32, (rows, 2), np.uint32)
    keys = jax.random.wrap_key_data(words)

    @jax.jit
    def draw(keys):
        noise = quantize.gumbel_noise(keys, (5, 2, 4))
        return quantize.choose(jnp.broadcast_to(LOGITS, noise.shape), noise, 0.7)

    got = np.asarray(draw(keys))
    assert got.shape == (rows, 5, 2, 4) and set(np.unique(got.round(6))) == {0, 1}
    p = scipy.special.softmax(LOGITS, -1)
    error = 5 * np.sqrt(p * (1 - p) / (5 * rows))
    assert (abs(got.mean((0, 1)) - p) < error).all()
    # the draw of an example does not depend on its neighbours
    np.testing.assert_array_equal(draw(keys[:3]), got[:3])


def test_the_gradient_passes_straight_through():
    noise = np.random.default_rng(1).gumbel(size=(3, 2, 4)).astype(np.float32)
    weight = np.random.default_rng(2).standard_normal((3, 2, 4)).astype(np.float32)
    logits = np.broadcast_to(LOGITS, (3, 2, 4))

    def slope(f):
        return jax.grad(lambda x: (f(x) * weight).sum())(logits)

    hard = quantize.choose(logits, noise, 0.5)
    np.testing.assert_array_equal(hard.argmax(-1), (logits + noise).argmax(-1))
    soft = slope(lambda x: jax.nn.softmax((x + noise) / 0.5))
    np.testing.assert_allclose(slope(lambda x: quantize.choose(x, noise, 0.5)), soft, atol=1e-6)
    assert np.abs(soft).max() > 0.01
    still = quantize.choose(logits)
    np.testing.assert_array_equal(still.argmax(-1), logits.argmax(-1))
    assert not np.any(slope(quantize.choose))


def test_codes_of_all_groups_are_joined():
    codes = np.arange(24.0).reshape(2, 4, 3)
    choice = np.eye(4)[[[1, 3], [0, 2]]]  # two frames, two groups
    got = quantize.look_up(choice, codes)
    np.testing.assert_array_equal(got, [[3, 4, 5, 21, 22, 23], [0, 1, 2, 18, 19, 20]])


def test_perplexity_counts_the_codes_in_use():
    draw = np.random.default_rng(0)
    shares, mask = draw.dirichlet(np.ones(4), (3, 7, 2)), draw.random((3, 7)) < 0.5
    mean = shares[mask].mean(0)
    want = np.exp(-(mean * np.log(mean)).sum(-1))
    np.testing.assert_allclose(quantize.perplexity(shares, mask), want, rtol=1e-5)
    everywhere = np.ones((1, 4), bool)
    each_once = np.broadcast_to(np.eye(4)[:, None], (1, 4, 2, 4))
    np.testing.assert_allclose(quantize.perplexity(each_once, everywhere), [4, 4], rtol=1e-5)
    always = np.broadcast_to(np.eye(4)[0], (1, 4, 2, 4))
    np.testing.assert_allclose(quantize.perplexity(always, everywhere), [1, 1], rtol=1e-5)
    slope = jax.grad(lambda s: quantize.perplexity(s, everywhere).sum())(always)
    assert np.isfinite(slope).all()


def test_diversity_of_the_published_codebook():
    assert quantize.diversity(jnp.array([320.0, 320.0]), 320) == 0
    # collapsed to one code per group, as reported for ports
    np.testing.assert_allclose(quantize.diversity(jnp.ones(2), 320), 638 / 640, rtol=1e-6)


@pytest.mark.parametrize(("end", "reached"), [(0.5, 277_259), (0.1, 599_145)])
def test_temperature_falls_to_its_floor(end, reached):
    schedule = jax.jit(quantize.gumbel_temperature(2.0, end, 0.999995))
    assert schedule(0) == 2.0
    for step in (1, 1000, 100_000, 250_000):
        np.testing.assert_allclose(schedule(step), 2 * 0.999995**step, rtol=2e-6)
    assert schedule(reached - 100) > end * (1 + 1e-4)
    assert schedule(reached) <= end * (1 + 1e-6)
    assert schedule(2_000_000) == np.float32(end)
