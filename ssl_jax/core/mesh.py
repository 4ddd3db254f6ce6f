"""Device mesh (slice, data, fsdp, model), sharding by rule, and the mesh to trace for."""

import contextlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax.core import tree as tree_lib
from ssl_jax.core.types import Rules

AXES = ("slice", "data", "fsdp", "model")
BATCH_AXES = ("slice", "data", "fsdp")
Tree = Any


def make_mesh(sizes: Mapping[str, int], devices: list | None = None) -> Mesh:
    """Returns a mesh over all devices; one axis of `sizes` may be -1 and takes what is left."""
    devices = jax.devices() if devices is None else devices
    unknown = set(sizes) - set(AXES)
    if unknown:
        raise ValueError(f"config.mesh has no axis {sorted(unknown)}: use {', '.join(AXES)}")
    shape = [int(sizes.get(a, 1)) for a in AXES]
    known = int(np.prod([s for s in shape if s != -1]))
    free = shape.count(-1)
    wrong = free > 1 or min(s for s in (*shape, 1) if s != -1) < 1
    if wrong or len(devices) % known or (not free and known != len(devices)):
        raise ValueError(
            f"config.mesh {dict(zip(AXES, shape, strict=True))} does not divide {len(devices)} "
            f"devices: set config.mesh.data=-1 and let the product of the others divide them"
        )
    shape = [len(devices) // known if s == -1 else s for s in shape]
    return Mesh(_laid_out(devices, shape), AXES)


def _laid_out(devices: list, shape: list[int]) -> np.ndarray:
    """Returns the devices as an array: neighbours by interconnect, TPU slices on axis `slice`.

    The network between slices is a hundred times slower than links within one, and the axes `fsdp`
    and `model` communicate the most. Raises ValueError when the axis `slice` is not the number of
    slices.
    """
    slices = slices_of(devices)
    if slices > 1 and shape[0] != slices:
        raise ValueError(
            f"config.mesh.slice is {shape[0]}, but the {len(devices)} devices lie in {slices} "
            f"slices: set config.mesh.slice={slices}"
        )
    split = {"allow_split_physical_axes": True}
    if slices > 1:
        within, between = (1, *shape[1:]), (slices, 1, 1, 1)
        return mesh_utils.create_hybrid_device_mesh(within, between, devices, **split)
    if devices[0].platform == "tpu":
        return mesh_utils.create_device_mesh(shape, devices, **split)
    return np.asarray(devices).reshape(shape)


def slices_of(devices: Iterable) -> int:
    """Returns the number of TPU slices of the devices; 1 for devices without slices."""
    return len({getattr(d, "slice_index", None) or 0 for d in devices})


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: examples over every axis but `model`."""
    return NamedSharding(mesh, P(BATCH_AXES))


def local_parts(mesh: Mesh) -> tuple[tuple[int, ...], int]:
    """Returns (parts, of): which of `of` equal parts of a batch the devices of this process hold.

    Hosts share a part where the axis `model` spans them.
    """
    ways = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    held = batch_sharding(mesh).addressable_devices_indices_map((ways,)).values()
    return tuple(sorted({index[0].indices(ways)[0] for index in held if index})), ways


def check_batch(mesh: Mesh, size: int) -> None:
    """Raises ValueError unless a global batch of `size` examples divides over the mesh."""
    ways = int(np.prod([mesh.shape[a] for a in BATCH_AXES]))
    if size % ways:
        near = max(ways, size // ways * ways)
        raise ValueError(
            f"config.data.batch_size {size} does not divide over the {ways} data shards of the "
            f"mesh {dict(mesh.shape)}: use a multiple of {ways}, such as {near}"
        )


def spec_for(name: str, shape: tuple[int, ...], rules: Rules, mesh: Mesh | AbstractMesh) -> P:
    """Returns the partition of one array by the first rule whose regex is found in its name.

    An axis that the mesh axis does not divide is not sharded. Scalars are replicated.
    Raises ValueError when no rule matches.
    """
    if not shape:
        return P()
    for pattern, axes in rules:
        if re.search(pattern, name):
            axes = (None,) * (len(shape) - len(axes)) + tuple(axes)[-len(shape) :]
            fits = [
                a if a and n % mesh.shape[a] == 0 else None
                for a, n in zip(axes, shape, strict=True)
            ]
            return P(*fits)
    raise ValueError(f"no sharding rule matches {name!r} {shape}: add one to the method's rules")


def check_rules(names: Sequence[str], rules: Rules) -> None:
    """Raises ValueError when a rule is never the first match for any of the parameters `names`.

    The last rule, which is for all others, is not checked.
    """
    for pattern in tree_lib.idle([pattern for pattern, _ in rules], names):
        raise ValueError(
            f"the sharding rule ({pattern!r}, {dict(rules)[pattern]}) of the method is "
            f"never the first match: remove it, or move it up; one parameter is {names[0]!r}"
        )


def tree_sharding(tree: Tree, rules: Rules, mesh: Mesh) -> Tree:
    """Returns a NamedSharding for every leaf of a tree of arrays or shapes."""
    return tree_lib.map_named(
        lambda name, x: NamedSharding(mesh, spec_for(name, x.shape, rules, mesh)), tree
    )


def using(mesh: Mesh) -> contextlib.AbstractContextManager:
    """Traces the code of a `with` block for `mesh`: see `by_example` and `gather`."""
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def size(axis: str) -> int:
    """Returns the size of an axis of the mesh in use, 1 without one."""
    return jax.sharding.get_abstract_mesh().shape.get(axis, 1)


def spread() -> bool:
    """Returns whether the mesh in use has more than one device."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.size > 1


def ways() -> int:
    """Returns how many devices of the mesh in use the examples of a batch are spread over."""
    return math.prod(size(axis) for axis in BATCH_AXES)


def by_example(x: jax.Array) -> jax.Array:
    """Pins x (B, ...) to the mesh in use: examples over every axis but `model`, the rest unsharded.

    XLA (jax 0.10 to 0.12) may shard what is not pinned, and then lose a part of a gradient on a
    mesh with `fsdp` and `model`.
    """
    if not spread() or len(x) % ways():
        return x
    return jax.lax.with_sharding_constraint(x, P(BATCH_AXES))


def gather(tree: Tree, rules: Rules, dtype: Any = None) -> Tree:
    """Returns a tree of parameters, all-gathered over `fsdp` for immediate use.

    Shards are cast to `dtype` before communication; gradients come back sharded. An array that is
    not sharded over `fsdp` on the mesh in use is returned as it is.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if size("fsdp") == 1:
        return tree

    def whole(name: str, x: jax.Array) -> jax.Array:
        sharded = spec_for(name, x.shape, rules, mesh)
        if "fsdp" not in sharded:
            return x
        gathered = P(*(None if axis == "fsdp" else axis for axis in sharded))
        for spec in (sharded, gathered):  # first the cast, then the communication
            x = jax.lax.with_sharding_constraint(x.astype(dtype or x.dtype), spec)
        return x

    return tree_lib.map_named(whole, tree)


def keeps_shards(primitive: Any, *_: Any, **__: Any) -> bool:
    """A policy for `jax.checkpoint` that keeps all values except gathered parameters."""
    return primitive.name != "sharding_constraint"
