"""Recordings and images kept as files: reads rows, and caches lengths from headers."""

import concurrent.futures
import dataclasses
import hashlib
import io
import os
import pathlib
import re
import warnings
from collections.abc import Iterable

import numpy as np

from ssl_jax.core import atomic, pulse
from ssl_jax.core import paths as paths_lib
from ssl_jax.core.progress import Progress
from ssl_jax.data.errors import DataError, Unreadable
from ssl_jax.data.readers import audio, ffmpeg, identity

# Fewer headers than this are read faster than their index is looked up.
CACHE_FROM = 200
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})(.*)")
_SLICE = re.compile(r"(.+):(\d+):(\d+)")


@dataclasses.dataclass(frozen=True)
class Files:
    """Reads rows from sound files or image files.

    paths (n,): absolute, or relative to `root`; `a.zip:offset:bytes` names a stored slice.
    lines (n,): line of each row in `manifest`, for messages; both empty for a plain folder.
    starts (n,): first sample of the row in its file, for segments; None if rows are files.
    """

    root: str
    paths: np.ndarray
    manifest: str = ""
    lines: np.ndarray | None = None
    starts: np.ndarray | None = None

    def path(self, row: int) -> str:
        """Returns the path of a row's file as it is on disk."""
        return paths_lib.on_disk(paths_lib.join(self.root, self.paths[row]))

    def row_key(self, row: int) -> str:
        """Returns a permanent name: the path below the root, and the start in the file."""
        first = 0 if self.starts is None else int(self.starts[row])
        return f"{self.paths[row]}@{first}" if first else str(self.paths[row])

    def where(self, row: int) -> str:
        """Names the file and row."""
        file = paths_lib.join(paths_lib.shown(self.root), self.paths[row])
        if self.lines is None:
            return f"{file}, row {row + 1}"
        return f"{file}, row {self.lines[row]} of {self.manifest}"

    def read(
        self, row: int, start: int, stop: int, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, int]:
        """Returns native samples [start, stop) of a row as int16 and the rate."""
        first = 0 if self.starts is None else int(self.starts[row])
        return audio.read(opened(self.path(row)), first + start, first + stop, out)

    def places(self) -> identity.Places:
        """Returns the file of each row: the archive for a stored slice."""
        names = [self.path(row) for row in range(len(self.paths))]
        start = np.full(len(names), identity.WHOLE) if self.starts is None else self.starts
        slices = {i: part for i, name in enumerate(names) if (part := _slice(name))}
        if slices:
            start = start.copy()
        for i, part in slices.items():
            names[i], start[i] = part[1], int(part[2])
        return identity.Places(names, np.arange(len(names)), start)

    def image(self, row: int) -> bytes:
        """Returns the bytes of a row's file."""
        try:
            file = opened(self.path(row))
            if isinstance(file, io.BytesIO):
                return file.getvalue()
            with open(file, "rb") as f:
                return f.read()
        except OSError as e:
            raise Unreadable(str(e)) from e


def opened(path: str) -> str | io.BytesIO:
    """Returns a path itself, or the bytes that `archive:offset:bytes` or a URL names."""
    if paths_lib.is_remote(path):
        return io.BytesIO(_downloaded(path))
    path = paths_lib.on_disk(path)
    part = _slice(path)
    if part is None:
        return path
    try:
        with open(paths_lib.on_disk(part[1]), "rb") as f:
            f.seek(int(part[2]))
            return io.BytesIO(f.read(int(part[3])))
    except OSError as e:
        raise Unreadable(str(e)) from e


def _slice(path: str) -> re.Match | None:
    """Returns the parts of `archive:offset:bytes`; None if a file has that name."""
    part = _SLICE.fullmatch(path) if ":" in path else None
    return None if part is None or os.path.exists(path) else part


def _downloaded(path: str) -> bytes:
    """Returns an object of a store, or a slice of one."""
    part = _SLICE.fullmatch(path)
    whole, span = (path, (None, None)) if part is None else (part[1], (int(part[2]), int(part[3])))
    try:
        return paths_lib.read(whole, *span)
    except OSError as e:
        raise Unreadable(f"{path}: {e}") from e


