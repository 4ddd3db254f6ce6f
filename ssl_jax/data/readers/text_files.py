"""Corpora of text: files of running text, and tables of sentences."""

import dataclasses
import fnmatch
import hashlib
import mmap
import os
import pathlib
import re
from collections.abc import Iterator
from typing import IO

import numpy as np

from ssl_jax.core import atomic, paths, progress, pulse
from ssl_jax.data.errors import DataError, Unreadable
from ssl_jax.data.readers import files, folders, identity, lines
from ssl_jax.data.readers.base import Items, text

_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n")
# A longer document is read in blocks of whole lines of about this many bytes.
_BLOCK = 1 << 20


def text_files(path: pathlib.Path, options: dict) -> Items:
    """Reads a text file, or the files below a folder whose names match `pattern`.

    Options: `pattern` (globs, default ("*.txt", "*.md", "*.rst")); `documents`: "file", or
    "paragraph" to separate documents at blank lines. Column `folder` is the name of the parent.
    """
    patterns, kind = tuple(options["pattern"]), options["documents"]
    if kind not in ("file", "paragraph"):
        raise DataError(f"documents is {kind!r}: use 'file' or 'paragraph'")
    path = paths.fetched(path)
    names = [paths.shown(path)]
    if path.is_dir():
        names = _find(path, patterns)
        folders.warn_unread_below(path, tuple(p.removeprefix("*") for p in patterns))
    if not names:
        raise DataError(f"no file below it matches pattern={patterns}: use globs like ('*.py',)")
    if kind == "file":
        documents = Documents(text(names), np.arange(len(names)))
    else:
        documents = Documents(text(names), *_paragraphs(names))
    parents = text([os.path.basename(os.path.dirname(os.path.abspath(n))) for n in names])
    return Items(documents, len(documents.file), {"folder": parents[documents.file]})


def text_table(path: pathlib.Path, options: dict) -> Items:
    """Reads a table with a header: .csv with commas, else tabs; a row is an example.

    Option `columns`: the column of the text, or both columns of a pair of texts (default:
    "sentence", or "sentence1" and "sentence2"). The other columns, such as "label", are kept.
    """
    columns, numbers = lines.read_table(path)
    wanted = tuple(options["columns"])
    if not wanted:
        wanted = ("sentence",) if "sentence" in columns else ("sentence1", "sentence2")
    missing = [name for name in wanted if name not in columns]
    if missing or len(wanted) > 2:
        raise DataError(
            f"columns is {wanted}: name one or two of {sorted(columns)}, those of the text, as in "
            "columns=('sentence',)"
        )
    parts = tuple(text(columns.pop(name)) for name in dict.fromkeys(wanted))
    reader = Table(str(path), np.array(numbers, np.int64), parts)
    return Items(reader, len(numbers), {k: text(v) for k, v in columns.items()})


@dataclasses.dataclass(frozen=True)
class Documents:
    """Reads documents: `file` (n,) indexes `names`; `start` and `stop` (n,) are bytes in the file.

    `start` and `stop` are None if documents are whole files.
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
        """Yields the text of a document in blocks of whole lines. Raises Unreadable."""
        del part
        try:
            with open(paths.on_disk(str(self.names[self.file[row]])), "rb") as f:
                if self.start is not None and self.stop is not None:
                    at = f.seek(self.start[row])
                    yield from _blocks(f, at, int(self.stop[row]), lines.LIMIT)
                else:
                    yield from _blocks(f, 0, None, _BLOCK)
        except OSError as e:
            raise Unreadable(str(e)) from e

    def places(self) -> identity.Places:
        """Returns the file of each row, and the byte at which it begins."""
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
        """The number of texts in an example."""
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


def _blocks(file: IO[bytes], at: int, stop: int | None, size: int) -> Iterator[str]:
    """Yields the text of a file from byte `at` to `stop`, in blocks of a little more than `size`.

    A block ends at the end of a line; a line longer than lines.LIMIT is cut after a space.
    """
    while stop is None or at < stop:
        room = None if stop is None else stop - at
        data = file.read(size if room is None else min(size, room))
        more = lines.LIMIT if room is None else min(lines.LIMIT, room - len(data))
        data += file.readline(more)
        if not data:
            return
        if len(data) >= lines.LIMIT and not data.endswith(b"\n"):
            data = data[: _cut(data)]
            file.seek(at + len(data))
        yield _decoded(data, at)
        at += len(data)


def _cut(data: bytes) -> int:
    """Returns where to cut a line: after its last space, or else before its last character."""
    blank = max(data.rfind(b" "), data.rfind(b"\n"))
    if blank > 0:
        return blank + 1
    end = len(data) - 1
    while end > 1 and data[end] & 0xC0 == 0x80:  # inside a character
        end -= 1
    return end


def _decoded(data: bytes, at: int) -> str:
    """Returns the text of bytes at offset `at` of their file."""
    if b"\0" in data:
        raise Unreadable(f"not UTF-8 text: a NUL at byte {at + data.index(bytes(1))}")
    try:
        return data.decode("utf-8-sig" if not at else "utf-8")
    except UnicodeDecodeError as e:
        raise Unreadable(f"not UTF-8 text: {e.reason} at byte {at + e.start}") from e


def _find(path: pathlib.Path, patterns: tuple[str, ...]) -> list[str]:
    """Lists the files below a folder whose names match, sorted."""
    names = identity.below(
        path, lambda n: n[0] != "." and any(fnmatch.fnmatch(n, p) for p in patterns), "files"
    )
    # In the order of full paths with the separators of the system.
    return sorted(paths.shown(os.path.join(path, *name.split("/"))) for name in names)


def _paragraphs(names: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns file, start and stop (n,) of the paragraphs, found once and then cached."""
    index = paths.cache() / f"paragraphs-{files.fingerprint(names)}.npz"
    kept = atomic.read_arrays(index, ("number", "start", "stop"))
    if kept is not None:
        return kept["number"], kept["start"], kept["stop"]
    file, start, stop = [], [], []
    bar = progress.along(names, "finding paragraphs in files")
    for number, name in enumerate(pulse.along(bar)):
        for first, last in _spans(name):
            file.append(number)
            start.append(first)
            stop.append(last)
    found = tuple(np.array(x, np.int64) for x in (file, start, stop))
    files.save_index(index, number=found[0], start=found[1], stop=found[2])
    return found[0], found[1], found[2]


def _spans(name: str) -> Iterator[tuple[int, int]]:
    """Yields (start, stop) in bytes of the paragraphs between the blank lines of a file."""
    name = paths.on_disk(name)
    size = os.path.getsize(name)
    if not size:
        return
    with open(name, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
        first = 0
        for blank in _BLANK_LINE.finditer(data):
            # Between consecutive blank lines there is nothing.
            if data[first : blank.start()].strip():
                yield first, blank.start()
            first = blank.end()
        if data[first:].strip():
            yield first, size
