"""Reading a checkpoint, and noticing arrays that are not those of the state that was saved.

The sum of the bits of every array is taken on the devices, before anything is written, and compared
with what is read; what becomes of the files in between, `engine.digests` tells.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from ssl_jax.core import tree as tree_lib

Tree = Any


class CorruptCheckpoint(ValueError):
    """A checkpoint cannot be read, or reads as something else than was written."""


@jax.jit
def sums(tree: Tree) -> jax.Array:
    """Returns the sum (n,) uint32 of the words of each array, in the order of `named_leaves`.

    It does not depend on how arrays lie on devices: whole numbers add up in any order.
    """
    return jnp.stack([_sum(x) for _, x in tree_lib.named_leaves(tree)])


def _sum(x: jax.Array) -> jax.Array:
    words = f"uint{8 * x.dtype.itemsize}"
    bits = x.astype(words) if x.dtype == bool else jax.lax.bitcast_convert_type(x, words)
    return bits.astype(jnp.uint32).sum(dtype=jnp.uint32)


def check_sums(folder: Path, state: Tree) -> None:
    """Raises CorruptCheckpoint naming the first array that is not what was saved in `folder`.

    `state` is that of a run, or a part of it under the same names.
    """
    if not (folder / "sums").exists():
        if _has_sums(folder):
            raise CorruptCheckpoint(f"{folder} is damaged: its sums are missing")
        return  # of the earliest version
    every = list(about(folder)["arrays"])
    like = sums(state)
    place = like.sharding
    shape = jax.ShapeDtypeStruct((len(every),), like.dtype, sharding=place)
    written = np.asarray(read(folder / "sums", {"sums": shape})["sums"])
    names = [name for name, _ in tree_lib.named_leaves(state)]
    expected = dict(zip(every, written, strict=True))
    for name, found in zip(names, np.asarray(like), strict=True):
        if expected.get(name) != found:
            raise CorruptCheckpoint(f"{folder} is damaged: {name} is not what was written")


def _has_sums(folder: Path) -> bool:
    """Says whether a checkpoint was saved with sums, by what orbax wrote of its items."""
    with reading(folder):
        told = json.loads((folder / "_CHECKPOINT_METADATA").read_text(encoding="utf-8"))
        return "sums" in (told.get("item_handlers") or {})


def read(item: Path, shapes: Tree) -> Tree:
    """Reads an item laid out as `shapes`; raises CorruptCheckpoint.

    Hosts do not wait for each other here, since one of them may fail.
    """
    with reading(item):
        args = ocp.args.StandardRestore(shapes)
        return ocp.StandardCheckpointHandler().restore(item, args=args)


def about(folder: Path) -> dict[str, Any]:
    """Returns the item `about` of a checkpoint; raises CorruptCheckpoint."""
    with reading(folder):
        return json.loads((folder / "about" / "metadata").read_text(encoding="utf-8"))


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Turns what goes wrong with reading into CorruptCheckpoint."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError):
        raise  # too large for the devices, say
    except Exception as error:  # the layers of storage raise many types
        raise CorruptCheckpoint(f"{folder} is damaged: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Returns what an error says, in short."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:300]


def unused(path: Path) -> Path:
    """Returns the path, or one with a number behind it where that is taken."""
    others = (path.with_name(f"{path.name}.{n}") for n in range(1, 1000))
    return path if not path.exists() else next(p for p in others if not p.exists())
