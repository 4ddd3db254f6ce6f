"""Reads the rows of all text files: tables, manifests, transcripts, lexicons, alignments.

Text is UTF-8 on every machine, and a byte order mark is removed. A row ends with a line feed, with
or without a carriage return before it; in a file without line feeds it ends with a carriage return.
No other character ends a row. Anything else is an error that names the file and the row.
"""

import contextlib
import csv
import io
import re
import unicodedata
from collections.abc import Iterator
from typing import IO

from ssl_jax.core import paths
from ssl_jax.data.errors import DataError

LIMIT = 1 << 24
"""Bytes of the longest row, so that memory is bounded."""
_CHUNK = 1 << 20
_MARK = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_BLANKS = re.compile(r"[ \t]+")


def rows(path: paths.Path) -> Iterator[tuple[int, str]]:
    """Yields (row from 1, its text) of every row, empty ones too. Raises DataError."""
    n = 1
    for block in _blocks(path):
        found = _decoded(block, path, n).split("\n")
        if not found[-1]:
            found.pop()  # nothing follows the end of the last row
        for line in found:
            yield n, line.rstrip("\r")
            n += 1


def filled(path: paths.Path) -> Iterator[tuple[int, str]]:
    """Yields (row from 1, its text) of the rows that are not blank."""
    for n, line in rows(path):
        if line and not line.isspace():
            yield n, line


def words(line: str) -> list[str]:
    """Splits a line at spaces and tabs; other white space is part of a word."""
    return _BLANKS.split(line.strip(" \t"))


def pairs(path: paths.Path, fields: str) -> dict[str, tuple[int, str]]:
    """Reads rows of a key and, after spaces or tabs, a value -> {key: (row, value)}.

    fields: names for messages, such as "utterance speaker". Raises DataError for a row without a
    value, unless it is optional as in "utterance [WORDS]", and for a repeated key.
    """
    out: dict[str, tuple[int, str]] = {}
    for n, line in filled(path):
        key, *rest = _BLANKS.split(line.strip(" \t"), maxsplit=1)
        key = composed(key)
        if key in out:
            raise DataError(f"{path}, row {n}: {key!r} was listed before, in row {out[key][0]}")
        if not rest and not fields.endswith("]"):
            raise DataError(f"{path}, row {n}: expected {fields!r}, found {line[:80]!r}")
        out[key] = (n, "".join(rest))
    return out


def composed(text: str) -> str:
    """Returns text with every accent joined to its letter (NFC), as most programs write it.

    Text is compared in this form, because file names from a Mac are decomposed.
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def read_table(path: paths.Path, needed: str = "") -> tuple[dict[str, list[str]], list[int]]:
    """Returns the columns of a table with a header, and the file row of each table row.

    A .csv has commas and quotes, any other file tabs and no quotes. Raises DataError if the column
    `needed` is missing, a name is repeated, or a row has another number of fields.
    """
    comma = path.suffix.lower() == ".csv"
    found = _commas(path) if comma else _tabs(path)
    names = [composed(name) for name in next(found, (0, []))[1]]
    _check_names(path, names, needed)
    columns: dict[str, list[str]] = {name: [] for name in names}
    adders = [columns[name].append for name in names]
    numbers = []
    for n, row in found:
        if len(row) != len(names):
            hint = f" {', '.join(names)}" if len(names) < 9 else ""
            raise DataError(f"{path}, row {n}: {len(row)} fields under {len(names)} names{hint}")
        for add, value in zip(adders, row, strict=True):
            add(value)
        numbers.append(n)
    return columns, numbers


def _check_names(path: paths.Path, names: list[str], needed: str) -> None:
    """Raises DataError for a header in which a name is repeated or `needed` is missing."""
    if not names:
        raise DataError(f"{path} is empty: expected a header, such as path,label")
    for i, name in enumerate(names):
        if name in names[:i]:
            both = f"columns {names.index(name) + 1} and {i + 1}"
            raise DataError(
                f"{path}, row 1: {both} are both named {name!r}: give every column its own name"
            )
    if needed and needed not in names:
        raise DataError(f"{path}, row 1: no column {needed!r} among {names}{separator_hint(names)}")


def separator_hint(names: list[str]) -> str:
    """Returns a hint for a header that seems to use another separator, or ""."""
    if len(names) == 1 and any(mark in names[0] for mark in ",;\t"):
        return ": a .csv has commas between its fields, any other file tabs"
    return ""


def _tabs(path: paths.Path) -> Iterator[tuple[int, list[str]]]:
    for n, line in rows(path):
        if line:
            yield n, line.split("\t")


def _commas(path: paths.Path) -> Iterator[tuple[int, list[str]]]:
    """Yields (row at which it begins, fields) of a .csv, whose quotes may span several rows."""
    before = csv.field_size_limit(LIMIT)
    reader = csv.reader((line + "\n" for _, line in rows(path)), strict=True)
    try:
        while True:
            first = reader.line_num + 1
            try:
                row = next(reader)
            except csv.Error as e:
                raise DataError(f"{path}, row {first}: {_why(e)}") from e
            if row:
                yield first, row
    except StopIteration:
        return
    finally:
        csv.field_size_limit(before)


def _why(error: csv.Error) -> str:
    """Returns what is wrong with a row of a .csv, and how to fix it."""
    message = str(error)
    if "field limit" in message:
        return f"a field is longer than {LIMIT} bytes: close its quotes, or shorten it"
    if "unexpected end" in message or "expected after" in message:
        return "a field opens quotes and does not end with them: double the quotes inside a field"
    if "new-line" in message:
        return "a carriage return inside a row: remove it, or put the field in quotes"
    return f"not a row of a .csv ({message})"


def _blocks(path: paths.Path) -> Iterator[bytes]:
    """Yields the bytes of a file in blocks of whole rows; raises DataError for a row too long."""
    with _opened(path) as file:
        head = file.read(_CHUNK)
        if head.startswith(_UTF16):
            raise DataError(f"{path} is UTF-16: save it as UTF-8")
        old = b"\n" not in head and b"\r" in head[:-1]  # the convention of Mac OS 9
        part, kept, n = head.removeprefix(_MARK), b"", 1
        while part:
            part = part.replace(b"\r", b"\n") if old else part
            cut = part.rfind(b"\n") + 1
            if cut:
                yield kept + part[:cut]
                n += kept.count(b"\n") + part.count(b"\n")
                kept = b""
            kept += part[cut:]
            if len(kept) > LIMIT:
                raise DataError(
                    f"{path}, row {n}: longer than {LIMIT} bytes: is it a text file with one row "
                    "per line?"
                )
            part = file.read(_CHUNK)
        if kept:
            yield kept


def _opened(path: paths.Path) -> contextlib.AbstractContextManager[IO[bytes]]:
    if paths.is_remote(path):
        return io.BytesIO(paths.read(path))
    return path.open("rb")


def _decoded(block: bytes, path: paths.Path, n: int) -> str:
    """Returns the text of whole rows, the first of which is row n; raises DataError."""
    if b"\0" in block:
        n += block.count(b"\n", 0, block.index(b"\0"))
        raise DataError(f"{path}, row {n}: it has a NUL byte: the file is not text, or damaged")
    try:
        return block.decode("utf-8")
    except UnicodeDecodeError as e:
        n += block.count(b"\n", 0, e.start)
        raise DataError(
            f"{path}, row {n}: not UTF-8 text: {e.reason}, byte 0x{block[e.start]:02x}: save the "
            "file as UTF-8"
        ) from e
