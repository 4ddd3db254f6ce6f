"""Device mesh (slice, data, fsdp, model) and sharding by rule."""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
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
    return Mesh(np.asarray(devices).reshape(shape), AXES)


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
            f"config.data.batch_size {size} does not divide over the {ways} data ways of the "
            f"mesh {dict(mesh.shape)}: use a multiple of {ways}, such as {near}"
        )


def spec_for(name: str, shape: tuple[int, ...], rules: Rules, mesh: Mesh) -> P:
    """Returns the partition of one array by the first rule whose regex is found in its name.

    An axis that the mesh axis does not divide is left whole. Scalars are replicated.
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


def tree_sharding(tree: Tree, rules: Rules, mesh: Mesh) -> Tree:
    """Returns a NamedSharding for every leaf of a tree of arrays or shapes."""
    return tree_lib.map_named(
        lambda name, x: NamedSharding(mesh, spec_for(name, x.shape, rules, mesh)), tree
    )
