"""Tables of data sets as they are published: `python -m ssl_jax.convert index --layout fsdd ...`.

A layout lists the files of an unpacked download with what their names and notes say. The columns
are those that the programs in experiments/ read.
"""

import csv
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.core import atomic
from ssl_jax.data import cifar10
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import folders, lines
from ssl_jax.data.readers.base import text
from ssl_jax.data.readers.files import fault, headers

Row = dict[str, Any]
TIMIT_RATE = 16000  # of the times in its notes, which are in samples
GRID_UNITS, GRID_FRAMES = 25000, 25  # a second in the notes of GRID, and in its videos
NLTK_TEST = ("dr3", "dr7")  # dialects of the test, in the sample of TIMIT, which has no split
# the names of ESC-10 that those of ESC-50 replaced
ESC10 = {"dog": "dog_bark", "crackling_fire": "fire_crackling"}
ESC10 |= {"crying_baby": "baby_cry", "sneezing": "person_sneeze"}


class Layout(NamedTuple):
    """A published data set: the columns of its table, its rows below a folder, and its licence."""

    columns: tuple[str, ...]
    rows: Callable[[pathlib.Path], Iterable[Row]]
    licence: str


def write(layout: str, source: pathlib.Path, target: pathlib.Path, every: int = 1) -> int:
    """Writes target/index.tsv with every n-th row of a data set, and returns how many these are.

    Paths are relative to `source` if the table lies there, else absolute. Raises DataError for a
    folder of another layout, naming what it lacks, and for a recording that cannot be read.
    """
    if layout == cifar10.NAME:
        return cifar10.write(source, target)
    columns, rows_of, _ = LAYOUTS[layout]
    if not source.is_dir():
        raise DataError(f"--from {source} is not a folder: give that of the unpacked download")
    rows = [*rows_of(source)][::every]
    if not rows:
        raise DataError(f"--from {source} has no files of the layout {layout!r}")
    if "seconds" not in rows[0]:
        _measure(source, rows)
    if target.resolve() != source.resolve():
        rows = [{**row, "path": str((source / row["path"]).resolve())} for row in rows]
    table = [columns, *([str(row[name]) for name in columns] for row in rows)]
    target.mkdir(parents=True, exist_ok=True)
    atomic.write_text(target / "index.tsv", "".join("\t".join(row) + "\n" for row in table))
    return len(rows)


def _measure(source: pathlib.Path, rows: list[Row]) -> None:
    """Adds the seconds of recordings, from their headers."""
    samples, rates = headers(str(source), text([row["path"] for row in rows]))
    bad = np.flatnonzero(rates == 0)
    if len(bad):
        file = str(source / rows[bad[0]]["path"])
        raise DataError(f"{file}: {fault(file)}: copy it again")
    for row, seconds in zip(rows, samples / rates, strict=True):
        row["seconds"] = f"{seconds:.3f}"


def _files(folder: pathlib.Path, endings: tuple[str, ...], what: str) -> list[str]:
    """Returns the sorted files below a folder with these endings, in any case."""
    found = folders.find(folder, endings)
    if not found:
        raise DataError(f"--from {folder} has no {what}")
    return found


def _needed(path: pathlib.Path) -> pathlib.Path:
    if not path.exists():
        raise DataError(f"there is no {path}: give the folder of the unpacked download as --from")
    return path


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def fsdd(folder: pathlib.Path) -> Iterator[Row]:
    """Reads recordings/7_jackson_32.wav; takes 0 to 4 of each digit and speaker are the test."""
    for path in _files(folder, (".wav", ".flac"), "recordings/<digit>_<speaker>_<take>.wav"):
        found = re.fullmatch(r"(\d)_(\w+)_(\d+)", _stem(path))
        if found:
            split = "test" if int(found[3]) < 5 else "train"
            yield {"path": path, "digit": found[1], "speaker": found[2], "split": split}


