"""Files that grow by rows while a run runs: metrics.jsonl, skipped.jsonl, environment.jsonl.

A row is a JSON object on a line of its own. A last line that a kill cut off counts as absent. A
damaged row is lost, and only that row.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ssl_jax.core import atomic, paths

Row = dict[str, Any]
Needs = Mapping[str, type | tuple[type, ...]]
"""The keys that a good row must have, with their types."""
Notify = Callable[[str], object]
ASIDE = ".damaged"  # added to the name of a file, for its damaged rows
_LISTED = 5  # numbers of damaged rows that a message lists


class Found(NamedTuple):
    """Good rows and their lines; damaged lines by number, from 1; whether the last line ends."""

    rows: list[Row]
    lines: list[bytes]
    damaged: dict[int, bytes]
    whole: bool


def parse(data: bytes, needs: Needs) -> Found:
    """Splits the content of a file of rows into good and damaged ones."""
    *lines, last = data.split(b"\n")
    numbered = dict(enumerate(lines, 1))
    found = {number: _row(line, needs) for number, line in numbered.items()}
    good = [number for number, row in found.items() if row is not None]
    bad = {n: line for n, line in numbered.items() if found[n] is None and line.strip()}
    rows, kept = [row for row in found.values() if row is not None], [numbered[n] for n in good]
    row = _row(last, needs)
    if row is not None:
        rows, kept = [*rows, row], [*kept, last]
    return Found(rows, kept, bad, not last)


def _row(line: bytes, needs: Needs) -> Row | None:
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):  # of UTF-8 and of JSON
        return None
    if not isinstance(row, dict):
        return None
    return row if all(isinstance(row.get(key), kind) for key, kind in needs.items()) else None


def read(path: paths.Given, needs: Needs, notify: Notify) -> list[Row]:
    """Returns the good rows of a file that another process may be writing; reports damaged ones.

    `mend` is for the process that continues the file.
    """
    found = parse(paths.of(path).read_bytes(), needs)
    if found.damaged:
        notify(f"{path}: {_numbers(found.damaged)} left out")
    return found.rows


def mend(path: paths.Given, needs: Needs, notify: Notify) -> list[Row]:
    """Returns the good rows, and removes all others from the file; [] if there is no file.

    Damaged rows move to a file next to it, with a notice; a last line cut off is dropped.
    """
    path = paths.of(path)
    if not path.exists():
        return []
    found = parse(path.read_bytes(), needs)
    if found.damaged:
        aside = path.with_name(path.name + ASIDE)
        before = aside.read_bytes() if aside.exists() else b""
        atomic.write_bytes(aside, before + b"".join(x + b"\n" for x in found.damaged.values()))
        notify(f"{path}: {_numbers(found.damaged)} set aside in {aside.name}; the other rows stay")
    if found.damaged or not found.whole:
        atomic.write_bytes(path, b"".join(line + b"\n" for line in found.lines))
    return found.rows


def _numbers(damaged: Mapping[int, bytes]) -> str:
    """Returns the subject of a sentence about damaged rows."""
    listed = [str(number) for number in list(damaged)[:_LISTED]]
    if len(damaged) == 1:
        return f"row {listed[0]} is damaged and"
    more = f" and {len(damaged) - _LISTED} more" if len(damaged) > _LISTED else ""
    return f"rows {', '.join(listed)}{more} are damaged and"
