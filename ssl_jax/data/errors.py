"""What can be wrong with data: the error types, and counters of skipped and clipped rows."""

import json
import pathlib
import sys
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

from ssl_jax.core import paths
from ssl_jax.core import rows as rows_lib


class DataError(ValueError):
    """Data or its config is wrong; the message names the config key, or the file and row."""


class Unreadable(Exception):
    """A sound or an image cannot be decoded; the message gives the reason."""


class BadFile(DataError):
    """One row cannot be used: broken, missing, empty, too short, too small or silent."""

    def __init__(self, where: str, reason: str):
        super().__init__(where, reason)
        self.where, self.reason = where, reason

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


class InvalidRow(NamedTuple):
    """A row that was skipped: its corpus id, its file and row, and the reason."""

    id: int
    where: str
    reason: str


class Clipped(NamedTuple):
    """A row that is used although more than CLIPPED_SHARE of its samples are at full scale."""

    id: int
    where: str
    share: float


# A peak normalized to full scale touches it a few times; a clipped one stays there.
CLIPPED_SHARE = 0.001
_LISTED = 1000


class _RowCounter:
    """Counts distinct rows and lists the first `most` of them in a file, as JSON lines.

    Rows that an earlier part of the same run listed in `path` are counted too, once.
    """

    def __init__(self, path: str | pathlib.Path, most: int = sys.maxsize):
        self.path, self._most = paths.of(path), most
        self._ids = {int(row["id"]) for row in rows_lib.mend(self.path, {"id": int}, warnings.warn)}

    def __len__(self) -> int:
        return len(self._ids)

    def _add(self, rows: Iterable[Any]) -> list[Any]:
        """Counts and lists the rows that are new, and returns them."""
        new = {row.id: row for row in rows if row.id not in self._ids}
        listed = list(new.values())[: max(self._most - len(self._ids), 0)]
        self._ids.update(new)
        if listed:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lines = (json.dumps(row._asdict(), ensure_ascii=False) + "\n" for row in listed)
            paths.append(self.path, "".join(lines))
        return list(new.values())


class ClippedCounter(_RowCounter):
    """Counts distinct clipped rows and lists the first thousand in clipped.jsonl."""

    def __init__(self, path: str | pathlib.Path):
        super().__init__(path, most=_LISTED)

    def add(self, rows: Iterable[Clipped]) -> None:
        """Counts and lists the new rows."""
        self._add(rows)


class SkipCounter(_RowCounter):
    """Counts distinct skipped rows, lists them in skipped.jsonl, and stops above a share.

    max_share: largest share of the corpus that may be skipped (`config.data.max_bad_share`).
    rows: number of rows of the corpus.
    """

    def __init__(self, max_share: float, rows: int, path: str | pathlib.Path):
        super().__init__(path)
        self.max_share, self.rows = max_share, rows

    def add(self, invalid: Iterable[InvalidRow]) -> None:
        """Counts and lists the new rows; raises DataError once their share is too large."""
        new = self._add(invalid)
        if new and len(self._ids) > self.max_share * self.rows:
            last = new[-1]
            raise DataError(
                f"{len(self._ids)} of {self.rows} rows cannot be used, more than "
                f"config.data.max_bad_share={self.max_share}; the last is {last.where}: "
                f"{last.reason}. See {self.path}; fix the files, or allow a larger share, such "
                f"as {_round_up(len(self._ids) / self.rows)}"
            )


def _round_up(share: float) -> float:
    return min(1.0, round(share * 1.5 + 0.005, 2))