def esc50(folder: pathlib.Path) -> Iterator[Row]:
    """Reads meta/esc50.csv and audio/."""
    with open(_needed(folder / "meta" / "esc50.csv"), encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            path = f"audio/{row['filename']}"
            yield {"path": path, "label": row["category"], "fold": row["fold"], "10": row["esc10"]}


def esc10(folder: pathlib.Path) -> Iterator[Row]:
    """Reads the rows of ESC-50 that are ESC-10, with its names of the classes."""
    for row in esc50(folder):
        if row["10"].lower() == "true":
            yield {**row, "label": ESC10.get(row["label"], row["label"])}


def speechocean762(folder: pathlib.Path) -> Iterator[Row]:
    """Reads the training part: train/wav.scp, utt2spk, spk2age and spk2gender, and scores.json."""
    train = folder / "train"
    files = lines.pairs(_needed(train / "wav.scp"), "utterance path")
    about = [lines.pairs(_needed(train / n), "name value") for n in ("spk2age", "spk2gender")]
    speakers = lines.pairs(_needed(train / "utt2spk"), "utterance speaker")
    scores = json.loads(_needed(folder / "resource" / "scores.json").read_text("utf-8"))
    for key, (_, path) in sorted(files.items()):
        speaker = speakers[key][1]
        age, gender = (values[speaker][1] for values in about)
        words = scores[key]["words"]
        phones = [_phones(word) for word in words]
        yield {
            "path": path,
            "speaker": speaker,
            "age": age,
            "gender": gender,
            "words": scores[key]["text"],
            "phones": " | ".join(" ".join(names) for names, _ in phones),
            "phone_scores": " | ".join(" ".join(values) for _, values in phones),
        }


def _phones(word: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Returns the phones of a word, and the mean scores of its experts; "?": unscored."""
    names = word["phones"].split() if isinstance(word["phones"], str) else word["phones"]
    values = word.get("phones-accuracy") or []
    if len(values) != len(names):
        return names, ["?"] * len(names)
    return names, [f"{value:.1f}" for value in values]


def timit(folder: pathlib.Path) -> Iterator[Row]:
    """Reads TRAIN/DR1/FCJF0/SA1.WAV with .TXT, .WRD and .PHN, or NLTK's dr1-fvmh0/sa1.wav."""
    for path in _files(folder, (".wav",), "TRAIN/DR1/<speaker>/<sentence>.WAV"):
        parts = [part.lower() for part in path.split("/")]
        if "-" in parts[-2]:
            speaker = parts[-2]
            split = "test" if speaker.startswith(NLTK_TEST) else "train"
        else:
            speaker = "-".join(parts[-3:-1])
            split = "test" if "test" in parts[:-3] else "train"
        words, phones = (_timit_notes(folder, path, kind) for kind in (".wrd", ".phn"))
        said = _timit_notes(folder, path, ".txt")
        yield {
            "path": path,
            "words": " ".join(word for _, _, word in words),
            "split": split,
            "sex": speaker.partition("-")[2][0],
            "speaker": speaker,
            "text": said[0][2],
            "word_times": _times(words),
            "phone_times": _times(phones),
        }


def _timit_notes(folder: pathlib.Path, path: str, ending: str) -> list[tuple[int, int, str]]:
    """Returns (first sample, last sample, text) of the notes beside a recording."""
    file = folder / (os.path.splitext(path)[0] + ending)
    file = file if file.exists() else file.with_suffix(ending.upper())
    rows = [line.split(maxsplit=2) for _, line in lines.filled(_needed(file))]
    return [(int(first), int(last), said.strip()) for first, last, said in rows]


def _times(notes: list[tuple[int, int, str]]) -> str:
    return " ".join(f"{x}:{a / TIMIT_RATE:.3f}-{b / TIMIT_RATE:.3f}" for a, b, x in notes)


def grid(folder: pathlib.Path) -> Iterator[Row]:
    """Reads s1/*.mpg and align/*.align; of ten sentences, one is for validation and one a test."""
    notes = {_stem(p): p for p in _files(folder, (".align",), "align/<sentence>.align")}
    for i, path in enumerate(_files(folder, (".mpg", ".mp4"), "s1/<sentence>.mpg")):
        if _stem(path) not in notes:
            raise DataError(f"{folder / path} has no {_stem(path)}.align below {folder}")
        rows = [line.split() for _, line in lines.filled(folder / notes[_stem(path)])]
        spoken = [row for row in rows if row[2] not in ("sil", "sp")]
        times = [[f"{int(t) / GRID_UNITS:.2f}" for t in row[:2]] for row in spoken]
        seconds = int(rows[-1][1]) / GRID_UNITS
        yield {
            "path": path,
            "transcript": " ".join(row[2] for row in spoken),
            "split": {4: "valid", 9: "test"}.get(i % 10, "train"),
            "seconds": f"{seconds:.2f}",
            "frames": round(seconds * GRID_FRAMES),
            "word_times": " ".join("-".join(pair) for pair in times),
        }


def ljspeech(folder: pathlib.Path) -> Iterator[Row]:
    """Reads metadata.csv and wavs/; every sixth clip is for the test."""
    for i, (_, line) in enumerate(lines.filled(_needed(folder / "metadata.csv"))):
        name, _, said = line.split("|", 2)
        words = re.sub(r"[^a-z' ]+", " ", said.lower())
        yield {
            "path": f"wavs/{name}.wav",
            "words": " ".join(words.split()),
            "split": "test" if i % 6 == 5 else "train",
            "text": said,
        }


def librosa(folder: pathlib.Path) -> Iterator[Row]:
    """Reads librosa's example recordings, *.ogg, without their larger twins, *.hq.ogg."""
    for path in _files(folder, (".ogg",), "*.ogg"):
        if not path.endswith(".hq.ogg"):
            yield {"path": path, "credit": re.sub("[-_ ]+", " ", _stem(path))}


LAYOUTS: dict[str, Layout] = {
    "fsdd": Layout(("path", "digit", "speaker", "split", "seconds"), fsdd, "CC BY-SA 4.0"),
    "esc50": Layout(("path", "label", "fold", "seconds"), esc50, "CC BY-NC 3.0"),
    "esc10": Layout(("path", "label", "fold", "seconds"), esc10, "CC BY 3.0"),
    "speechocean762": Layout(
        ("path", "speaker", "age", "gender", "seconds", "words", "phones", "phone_scores"),
        speechocean762,
        "CC BY 4.0",
    ),
    "timit": Layout(
        (
            *("path", "words", "split", "seconds", "sex", "speaker", "text"),
            *("word_times", "phone_times"),
        ),
        timit,
        "LDC; NLTK's sample CC BY-NC-SA",
    ),
    "grid": Layout(
        ("path", "transcript", "split", "seconds", "frames", "word_times"), grid, "CC BY 4.0"
    ),
    "ljspeech": Layout(("path", "words", "split", "seconds", "text"), ljspeech, "public domain"),
    "librosa": Layout(("path", "seconds", "credit"), librosa, "of each recording: its README"),
}
LICENCES = {name: layout.licence for name, layout in LAYOUTS.items()}
LICENCES[cifar10.NAME] = "none stated"
