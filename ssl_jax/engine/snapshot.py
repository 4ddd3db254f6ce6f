"""A copy of a state on its devices: a thread saves it while steps go on with the original."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Sharding

from ssl_jax.engine import integrity

Tree = Any

FULL = 0.95
"""The share of a device's memory that a copy may fill; the rest is fragmented."""


def fits(tree: Tree) -> bool:
    """Returns whether every device of this host has room for a second `tree` during a step.

    What a step needs is the peak so far, so call it after some steps, and before there is a copy. A
    device without memory statistics, such as a CPU, counts as having room.
    """
    leaves = jax.tree.leaves(tree)
    size = sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)
    stats = [device.memory_stats() for device in jax.local_devices()]
    return all(m["peak_bytes_in_use"] + size <= FULL * m["bytes_limit"] for m in stats if m)


def copy(tree: Tree) -> tuple[Tree, jax.Array]:
    """Returns (a copy, laid out as `tree`; the checksums of its arrays) without waiting for either.

    Every host has to call it.
    """
    leaves, structure = jax.tree.flatten(tree)
    return _copier(structure, tuple(x.sharding for x in leaves))(tree)


@functools.lru_cache(maxsize=8)
def _copier(structure: Any, layout: tuple[Sharding, ...]) -> Callable[[Tree], tuple]:
    # one program: a CPU would not return before it has run one that only copies
    def copies(tree: Tree) -> tuple[Tree, jax.Array]:
        return jax.tree.map(jnp.copy, tree), integrity.checksums(tree)

    return jax.jit(copies, out_shardings=(jax.tree.unflatten(structure, layout), None))


def free(tree: Tree) -> None:
    """Frees the memory of a copy; what the host has read of it stays."""
    for x in jax.tree.leaves(tree):
        x.delete()
