"""Corpora that are listed in a text file: fairseq .tsv, tables with a header, Kaldi directories."""

import os
import pathlib

import numpy as np

from ssl_jax.core import paths
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import lines as lines_lib
from ssl_jax.data.readers.base import Rows, text
from ssl_jax.data.readers.files import Files, headers

CLIPS = "clips"  # the folder next to its tables where Common Voice keeps the files
_TRIED = 16  # rows by which the folder or the rate of the files is found


def fairseq_tsv(path: pathlib.Path, options: dict) -> Rows:
    """Reads a fairseq manifest: a root line, then `relative path<tab>samples`.

    Lengths come from the manifest, so only the first files are opened, for the rate (option `rate`,
    in Hz, saves even that). Option `labels` names parallel files: ("km", "ltr") reads <manifest>.km
    and <manifest>.ltr, one line per row, as columns of those names.
    """
    names, samples = [], []
    lines = lines_lib.filled(path)
    root = next(lines, (0, ""))[1]
    if not root or "\t" in root:
        raise DataError(f"{path}, row 1: expected the root folder of the recordings")
    numbers = []
    for n, line in lines:
        name, tab, count = line.partition("\t")
        if not tab or not count.strip().isdecimal():
            raise DataError(f"{path}, row {n}: expected 'path<tab>samples', found {line[:80]!r}")
        names.append(name)
        samples.append(int(count))
        numbers.append(n)
    columns = {}
    for extension in options["labels"]:
        columns[extension] = _parallel(path.with_suffix(f".{extension}"), path, numbers)
    # A relative root is relative to the manifest, so that a folder can be moved as a whole.
    root = paths.join(path.parent, root)
    files = Files(root, text(names), path.name, np.array(numbers, np.int32))
    rate = options["rate"] or _first_rate(path, files, samples)
    n = len(names)
    return Rows(files, np.array(samples, np.int64), np.full(n, rate, np.int32), columns)


def table(path: pathlib.Path, options: dict) -> Rows:
    """Reads a table with a header: .csv with commas, else tabs; for a folder, its index.tsv.

    Column `path` is relative to option `root` (default: the folder of the table or, as in Common
    Voice, the folder `clips` in it); every other column is kept as text. If columns `samples` and
    `rate` exist, no file is opened.
    """
    path, files, columns, numbers = files_of_table(path, options["root"])
    if "samples" in columns and "rate" in columns:
        samples = _numbers(path, columns, "samples", numbers)
        rates = _numbers(path, columns, "rate", numbers).astype(np.int32)
    else:
        samples, rates = headers(files.root, files.paths)
    return Rows(files, samples, rates, columns)


def files_of_table(
    path: pathlib.Path, root: str = ""
) -> tuple[pathlib.Path, Files, dict[str, np.ndarray], list[int]]:
    """Reads a table with a column `path` -> (its path, files, the other columns, line numbers)."""
    if path.is_dir():
        found = [path / n for n in ("index.tsv", "index.csv") if (path / n).exists()]
        if not found:
            raise DataError(f"{path} has neither index.tsv nor index.csv")
        path = found[0]
    kept, numbers = lines_lib.read_table(path, "path")
    root = root or _beside(path, kept["path"])
    columns = {k: text(v) for k, v in kept.items()}
    files = Files(root, columns.pop("path"), path.name, np.array(numbers, np.int32))
    return path, files, columns, numbers


def _beside(path: pathlib.Path, names: list[str]) -> str:
    """Returns the folder of a table's files: that of the table or, as in Common Voice, `clips`."""
    own, clips = path.parent, path.parent / CLIPS
    if paths.is_remote(path) or not clips.is_dir():
        return str(own)
    some = names[:_TRIED]
    here, there = (
        sum(os.path.exists(paths.on_disk(paths.join(f, n))) for n in some) for f in (own, clips)
    )
    return str(clips) if there > here else str(own)


def kaldi(path: pathlib.Path, options: dict) -> Rows:
    """Reads a Kaldi directory: wav.scp, and where present segments, text and utt2spk.

    Columns: utterance, text, speaker. Paths in wav.scp are absolute or relative to option `root`
    (default: the directory itself). Pipes are refused.
    """
    if not (path / "wav.scp").exists():
        raise DataError(f"{path} has no wav.scp")
    recordings = lines_lib.pairs(path / "wav.scp", "recording path")
    for n, file in recordings.values():
        if file.endswith("|"):
            raise DataError(
                f"{path / 'wav.scp'}, row {n}: {file[:60]!r} is a command; run it once and list "
                "the file that it writes"
            )
    root = options["root"] or str(path)
    names = text([file for _, file in recordings.values()])
    samples, rates = headers(root, names)
    if (path / "segments").exists():
        rows, index = _segments(path / "segments", recordings, samples, rates)
    else:
        index = np.arange(len(names))
        lines = np.array([n for n, _ in recordings.values()], np.int32)
        rows = Rows(
            Files(root, names, "wav.scp", lines),
            samples,
            rates,
            {"utterance": text(list(recordings))},
        )
    files = rows.reader
    assert isinstance(files, Files)
    reader = Files(root, names[index], files.manifest, files.lines, files.starts)
    keys = [str(k) for k in rows.columns["utterance"]]
    for column, name in (("text", "text"), ("speaker", "utt2spk")):
        if (path / name).exists():
            rows.columns[column] = _joined(path / name, keys, files.manifest)
    return rows._replace(reader=reader)