def headers(
    root: str, paths: np.ndarray, states: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns samples (n,) int64 and rates (n,) int32 of files, 0 where a header is broken.

    A length that a header does not state is measured. The result is cached: an index in the cache
    folder is valid while every file keeps its name and `state`. states: those of `identity.states`,
    if known. Progress is shown after two seconds. From an object store this reads complete files;
    a table with samples and rates is faster. Raises DataError if files need an extra.
    """
    files = [paths_lib.join(root, p) for p in paths]
    other = [f for f in files if f.lower().endswith(ffmpeg.EXTENSIONS)]
    if other:
        ffmpeg.check_installed(f"{len(other)} of {len(files)} files, such as {other[0]},")
    if len(files) < CACHE_FROM:
        return _read_headers(files)
    name = f"lengths-{audio.MEASURED_BY}-{fingerprint(files, states)}.npz"
    index = paths_lib.cache() / name
    kept = atomic.read_arrays(index, ("samples", "rates"))
    if kept is not None:
        return kept["samples"], kept["rates"]
    samples, rates = _read_headers(files)
    save_index(index, samples=samples, rates=rates)
    return samples, rates


def save_index(index: pathlib.Path, **arrays: np.ndarray) -> None:
    """Writes an index atomically; warns if the cache folder cannot be written."""
    try:
        index.parent.mkdir(parents=True, exist_ok=True)
        with atomic.writing(index) as f:
            np.savez(f, allow_pickle=False, **arrays)
    except OSError as e:
        warnings.warn(
            f"the index {index.name} is not cached ({e}): set SSL_JAX_CACHE to a writable folder",
            stacklevel=2,
        )


def _header(path: str) -> tuple[int, int]:
    try:
        with pulse.During(f"the header of {path}"):
            return audio.header(opened(path))
    except Unreadable:
        return 0, 0


def fault(path: str) -> str:
    """Returns why a sound file cannot be read, "" if it can."""
    try:
        audio.read(opened(path), 0, 1)
    except Unreadable as e:
        return str(e)
    return ""


def check_whole_set(names: Iterable[str], where: str) -> None:
    """Raises DataError if some of the files `name-00003-of-00020` are missing.

    names: all file names of the set, without the folder; names of another form are complete sets.
    """
    sets: dict[tuple[str, str, int], set[int]] = {}
    for name in names:
        part = _PART.fullmatch(name)
        if part:
            key = (part[1], part[4], int(part[3]))
            sets.setdefault(key, set()).add(int(part[2]))
    totals = [(head, tail) for head, tail, _ in sets]
    for (head, tail, total), numbers in sets.items():
        missing = sorted(set(range(total)) - numbers)
        if totals.count((head, tail)) > 1:
            raise DataError(
                f"{where} holds parts of several sets, such as {head}-*-of-{total:05d}{tail}: keep "
                f"each set in its own folder"
            )
        if missing:
            raise DataError(
                f"{where} lacks {len(missing)} of the {total} parts of its set, the first is "
                f"{head}-{missing[0]:05d}-of-{total:05d}{tail}: copy the others"
            )


def _read_headers(files: list[str]) -> tuple[np.ndarray, np.ndarray]:
    bar = Progress("reading headers", len(files))
    with concurrent.futures.ThreadPoolExecutor(8) as pool, bar:
        found = np.zeros((len(files), 2), np.int64)
        for i, pair in enumerate(pool.map(_header, files, chunksize=64)):
            found[i] = pair
            bar.step()
    return found[:, 0].copy(), found[:, 1].astype(np.int32)


def state(path: str) -> str:
    """Returns a text that changes when a file, or the archive of a slice, does; raises OSError.

    It contains size, modification time, inode and the change time of the inode, which nobody can
    set, so it differs after a file was replaced or overwritten.
    """
    if (part := _slice(path)) is not None:
        return f"{state(part[1])}\0{part[2]}\0{part[3]}"
    if paths_lib.is_remote(path):
        return paths_lib.state(path)
    stat = os.stat(paths_lib.on_disk(path))
    return _state_text(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


def _state_text(size: int, time: int, changed: int, inode: int) -> str:
    return f"{size}\0{time}\0{changed}\0{inode}"


def fingerprint(files: list[str], states: np.ndarray | None = None) -> str:
    """Returns a digest of the names and `state` of the files.

    states: those of `identity.states`, if known.
    """
    digest = hashlib.sha256()
    for i, path in enumerate(files):
        try:
            device, inode, size, time, changed = (0,) * 5 if states is None else states[i].tolist()
            found = _state_text(size, time, changed, inode) if device else state(path)
            digest.update(paths_lib.utf8(f"{path}\0{found}\n"))
        except OSError:
            digest.update(paths_lib.utf8(f"{path}\0-\n"))
    return digest.hexdigest()[:24]
