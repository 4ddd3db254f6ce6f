"""Records the files and rows of a split, so that a resumed run can detect what changed.

Names are relative to the folder that all files of a source share, so data can be moved as a whole.
The content of files is hashed: all of it for a small split, else the ends and the middle of some
files.
"""

import concurrent.futures
import dataclasses
import hashlib
import io
import itertools
import os
import pathlib
import zlib
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.core import atomic, paths, progress, pulse
from ssl_jax.data import hashing
from ssl_jax.data.base import Corpus
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import identity

WHOLE_BYTES = 256 << 20
"""Splits of more bytes than this are hashed in part."""
_SAMPLED = 4096  # files that are hashed of a larger split
_QUERIED = 1024  # objects of a store whose state is queried
_PART = 16 << 10  # bytes at either end and in the middle


@dataclasses.dataclass(frozen=True)
class Facts:
    """The files (m,) and rows (n,) of a split, and its examples (k,), which mostly are the rows.

    root: the folders of the sources. names: file names below them, prefixed by the source. sizes:
    bytes. times: of the last change, in ns. contents: hashes, of the full content if `whole`, 0
    where unknown. which, start: the file of each row, and where it begins there. lengths: of the
    examples. labels: hashes of all labels and fields of the examples.
    """

    root: str
    names: list[str]
    whole: bool
    sizes: np.ndarray
    times: np.ndarray
    contents: np.ndarray
    which: np.ndarray
    start: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray

    def save(self, path: paths.Path) -> None:
        """Writes the facts to one file, atomically."""
        arrays = dataclasses.asdict(self)
        for key in ("root", "names"):
            text = "\0".join([self.root] if key == "root" else self.names)
            arrays[key] = np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)
        packed = io.BytesIO()
        np.savez_compressed(packed, **arrays)
        atomic.write_bytes(path, packed.getvalue())