def _segments(
    file: pathlib.Path,
    recordings: dict[str, tuple[int, str]],
    samples: np.ndarray,
    rates: np.ndarray,
) -> tuple[Rows, np.ndarray]:
    """Reads `utterance recording start end`, in seconds, and the recording (n,) of each row."""
    order = {k: i for i, k in enumerate(recordings)}
    keys, found, times, numbers = [], [], [], []
    listed: dict[str, int] = {}
    for n, line in lines_lib.filled(file):
        try:
            key, recording, start, end = map(lines_lib.composed, lines_lib.words(line))
            span = (float(start), float(end))
            found.append(order[recording])
        except (ValueError, KeyError) as e:
            raise DataError(
                f"{file}, row {n}: expected 'utterance recording start end' with a recording of "
                f"wav.scp, found {line[:80]!r}"
            ) from e
        if listed.setdefault(key, n) != n:
            raise DataError(f"{file}, row {n}: {key!r} was listed before, in row {listed[key]}")
        keys.append(key)
        times.append(span)
        numbers.append(n)
    index = np.array(found, np.int64)
    # In Kaldi an end of -1 means the end of the recording.
    starts, ends = np.array(times, np.float64).reshape(-1, 2).T
    first = np.rint(starts * rates[index]).astype(np.int64)
    last = np.where(ends < 0, samples[index], np.rint(ends * rates[index])).astype(np.int64)
    # A segment that ends later by more than rounding keeps its length, so that reading it fails.
    rounding = rates[index] // 10
    last = np.where(last <= samples[index] + rounding, np.minimum(last, samples[index]), last)
    lines = np.array(numbers, np.int32)
    reader = Files("", text([]), "segments", lines, first)
    length = np.maximum(last - first, 0)
    return Rows(reader, length, rates[index], {"utterance": text(keys)}), index


def _joined(file: pathlib.Path, keys: list[str], listed: str) -> np.ndarray:
    """Returns the values (n,) of keys in a file of `key value`; DataError if one is missing."""
    fields = "utterance [WORDS]" if file.name == "text" else "utterance speaker"
    values = lines_lib.pairs(file, fields)
    missing = [k for k in keys if k not in values]
    if missing:
        raise DataError(
            f"{file} has no row for {missing[0]!r} ({len(missing)} of {len(keys)} utterances of "
            f"{listed} are missing): add them, or remove them from {listed}"
        )
    return text([values[k][1] for k in keys])


def _parallel(path: pathlib.Path, manifest: pathlib.Path, numbers: list[int]) -> np.ndarray:
    """Reads one line per manifest row -> (n,) text."""
    if not path.exists():
        raise DataError(f"{path} does not exist: labels names files next to {manifest.name}")
    found = text([line for _, line in lines_lib.rows(path)])
    if len(found) != len(numbers):
        row = min(len(found), len(numbers)) + 1
        raise DataError(
            f"{path} has {len(found)} rows and {manifest} {len(numbers)}: row {row} of one has no "
            "counterpart; make the labels again from this manifest"
        )
    return found


def _first_rate(path: pathlib.Path, files: Files, stated: list[int]) -> int:
    """Returns the sample rate of the first of the first 16 files that can be opened.

    Raises DataError if none can, and if a file is longer than its row states.
    """
    samples, rates = headers(files.root, files.paths[:_TRIED])
    # a shorter one is an invalid row when it is read
    longer = np.flatnonzero(samples > np.array(stated[:_TRIED]) + rates // 10)
    if len(longer):
        i = int(longer[0])
        raise DataError(
            f"{files.where(i)}: it has {samples[i]} samples, but the manifest states {stated[i]}: "
            "the file has changed; make the manifest again"
        )
    if len(rates) and not rates.any():
        raise DataError(
            f"{path}: none of its first {len(rates)} files can be opened, for example "
            f"{files.where(0)}; check the root in row 1, or set the sample rate, as in rate=16000"
        )
    return int(rates[rates > 0][0]) if len(rates) else 0


def _numbers(
    path: pathlib.Path, columns: dict[str, np.ndarray], name: str, numbers: list[int]
) -> np.ndarray:
    """Turns a text column into int64 and removes it from the text columns."""
    values = columns.pop(name)
    try:
        return values.astype(np.int64)
    except ValueError as e:
        bad = next(i for i, v in enumerate(values) if not str(v).strip().lstrip("-").isdecimal())
        raise DataError(
            f"{path}, row {numbers[bad]}: {name} is {values[bad]!r}, not a whole number"
        ) from e
