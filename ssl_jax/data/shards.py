"""Writes any source of audio or images as a folder of ArrayRecord shards, shard by shard."""

import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ssl_jax.core import atomic
from ssl_jax.core.progress import Progress
from ssl_jax.data import images
from ssl_jax.data.errors import (
    CLIPPED_SHARE,
    BadFile,
    Clipped,
    ClippedCounter,
    DataError,
    InvalidRow,
    SkipCounter,
)
from ssl_jax.data.readers import audio, pixels, records
from ssl_jax.data.readers.base import Recordings, Source, part_of

# columns that every shard has
_RESERVED = {"audio", "image", "samples", "rate", "bytes"}


def write(
    sources: Sequence[Source],
    to: pathlib.Path,
    *,
    shards: int,
    what: Any,
    on_bad: str = "raise",
    max_bad_share: float = 0.01,
    max_megapixels: float = pixels.MAX_MEGAPIXELS,
) -> int:
    """Writes every row of the sources as ArrayRecord shards and returns how many rows it wrote.

    what: what the sources were opened from; a folder begun for something else is refused.
    Clipped recordings are listed in <to>/clipped.jsonl. on_bad: "skip" leaves out files that cannot
    be decoded and lists them in <to>/skipped.jsonl.
    """
    total = sum(len(s) for s in sources)
    if not 1 <= shards <= total:
        raise DataError(f"--shards is {shards}: use 1 to {total}, the number of rows")
    names = sorted({name for s in sources for name in s.columns} - _RESERVED)
    is_audio = isinstance(sources[0], Recordings)
    image = functools.partial(images.encoded, max_megapixels=max_megapixels)
    read, put = (_audio, records.write_shard) if is_audio else (image, records.write_images)
    _begin(to, {"what": what, "rows": total, "shards": shards, "columns": names})
    counter = SkipCounter(max_bad_share, total, to / "skipped.jsonl")
    clipped = ClippedCounter(to / "clipped.jsonl") if is_audio else None
    written = 0
    borders = np.linspace(0, total, shards + 1).astype(int)
    with Progress(f"writing rows of {to}", total) as bar:
        for shard in range(shards):
            path = to / f"data-{shard:05d}-of-{shards:05d}{records.SUFFIX}"
            ids = range(borders[shard], borders[shard + 1])
            if path.exists():
                bar.step(len(ids))
                written += records.count(path)
                continue
            skipped = counter if on_bad == "skip" else None
            written += put(path, _rows(sources, ids, names, skipped, bar, read, clipped), names)
    _finish(to, written)
    if clipped:
        print(f"{len(clipped)} rows are clipped at full scale: see {clipped.path}")
    return written


def _rows(
    sources: Sequence[Source],
    ids: range,
    names: list[str],
    skipped: SkipCounter | None,
    bar: Progress,
    read: Callable[[Any, int], Any],
    clipped: ClippedCounter | None,
) -> Iterator[Any]:
    """Yields (what was read, columns) of the rows; without `skipped`, bad files raise."""
    first = np.cumsum([0] + [len(s) for s in sources])
    for i in ids:
        k, row = part_of(first, i)
        source = sources[k]
        bar.step()
        try:
            found = read(source, row)
        except BadFile as e:
            if skipped is None:
                raise
            skipped.add([InvalidRow(i, e.where, e.reason)])
            continue
        if clipped is not None:
            share = audio.clipped(found[0]) / len(found[0])
            if share > CLIPPED_SHARE:
                clipped.add([Clipped(i, source.where(row), round(share, 4))])
        values = {n: str(source.columns[n][row]) if n in source.columns else "" for n in names}
        yield (found, values) if isinstance(found, bytes) else (*found, values)


def _audio(source: Recordings, row: int) -> tuple[np.ndarray, int]:
    """Returns audio (n,) int16 and rate."""
    found, rate = source.read(row)
    if not len(found):
        raise BadFile(source.where(row), "empty: 0 samples")
    source.check_rate(row)
    source.check_sound(row, found)
    return found, rate


def _begin(to: pathlib.Path, request: dict) -> None:
    """Records what the folder holds; raises DataError if it was begun for something else."""
    text = json.dumps(request, sort_keys=True, default=str)
    sign = hashlib.sha256(text.encode()).hexdigest()[:16]
    note = to / records.REQUEST
    to.mkdir(parents=True, exist_ok=True)
    if note.exists() and _read_request(note)["signature"] != sign:
        raise DataError(f"--to {to} was begun with other options, see {note}: use a new folder")
    if not note.exists() and any(to.glob(f"*{records.SUFFIX}")):
        raise DataError(f"--to {to} holds other shards: use a new folder")
    atomic.write_json(note, {"signature": sign, **json.loads(text)})


def _read_request(note: pathlib.Path) -> dict[str, Any]:
    """Reads what the folder holds; raises DataError for a file that was cut short."""
    try:
        return atomic.read_json(note, "remove it and the shards beside it, and convert again")
    except ValueError as error:
        raise DataError(str(error)) from error


def _finish(to: pathlib.Path, written: int) -> None:
    """Records how many rows the finished shards hold, against which copies are checked."""
    note = to / records.REQUEST
    atomic.write_json(note, {**_read_request(note), "written": written})
