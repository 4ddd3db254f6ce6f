import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.ops import losses

smooth_l1 = jax.jit(losses.smooth_l1, static_argnums=2)
masked_mean = jax.jit(losses.masked_mean)
cross_entropy = jax.jit(losses.cross_entropy, static_argnums=(2, 3))
accuracy = jax.jit(losses.accuracy)


def test_smooth_l1_joins_square_and_absolute_value():
    error = np.array([-3.0, -2.0, -0.5, 0.0, 1.0, 2.0, 5.0])
    want = [2.0, 1.0, 0.0625, 0.0, 0.25, 1.0, 4.0]
    np.testing.assert_allclose(smooth_l1(error + 1, np.ones(7), 2.0), want, atol=1e-6)
    np.testing.assert_allclose(smooth_l1(error, np.zeros(7), 0.0), error**2, atol=1e-6)
    assert smooth_l1(error.astype(jnp.bfloat16), np.zeros(7), 1.0).dtype == jnp.float32


def test_masked_mean_weighs_and_ignores_what_is_hidden():
    values = np.array([1.0, np.nan, 3.0, 5.0])
    mean, weight = masked_mean(values, np.array([True, False, True, False]))
    assert (float(mean), float(weight)) == (2.0, 2.0)
    mean, weight = masked_mean(values, np.array([0.5, 0.0, 0.0, 1.5]))
    np.testing.assert_allclose([mean, weight], [4.0, 2.0])
    mean, weight = masked_mean(np.ones(3), np.array([0.25, 0.25, 0.0]))
    np.testing.assert_allclose([mean, weight], [1.0, 0.5])
    grad = jax.jit(jax.grad(lambda v: losses.masked_mean(v, jnp.zeros(4))[0]))(values)
    np.testing.assert_array_equal(grad, np.zeros(4))
    with pytest.raises(ValueError, match="the same shape"):
        losses.masked_mean(values[None], jnp.ones(4))


@pytest.mark.parametrize("spread", ["uniform", "others"])
def test_cross_entropy_equals_the_definition(spread):
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((6, 5)), np.array([0, 4, 2, 2, -1, 3])
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    want = []
    for row, label in zip(p, labels, strict=True):
        if spread == "uniform":
            q = np.full(5, 0.1 / 5)
            q[label] += 0.9
        else:
            q = np.full(5, 0.1 / 4)
            q[label] = 0.9
        want.append(0.0 if label < 0 else -(q * np.log(row)).sum())
    got = cross_entropy(logits, labels, 0.1, spread)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_cross_entropy_without_smoothing_and_with_a_wrong_name():
    logits = np.array([[2.0, 0.0]])
    got = cross_entropy(logits, np.array([0]))
    np.testing.assert_allclose(got, np.log1p(np.exp(-2.0)), rtol=1e-6)
    with pytest.raises(ValueError, match="'others'"):
        losses.cross_entropy(logits, jnp.array([0]), 0.1, "rest")


def test_accuracy_counts_weighted_labelled_rows():
    logits = np.eye(4)
    labels = np.array([0, 0, 2, -1])
    assert [float(x) for x in accuracy(logits, labels)] == [2.0, 3.0]
    got = accuracy(logits, labels, np.array([1.0, 1.0, 0.0, 1.0]))
    assert [float(x) for x in got] == [1.0, 2.0]
