"""Prepares a user's table of labels of recordings, images or texts for a probe.

    path,label
    anna/take 1.mp3,yes

Paths are absolute, or relative to the table, to a folder of recordings or to where the command
runs. For texts the column is `text` in place of `path`.
"""

import csv
import io
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ssl_jax.core import atomic, paths
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import lines as lines_lib
from ssl_jax.data.readers.base import text
from ssl_jax.data.readers.files import fault, headers
from ssl_jax.data.readers.manifests import CLIPS

PATHS = ("path", "file", "filename", "file_name")  # accepted names of the column of files
TEXTS = ("text", "sentence")  # and of that of texts
LABEL = "label"
SPLITS = {"train": "train", "valid": "valid", "test": "test"}
SPLITS |= {"val": "valid", "validation": "valid", "dev": "valid"}
SHARES = (0.6, 0.8)  # where train and valid end


class Labelled(NamedTuple):
    """The rows of a table, n each: absolute paths or texts, and notes about rows left out.

    samples, rates: of recordings, else None.
    """

    paths: list[str]
    labels: list[str]
    splits: list[str]
    samples: np.ndarray | None
    rates: np.ndarray | None
    notes: list[str]

    def write(self, path: pathlib.Path) -> None:
        """Writes a table: a .tsv with the column `path`, or a .csv with the column `text`.

        Raises DataError for a path or label with a tab or line break, which a .tsv cannot hold.
        """
        names = ["text" if path.suffix == ".csv" else "path", "label", "split"]
        columns: list = [self.paths, self.labels, self.splits]
        if self.samples is not None:
            names, columns = [*names, "samples", "rate"], [*columns, self.samples, self.rates]
        rows = [names, *zip(*columns, strict=True)]
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".csv":
            quoted = io.StringIO()
            csv.writer(quoted, lineterminator="\n").writerows(rows)
            atomic.write_text(path, quoted.getvalue())
            return
        lines = ["\t".join(map(str, row)) for row in rows]
        for row, line in zip(rows, lines, strict=True):
            if line.count("\t") != len(rows[0]) - 1 or "\n" in line:
                raise DataError(
                    f"{row[0]!r} with the label {row[1]!r}: a table cannot hold a name with a tab "
                    "or a line break: rename it"
                )
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(path, "\n".join(lines) + "\n")


def read(
    path: pathlib.Path,
    column: str,
    group: str,
    folders: Sequence[pathlib.Path],
    seed: int = 0,
    modality: str = "audio",
) -> Labelled:
    """Reads a table with a header: .csv with commas, else tabs.

    column: that of the class; the default, "label", also stands for the only other column of a
    table. Rows where it is empty are left out, and so are recordings without a readable header.
    group: a column, such as the speaker, each value of which stays in one split ('': none).
    folders: searched for paths that are not relative to the table. A column `split` with train,
    valid and test divides the rows; without it, 60 % of each class are for training, 20 % for
    validation and 20 % for testing. Raises DataError for a missing column or file, a file listed
    twice, and fewer than two classes.
    """
    if not path.is_file():
        raise DataError(
            f"--labels {path} is not a file (looked from {pathlib.Path.cwd()}): give a table"
        )
    columns, lines = lines_lib.read_table(path)
    accepted = TEXTS if modality == "text" else PATHS
    name = next((n for n in accepted if n in columns), accepted[0])
    names = _column(path, columns, name, "")
    column, notes = _class_column(path, columns, column, {name, group, "split"})
    labels = [v.strip() for v in _named(path, columns, column, "--label")]
    groups = _named(path, columns, group, "--group") if group else []
    samples = rates = None
    if modality == "text":
        found, usable = names, np.array([bool(text.strip()) for text in names])
    else:
        found = _find(path, names, lines, [path.parent, *folders, *_clips(path)])
        usable = np.ones(len(found), bool)
    if modality == "audio":
        samples, rates = headers("", text(found))
        usable = rates > 0
    keep = [i for i, label in enumerate(labels) if label and usable[i]]
    notes += _left_out(path, labels, usable, lines, found if modality == "audio" else None)
    kept = [labels[i] for i in keep]
    if len(set(kept)) < 2:
        raise DataError(
            f"{path}: column {column!r} has {sorted(set(kept))} for the {len(keep)} rows that can "
            f"be read, but a probe needs two classes: pass another of {sorted(columns)} as --label"
        )
    if "split" in columns:
        splits = _given(path, [columns["split"][i] for i in keep], [lines[i] for i in keep])
    else:
        by = [groups[i] for i in keep] if group else None
        splits = divide(kept, seed) if by is None else divide_groups(by, seed)
    _check_splits(path, kept, splits)
    files = [found[i] for i in keep]
    if samples is None or rates is None:
        return Labelled(files, kept, splits, None, None, notes)
    return Labelled(files, kept, splits, samples[keep], rates[keep], notes)


def _class_column(
    path: pathlib.Path, columns: dict[str, list[str]], name: str, others: set[str]
) -> tuple[str, list[str]]:
    """Returns the column of the classes, and a note where it is the only one that can be meant."""
    left = [other for other in columns if other not in others]
    if name != LABEL or name in columns or len(left) != 1:
        return name, []
    return left[0], [f"{path} has no column {LABEL!r}: the classes are those of {left[0]!r}"]


def _column(path: pathlib.Path, columns: dict[str, list[str]], name: str, flag: str) -> list[str]:
    if name in columns:
        return columns[name]
    names = list(columns)
    hint = f": pass one of them as {flag}" if flag else f": call that of the sound files {name!r}"
    hint = lines_lib.separator_hint(names) or hint
    raise DataError(f"{path}, row 1: no column {name!r} among {names}{hint}")


