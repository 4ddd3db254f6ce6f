"""The frozen teachers of a run: loaded once, laid out by the rules of the method, never saved.

A method declares them (`Method.frozen`). They are at extra["frozen"] of the state that steps and
evaluations see; a checkpoint holds only the signature and checksum of each.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from ssl_jax.core import mesh as mesh_lib
from ssl_jax.core import tree as tree_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import FROZEN, Frozen, Method, TrainState, Tree
from ssl_jax.engine import checkpoint, log
from ssl_jax.nn import frozen as frozen_lib

KEY = "config.method.teachers."


def shapes(method: Method) -> Tree:
    """Returns the shapes of the teachers of a method, by name; nothing is loaded."""
    return {name: _shapes(name, declared) for name, declared in method.frozen.items()}


def load(method: Method) -> tuple[Tree, dict[str, checkpoint.Teacher]]:
    """Returns the parameters of the teachers of a method as numpy arrays, and what identifies them.

    Raises ConfigError for a teacher that is not there yet, and CorruptCheckpoint.
    """
    found, known = {}, {}
    for name, declared in method.frozen.items():
        teacher = frozen_lib.read(declared.folder, KEY + name)
        if teacher.folder is None:
            raise ConfigError(
                f"{KEY}{name} is {declared.folder}, a config of which no run has been made: train "
                f"it, and set {KEY}{name} to its folder (a plan needs only the config)"
            )
        exact = dataclasses.replace(declared, precision="float32")
        params = checkpoint.restore_params(teacher.folder)
        if _needs_extra(declared):
            params = {**params, "extra": checkpoint.restore_extra(teacher.folder)}
        checksum = _checksum(frozen_lib.part(params, exact, teacher))
        known[name] = checkpoint.Teacher(teacher.signature, checksum, str(teacher.folder))
        found[name] = frozen_lib.part(params, declared, teacher)
        log.notify(
            f"frozen teacher {name!r}: {tree_lib.count(found[name]):,} parameters of "
            f"{teacher.folder}"
        )
    return found, known


def checked(method: Method, classes: Sequence[str]) -> Method:
    """Returns the method of a run with these classes.

    Raises ConfigError for a teacher that must have learned the same classes, and has not.
    """
    for name, declared in method.frozen.items():
        if not declared.same_classes:
            continue
        teacher = frozen_lib.read(declared.folder, KEY + name)
        if teacher.classes and teacher.classes != tuple(classes):
            raise ConfigError(
                f"{KEY}{name} {declared.folder} learned the {len(teacher.classes)} classes "
                f"{_listed(teacher.classes)}, and config.data.train has the {len(classes)} classes "
                f"{_listed(classes)}: use a teacher of the same classes, or set "
                f"config.data.classes to its own, in their order"
            )
    return method


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def join(
    state: TrainState, shardings: TrainState, found: Tree, method: Method, mesh: Mesh
) -> tuple[TrainState, TrainState]:
    """Returns a state with the teachers `found`, numpy arrays or shapes, and its shardings."""
    if not found:
        return state, shardings
    places = mesh_lib.tree_sharding({FROZEN: found}, method.rules, mesh)
    if not isinstance(jax.tree.leaves(found)[0], jax.ShapeDtypeStruct):
        found = jax.tree.map(_placed, found, places[FROZEN])
    return (
        dataclasses.replace(state, extra={**state.extra, FROZEN: found}),
        dataclasses.replace(shardings, extra={**shardings.extra, **places}),
    )


def fresh(method: Method, seed: int = 0) -> Tree:
    """Returns teachers with initial values, as numpy arrays: for benchmarks and tests."""
    found = {}
    for name, declared in method.frozen.items():
        teacher = frozen_lib.read(declared.folder, KEY + name)
        found[name] = jax.device_get(frozen_lib.init(teacher, declared, jax.random.key(seed)))
    return found


def _shapes(name: str, declared: Frozen) -> Tree:
    teacher = frozen_lib.read(declared.folder, KEY + name)
    if teacher.folder is None:
        return jax.eval_shape(
            lambda key: frozen_lib.init(teacher, declared, key), jax.random.key(0)
        )
    params = checkpoint.param_shapes(teacher.folder)
    if _needs_extra(declared):
        extra = checkpoint.restore_extra(teacher.folder)
        params = {**params, "extra": jax.eval_shape(lambda: extra)}
    return jax.eval_shape(lambda params: frozen_lib.part(params, declared, teacher), params)


def _needs_extra(declared: Frozen) -> bool:
    return any(pattern.startswith("^extra/") for pattern in declared.keep)


def _placed(value: np.ndarray, where: jax.sharding.Sharding) -> jax.Array:
    value = np.array(value)  # a copy: a step donates its state
    return jax.make_array_from_callback(value.shape, where, lambda index: value[index])


def _checksum(params: Tree) -> str:
    """Returns 16 hex digits over the names, shapes and bits of arrays."""
    digest = hashlib.sha256()
    for name, x in tree_lib.named_leaves(params):
        digest.update(f"{name} {x.dtype} {x.shape}\n".encode())
        digest.update(np.ascontiguousarray(x).data)
    return digest.hexdigest()[:16]
