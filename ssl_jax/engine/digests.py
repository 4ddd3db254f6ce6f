"""SHA-256 of every file of a checkpoint: written as its last item, asked for by whoever reads it.

The item `digests` holds one line of text for all files of the others. A checkpoint that was made
with it is not read without it: `about` says so under "digests".
"""

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent import futures
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from ssl_jax.core import paths, pulse
from ssl_jax.engine.integrity import CorruptCheckpoint, about, reading

ITEM = "digests"
_FILE = "digests.json"
_PIECE = 1 << 22  # bytes read at a time
_THREADS = max(1, min(8, (os.cpu_count() or 1) // 2))


class Handler(ocp.JsonCheckpointHandler):
    """Writes the item. It has to be the last in the registry: the others then lie complete."""

    def __init__(self) -> None:
        super().__init__(filename=_FILE)

    def finalize(self, directory: Path) -> None:
        """Reads what was written back and keeps its digests; the thread that commits calls it."""
        found = of_files(paths.of(directory).parent, skip=directory.name)
        paths.of(directory / _FILE).write_bytes(_sealed(found))


def of_files(folder: Path, skip: str = "", names: Iterable[str] | None = None) -> dict[str, str]:
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
        while piece := file.read(_PIECE):
            digest.update(piece)
            pulse.touch()  # a large checkpoint takes a while
    return digest.hexdigest()


def read(folder: Path) -> dict[str, str] | None:
    """Returns the digests of a checkpoint's files, None for one of an earlier version.

    Raises CorruptCheckpoint where they should be there and are not, or are not whole.
    """
    with reading(folder):
        file = folder / ITEM / _FILE
        if not file.exists():
            if ITEM in about(folder):
                raise CorruptCheckpoint(f"{folder} is damaged: its digests are missing")
            return None
        data = file.read_bytes()
        found = json.loads(data)["files"]
        if data != _sealed(found):
            raise CorruptCheckpoint(f"{folder} is damaged: {ITEM}/{_FILE} is not what was written")
        return found


def _sealed(found: dict[str, str]) -> bytes:
    """Returns the file of the item: the digests, and that of their own text."""
    own = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
    return json.dumps({"files": found, "sha256": own}, sort_keys=True).encode()


def check(folder: Path, *items: str, shared: bool = False) -> bool:
    """Raises CorruptCheckpoint naming the first file of a checkpoint that is not what was written.

    `items` are those that will be read, all by default; of `shared` work every host does its part.
    Returns False for a checkpoint of an earlier version, which has nothing to compare with.
    """
    written = read(folder)
    if written is None:
        return False
    if lost := [item for item in items if item not in {n.partition("/")[0] for n in written}]:
        raise CorruptCheckpoint(f"{folder} is damaged: it was saved without {lost[0]}")
    chosen = sorted(n for n in written if not items or n.partition("/")[0] in items)
    if shared:
        chosen = chosen[jax.process_index() :: jax.process_count()]
    with reading(folder):
        found = of_files(folder, names=chosen)
    for name in chosen:
        if found[name] != written[name]:
            raise CorruptCheckpoint(f"{folder} is damaged: {name} is not what was written")
    return True


def name(folder: Path) -> str:
    """Returns what stands for the bytes of a checkpoint in the key of a cache."""
    written: Any = read(folder)
    if written is None:
        written = of_files(folder)
    return hashlib.sha256(json.dumps(written, sort_keys=True).encode()).hexdigest()
