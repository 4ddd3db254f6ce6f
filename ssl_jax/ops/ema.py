"""The teacher as an exponential moving average of its student; float32, per-leaf modes.

A teacher is a nested dict of the student's leaves: "average" leaves follow slowly, "copy"
leaves are equal to the student's, "absent" leaves are not stored and are read from the student.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import traverse_util

from ssl_jax.core import tree as tree_lib
from ssl_jax.core.types import Array

Tree = Any
MODES = ("average", "copy", "absent")


def modes_of(params: Tree, rules: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Returns the mode of every leaf by name: that of the first rule (regex, mode) that matches.

    Raises ValueError on an unknown mode, on a leaf that no rule matches, and on a rule that is not
    the first match of any leaf; the last rule, for all other leaves, is not checked.
    """
    unknown = [mode for _, mode in rules if mode not in MODES]
    if unknown:
        raise ValueError(f"teacher mode is {unknown[0]!r}: use one of {', '.join(MODES)}")
    modes = {}
    for name, _ in tree_lib.named_leaves(params):
        found = [mode for pattern, mode in rules if re.search(pattern, name)]
        if not found:
            raise ValueError(f"no teacher rule matches {name!r}: end with ('.*', 'average')")
        modes[name] = found[0]
    for pattern in tree_lib.idle([pattern for pattern, _ in rules], modes):
        raise ValueError(
            f"the teacher rule {pattern!r} is the first to match no parameter: take it out, or "
            f"move it up (config.method.ema.rules); one parameter is {min(modes)!r}"
        )
    return modes


def init(params: Tree, modes: Mapping[str, str]) -> Tree:
    """Returns the initial teacher: a float32 copy of the student without its absent leaves."""
    leaves = traverse_util.flatten_dict(params, sep="/")
    kept = {n: jnp.array(x, jnp.float32) for n, x in leaves.items() if modes[n] != "absent"}
    return traverse_util.unflatten_dict(kept, sep="/")


def update(teacher: Tree, student: Tree, decay: Array | float, modes: Mapping[str, str]) -> Tree:
    """Returns decay * teacher + (1 - decay) * student for average leaves, the student for copies.

    A decay of 1 skips the update altogether, copies included: the teacher is frozen.
    """
    leaves = traverse_util.flatten_dict(student, sep="/")
    decay = jnp.asarray(decay, jnp.float32)

    def step(name: str, old: Array) -> Array:
        new = leaves[name].astype(jnp.float32)
        if modes[name] == "average":
            new = decay * old + (1 - decay) * new
        return jnp.where(decay == 1, old, new)

    return tree_lib.map_named(step, teacher)


def merge(teacher: Tree, student: Tree) -> Tree:
    """Returns the teacher with its absent leaves read from the student: a full set of params."""
    leaves = traverse_util.flatten_dict(student, sep="/")
    return traverse_util.unflatten_dict(
        leaves | traverse_util.flatten_dict(teacher, sep="/"), sep="/"
    )
