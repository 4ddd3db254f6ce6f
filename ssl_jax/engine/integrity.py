"""Whether a checkpoint is what was saved: SHA-256 of its files, checksums of its arrays.

The item `sums` holds a checksum of the bits of each array, taken on the devices before anything is
written. The item `digests`, written last, holds the SHA-256 of every file of the other items; a
checkpoint saved with it, as `about` records under "digests", is not read without it. Checkpoints of
earlier versions have only the checksums, or neither.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from ssl_jax.core import paths, pulse
from ssl_jax.core import tree as tree_lib
from ssl_jax.core.types import Tree

CHECKSUMS = "sums"  # items of a checkpoint
DIGESTS = "digests"
_DIGESTS_FILE = "digests.json"
_CHUNK = 1 << 22  # bytes read at a time
_THREADS = max(1, min(8, (os.cpu_count() or 1) // 2))


class CorruptCheckpoint(ValueError):
    """A checkpoint cannot be read, or its content is not what was written."""


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Turns an error of reading into CorruptCheckpoint."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError):
        raise  # too large for the devices, say
    except Exception as error:  # the layers of storage raise many types
        raise CorruptCheckpoint(f"{folder} is damaged: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:300]


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


class DigestsHandler(ocp.JsonCheckpointHandler):
    """Writes the item `digests`. It is the last in the registry: all other items are complete."""

    def __init__(self) -> None:
        super().__init__(filename=_DIGESTS_FILE)

    def finalize(self, directory: Path) -> None:
        """Reads back what was written and keeps its digests; called by the thread that commits."""
        found = digests_of(paths.of(directory).parent, skip=directory.name)
        paths.of(directory / _DIGESTS_FILE).write_bytes(_sealed(found))


def digests_of(folder: Path, skip: str = "", names: Iterable[str] | None = None) -> dict[str, str]:
    """Returns relative name -> SHA-256 of the files in the folders of a folder, or of `names`."""
    chosen = sorted(_names(folder, skip) if names is None else names)
    with futures.ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(chosen, pool.map(lambda name: _digest(folder / name), chosen), strict=True))


def _names(folder: Path, skip: str) -> list[str]:
    if paths.is_remote(folder):
        found = list(paths.files_below(folder))
    else:
        found = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    return [name for name in found if "/" in name and name.partition("/")[0] != skip]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            pulse.touch()  # a large checkpoint takes a while
    return digest.hexdigest()


def _sealed(found: dict[str, str]) -> bytes:
    """Returns the content of the item: the digests, and the digest of their own text."""
    own = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
    return json.dumps({"files": found, "sha256": own}, sort_keys=True).encode()


def read_digests(folder: Path) -> dict[str, str] | None:
    """Returns the digests of a checkpoint's files, None for one of an earlier version.

    Raises CorruptCheckpoint where they are missing or incomplete.
    """
    with reading(folder):
        file = folder / DIGESTS / _DIGESTS_FILE
        if not file.exists():
            if DIGESTS in about(folder):
                raise CorruptCheckpoint(f"{folder} is damaged: its digests are missing")
            return None
        data = file.read_bytes()
        found = json.loads(data)["files"]
        if data != _sealed(found):
            name = f"{DIGESTS}/{_DIGESTS_FILE}"
            raise CorruptCheckpoint(f"{folder} is damaged: {name} is not what was written")
        return found


def check_files(folder: Path, *items: str, shared: bool = False) -> bool:
    """Raises CorruptCheckpoint naming the first file of a checkpoint that is not what was written.

    `items` are those that will be read, all by default; with `shared`, each host checks its part.
    Returns False for a checkpoint of an earlier version, which has no digests.
    """
    written = read_digests(folder)
    if written is None:
        return False
    if lost := [item for item in items if item not in {n.partition("/")[0] for n in written}]:
        raise CorruptCheckpoint(f"{folder} is damaged: it was saved without {lost[0]}")
    chosen = sorted(n for n in written if not items or n.partition("/")[0] in items)
    if shared:
        chosen = chosen[jax.process_index() :: jax.process_count()]
    with reading(folder):
        found = digests_of(folder, names=chosen)
    for name in chosen:
        if found[name] != written[name]:
            raise CorruptCheckpoint(f"{folder} is damaged: {name} is not what was written")
    return True


@jax.jit
def checksums(tree: Tree) -> jax.Array:
    """Returns the sum (n,) uint32 of the words of each array, in the order of `named_leaves`.

    It does not depend on the layout of the arrays: integers add up in any order.
    """
    return jnp.stack([_checksum(x) for _, x in tree_lib.named_leaves(tree)])


def _checksum(x: jax.Array) -> jax.Array:
    words = f"uint{8 * x.dtype.itemsize}"
    bits = x.astype(words) if x.dtype == bool else jax.lax.bitcast_convert_type(x, words)
    return bits.astype(jnp.uint32).sum(dtype=jnp.uint32)


def check_arrays(folder: Path, state: Tree) -> None:
    """Raises CorruptCheckpoint naming the first array that is not what was saved in `folder`.

    `state` is that of a run, or a part of it under the same names.
    """
    if not (folder / CHECKSUMS).exists():
        if _has_checksums(folder):
            raise CorruptCheckpoint(f"{folder} is damaged: its checksums are missing")
        return  # of the earliest version
    every = list(about(folder)["arrays"])
    now = checksums(state)
    shape = jax.ShapeDtypeStruct((len(every),), now.dtype, sharding=now.sharding)
    written = np.asarray(read(folder / CHECKSUMS, {CHECKSUMS: shape})[CHECKSUMS])
    names = [name for name, _ in tree_lib.named_leaves(state)]
    expected = dict(zip(every, written, strict=True))
    for name, found in zip(names, np.asarray(now), strict=True):
        if expected.get(name) != found:
            raise CorruptCheckpoint(f"{folder} is damaged: {name} is not what was written")


def _has_checksums(folder: Path) -> bool:
    """Returns whether a checkpoint was saved with checksums, by what orbax wrote about it."""
    with reading(folder):
        written = json.loads((folder / "_CHECKPOINT_METADATA").read_text(encoding="utf-8"))
        return CHECKSUMS in (written.get("item_handlers") or {})
