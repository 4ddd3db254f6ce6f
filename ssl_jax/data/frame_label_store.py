"""Frame labels of a corpus on disk: the cluster ids of HuBERT, row by row, memory-mapped.

A store is a folder that appears under its name only when it is complete: `header.json` (rate in
Hz, vocabulary size, signature of the model that made the labels, number of rows), `units.bin` (the
labels of all rows end to end, uint16 or uint32) and `index.npz` (where each row lies). A row is
found by the key of its recording, `corpus.key(i)`: the name of its source and its path there. So a
store serves any corpus with the same files, in any order.

    with Writer(path, rate=100.0, vocab_size=100, signature="0f3a...") as writer:
        for i in range(len(corpus)):
            key = corpus.key(i)
            if key not in writer:  # an earlier attempt that was killed may have written it
                writer.add(key, labels)  # (U,) integers
    store = open_store(path)
    store.rate, store.vocab_size, store.signature, len(store)
    store.row(corpus.key(3))  # (U,) int32
    config.data.units.train = (path,)  # one store a label set: batches have units (B, K, U)
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

from ssl_jax.core import atomic, paths
from ssl_jax.data.errors import DataError, Unreadable

_FORMAT = 1
_HEADER, _UNITS, _INDEX, _LOG = "header.json", "units.bin", "index.npz", "rows.bin"
# one row in the log of an unfinished store
_ENTRY = np.dtype([("key", "<u8"), ("count", "<u8")])
# rows between two flushes
_FLUSH = 64


class Writer:
    """Writes a store row by row, from one process; `with` completes it unless an error is raised.

    rate: labels per second. vocab_size: ids lie in [0, vocab_size). signature: names the model
    and the clusters; equal for all stores of one k-means model. grid: labels of one step, such as 8
    bands of a spectrogram; crops then start at a step. If a killed writer left
    `<path>.part` with the same header, it is continued. Raises DataError if `path` exists.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        rate: float,
        vocab_size: int,
        signature: str,
        grid: int = 1,
    ) -> None:
        self.path = paths.local(path, "the folder of the frame labels")
        self._part = self.path.with_name(self.path.name + ".part")
        if self.path.exists():
            raise DataError(f"{self.path} exists already: remove it, or use another folder")
        if not rate > 0 or vocab_size < 1:
            raise DataError(
                f"{self.path}: the rate is {rate} Hz and vocab_size {vocab_size}: use positive "
                "numbers, such as 50.0 and 100"
            )
        self.vocab_size = int(vocab_size)
        dtype = "uint16" if self.vocab_size <= 1 << 16 else "uint32"
        self._header: dict[str, Any] = {"format": _FORMAT, "rate": float(rate), "dtype": dtype}
        self._header |= {"vocab_size": self.vocab_size, "signature": str(signature)}
        self._header |= {"grid": grid} if grid > 1 else {}
        self._keys: set[int] = set()
        self._units, self._log = self._begin()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        if kind is None:
            self.finish()
        else:
            self._close()

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: str) -> bool:
        return _hash(key) in self._keys

    def add(self, key: str, units: np.ndarray) -> None:
        """Appends the labels (U,) of a row. Raises DataError, naming the key, for a row that was
        added before, has no label, or has an id outside the vocabulary."""
        units, number = np.asarray(units), _hash(key)
        if number in self._keys:
            raise DataError(f"{self.path}: the labels of {key!r} were added before")
        if units.ndim != 1 or not len(units) or units.dtype.kind not in "iu":
            raise DataError(
                f"{self.path}: the labels of {key!r} have shape {units.shape} and dtype "
                f"{units.dtype}: pass (U,) integers, at least one"
            )
        fault = _outside(units, self.vocab_size)
        if fault:
            raise DataError(f"{self.path}: {key!r}: {fault}")
        self._units.write(units.astype(self._header["dtype"]).tobytes())
        self._log.write(np.array([(number, len(units))], _ENTRY).tobytes())
        self._keys.add(number)
        if len(self._keys) % _FLUSH == 0:
            self._units.flush()
            self._log.flush()

    def finish(self) -> None:
        """Completes the store, so that it can be opened. Raises DataError if it has no row."""
        self._close()
        log = np.fromfile(self._part / _LOG, _ENTRY)
        if not len(log):
            raise DataError(f"{self.path}: no row was written")
        starts = np.concatenate([[0], np.cumsum(log["count"])[:-1]]).astype(np.int64)
        order = np.argsort(log["key"])
        index = {"keys": log["key"], "starts": starts, "counts": log["count"].astype(np.int64)}
        sorted_by_key = {name: x[order] for name, x in index.items()}
        with atomic.writing(self._part / _INDEX) as file:
            np.savez(file, allow_pickle=False, **sorted_by_key)
        header = {**self._header, "rows": len(log), "units": int(log["count"].sum())}
        atomic.write_json(self._part / _HEADER, header)
        (self._part / _LOG).unlink()
        os.rename(self._part, self.path)

    def _begin(self) -> tuple[IO[bytes], IO[bytes]]:
        """Opens the files of the part, cut to the rows that are complete in both."""
        if self._part.is_symlink():
            raise DataError(f"{self._part} is a link, which is not followed: remove it")
        header = self._part / _HEADER
        if not self._is_begun(header):
            shutil.rmtree(self._part, ignore_errors=True)
            self._part.mkdir(parents=True)
            atomic.write_json(header, self._header)
        units, log = ((self._part / name).open("ab") for name in (_UNITS, _LOG))
        size = np.dtype(self._header["dtype"]).itemsize
        rows = np.fromfile(self._part / _LOG, _ENTRY)
        ends = np.cumsum(rows["count"]) * size
        whole = int(np.searchsorted(ends, units.tell(), "right"))
        units.truncate(int(ends[whole - 1]) if whole else 0)
        log.truncate(whole * _ENTRY.itemsize)
        self._keys = set(rows["key"][:whole].tolist())
        return units, log

    def _is_begun(self, header: pathlib.Path) -> bool:
        """Returns whether the part has the header of this store; a truncated one has not."""
        try:
            return bool(json.loads(header.read_text(encoding="utf-8")) == self._header)
        except (FileNotFoundError, ValueError):
            return False

    def _close(self) -> None:
        self._units.close()
        self._log.close()