def load(path: paths.Path) -> Facts:
    """Reads what `Facts.save` wrote; raises DataError for anything else."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as kept:
            arrays: dict[str, Any] = dict(kept)
        for key in ("root", "names"):
            arrays[key] = arrays[key].tobytes().decode("utf-8", "surrogateescape")
        names = arrays["names"].split("\0") if arrays["names"] else []
        return Facts(**{**arrays, "names": names, "whole": bool(arrays["whole"])})
    except Exception as error:  # damage shows in many ways
        raise DataError(
            f"{path} is damaged ({error}), so whether the data changed is unknown: remove it to "
            f"go on with the data as they are now"
        ) from error


def of(corpus: Corpus) -> Facts:
    """Returns the facts of a split as it is now, reading the files that are hashed."""
    files, names, roots, states, which, start = _rows(corpus)
    sizes, times = states[:, 2].copy(), states[:, 3].copy()
    contents, whole = _contents(files, sizes)
    _query_store(files, sizes, times)
    labels = hashing.mix(corpus.labels.astype(np.int64))
    for _, values in sorted(corpus.fields.items()):
        labels = hashing.mix(labels, _sums(values))
    return Facts(
        root="\n".join(roots),
        names=names,
        whole=whole,
        sizes=sizes,
        times=times,
        contents=contents,
        which=which,
        start=start,
        lengths=np.asarray(corpus.lengths, np.int64),
        labels=labels,
    )


def difference(old: Facts, new: Facts) -> str:
    """Returns what changed between two facts: how many rows or files, and the first; "" if nothing
    did. Times count only where the root is the same and files are not hashed completely."""
    same = old.names == new.names and np.array_equal(old.which, new.which)
    if not same or not np.array_equal(old.start, new.start):
        return _other_rows(_places(old), _places(new))
    read = (old.contents > 0) & (new.contents > 0)
    same = read & (old.contents == new.contents)
    changed = (old.sizes != new.sizes) | (read & ~same)
    if old.root == new.root:
        changed |= (old.times != new.times) & ~(same & (old.whole and new.whole))
    if changed.any():
        i = int(changed.argmax())
        return (
            f"{changed.sum()} of {len(changed)} files have changed, the first is "
            f"{new.names[i]} ({old.sizes[i]} bytes then, {new.sizes[i]} now)"
        )
    for what, x, y in (("lengths", old.lengths, new.lengths), ("labels", old.labels, new.labels)):
        if len(x) != len(y):
            return f"it has {len(y)} examples, and had {len(x)}"
        if (x != y).any():
            i = int((x != y).argmax())
            known = len(new.which) == len(y)
            at = f", {new.names[new.which[i]]}" if known else ""
            return (
                f"{(x != y).sum()} of {len(x)} rows have other {what}, the first is row {i + 1}{at}"
            )
    return ""


def changed_files(old: Facts) -> tuple[str, int]:
    """Looks at the local files of a split where they were, without opening the split.

    Returns what `difference` says of changed files, and how many are not there any more. Only a
    file whose size is the same and whose time is not has its content read. Files that are new, and
    other rows of a table, are not seen.
    """
    heads = dict.fromkeys(name.partition("/")[0] for name in old.names)
    roots = dict(zip(heads, old.root.split("\n"), strict=False))
    parts = [name.partition("/") for name in old.names]
    files = [f"{roots.get(head, '')}{os.sep}{rest}" for head, _, rest in parts]
    now = identity.states(files)
    local = np.array([not paths.is_remote(name) for name in files], bool)
    there = local & (now[:, 0] > 0)
    sizes, times = now[:, 2].astype(np.int64), now[:, 3].astype(np.int64)
    changed = there & (sizes != old.sizes)
    for i in np.flatnonzero(there & ~changed & (times != old.times.astype(np.int64))).tolist():
        content = _content(files[i], int(sizes[i]), old.whole)
        changed[i] = not old.whole or content != old.contents[i]
    gone = int((local & ~there).sum())
    if not changed.any():
        return "", gone
    i = int(changed.argmax())
    return (
        f"{changed.sum()} of {len(changed)} files have changed, the first is {old.names[i]} "
        f"({old.sizes[i]} bytes then, {sizes[i]} now)"
    ), gone


def _places(facts: Facts) -> list[tuple[str, int]]:
    """Returns the file and start of each row, and the files that have no row."""
    where = zip(facts.which.tolist(), facts.start.tolist(), strict=True)
    rows = [(facts.names[i], j) for i, j in where]
    return rows + [(name, -2) for name in facts.names[int(facts.which.max(initial=-1)) + 1 :]]


def _other_rows(a: list[tuple[str, int]], b: list[tuple[str, int]]) -> str:
    gone, new = set(a) - set(b), set(b) - set(a)
    found = [f"it has {len(b)} rows, and had {len(a)}"] if len(a) != len(b) else []
    for what, rows, these in (("gone", a, gone), ("new", b, new)):
        if these:
            first = next(i for i, row in enumerate(rows) if row in these)
            found.append(f"{len(these)} are {what}, the first is row {first + 1}, {rows[first][0]}")
    if not gone and not new:
        pairs = zip(a, b, strict=False)
        first = next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))
        found.append(f"the order of rows differs from row {first + 1} on")
    return "; ".join(found)


class _Files(NamedTuple):
    """The files of a corpus in the order of their first rows, and the location of its rows."""

    files: list[str]
    names: list[str]
    roots: list[str]
    states: np.ndarray
    which: np.ndarray
    start: np.ndarray


def _rows(corpus: Corpus) -> _Files:
    """Returns the files and rows of a corpus; the files of frame labels come last."""
    groups: list[tuple[str, list[str]]] = []
    states, which, start = [], [], []
    total = 0
    for source in corpus.sources:
        places, found = source.places(), source.states()
        numbers = np.asarray(places.file)[source.rows]
        used, at, inverse = np.unique(numbers, return_index=True, return_inverse=True)
        order = np.argsort(at)
        rank = np.empty(len(used), np.int64)
        rank[order] = np.arange(len(used)) + total
        which.append(rank[inverse])
        start.append(np.asarray(places.start, np.int64)[source.rows])
        states.append(found[used[order]])
        names = [_plain(places.files[i]) for i in used[order].tolist()]
        groups.append((source.name.partition(".")[2], names))
        total += len(names)
    units = getattr(corpus, "units", None)
    for k, store in enumerate(units.stores if units else ()):
        names = [str(p) for p in sorted(pathlib.Path(store.path).glob("*")) if p.is_file()]
        groups.append((f"frame labels {k}", names))
        states.append(identity.states(names))
    files = [name for _, names in groups for name in names]
    roots = [_shared([os.path.dirname(n) for n in names]) for _, names in groups]
    below = [
        f"{source}/{name[len(root) :].lstrip(os.sep)}"
        for (source, names), root in zip(groups, roots, strict=True)
        for name in names
    ]
    places_of_rows = np.concatenate(which), np.concatenate(start)
    return _Files(files, below, roots, np.concatenate(states), *places_of_rows)


def _plain(name: str) -> str:
    return name if paths.is_remote(name) else os.path.abspath(name)


def _shared(folders: list[str]) -> str:
    """Returns the folder that contains all of the folders."""
    first, last = min(folders).split(os.sep), max(folders).split(os.sep)
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return os.sep.join(name for name, _ in pairs)


def _contents(files: list[str], sizes: np.ndarray) -> tuple[np.ndarray, bool]:
    """Returns a hash (m,) of the content of files, 0 where it was not read, and whether they were
    read completely."""
    whole = int(sizes.sum()) <= WHOLE_BYTES
    chosen = np.arange(len(files)) if whole else _spread(len(files), _SAMPLED)
    found = np.zeros(len(files), np.uint64)
    for i in pulse.along(progress.along(chosen.tolist(), "hashing files")):
        if not paths.is_remote(files[i]):
            found[i] = _content(files[i], int(sizes[i]), whole)
    return found, whole


def _query_store(files: list[str], sizes: np.ndarray, times: np.ndarray) -> None:
    """Fills in the sizes of some objects of a store, and checksums of their versions as times."""
    remote = [i for i, name in enumerate(files) if paths.is_remote(name)]
    chosen = [remote[k] for k in _spread(len(remote), _QUERIED).tolist()]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        states = pool.map(_store_state, (files[i] for i in chosen))
        for i, state in zip(chosen, pulse.along(states), strict=True):
            size, _, version = state.partition(":")
            sizes[i], times[i] = int(size), zlib.crc32(version.encode())


def _store_state(name: str) -> str:
    try:
        return paths.state(name)
    except OSError:
        return "0:"  # missing: reading its row raises


def _spread(total: int, most: int) -> np.ndarray:
    """Returns up to `most` of the numbers below `total`, evenly spaced."""
    return np.linspace(0, total - 1, min(total, most)).round().astype(np.int64)


def _content(file: str, size: int, whole: bool) -> int:
    digest = hashlib.blake2b(digest_size=8)
    try:
        with open(paths.on_disk(file), "rb") as f:
            for at in () if whole else (0, max(0, size // 2 - _PART), max(0, size - _PART)):
                f.seek(at)
                digest.update(f.read(_PART))
            while whole and (data := f.read(1 << 20)):
                digest.update(data)
    except OSError:
        return 0  # missing: reading its row raises
    return max(1, int.from_bytes(digest.digest(), "little"))


def _sums(values: Any) -> np.ndarray:
    """Returns a checksum (n,) of each row of a field."""
    codes = getattr(values, "codes", None)
    if codes is None:
        rows = np.ascontiguousarray(values)
        return np.array([zlib.crc32(row.tobytes()) for row in rows], np.uint64)
    borders = zip(values.starts[:-1].tolist(), values.starts[1:].tolist(), strict=True)
    return np.array([zlib.crc32(codes[a:b].tobytes()) for a, b in borders], np.uint64)
