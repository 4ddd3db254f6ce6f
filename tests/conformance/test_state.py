"""The state of every method survives a save, and a resumed run equals an uninterrupted one."""

import dataclasses
import functools

import cases
import jax
import numpy as np
import pytest

from ssl_jax.core import mesh as mesh_lib
from ssl_jax.core import tree
from ssl_jax.core.types import split_frozen
from ssl_jax.engine import step, teachers
from ssl_jax.engine.checkpoint import Checkpoints

ROWS = 4


# each test compiles its own step: two small ones are fast enough
FAST = ("configs/data2vec/kws.py", "configs/supervised/kws.py")
PARAMS = [
    pytest.param(path, marks=[] if path in FAST else [pytest.mark.slow], id=path)
    for path in cases.config_paths()
]


@pytest.fixture(params=PARAMS)
def toy(request) -> cases.Toy:
    """Returns the tiny model of one config after another."""
    return cases.toy(request.param)


@functools.cache
def _parts(toy: cases.Toy):
    tx, schedule = toy.optimizer()
    mesh = mesh_lib.make_mesh({"data": 1}, jax.devices()[:1])
    shapes = cases.abstract_batch(toy.method, ROWS, toy.samples)
    state, shardings = step.init_state(toy.method, tx, 11, mesh, shapes)
    taught = teachers.fresh(toy.method)
    state, shardings = teachers.join(state, shardings, taught, toy.method, mesh)
    update = jax.jit(step.make_step(toy.method, tx, schedule, mesh))

    def run(state, first: int, last: int):
        for i in range(first, last):
            state, _ = update(state, toy.batch(ROWS, seed=i))
        return state

    return state, shardings, run


def test_resume_equals_uninterrupted_to_the_bit(toy, tmp_path):
    state, shardings, run = _parts(toy)
    through = run(state, 0, 4)
    with_stop = run(state, 0, 2)
    first = Checkpoints(tmp_path, toy.config)
    first.save(2, with_stop)
    first.close()
    second = Checkpoints(tmp_path, toy.config)
    own, frozen = split_frozen(state.extra)
    shapes = jax.eval_shape(lambda s: s, dataclasses.replace(state, extra=own))
    kept = dataclasses.replace(shardings, extra=split_frozen(shardings.extra)[0])
    restored = second.restore(shapes, kept)
    restored = dataclasses.replace(restored, extra={**restored.extra, **frozen})
    second.close()
    resumed = run(restored, 2, 4)
    for (name, a), (_, b) in zip(
        tree.named_leaves(through), tree.named_leaves(resumed), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=name)
    assert int(resumed.step) == 4


def test_a_step_changes_every_part_of_the_state_it_should(toy):
    state, _, run = _parts(toy)
    after = run(state, 0, 3)
    assert int(after.step) == 3
    np.testing.assert_array_equal(after.key, state.key)
    moved = [
        name
        for (name, a), (_, b) in zip(
            tree.named_leaves(state.params), tree.named_leaves(after.params), strict=True
        )
        if not np.array_equal(a, b)
    ]
    assert moved
    (own, frozen), (moved_own, same) = split_frozen(state.extra), split_frozen(after.extra)
    for a, b in zip(jax.tree.leaves(frozen), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(a, b)
    if own:
        pairs = zip(jax.tree.leaves(own), jax.tree.leaves(moved_own), strict=True)
        assert any(not np.array_equal(a, b) for a, b in pairs), "the teacher never moves"
