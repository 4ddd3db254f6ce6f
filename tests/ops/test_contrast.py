"""Contrast with the other rows of a batch, against torch's cross-entropy and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.config import ConfigError
from ssl_jax.ops import contrast

RNG = np.random.default_rng(0)
Q, K, QUEUE = (RNG.standard_normal(s).astype(np.float32) for s in ((4, 6), (4, 6), (3, 6)))


def by_hand(q, keys, i, temperature):
    """-log of the share of key i, float64."""
    q, keys = (x.astype(np.float64) / np.linalg.norm(x, axis=-1, keepdims=True) for x in (q, keys))
    scores = np.exp(keys @ q / temperature)
    return -np.log(scores[i] / scores.sum())


@jax.jit
def losses(q, k, weight, queue=None):
    return contrast.batch_info_nce(contrast.batch_logits(q, k, weight, 0.2, queue))


def test_the_key_of_the_own_row_is_the_positive():
    expected = [by_hand(Q[i], K, i, 0.2) for i in range(4)]
    np.testing.assert_allclose(losses(Q, K, np.ones(4)), expected, rtol=1e-5)


def test_rows_of_weight_zero_are_no_negatives():
    found = losses(Q, K, np.array([1.0, 1, 0, 1]))
    kept = [0, 1, 3]
    for place, i in enumerate(kept):
        np.testing.assert_allclose(found[i], by_hand(Q[i], K[kept], place, 0.2), rtol=1e-5)


def test_a_queue_adds_negatives_that_count():
    found = losses(Q, K, np.ones(4), (QUEUE, np.array([1.0, 0, 1])))
    keys = np.concatenate([K, QUEUE[[0, 2]]])
    np.testing.assert_allclose(found, [by_hand(Q[i], keys, i, 0.2) for i in range(4)], rtol=1e-5)


def test_a_batch_of_one_has_no_negatives_but_those_of_a_queue():
    with pytest.raises(ConfigError, match=r"config.data.batch_size is 1, .*: use 2 or more"):
        contrast.batch_logits(Q[:1], K[:1], np.ones(1), 0.2)
    queue = (QUEUE, np.ones(3))
    assert contrast.batch_logits(Q[:1], K[:1], np.ones(1), 0.2, queue).shape == (1, 4)


def test_padding_alone_and_zero_vectors_are_finite():
    zero = jnp.zeros((4, 6))
    value, slope = jax.jit(jax.value_and_grad(lambda q: losses(q, zero, np.zeros(4)).sum()))(zero)
    assert np.isfinite(value) and np.isfinite(slope).all()
