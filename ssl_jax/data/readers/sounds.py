"""Corpora of sounds as they are downloaded: AudioSet, ESC-50 and FSD50K."""

import csv
import os
import pathlib
import warnings

from ssl_jax.core import paths as paths_lib
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import folders, lines
from ssl_jax.data.readers.base import Rows, text

# the tables of each split of AudioSet, without their common ending
_SEGMENTS = {
    "train": ("balanced_train", "unbalanced_train"),
    "valid": ("eval",),
    "test": ("eval",),
}
_SOUNDS = {"train": ("dev", "train"), "valid": ("dev", "val"), "test": ("eval", "")}


def audioset(path: pathlib.Path, options: dict) -> Rows:
    """Reads AudioSet: <segments>_segments.csv, class_labels_indices.csv and, below, clips of 10 s.

    A clip is named by its video, <id>, Y<id>, or <id>_<start>, with the start in seconds or in
    milliseconds, and an end may follow. Columns: tags (display names, separated by "|"), mids
    (their ids), video, segments. Option `segments` names the tables, such as ("balanced_train",);
    by default those of the split: both of training, or eval. Many videos no longer exist: rows
    without a file are left out, with a warning that counts them.
    """
    known = _SEGMENTS.get(options["split"])
    tables = tuple(options["segments"]) or known
    if tables is None:
        raise DataError(f"split is {options['split']!r}: use {', '.join(_SEGMENTS)}, or segments")
    file = path / "class_labels_indices.csv"
    classes, _ = lines.read_table(file, "mid")
    if "display_name" not in classes:
        raise DataError(f"{file}, row 1: no column 'display_name' among {list(classes)}")
    names = dict(zip(classes["mid"], classes["display_name"], strict=True))
    files = {os.path.splitext(os.path.basename(p))[0]: p for p in folders.find(path)}
    found: list[tuple[str, str, str, str, str]] = []
    missing: list[str] = []
    for table in tables:
        for where, video, start, mids in _segments(path / f"{table}_segments.csv"):
            unknown = [mid for mid in mids if mid not in names]
            if unknown:
                raise DataError(f"{where}: the label {unknown[0]!r} is not in {file.name}")
            clip = next((files[n] for n in _names(video, start) if n in files), None)
            if clip is None:
                missing.append(f"{where}, {video!r}")
            else:
                tags = "|".join(names[mid] for mid in mids)
                found.append((clip, tags, "|".join(mids), video, table))
    _report(path, missing, len(found))
    clips, *columns = zip(*found, strict=True)
    named = zip(("tags", "mids", "video", "segments"), columns, strict=True)
    return folders.rows_of(path, list(clips), {name: text(list(c)) for name, c in named})


def _segments(file: pathlib.Path) -> list[tuple[str, str, float, list[str]]]:
    """Returns (file and row, video, start in seconds, label ids) of every row of a table."""
    if not file.exists():
        raise DataError(f"{file.parent} has no {file.name}: put the table there")
    out = []
    for n, line in lines.filled(file):
        if line.startswith("#"):
            continue
        where = f"{file}, row {n}"
        fields = next(csv.reader([line], skipinitialspace=True))
        try:
            video, start, _, mids = fields
            seconds = float(start)
        except ValueError as e:
            raise DataError(
                f"{where}: expected 'video, start, end, \"labels\"', found {line[:80]!r}"
            ) from e
        out.append((where, video, seconds, [m.strip() for m in mids.split(",") if m.strip()]))
    return out


def _names(video: str, start: float) -> list[str]:
    """Returns the names that a clip may have, without its ending, the likeliest first."""
    starts = (f"{start:.0f}", f"{start:.3f}", f"{start * 1000:.0f}")
    ends = (f"{start + 10:.0f}", f"{start + 10:.3f}", f"{(start + 10) * 1000:.0f}")
    long = [f"{video}_{a}_{b}" for a, b in zip(starts, ends, strict=True)]
    return [video, f"Y{video}", *(f"{video}_{a}" for a in starts), *long]


def _report(path: pathlib.Path, missing: list[str], found: int) -> None:
    """Warns about rows without a file; raises DataError if no row has one."""
    if not missing:
        return
    first = f"the first is {missing[0]}"
    if not found:
        raise DataError(
            f"none of {len(missing)} rows has a sound file below {path} ({first}): a clip is named "
            f"<video>.wav, Y<video>.wav or <video>_<start>.wav, or another ending of sound"
        )
    total = found + len(missing)
    warnings.warn(
        f"{len(missing)} of {total} rows have no sound file below {path} and are left out: {first}",
        stacklevel=2,
    )


def fsd50k(path: pathlib.Path, options: dict) -> Rows:
    """Reads FSD50K: FSD50K.ground_truth/dev.csv and eval.csv, and the clips in FSD50K.*_audio.

    Columns: tags (names, separated by "|"), mids (their ids), split (train, val, test). The split
    train and valid are those of dev.csv, test is eval.csv.
    """
    if options["split"] not in _SOUNDS:
        raise DataError(f"split is {options['split']!r}: use {', '.join(_SOUNDS)}")
    part, wanted = _SOUNDS[options["split"]]
    file = path / "FSD50K.ground_truth" / f"{part}.csv"
    if not file.exists():
        raise DataError(f"{path} has no FSD50K.ground_truth/{part}.csv: put the table there")
    table, numbers = lines.read_table(file, "fname")
    needed = ("labels", "mids", *(("split",) if wanted else ()))
    missing = [name for name in needed if name not in table]
    if missing:
        raise DataError(f"{file}, row 1: no column {missing[0]!r} among {list(table)}")
    splits = table["split"] if wanted else ["test"] * len(numbers)
    keep = [i for i, split in enumerate(splits) if split == (wanted or "test")]
    clips = [f"FSD50K.{part}_audio/{table['fname'][i]}.wav" for i in keep]
    for i, clip in zip(keep, clips, strict=True):
        if not paths_lib.is_remote(path) and not (path / clip).exists():
            raise DataError(f"{file}, row {numbers[i]}: there is no {path / clip}")
    columns = {
        "tags": text([table["labels"][i].replace(",", "|") for i in keep]),
        "mids": text([table["mids"][i].replace(",", "|") for i in keep]),
        "split": text([splits[i] for i in keep]),
    }
    return folders.rows_of(path, clips, columns)


def esc50(path: pathlib.Path, options: dict) -> Rows:
    """Reads ESC-50: meta/esc50.csv and the clips in audio.

    Columns: label (the category), fold (1 to 5, as text) and the others of the table.
    """
    del options
    file = path / "meta" / "esc50.csv"
    if not file.exists():
        raise DataError(f"{path} has no meta/esc50.csv: put the table there")
    table, _ = lines.read_table(file, "filename")
    missing = [name for name in ("fold", "category") if name not in table]
    if missing:
        raise DataError(f"{file}, row 1: no column {missing[0]!r} among {list(table)}")
    clips = [f"audio/{name}" for name in table.pop("filename")]
    columns = {"label": text(table["category"])} | {k: text(v) for k, v in table.items()}
    return folders.rows_of(path, clips, columns)
