"""Random streams: draws depend on (seed, name, step, id) and on nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core import rng
from ssl_jax.core.rng import Streams


def streams(ids, seed: int = 3, step: int = 5) -> Streams:
    return Streams(rng.key_data(seed), jnp.int32(step), jnp.asarray(ids, jnp.uint32))


def draw(s: Streams, name: str = "mask") -> np.ndarray:
    return np.asarray(jax.vmap(lambda k: jax.random.uniform(k, (4,)))(s.for_examples(name)))


def test_an_example_draws_the_same_in_any_order_and_place():
    ids = [7, 0, 4_000_000_000, 12]
    whole = draw(streams(ids))
    np.testing.assert_array_equal(draw(streams(ids[::-1])), whole[::-1])
    np.testing.assert_array_equal(draw(streams([12, 99, 7]))[[2, 0]], whole[[0, 3]])
    np.testing.assert_array_equal(draw(streams([0])), whole[1:2])


def test_other_streams_do_not_move_a_draw():
    plain = draw(streams([1, 2]))
    s = streams([1, 2])
    s.for_step("dropout")
    draw(s, "noise")
    np.testing.assert_array_equal(draw(s), plain)


@pytest.mark.parametrize(
    "other",
    [
        lambda: draw(streams([1, 2, 3], seed=4)),
        lambda: draw(streams([1, 2, 3], step=6)),
        lambda: draw(streams([1, 2, 3]), "noise"),
        lambda: draw(streams([4, 5, 6])),
    ],
)
def test_seed_step_name_and_id_each_change_every_draw(other):
    assert not np.any(draw(streams([1, 2, 3])) == other())


def test_examples_differ_from_each_other_and_repeat_with_their_id():
    rows = draw(streams([1, 2, 1]))
    assert not np.any(rows[0] == rows[1])
    np.testing.assert_array_equal(rows[0], rows[2])


def test_for_step_does_not_read_the_ids():
    a, b = streams([1, 2]).for_step("dropout"), streams([9]).for_step("dropout")
    np.testing.assert_array_equal(jax.random.key_data(a), jax.random.key_data(b))


def test_draws_inside_jit_are_those_outside():
    s = streams([3, 8])
    jitted = jax.jit(
        lambda s: jax.vmap(lambda k: jax.random.uniform(k, (4,)))(s.for_examples("mask"))
    )
    np.testing.assert_array_equal(jitted(s), draw(s))


def test_named_is_stable():
    key = jax.random.key(0, impl=rng.IMPL)
    # a changed number means that every existing run would draw differently
    got = jax.random.key_data(rng.named(key, "mask")).tolist()
    assert got == [287773410, 343172676]
    assert jax.random.key_data(rng.named(key, "masks")).tolist() != got


def test_key_data_is_plain_and_of_one_implementation():
    data = rng.key_data(11)
    assert data.shape == (2,) and data.dtype == jnp.uint32
    with jax.default_prng_impl("rbg"):
        np.testing.assert_array_equal(rng.key_data(11), data)
        np.testing.assert_array_equal(draw(streams([1, 2])), draw(streams([1, 2])))
        under_rbg = draw(streams([1, 2]))
    np.testing.assert_array_equal(under_rbg, draw(streams([1, 2])))
