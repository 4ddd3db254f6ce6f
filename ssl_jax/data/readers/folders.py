"""Corpora that are described by their folder layout."""

import collections
import os
import pathlib
import warnings
from collections.abc import Iterable

import numpy as np

from ssl_jax.core import paths as paths_lib
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import ffmpeg, identity, lines
from ssl_jax.data.readers.base import Rows, text
from ssl_jax.data.readers.files import Files, headers

EXTENSIONS = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".aiff", ".aif", ".aifc"),
    *(".au", ".snd", ".caf", ".sph", ".nist", ".w64", ".rf64", ".wave", *ffmpeg.EXTENSIONS),
)
# Extensions of tables, transcripts and notes that lie next to recordings.
_NOTES = (".txt", ".csv", ".tsv", ".json", ".md")


def folder(path: pathlib.Path, options: dict) -> Rows:
    """Reads every sound file below a folder; column `folder` is the name of its parent."""
    del options
    paths = find(path)
    if paths:
        warn_unread_below(path, EXTENSIONS)
    else:
        there = collections.Counter(os.path.splitext(p)[1] or p for p in find(path, ("",)))
        names = ", ".join(f"{n} {kind}" for kind, n in there.most_common(5)) or "nothing"
        raise DataError(f"no sound file ({', '.join(EXTENSIONS)}) below it: it holds {names}")
    parents = [os.path.basename(os.path.dirname(os.path.join(path, p))) for p in paths]
    return rows_of(path, paths, {"folder": text(parents)})


def speech_commands(path: pathlib.Path, options: dict) -> Rows:
    """Reads Google Speech Commands: word/<speaker>_nohash_<n>.wav and the two official lists.

    Columns: label (the word), speaker, split (train, valid, test). Option `split` keeps one of the
    splits, or "all"; folders such as _background_noise_ are left out.
    """
    split = options["split"]
    if split not in ("train", "valid", "test", "all"):
        raise DataError(f"split is {split!r}: use 'train', 'valid', 'test' or 'all'")
    lists = {"valid": "validation_list.txt", "test": "testing_list.txt"}
    listed = {}
    for name, file in lists.items():
        if not (path / file).exists():
            if split == "all":
                continue
            raise DataError(f"{path} has no {file}: without the lists use split='all'")
        for _, line in lines.filled(path / file):
            listed[lines.composed(line.strip().replace("\\", "/"))] = name
    # Only word/clip: noise folders, which start with _, and deeper ones are left out.
    paths = [p for p in find(path) if not p.startswith("_") and p.count("/") == 1]
    splits = [listed.get(lines.composed(p), "train") for p in paths]
    keep = [i for i, s in enumerate(splits) if split in ("all", s)]
    paths = [paths[i] for i in keep]
    columns = {
        "label": text([p.split("/")[0] for p in paths]),
        "speaker": text([p.split("/")[1].split("_nohash_")[0] for p in paths]),
        "split": text([splits[i] for i in keep]),
    }
    return rows_of(path, paths, columns)


def librispeech(path: pathlib.Path, options: dict) -> Rows:
    """Reads LibriSpeech: <split>/<speaker>/<chapter>/*.flac with one trans.txt per chapter.

    Columns: text, speaker, chapter, split. Option `splits` names the folders to read, such as
    ("train-clean-100",); () means all. If no chapter has transcripts, there is no column text;
    if some have, a recording without one is an error.
    """
    splits = tuple(options["splits"]) or tuple(p.name for p in sorted(path.iterdir()) if p.is_dir())
    missing = [s for s in splits if not (path / s).is_dir()]
    if missing:
        raise DataError(f"{path} has no folder {missing[0]!r}, which splits={splits} names")
    paths = [f"{s}/{p}" for s in splits for p in find(path / s) if p.count("/") == 2]
    parts = [p.split("/") for p in paths]
    chapters = sorted({os.path.dirname(p) for p in paths})
    spoken = {key: words for c in chapters for key, words in _transcripts(path, c)}
    columns = {
        **({"text": _text_column(path, paths, spoken)} if spoken else {}),
        "speaker": text([p[1] for p in parts]),
        "chapter": text([p[2] for p in parts]),
        "split": text([p[0] for p in parts]),
    }
    return rows_of(path, paths, columns)


def _transcripts(path: pathlib.Path, chapter: str) -> list[tuple[str, str]]:
    """Returns (chapter/utterance, words) of one chapter."""
    files = sorted((path / chapter).glob("*.trans.txt"))
    found = [lines.pairs(file, "utterance WORDS") for file in files]
    return [
        (lines.composed(f"{chapter}/{key}"), words)
        for one in found
        for key, (_, words) in one.items()
    ]


def _text_column(path: pathlib.Path, paths: list[str], spoken: dict[str, str]) -> np.ndarray:
    """Returns the transcript of every recording; raises DataError if one is missing."""
    keys = [lines.composed(os.path.splitext(p)[0]) for p in paths]
    missing = [p for p, key in zip(paths, keys, strict=True) if key not in spoken]
    if missing:
        raise DataError(
            f"{path / missing[0]} has no row in a *.trans.txt of its folder ({len(missing)} of "
            f"{len(paths)} recordings have none): add it, or leave the folder out of splits"
        )
    return text([spoken[key] for key in keys])


def find(path: pathlib.Path, extensions: tuple[str, ...] = EXTENSIONS) -> list[str]:
    """Lists the files with these extensions below a folder: sorted, relative, forward slashes.

    Each file is listed once, however many links lead to it; see `identity.below`. Names are made
    printable by `paths.shown`.
    """
    if paths_lib.is_remote(path):
        found = paths_lib.files_below(path)
        return [n for n in found if n.lower().endswith(extensions) and n.split("/")[-1][0] != "."]
    # A listing of all files does not warn.
    what = "" if "" in extensions else "files"
    names = identity.below(path, lambda n: n.lower().endswith(extensions) and n[0] != ".", what)
    return [paths_lib.shown(name) for name in names]


def beside(path: pathlib.Path, ending: str) -> list[str]:
    """Lists the files directly in a folder with this ending, sorted, each file once."""
    names = [p.name for p in path.glob(f"*{ending}")]
    return identity.once(path, names, f"*{ending}")


def warn_unread_below(path: pathlib.Path, read: tuple[str, ...]) -> None:
    """Warns once about files below a folder whose extensions are not read."""
    warn_unread(find(path, ("",)), f"below {path}", read)


def warn_unread(names: Iterable[str], where: str, read: tuple[str, ...]) -> None:
    """Warns about names with other extensions than `read`, except tables and notes."""
    others = [n for n in names if not n.lower().endswith((*read, *_NOTES))]
    if not others:
        return
    ends = collections.Counter(os.path.splitext(n)[1] or os.path.basename(n) for n in others)
    kinds = " ".join(f"{kind} ({n})" for kind, n in ends.most_common(8))
    more = f" and {len(ends) - 8} more" if len(ends) > 8 else ""
    warnings.warn(
        f"{len(others)} files {where} with extensions {kinds}{more} are not read; the extensions "
        f"that are: {' '.join(read)}",
        stacklevel=3,
    )


def rows_of(path: pathlib.Path, paths: list[str], columns: dict[str, np.ndarray]) -> Rows:
    """Returns the rows of these files below a folder, with their lengths, rates and columns."""
    files = Files(str(path), text(paths))
    states = identity.states(files.places().files)
    samples, rates = headers(files.root, files.paths, states)
    return Rows(files, samples, rates, columns, states)
