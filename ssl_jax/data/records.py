"""Recordings packed into ArrayRecord shards: FLAC bytes and metadata, fast on any file system.

A shard holds one msgpack map per row: audio (bytes of a FLAC file), samples, rate, and one entry
per column. Beside it lies `<shard>.index`, the same without the audio, so that opening a corpus
reads no audio.
"""

import dataclasses
import io
import pathlib
from collections.abc import Iterable

import msgpack
import numpy as np
import tqdm
from array_record.python import array_record_data_source, array_record_module

from ssl_jax.data import audio
from ssl_jax.data.errors import DataError, Unreadable
from ssl_jax.data.source import Rows, text

SUFFIX = ".array_record"


@dataclasses.dataclass(frozen=True)
class Records:
    """Reads rows from shards; `first` (shards + 1,) holds the first row of each."""

    shards: tuple[str, ...]
    first: np.ndarray
    source: array_record_data_source.ArrayRecordDataSource

    def where(self, row: int) -> str:
        """Names the shard and the row in it."""
        shard = int(np.searchsorted(self.first, row, "right")) - 1
        return f"{self.shards[shard]}, row {row - self.first[shard] + 1}"

    def read(
        self, row: int, start: int, stop: int, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, int]:
        """Returns native samples [start, stop) of a row as int16 and the rate."""
        try:
            record = msgpack.unpackb(self.source[row])
        except (ValueError, RuntimeError) as e:
            raise Unreadable(f"broken record: {e}") from e
        return audio.read(io.BytesIO(record["audio"]), start, stop, out)


def array_record(path: pathlib.Path, options: dict) -> Rows:
    """Opens a folder of shards that `python -m ssl_jax.convert data` wrote."""
    del options
    shards = sorted(path.glob(f"*{SUFFIX}"))
    if not shards:
        raise DataError(f"{path} has no *{SUFFIX} files; make them by `ssl_jax.convert data`")
    bar = tqdm.tqdm(shards, desc="opening shards", unit="shard", delay=2)
    index = [_read_index(shard) for shard in bar]
    names = list(index[0])
    for shard, columns in zip(shards, index, strict=True):
        if list(columns) != names:
            raise DataError(f"{shard} has columns {list(columns)}, {shards[0]} has {names}")
    first = np.cumsum([0] + [len(columns["samples"]) for columns in index])
    merged = {k: [v for columns in index for v in columns[k]] for k in names}
    samples = np.array(merged.pop("samples"), np.int64)
    rates = np.array(merged.pop("rate"), np.int32)
    source = array_record_data_source.ArrayRecordDataSource([str(s) for s in shards])
    if len(source) != len(samples):
        raise DataError(f"{path} holds {len(source)} records, its indices {len(samples)}")
    reader = Records(tuple(str(s) for s in shards), first, source)
    return Rows(reader, samples, rates, {k: text(v) for k, v in merged.items()})


def write_shard(
    path: pathlib.Path, rows: Iterable[tuple[np.ndarray, int, dict[str, str]]], names: list[str]
) -> None:
    """Writes rows of (audio (n,) int16, rate, columns) and the index as one finished shard.

    names: the columns. The shard appears under its name only when it is complete.
    """
    part = path.with_suffix(".part")
    columns: dict[str, list] = {"samples": [], "rate": [], **{n: [] for n in names}}
    writer = array_record_module.ArrayRecordWriter(str(part), "group_size:1")
    for samples, rate, values in rows:
        entry = {"samples": len(samples), "rate": rate, **{n: values[n] for n in names}}
        flac = audio.encode_flac(samples, rate)
        writer.write(msgpack.packb({"audio": flac, **entry}))
        for name, value in entry.items():
            columns[name].append(value)
    writer.close()
    _index_path(path).write_bytes(msgpack.packb(columns))
    part.rename(path)


def _index_path(shard: pathlib.Path) -> pathlib.Path:
    return shard.with_name(shard.name + ".index")


def _read_index(shard: pathlib.Path) -> dict[str, list]:
    index = _index_path(shard)
    if not index.exists():
        raise DataError(f"{index} is missing: copy it with its shard, or convert again")
    return msgpack.unpackb(index.read_bytes())