def _named(path: pathlib.Path, columns: dict[str, list[str]], name: str, flag: str) -> list[str]:
    """Returns a column of names composed (NFC), in which form they are compared."""
    found = _column(path, columns, lines_lib.composed(name), flag)
    return [lines_lib.composed(value) for value in found]


def _clips(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folder in which Common Voice keeps the files of a table, if it exists."""
    return [path.parent / CLIPS] if (path.parent / CLIPS).is_dir() else []


def _find(
    path: pathlib.Path, files: list[str], lines: list[int], folders: Sequence[pathlib.Path]
) -> list[str]:
    """Returns the absolute path of every row; raises DataError for missing and repeated files."""
    found: list[str] = []
    missing: list[int] = []
    listed: dict[tuple[int, int], int] = {}
    for i, name in enumerate(files):
        names = dict.fromkeys((name.strip(), name.strip().replace("\\", "/")))
        places = [pathlib.Path(paths.on_disk(str(f / n))) for f in folders for n in names]
        here = next((p.resolve() for p in places if p.is_file()), None)
        found.append("" if here is None else paths.shown(here))
        if here is None:
            missing.append(i)
            continue
        stat = here.stat()
        key = stat.st_dev, stat.st_ino  # links give one file many names
        if key in listed:
            before = listed[key]
            raise DataError(f"{path}, row {lines[i]}: {name} was listed before, in row {before}")
        listed[key] = lines[i]
    if missing:
        i = missing[0]
        more = f" (and {len(missing) - 1} more rows)" if len(missing) > 1 else ""
        where = ", nor below ".join(dict.fromkeys(str(f.resolve()) for f in folders))
        raise DataError(
            f"{path}, row {lines[i]}{more}: there is no {files[i]} below {where}: give the folder "
            f"of the files as --root"
        )
    return found


def _left_out(
    path: pathlib.Path,
    labels: list[str],
    usable: np.ndarray,
    lines: list[int],
    sounds: list[str] | None,
) -> list[str]:
    """Returns notes on how many rows are not used, and why; sounds: their files, None for texts."""
    unusable = "have no text" if sounds is None else "cannot be read"
    reasons = {
        "have no label": [i for i, label in enumerate(labels) if not label],
        unusable: [i for i, label in enumerate(labels) if label and not usable[i]],
    }
    return [
        f"{len(rows)} of {len(labels)} rows of {path} {why} and are left out, the first is row "
        f"{lines[rows[0]]}{_why(sounds[rows[0]]) if sounds and why == unusable else ''}"
        for why, rows in reasons.items()
        if rows
    ]


def _why(file: str) -> str:
    reason = fault(file)
    return f" ({file}: {reason})" if reason else ""


def _given(path: pathlib.Path, values: list[str], lines: list[int]) -> list[str]:
    """Returns a column `split` in the terms of config.data."""
    for value, line in zip(values, lines, strict=True):
        if value.strip() not in SPLITS:
            raise DataError(f"{path}, row {line}: split is {value!r}: use train, valid or test")
    return [SPLITS[value.strip()] for value in values]


def divide(labels: Sequence[str], seed: int) -> list[str]:
    """Returns train, valid or test for each row, in the same shares for every class.

    A class of one row is in train only, one of two also in test; larger ones are in all three.
    """
    rng = np.random.default_rng(seed)
    out = np.full(len(labels), "train", object)
    values = np.array(labels)
    for name in sorted(set(labels)):
        rows = rng.permutation(np.flatnonzero(values == name))
        n = len(rows)
        tested = max(1, round((1 - SHARES[1]) * n)) if n > 1 else 0
        chosen = max(1, round((SHARES[1] - SHARES[0]) * n)) if n > 2 else 0
        out[rows[:tested]] = "test"
        out[rows[tested : tested + chosen]] = "valid"
    return out.tolist()


def divide_groups(groups: Sequence[str], seed: int) -> list[str]:
    """Returns train, valid or test for each row, in about these shares, without dividing groups."""
    names = sorted(set(groups))
    if len(names) < 3:
        raise DataError(f"--group has the values {names}: three are needed, one for each split")
    count = np.array([groups.count(name) for name in names])
    order = np.random.default_rng(seed).permutation(len(names))
    # groups that are larger than a split go to train
    order = order[np.argsort(count[order] <= (1 - SHARES[1]) * len(groups), kind="stable")]
    middle = (np.cumsum(count[order]) - count[order] / 2) / len(groups)
    place = np.searchsorted(SHARES, middle)
    place[-1] = 2
    if 1 not in place:
        place[-2] = 1
    place[0] = 0
    split = {names[i]: ("train", "valid", "test")[k] for i, k in zip(order, place, strict=True)}
    return [split[g] for g in groups]


def _check_splits(path: pathlib.Path, labels: list[str], splits: list[str]) -> None:
    trained = {label for label, split in zip(labels, splits, strict=True) if split == "train"}
    if not trained:
        raise DataError(f"{path}: no row has the split train")
    if set(splits) == {"train"}:
        raise DataError(f"{path}: no row has the split valid or test")
    unknown = sorted(set(labels) - trained)
    if unknown:
        raise DataError(
            f"{path}: class {unknown[0]!r} has no row in train, so a probe cannot learn it: add "
            f"some to train in a column 'split', or leave the class out"
        )
