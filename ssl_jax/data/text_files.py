"""Corpora of text: files of running text, and tables of sentences."""

import dataclasses
import fnmatch
import hashlib
import mmap
import os
import pathlib
import re
from collections.abc import Iterator

import numpy as np
import tqdm

from ssl_jax.core import paths, pulse
from ssl_jax.data import files, identity, manifests
from ssl_jax.data.errors import DataError, Unreadable
from ssl_jax.data.source import Items, text

_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n")
# A longer document is read in pieces of whole lines of about this many bytes.
_PIECE = 1 << 20


def text_files(path: pathlib.Path, options: dict) -> Items:
    """Reads a text file, or the files below a folder whose names match `pattern`.

    Options: `pattern` (globs, default ("*.txt", "*.md", "*.rst")); `documents`: "file", or
    "paragraph" for one document between blank lines. Column `folder` is the name of the parent.
    """
    patterns, kind = tuple(options["pattern"]), options["documents"]
    if kind not in ("file", "paragraph"):
        raise DataError(f"documents is {kind!r}: use 'file' or 'paragraph'")
    path = paths.fetched(path)
    names = _find(path, patterns) if path.is_dir() else [str(path)]
    if not names:
        raise DataError(f"no file below it matches pattern={patterns}: use such as ('*.py',)")
    if kind == "file":
        documents = Documents(text(names), np.arange(len(names)))
    else:
        documents = Documents(text(names), *_paragraphs(names))
    parents = text([os.path.basename(os.path.dirname(os.path.abspath(n))) for n in names])
    return Items(documents, len(documents.file), {"folder": parents[documents.file]})


def text_table(path: pathlib.Path, options: dict) -> Items:
    """Reads a table with a header: .csv with commas, else tabs; a row is an example.

    Option `columns`: the column of the text, or the two of a pair of texts (default: the columns
    "sentence", or "sentence1" and "sentence2"). The other columns are kept, such as "label".
    """
    columns, numbers = manifests.read_table(path)
    wanted = tuple(options["columns"])
    if not wanted:
        wanted = ("sentence",) if "sentence" in columns else ("sentence1", "sentence2")
    missing = [name for name in wanted if name not in columns]
    if missing or len(wanted) > 2:
        raise DataError(
            f"columns is {wanted}, one or two of {sorted(columns)} are needed: name those of the "
            "text, such as columns=('sentence',)"
        )
    parts = tuple(text(columns.pop(name)) for name in dict.fromkeys(wanted))
    reader = Table(str(path), np.array(numbers, np.int64), parts)
    return Items(reader, len(numbers), {k: text(v) for k, v in columns.items()})


@dataclasses.dataclass(frozen=True)
class Documents:
    """Reads documents: `file` (n,) is the place in `names`, `start` and `stop` (n,) bytes of it.

    `start` and `stop` are None where a document is a whole file.
    """

    names: np.ndarray
    file: np.ndarray
    start: np.ndarray | None = None
    stop: np.ndarray | None = None
    parts = 1

    def where(self, row: int) -> str:
        """Names the file, the bytes and the row."""
        name = self.names[self.file[row]]
        if self.start is None or self.stop is None:
            return f"{name}, row {row + 1}"
        return f"{name}, bytes {self.start[row]} to {self.stop[row]}, row {row + 1}"

    def read(self, row: int, part: int = 0) -> Iterator[str]:
        """Yields the text of a document in pieces that end with a line. Raises Unreadable."""
        del part
        try:
            with open(self.names[self.file[row]], "rb") as f:
                if self.start is not None and self.stop is not None:
                    at = f.seek(self.start[row])
                    yield _decoded(f.read(int(self.stop[row]) - at), at)
                    return
                while lines := f.readlines(_PIECE):
                    data = b"".join(lines)
                    yield _decoded(data, f.tell() - len(data))
        except OSError as e:
            raise Unreadable(str(e)) from e

    def places(self) -> identity.Places:
        """Returns the file of each row, and the byte where it begins."""
        whole = np.full(len(self.file), identity.WHOLE)
        start = whole if self.start is None else self.start
        return identity.Places([str(n) for n in self.names], self.file, start)

    def sign(self, rows: np.ndarray) -> str:
        """Returns what changes with the text of these rows."""
        digest = hashlib.sha256(files.fingerprint([str(n) for n in self.names]).encode())
        for column in (self.file, self.start, self.stop):
            digest.update(b"-" if column is None else column[rows].tobytes())
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Table:
    """Reads rows of a table: `texts` are one or two columns (n,), `lines` (n,) their lines."""

    path: str
    lines: np.ndarray
    texts: tuple[np.ndarray, ...]

    @property
    def parts(self) -> int:
        """How many texts an example has."""
        return len(self.texts)

    def where(self, row: int) -> str:
        """Names the table and the row."""
        return f"{self.path}, row {self.lines[row]}"

    def read(self, row: int, part: int = 0) -> Iterator[str]:
        """Yields the text of a row's first or second part."""
        yield str(self.texts[part][row])

    def places(self) -> identity.Places:
        """Returns the table, and the line of each row."""
        return identity.Places([self.path], np.zeros(len(self.lines), np.int64), self.lines)

    def sign(self, rows: np.ndarray) -> str:
        """Returns what changes with the text of these rows."""
        digest = hashlib.sha256()
        for column in self.texts:
            for value in column[rows]:
                digest.update(f"{len(value)}:{value}".encode("utf-8", "replace"))
        return digest.hexdigest()


def _decoded(data: bytes, at: int) -> str:
    """Returns the text of bytes that lie `at` bytes from the start of their file."""
    try:
        return data.decode()
    except UnicodeDecodeError as e:
        raise Unreadable(f"not UTF-8 text: {e.reason} at byte {at + e.start}") from e


def _find(path: pathlib.Path, patterns: tuple[str, ...]) -> list[str]:
    """Lists the files below a folder whose names match, sorted."""
    names = identity.below(
        path, lambda n: n[0] != "." and any(fnmatch.fnmatch(n, p) for p in patterns), "files"
    )
    # In the order of their paths as the system writes them.
    return sorted(os.path.join(path, *name.split("/")) for name in names)


def _paragraphs(names: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns file, start and stop (n,) of the paragraphs, found once and kept in the cache."""
    index = paths.cache() / f"paragraphs-{files.fingerprint(names)}.npz"
    if index.exists():
        with np.load(index) as kept:
            return kept["number"], kept["start"], kept["stop"]
    file, start, stop = [], [], []
    bar = tqdm.tqdm(names, "finding paragraphs", unit="file", delay=2)
    for number, name in enumerate(pulse.along(bar)):
        for first, last in _spans(name):
            file.append(number)
            start.append(first)
            stop.append(last)
    found = tuple(np.array(x, np.int64) for x in (file, start, stop))
    files.save_index(index, number=found[0], start=found[1], stop=found[2])
    return found[0], found[1], found[2]


def _spans(name: str) -> Iterator[tuple[int, int]]:
    """Yields (start, stop) in bytes of what lies between blank lines of a file."""
    size = os.path.getsize(name)
    if not size:
        return
    with open(name, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
        first = 0
        for blank in _BLANK_LINE.finditer(data):
            # Several blank lines in a row leave nothing between them.
            if data[first : blank.start()].strip():
                yield first, blank.start()
            first = blank.end()
        if data[first:].strip():
            yield first, size
