"""Identifies the file of a row by device and inode, whatever its name.

Links give a file many names. Below a folder, every file counts once, by its own name rather than
that of a link, and a link that leads back into its own folder is not followed.
"""

import collections
import concurrent.futures
import hashlib
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ssl_jax.core import paths as paths_lib

WHOLE = -1
"""The start of a row that is a whole file."""
_THREADS = 16
_CHUNK = 4096


class Places(NamedTuple):
    """The location of rows: `files`, the number of each row's file (n,), and its start there (n,).

    A start counts samples, bytes or records, depending on the kind; WHOLE means the whole file.
    """

    files: Sequence[str]
    file: np.ndarray
    start: np.ndarray


class _Entry(NamedTuple):
    """A file below a folder; files that are not reached through links sort first."""

    linked: bool
    name: str
    path: str
    key: tuple[int, int]


def below(top: pathlib.Path | str, wanted: Callable[[str], bool], what: str = "") -> list[str]:
    """Lists the files below a local folder whose names are `wanted`, each file once.

    Paths are relative, with forward slashes, and sorted. Links to folders are followed, except to
    folders that were visited or lie above. what: a noun, such as "recordings", for a warning about
    names that are left out; "" for none.
    """
    return _once(os.fspath(top), list(_walk(os.fspath(top), wanted)), what)


def once(top: pathlib.Path, names: Sequence[str], what: str) -> list[str]:
    """Returns `names` of files directly in a folder, sorted, each file once, as `below` does."""
    paths = [(name, os.path.join(top, name)) for name in names]
    return _once(str(top), [_Entry(os.path.islink(p), n, p, _key(p)) for n, p in paths], what)


def _once(top: str, entries: list[_Entry], what: str) -> list[str]:
    entries = sorted(entries)
    own = {e.path: e.key for e in entries if not e.linked}
    kept: dict[tuple[int, int], list[_Entry]] = {}
    others: list[tuple[str, str]] = []
    for entry in entries:
        key = entry.key
        if entry.linked:
            key = own.get(os.path.realpath(entry.path), key)
        same = next((e for e in kept.get(key, ()) if _is_same(e.path, entry.path)), None)
        if same is None:
            kept.setdefault(key, []).append(entry)
        else:
            others.append((entry.name, same.name))
    if others and what:
        warnings.warn(
            f"{what} below {top} that repeat a file under another name are left out "
            f"({len(others)}), the first is {others[0][0]}, which is {others[0][1]}",
            stacklevel=2,
        )
    return sorted(e.name for group in kept.values() for e in group)


def _walk(top: str, wanted: Callable[[str], bool]) -> Iterator[_Entry]:
    """Yields the files below a folder; enters each folder once, if possible not through a link."""
    real = os.path.realpath(top)
    visited = {_key(p) for p in pathlib.Path(real).parents}
    # (name below top, path, whether a link leads there)
    near, linked = collections.deque([("", real, False)]), collections.deque[tuple]()
    while near or linked:
        inside, folder, by_link = near.popleft() if near else linked.popleft()
        key = _key(folder)
        if key in visited:
            continue
        visited.add(key)
        for entry in _listed(folder):
            name, link = inside + entry.name, entry.is_symlink()
            if _is_folder(entry):
                target = os.path.realpath(entry.path) if link else entry.path
                queue = linked if link or by_link else near
                queue.append((name + "/", target, link or by_link))
            elif wanted(entry.name):
                # The inode comes from the listing, so that no file is touched.
                at = _key(entry.path) if link else (key[0], entry.inode())
                yield _Entry(link or by_link, name, entry.path, at)


def _listed(folder: str) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except PermissionError as error:
        warnings.warn(f"{folder} is left out: {error}", stacklevel=2)
        return []


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _key(path: str | pathlib.Path) -> tuple[int, int]:
    """Returns the device and inode of the target of a path, or of a broken link itself."""
    try:
        stat = os.stat(path)
    except OSError:
        stat = os.lstat(path)
    return stat.st_dev, stat.st_ino


def _is_same(a: str, b: str) -> bool:
    """Returns whether two paths are one file; some file systems list the same inode for all."""
    try:
        one, other = os.stat(a), os.stat(b)
    except OSError:
        return False
    return os.path.samestat(one, other) and one.st_mtime_ns == other.st_mtime_ns


def states(files: Sequence[str]) -> np.ndarray:
    """Returns (n, 5) uint64 of files: device, inode, size, modification and change times in ns.

    A missing file, or one in an object store, is identified by its name: its inode is a hash of the
    absolute path, and the other numbers are 0. Each name is looked up once.
    """
    order: dict[str, int] = {}
    number = np.array([order.setdefault(str(f), len(order)) for f in files], np.int64)
    names = list(order)
    found = np.zeros((len(names), 5), np.uint64)
    parts = [slice(i, i + _CHUNK) for i in range(0, len(names), _CHUNK)]
    if len(parts) == 1:
        found[:] = _looked_up(names)
    elif parts:
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            done = pool.map(_looked_up, (names[part] for part in parts))
            for part, rows in zip(parts, done, strict=True):
                found[part] = rows
    return found[number] if len(number) else found


def _looked_up(names: list[str]) -> list[tuple[int, ...]]:
    return [_state(name) for name in names]


def _state(name: str) -> tuple[int, ...]:
    if not paths_lib.is_remote(name):
        try:
            stat = os.stat(paths_lib.on_disk(name))
            return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
        except (OSError, ValueError):
            name = os.path.abspath(name)
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return 0, int.from_bytes(digest, "little"), 0, 0, 0
