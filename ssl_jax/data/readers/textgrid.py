"""TextGrid files of Praat, in the long and the short text format.

Both hold the same values in the same order: texts in quotes, numbers, and flags such as <exists>.
All else is a label of the long format. So, as Praat does, only values that stand by themselves are
read.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from ssl_jax.core import paths
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import lines

_WORD = re.compile(r'"(?:[^"]|"")*"|<\w+>|![^\n]*|[^\s"]+')
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


class Mark(NamedTuple):
    """An interval of a tier, in seconds, and the row of the file where its text begins; a point
    has the same start and end."""

    start: float
    end: float
    text: str
    row: int


class _Value(NamedTuple):
    text: str
    row: int


def read(path: paths.Path) -> dict[str, list[Mark]]:
    """Returns {name of a tier: its marks in order}; the first of tiers with equal names.

    Raises DataError, naming file and row, for a file that is no TextGrid or ends early.
    """
    values = _values(path)
    for wanted in ("ooTextFile", "TextGrid"):
        found = next(values, _Value("", 1))
        if found.text != f'"{wanted}"':
            raise DataError(
                f"{path}, row {found.row}: no TextGrid: expected {wanted!r}, found "
                f"{found.text[:40]!r}: save it in Praat as a text file or a short text file"
            )
    _number(path, values), _number(path, values)
    flag = _next(path, values)
    tiers: dict[str, list[Mark]] = {}
    for _ in range(_count(path, values) if flag.text == "<exists>" else 0):
        kind, name = _text(path, values), _text(path, values)
        _number(path, values), _number(path, values)
        marks = [_mark(path, values, kind) for _ in range(_count(path, values))]
        tiers.setdefault(name, marks)
    return tiers


def _mark(path: paths.Path, values: Iterator[_Value], kind: str) -> Mark:
    start = _number(path, values)
    end = _number(path, values) if kind == "IntervalTier" else start
    found = _next(path, values)
    return Mark(start, end, _unquoted(path, found), found.row)


def _values(path: paths.Path) -> Iterator[_Value]:
    """Yields the texts (in their quotes), numbers and flags of a file."""
    content = "\n".join(line for _, line in lines.rows(path))
    row, place = 1, 0
    for found in _WORD.finditer(content):
        row += content.count("\n", place, found.start())
        place = found.start()
        word = found[0]
        if word[0] in '"<' or _NUMBER.fullmatch(word):
            yield _Value(word, row)


def _next(path: paths.Path, values: Iterator[_Value]) -> _Value:
    found = next(values, None)
    if found is None:
        raise DataError(f"{path} ends early: it has fewer marks than it says: copy it again")
    return found


def _number(path: paths.Path, values: Iterator[_Value]) -> float:
    found = _next(path, values)
    if not _NUMBER.fullmatch(found.text):
        raise DataError(
            f"{path}, row {found.row}: expected a number, such as 0.25, found {found.text[:40]!r}"
        )
    return float(found.text)


def _count(path: paths.Path, values: Iterator[_Value]) -> int:
    return int(_number(path, values))


def _text(path: paths.Path, values: Iterator[_Value]) -> str:
    return _unquoted(path, _next(path, values))


def _unquoted(path: paths.Path, found: _Value) -> str:
    if found.text[0] != '"':
        raise DataError(
            f'{path}, row {found.row}: expected a text in quotes, such as "AH1", found '
            f"{found.text[:40]!r}"
        )
    return found.text[1:-1].replace('""', '"')
