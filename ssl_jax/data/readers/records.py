"""Recordings or images packed into ArrayRecord shards, fast on any file system.

A shard holds one msgpack map per row: audio (bytes of a FLAC file), samples and rate, or image
(bytes of an image file) and bytes, their number; and one entry per column. The file `<shard>.index`
holds the same without audio or images, so that opening a corpus reads none.
"""

import dataclasses
import io
import pathlib
import tempfile
from collections.abc import Iterable

import msgpack
import numpy as np
from array_record.python import array_record_data_source, array_record_module

from ssl_jax.core import atomic, paths, progress, pulse
from ssl_jax.data.errors import DataError, Unreadable
from ssl_jax.data.readers import audio, folders, identity
from ssl_jax.data.readers.base import Items, Rows, part_of, text
from ssl_jax.data.readers.files import check_whole_set

SUFFIX = ".array_record"
REQUEST = "convert.json"  # what a folder of shards was made from, and whether it is complete


@dataclasses.dataclass(frozen=True)
class Records:
    """Reads rows from shards; `first` (shards + 1,) holds the first row of each."""

    shards: tuple[str, ...]
    first: np.ndarray
    source: array_record_data_source.ArrayRecordDataSource

    def where(self, row: int) -> str:
        """Names the shard and the row in it."""
        shard, number = part_of(self.first, row)
        return f"{self.shards[shard]}, row {number + 1}"

    def row_key(self, row: int) -> str:
        """Returns a permanent name: the shard, without its folder, and the number in it."""
        shard, number = part_of(self.first, row)
        return f"{pathlib.Path(self.shards[shard]).name}@{number}"

    def places(self) -> identity.Places:
        """Returns the shard of each row, and its number there."""
        counts = np.diff(self.first)
        shard = np.repeat(np.arange(len(counts)), counts)
        return identity.Places(self.shards, shard, np.arange(len(shard)) - self.first[shard])

    def read(
        self, row: int, start: int, stop: int, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, int]:
        """Returns native samples [start, stop) of a row as int16 and the rate."""
        return audio.read(io.BytesIO(self._record(row)["audio"]), start, stop, out)

    def image(self, row: int) -> bytes:
        """Returns the bytes of a row's image file."""
        return self._record(row)["image"]

    def _record(self, row: int) -> dict:
        try:
            return msgpack.unpackb(self.source[row])
        except (ValueError, RuntimeError) as e:
            raise Unreadable(f"broken record: {e}") from e


def array_record(path: pathlib.Path, options: dict) -> Rows:
    """Opens a folder of recordings that `python -m ssl_jax.convert data` wrote."""
    del options
    reader, merged = _opened(path, "samples", "audio")
    samples = np.array(merged.pop("samples"), np.int64)
    rates = np.array(merged.pop("rate"), np.int32)
    return Rows(reader, samples, rates, {k: text(v) for k, v in merged.items()})


def array_record_images(path: pathlib.Path, options: dict) -> Items:
    """Opens a folder of images that `python -m ssl_jax.convert data` wrote."""
    del options
    reader, merged = _opened(path, "bytes", "image")
    total = len(merged.pop("bytes"))
    return Items(reader, total, {k: text(v) for k, v in merged.items()})


def _opened(path: pathlib.Path, needed: str, modality: str) -> tuple[Records, dict[str, list]]:
    """Returns the shards of a folder and their columns, which must include `needed`."""
    path = paths.fetched(path)  # the library reads local files only
    shards = [path / name for name in folders.beside(path, SUFFIX)]
    if not shards:
        raise DataError(f"{path} has no *{SUFFIX} files; make them with `ssl_jax.convert data`")
    check_whole_set([s.name for s in shards], str(path))
    bar = progress.along(shards, "opening shards")
    index = [_read_index(shard) for shard in pulse.along(bar)]
    names = list(index[0])
    for shard, columns in zip(shards, index, strict=True):
        if list(columns) != names:
            raise DataError(f"{shard} has columns {list(columns)}, {shards[0]} has {names}")
    if needed not in names:
        raise DataError(f"{path} holds no {modality}: see config.data.modality")
    first = np.cumsum([0] + [len(columns[needed]) for columns in index])
    merged = {k: [v for columns in index for v in columns[k]] for k in names}
    for name, values in merged.items():
        if len(values) != first[-1]:
            raise DataError(
                f"{path}: column {name!r} of its indices has {len(values)} rows, not {first[-1]}: "
                "convert it again"
            )
    _check_request(path, shards, int(first[-1]))
    source = _source(shards, np.diff(first))
    return Records(tuple(str(s) for s in shards), first, source), merged


