"""Pooling and the classifier."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from ssl_jax.nn import heads

pool = jax.jit(heads.pool, static_argnums=(2, 3))
RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4, 6)).astype(np.float32)
VALID = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)


@pytest.mark.parametrize(
    ("how", "rows"),
    [
        ("tokens", [X[0].mean(0), X[1, :2].mean(0)]),
        ("frames", [X[0, 1:].mean(0), X[1, 1]]),
        ("cls", [X[0, 0], X[1, 0]]),
    ],
)
def test_pool_counts_what_its_name_says(how, rows):
    np.testing.assert_allclose(pool(X, VALID, 1, how), np.stack(rows), atol=1e-6)


def test_pool_ignores_padding_even_when_it_is_not_finite():
    broken = X.copy()
    broken[1, 2:] = np.nan
    got = pool(broken, VALID, 1, "tokens")
    np.testing.assert_allclose(got, pool(X, VALID, 1, "tokens"))
    assert not np.asarray(pool(X, np.zeros_like(VALID), 0, "tokens")).any()


def test_pool_of_a_missing_class_token_or_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"config.method.pool is 'cls', but"):
        heads.pool(X, VALID, 0, "cls")
    with pytest.raises(ValueError, match=r"config.method.pool is 'max': use one of tokens"):
        heads.pool(X, VALID, 0, "max")


def test_classifier_equals_pool_norm_linear():
    head = heads.Classifier(3, heads.HeadOptions(**common.supervised().head))
    shapes = jax.eval_shape(head.init, jax.random.key(0), X, VALID)["params"]
    params = jax.tree.map(lambda a: RNG.standard_normal(a.shape).astype(np.float32), shapes)
    got = jax.jit(head.apply)({"params": params}, X.astype(jnp.bfloat16), VALID)
    x = np.asarray(pool(X.astype(jnp.bfloat16), VALID, 0, "tokens"))
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    x = x * params["norm"]["scale"] + params["norm"]["bias"]
    want = x @ params["classifier"]["kernel"] + params["classifier"]["bias"]
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, atol=1e-5)
