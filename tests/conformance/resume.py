"""Compares a run that is saved and restored with one that goes through, for test_state.py."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import cases
import jax
import numpy as np

from ssl_jax.core import tree
from ssl_jax.core.types import TrainState, split_frozen
from ssl_jax.engine.checkpoint import Checkpoints

ROWS = 8


def report(
    toy: cases.Toy, state: TrainState, shardings: TrainState, update: Callable, folder: Path
) -> dict[str, object]:
    """Returns what differs after a stop in the middle, and what four updates moved and kept.

    `state` is the first one, on the host; `update` takes (state, batch) and returns the next.
    """

    def run(state: TrainState, first: int, last: int) -> TrainState:
        for i in range(first, last):
            state = update(state, toy.batch(ROWS, seed=i))
        return state

    through = jax.device_get(run(state, 0, 4))
    resumed = jax.device_get(run(_restored(toy, run(state, 0, 2), shardings, folder), 2, 4))
    (own, frozen), (moved, same) = split_frozen(state.extra), split_frozen(through.extra)
    return {
        "steps": [int(through.step), int(resumed.step)],
        "differ": _differ(through, resumed),
        "key": bool(np.array_equal(state.key, through.key)),
        "params": _differ(state.params, through.params),
        "frozen": _differ(frozen, same),
        "has_teacher": bool(own),
        "teacher": _differ(own, moved),
    }


def _differ(a: object, b: object) -> list[str]:
    """Returns the names of the leaves of two trees that differ in any bit."""
    pairs = zip(tree.named_leaves(a), tree.named_leaves(b), strict=True)
    return [name for (name, x), (_, y) in pairs if not np.array_equal(x, y)]


def _restored(toy: cases.Toy, state: TrainState, shardings: TrainState, folder: Path) -> TrainState:
    """Returns a state as it comes back from the disk; frozen teachers are not saved."""
    first = Checkpoints(folder, toy.config)
    first.save(2, state)
    first.close()
    second = Checkpoints(folder, toy.config)
    own, frozen = split_frozen(state.extra)
    shapes = jax.eval_shape(lambda s: s, dataclasses.replace(state, extra=own))
    kept = dataclasses.replace(shardings, extra=split_frozen(shardings.extra)[0])
    found = second.restore(shapes, kept)
    second.close()
    return dataclasses.replace(found, extra={**found.extra, **frozen})
