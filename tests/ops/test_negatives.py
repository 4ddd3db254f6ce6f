"""Negatives: where they come from, how often, and the logits computed from them."""

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.ops import negatives

draw = jax.jit(negatives.draw, static_argnums=2)


def keys_of(count):
    words = np.random.default_rng(0).integers(0, 2**32, (count, 2), np.uint32)
    return jax.random.wrap_key_data(words)


def pools():
    """Rows of 12 frames with 0, 1, 2, 5 and 12 of them in the pool, and the row with 5 again."""
    pool = np.zeros((6, 12), bool)
    pool[1, 4] = True
    pool[2, [3, 11]] = True
    pool[3, [0, 2, 5, 6, 10]] = pool[5, [0, 2, 5, 6, 10]] = True
    pool[4] = True
    return pool


def test_negatives_are_uniform_over_the_other_frames_of_the_pool():
    pool, count = pools(), 3000
    places = np.asarray(draw(keys_of(6), jnp.asarray(pool), count))
    assert places.shape == (6, 12, count)
    for row, members in enumerate(pool):
        own = np.flatnonzero(members)
        for t in own:
            others = own[own != t]
            if not len(others):
                assert (places[row, t] == t).all()
                continue
            share = np.bincount(places[row, t], minlength=12) / count
            assert set(np.flatnonzero(share)) == set(others)
            p = 1 / len(others)
            assert (abs(share[others] - p) < 5 * np.sqrt(p * (1 - p) / count) + 1e-12).all()
    # neither two frames of a row nor two rows have the same draws
    assert (places[4, 0] != places[4, 1]).mean() > 0.8
    assert (places[3, 0] != places[5, 0]).mean() > 0.5


def test_a_rows_negatives_do_not_depend_on_the_batch():
    keys, pool = keys_of(6), jnp.asarray(pools())
    whole = draw(keys, pool, 7)
    np.testing.assert_array_equal(draw(keys[3:4], pool[3:4], 7), whole[3:4])
    np.testing.assert_array_equal(draw(keys[::-1], pool[::-1], 7), whole[::-1])


def literal_logits(context, targets, ids, places, temperature):
    rows, frames, count = places.shape
    out = np.zeros((rows, frames, 1 + count))
    for b in range(rows):
        for t in range(frames):
            for k, s in enumerate([t, *places[b, t]]):
                x, y = context[b, t], targets[b, s]
                out[b, t, k] = x @ y / (np.linalg.norm(x) * np.linalg.norm(y)) / temperature
                if k and (ids[b, s] == ids[b, t]).all():
                    out[b, t, k] = -np.inf
    return out


def test_logits_are_cosines_without_the_positives_own_codes():
    noise = np.random.default_rng(3)
    context, targets = noise.standard_normal((2, 2, 6, 5))
    ids, places = noise.integers(0, 2, (2, 6, 2)), noise.integers(0, 6, (2, 6, 4))
    got = jax.jit(negatives.logits)(context, targets, ids, places, 0.1)
    want = literal_logits(context, targets, ids, places, 0.1)
    assert 3 < np.isinf(want).sum() < 40
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    weights = np.exp(want)
    loss = -np.log(weights[..., 0] / weights.sum(-1))
    np.testing.assert_allclose(negatives.info_nce(got), loss, rtol=1e-4, atol=1e-5)


def test_one_code_for_all_leaves_no_negative_and_no_gradient():
    noise = np.random.default_rng(3)
    context, targets = noise.standard_normal((2, 1, 4, 5)).astype(np.float32)
    ids, places = np.zeros((1, 4, 2), int), noise.integers(0, 4, (1, 4, 3))

    def loss(context, targets):
        return negatives.info_nce(negatives.logits(context, targets, ids, places)).sum()

    value, slopes = jax.jit(jax.value_and_grad(loss, (0, 1)))(context, targets)
    assert value == 0 and all((s == 0).all() for s in slopes)
    # vectors of length zero have cosine 0 with anything
    assert np.isfinite(jax.jit(jax.grad(loss))(np.zeros_like(context), targets)).all()