def count(shard: pathlib.Path) -> int:
    """Returns how many rows the index of a shard holds."""
    return len(next(iter(_read_index(shard).values())))


def _source(
    shards: list[pathlib.Path], rows: np.ndarray
) -> array_record_data_source.ArrayRecordDataSource:
    """Opens shards, which must hold as many records as their indices have rows."""
    names = [str(s) for s in shards]
    try:
        source = array_record_data_source.ArrayRecordDataSource(names)
        if len(source) == rows.sum():
            return source
    except (ValueError, RuntimeError, OSError) as e:
        source, found = None, e
    for name, count in zip(names, rows.tolist(), strict=True):
        try:
            held = len(array_record_data_source.ArrayRecordDataSource([name]))
        except (ValueError, RuntimeError, OSError) as e:
            raise DataError(f"{name} is broken or cut off: copy it again ({e})") from e
        if held != count:
            raise DataError(f"{name} holds {held} records, its index {count}: copy both again")
    raise DataError(f"{names[0]} and the other shards cannot be opened: {found}")


def _check_request(path: pathlib.Path, shards: list[pathlib.Path], rows: int) -> None:
    """Raises DataError if a folder lacks shards or rows that `convert data` recorded."""
    note = path / REQUEST
    if not note.exists():
        return
    remedy = "convert into a new folder, or remove it"
    try:
        request = atomic.read_json(note, remedy)
        wanted, written = int(request["shards"]), request.get("written")
    except (ValueError, KeyError, TypeError) as e:
        raise DataError(f"{note} is damaged ({e}): {remedy}") from e
    if len(shards) != wanted:
        raise DataError(
            f"{path} holds {len(shards)} of the {wanted} shards that its {REQUEST} names: run the "
            f"same `ssl_jax.convert data` again to finish it, or copy the others"
        )
    if written is not None and written != rows:
        raise DataError(
            f"{path} holds {rows} rows, but its {REQUEST} names {written}: copy it again"
        )


def write_shard(
    path: pathlib.Path, rows: Iterable[tuple[np.ndarray, int, dict[str, str]]], names: list[str]
) -> int:
    """Writes rows of (audio (n,) int16, rate, columns) and the index as one finished shard.

    names: the columns. The shard appears under its name only when it is complete. Returns its
    number of rows.
    """
    records = (
        ({"audio": audio.encode_flac(samples, rate)}, {"samples": len(samples), "rate": rate}, more)
        for samples, rate, more in rows
    )
    return _write(path, records, ["samples", "rate"], names)


def write_images(
    path: pathlib.Path, rows: Iterable[tuple[bytes, dict[str, str]]], names: list[str]
) -> int:
    """Writes rows of (bytes of an image file, columns) as `write_shard` does."""
    records = (({"image": data}, {"bytes": len(data)}, more) for data, more in rows)
    return _write(path, records, ["bytes"], names)


def _write(
    path: pathlib.Path,
    records: Iterable[tuple[dict[str, bytes], dict[str, int], dict[str, str]]],
    own: list[str],
    names: list[str],
) -> int:
    """Writes rows of (payload, its properties, columns), and an index without the payloads."""
    if paths.is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            here = pathlib.Path(folder) / path.name
            written = _write(here, records, own, names)
            paths.put(_index_path(here), _index_path(path))
            paths.put(here, path)
        return written
    columns: dict[str, list] = {n: [] for n in [*own, *names]}
    with atomic.making(path) as part:
        writer = array_record_module.ArrayRecordWriter(str(part), "group_size:1")
        for payload, known, values in records:
            entry = {**known, **{n: values[n] for n in names}}
            writer.write(msgpack.packb({**payload, **entry}))
            for name, value in entry.items():
                columns[name].append(value)
        writer.close()
        atomic.write_bytes(_index_path(path), msgpack.packb(columns))
    return len(columns[own[0]])


def _index_path(shard: pathlib.Path) -> pathlib.Path:
    return shard.with_name(shard.name + ".index")


def _read_index(shard: pathlib.Path) -> dict[str, list]:
    index = _index_path(shard)
    if not index.exists():
        raise DataError(f"{index} is missing: copy it with its shard, or convert again")
    try:
        columns = msgpack.unpackb(index.read_bytes())
        if all(isinstance(v, list) for v in columns.values()):
            return columns
        raise ValueError("it holds no columns")
    except (ValueError, AttributeError, msgpack.UnpackException) as e:
        raise DataError(f"{index} is broken: copy it with its shard, or convert again") from e
