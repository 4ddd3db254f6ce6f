import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.ops import stats


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


token_std = jax.jit(stats.token_std)
rankme = jax.jit(stats.rankme)


def test_token_std_equals_the_definition_over_masked_tokens():
    y, mask = normal(4, 7, 5) * np.arange(1, 6), normal(4, 7, seed=1) > 0
    want = np.sqrt(y[mask].var(0, ddof=1) + 1e-6).mean()
    hidden = np.where(mask[..., None], y, np.nan)
    np.testing.assert_allclose(token_std(hidden, mask), want, rtol=1e-5)
    whole = np.sqrt(y.reshape(-1, 5).var(0, ddof=1) + 1e-6).mean()
    np.testing.assert_allclose(token_std(y), whole, rtol=1e-5)


def test_token_std_of_known_inputs():
    np.testing.assert_allclose(token_std(np.full((100, 8), 1e3)), 1e-3, rtol=1e-5)
    assert abs(token_std(normal(20000, 8)) - 1) < 0.01
    # the same in every row of the batch, different over time: not collapsed
    assert token_std(np.tile(normal(1, 50, 8), (4, 1, 1))) > 0.8
    assert np.isfinite(token_std(np.ones((2, 3, 4)), np.zeros((2, 3), bool)))


def test_rankme_of_known_inputs():
    one = normal(400, 1) * normal(1, 16, seed=1)
    white = np.linalg.qr(normal(400, 16))[0]
    two = white * ([1.0, 1.0] + [0.0] * 14)
    np.testing.assert_allclose(rankme(np.ones((400, 16)) * np.arange(16)), 1, atol=1e-3)
    np.testing.assert_allclose(rankme(one), 1, atol=1e-3)
    np.testing.assert_allclose(rankme(two), 2, atol=1e-3)
    np.testing.assert_allclose(rankme(white), 16, atol=1e-3)
    assert 15.5 < rankme(normal(4000, 16)) < 16
    np.testing.assert_allclose(rankme(np.zeros((400, 16))), 1, atol=1e-3)


def test_rankme_equals_the_definition():
    x = normal(50, 12) @ normal(12, 12, seed=3)
    s = np.linalg.svd(x, compute_uv=False)
    p = s / s.sum() + 1e-7
    np.testing.assert_allclose(rankme(x), np.exp(-(p * np.log(p)).sum()), rtol=1e-4)


def test_cosine_sums_over_masked_tokens():
    a = np.array([[1.0, 0.0], [1.0, 1.0], [2.0, 0.0], [0.0, 0.0]])
    b = np.array([[3.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    cosine = jax.jit(stats.cosine)
    total, count = cosine(a, b)
    np.testing.assert_allclose([total, count], [np.sqrt(0.5), 4], rtol=1e-6)
    total, count = cosine(a, b, np.array([True, True, False, False]))
    np.testing.assert_allclose([total, count], [1 + np.sqrt(0.5), 2], rtol=1e-6)
    assert np.isfinite(jax.jit(jax.grad(lambda x: stats.cosine(x, b)[0]))(a)).all()


def test_usage_entropy_is_that_of_the_counted_ids():
    ids = np.array([[0, 0, 1], [2, -1, 3]])
    entropy = jax.jit(stats.usage_entropy, static_argnums=1)
    counted = ids >= 0
    share = np.array([2, 1, 1, 1]) / 5
    np.testing.assert_allclose(entropy(ids, 8, counted), -(share * np.log(share)).sum(), rtol=1e-6)
    np.testing.assert_allclose(entropy(ids, 8, ids == 0), 0, atol=1e-7)
    np.testing.assert_allclose(entropy(ids, 8, ids == 7), 0, atol=1e-7)
    np.testing.assert_allclose(entropy(np.arange(8), 8, np.ones(8, bool)), np.log(8), rtol=1e-6)


def test_own_share_tells_the_place_from_the_example():
    noise = np.random.default_rng(0)
    place, own = noise.normal(size=(1, 40, 8)), noise.normal(size=(6, 40, 8))
    mask = np.arange(40) < np.array([40, 40, 30, 40, 12, 1])[:, None]

    def share(y):
        return float(stats.instance_variance_ratio(jnp.asarray(y), jnp.asarray(mask)))

    assert share(np.broadcast_to(place, own.shape)) == pytest.approx(0, abs=1e-6)
    assert share(own) == pytest.approx(1, abs=0.05)
    # two sources of equal variance
    assert share(place + own) == pytest.approx(0.5, abs=0.05)
    far = np.where(mask[..., None], place + own, 1e6)
    assert share(far) == pytest.approx(share(place + own), rel=1e-5)
    lone = np.zeros_like(mask)
    lone[0] = True
    assert float(stats.instance_variance_ratio(jnp.asarray(own), jnp.asarray(lone))) == 1.0