@dataclasses.dataclass(frozen=True)
class UnitStore:
    """A complete store. keys (n,) uint64 ascending, starts (n,) and counts (n,) of the rows."""

    path: str
    rate: float
    vocab_size: int
    signature: str
    dtype: str
    keys: np.ndarray
    starts: np.ndarray
    counts: np.ndarray
    grid: int = 1  # labels of one step
    _map: list[np.ndarray] = dataclasses.field(default_factory=list, repr=False)

    def __len__(self) -> int:
        return len(self.keys)

    def __reduce__(self) -> tuple:
        # A worker process maps the file itself; copying a map would read it all.
        return open_store, (self.path,)

    def find(self, keys: Sequence[str]) -> np.ndarray:
        """Returns the position of each row in the store (n,) int64, -1 where it is missing."""
        wanted = np.array([_hash(key) for key in keys], np.uint64)
        place = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[place] == wanted, place, -1)

    def read(self, place: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Returns labels [start, stop) of the row at `place` as int32, up to its end.

        Raises Unreadable for an id outside the vocabulary.
        """
        if not self._map:
            self._map.append(np.memmap(pathlib.Path(self.path) / _UNITS, self.dtype, "r"))
        first, count = int(self.starts[place]), int(self.counts[place])
        stop = count if stop is None else min(stop, count)
        units = self._map[0][first + min(start, stop) : first + stop].astype(np.int64)
        fault = _outside(units, self.vocab_size)
        if fault:
            raise Unreadable(f"{self.path}: {fault}")
        return units.astype(np.int32)

    def row(self, key: str) -> np.ndarray:
        """Returns all labels (U,) int32 of a row; raises DataError naming it."""
        place = int(self.find([key])[0])
        if place < 0:
            raise DataError(f"{self.path} has no labels of {key!r} among its {len(self)} rows")
        try:
            return self.read(place)
        except Unreadable as e:
            raise DataError(f"{key!r}: {e}") from e


def open_store(path: str | os.PathLike) -> UnitStore:
    """Opens a complete store; raises DataError for any other folder, and for a damaged store."""
    folder = paths.fetched(path)
    if not (folder / _HEADER).exists():
        begun = folder.with_name(folder.name + ".part").exists()
        hint = "its writer did not finish: run it again" if begun else "make the labels first"
        raise DataError(
            f"{folder} holds no frame labels (looked from {pathlib.Path.cwd()}): {hint}"
        )
    try:
        header = atomic.read_json(folder / _HEADER, "remove the folder, and make it again")
    except ValueError as e:
        raise DataError(str(e)) from e
    if header.get("format") != _FORMAT:
        raise DataError(f"{folder} has format {header.get('format')}, not {_FORMAT}: make it again")
    size = (folder / _UNITS).stat().st_size
    wanted = header["units"] * np.dtype(header["dtype"]).itemsize
    if size != wanted:
        raise DataError(f"{folder / _UNITS} has {size} bytes, not {wanted}: copy or make it again")
    index = atomic.read_arrays(folder / _INDEX, ("keys", "starts", "counts"))
    if index is None:
        raise DataError(f"{folder / _INDEX} is missing or damaged: copy or make it again")
    about: dict[str, Any] = {
        name: header[name] for name in ("rate", "vocab_size", "signature", "dtype")
    }
    return UnitStore(str(folder), **about | index, grid=header.get("grid", 1))


def _hash(key: str) -> int:
    """Returns 64 bits of a key: two of a million rows collide with probability below 1e-7."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def _outside(units: np.ndarray, vocab_size: int) -> str:
    """Returns a message naming the first id outside the vocabulary, or ""."""
    bad = np.flatnonzero((units < 0) | (units >= vocab_size))
    if not len(bad):
        return ""
    place = int(bad[0])
    return f"label {place} is {int(units[place])}, outside the vocabulary of {vocab_size} ids"
