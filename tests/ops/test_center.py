"""Centring takes out what depends on the position alone, over a batch or over updates."""

import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.config import ConfigError
from ssl_jax.ops.center import Center

DRAW = np.random.default_rng(0)
BY_PLACE = DRAW.standard_normal((5, 3)).astype(np.float32)
LENGTHS = np.array([5, 3, 5, 4])
REAL = np.arange(5) < LENGTHS[:, None]
BATCH, RUNNING = Center("batch", 0.9), Center("running", 0.9)


def after(center, state, *batches):
    """Returns the state after one update of micro-batches (y, weight)."""
    for y, weight in batches:
        _, state = center.apply(jnp.asarray(y), jnp.asarray(weight), state)
    return center.update(state)


def test_a_target_of_the_position_alone_becomes_zero():
    y = np.where(REAL[..., None], BY_PLACE, 99.0)  # padding holds anything
    centred, _ = BATCH.apply(jnp.asarray(y), jnp.asarray(REAL), {})
    np.testing.assert_allclose(np.where(REAL[..., None], centred, 0), 0, atol=1e-6)
    state = after(RUNNING, RUNNING.init(5, 3), (y, REAL))
    centred, _ = RUNNING.apply(jnp.asarray(y), jnp.asarray(REAL), state)
    np.testing.assert_allclose(np.where(REAL[..., None], centred, 0), 0, atol=1e-6)


def test_what_is_an_examples_own_stays_whole():
    own = DRAW.standard_normal((4, 1, 3)).astype(np.float32)
    own -= own.mean(0)
    centred, _ = BATCH.apply(jnp.asarray(own + BY_PLACE), jnp.ones((4, 5)), {})
    np.testing.assert_allclose(centred, np.broadcast_to(own, (4, 5, 3)), atol=1e-5)


def test_none_changes_nothing_and_keeps_nothing():
    y = jnp.asarray(BY_PLACE[None], jnp.bfloat16)
    centred, state = Center("none", 0.9).apply(y, jnp.ones((1, 5)), {})
    assert centred is y and state == {}
    assert Center("none", 0.9).init(5, 3) == BATCH.init(5, 3) == {}


def test_a_running_mean_starts_as_the_mean_of_all_and_forgets_later():
    ones, state, values = jnp.ones((2, 1)), RUNNING.init(1, 1), [1.0, 5.0, 3.0]
    for n, value in enumerate(values, 1):
        state = after(RUNNING, state, (jnp.full((2, 1, 1), value), ones))
        np.testing.assert_allclose(state["mean"], np.mean(values[:n]), rtol=1e-6)
    quick = Center("running", 0.5)
    for value, mean in ((9.0, 6.0), (2.0, 4.0)):
        state = after(quick, state, (jnp.full((2, 1, 1), value), ones))
        np.testing.assert_allclose(state["mean"], mean, rtol=1e-6)


def test_micro_batches_move_the_mean_as_one_batch_does():
    y = DRAW.standard_normal((4, 5, 3)).astype(np.float32)
    halves = [(y[i::2], REAL[i::2]) for i in (0, 1)]
    whole, parts = (after(RUNNING, RUNNING.init(5, 3), *g) for g in ([(y, REAL)], halves))
    for name, x in whole.items():
        np.testing.assert_allclose(parts[name], x, atol=1e-6, err_msg=name)


def test_positions_that_a_batch_has_not_keep_their_mean():
    state = after(RUNNING, RUNNING.init(5, 3), (BY_PLACE[None], np.ones((1, 5))))
    later = after(RUNNING, state, (BY_PLACE[None, :2] + 4, np.ones((1, 2))))
    np.testing.assert_allclose(later["mean"][:2], BY_PLACE[:2] + 2, atol=1e-6)
    np.testing.assert_array_equal(later["mean"][2:], state["mean"][2:])
    np.testing.assert_array_equal(later["seen"], [2, 2, 1, 1, 1])


@pytest.mark.parametrize("center", [BATCH, RUNNING])
def test_tokens_in_any_order_are_centred_by_their_ids(center):
    y, state = DRAW.standard_normal((4, 5, 3)).astype(np.float32), center.init(5, 3)
    ids = np.stack([DRAW.permutation(5)[:2] for _ in range(4)])
    kept = np.zeros((4, 5))
    np.put_along_axis(kept, ids, 1, 1)
    few = np.take_along_axis(y, ids[..., None], 1)
    some, short = center.apply(jnp.asarray(few), jnp.ones((4, 2)), state, jnp.asarray(ids), 5)
    every, long = center.apply(jnp.asarray(y), jnp.asarray(kept), state)
    np.testing.assert_allclose(some, np.take_along_axis(every, ids[..., None], 1), atol=1e-6)
    for name in state:
        np.testing.assert_allclose(short[name], long[name], atol=1e-6)


def test_values_that_do_not_work_are_named():
    with pytest.raises(ConfigError, match=r"config\.x\.center is 'mean': use one of none, batch"):
        Center("mean", 0.9).check("config.x.center")
    with pytest.raises(ConfigError, match=r"config\.x\.center_decay is 1\.0: .* such as 0\.9"):
        Center("running", 1.0).check("config.x.center")
    with pytest.raises(ValueError, match=r"an example has 5 tokens, and the running mean .* has 4"):
        RUNNING.apply(jnp.zeros((1, 5, 3)), jnp.ones((1, 5)), RUNNING.init(4, 3))
