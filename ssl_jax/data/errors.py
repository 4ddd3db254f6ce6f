"""What can be wrong with data: one error type, and the count of files that were skipped."""

import json
import pathlib
import warnings
from collections.abc import Iterable
from typing import NamedTuple

from ssl_jax.core import paths
from ssl_jax.core import rows as rows_lib


class DataError(ValueError):
    """Data or its config is wrong; the text names the config key, or the file and row."""


class Unreadable(Exception):
    """A sound or an image cannot be decoded; the text says why."""


class BadFile(DataError):
    """One row cannot be used: broken, missing, empty, too short, too small or silent."""

    def __init__(self, where: str, reason: str):
        super().__init__(where, reason)
        self.where, self.reason = where, reason

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


class Bad(NamedTuple):
    """A row that was skipped: its corpus id, its file and row, and why."""

    id: int
    where: str
    reason: str


class Clipped(NamedTuple):
    """A row that is used, though more than CLIPPED_SHARE of its samples stand at full scale."""

    id: int
    where: str
    share: float


# A peak that was brought to full scale touches it a few times; what was cut off stays there.
CLIPPED_SHARE = 0.001
_LISTED = 1000


class ClippedTally:
    """Counts different clipped rows, and lists the first thousand in a file, clipped.jsonl."""

    def __init__(self, path: str | pathlib.Path):
        self.path = paths.of(path)
        self._ids = {int(row["id"]) for row in rows_lib.mend(self.path, {"id": int}, warnings.warn)}

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, rows: Iterable[Clipped]) -> None:
        """Counts and lists the new rows."""
        new = {r.id: r for r in rows if r.id not in self._ids}
        kept = list(new.values())[: max(_LISTED - len(self._ids), 0)]
        self._ids.update(new)
        if kept:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lines = (json.dumps(r._asdict(), ensure_ascii=False) + "\n" for r in kept)
            paths.append(self.path, "".join(lines))


class SkipCounter:
    """Counts different skipped rows, lists them in a file, and stops above a share.

    max_share: largest share of the corpus that may be skipped (`config.data.max_bad_share`).
    rows: number of rows of the corpus. path: skipped.jsonl of the run folder; the rows that an
    earlier part of the same run listed there are counted again, once.
    """

    def __init__(self, max_share: float, rows: int, path: str | pathlib.Path):
        self.max_share, self.rows, self.path = max_share, rows, paths.of(path)
        self._ids = {int(row["id"]) for row in rows_lib.mend(self.path, {"id": int}, warnings.warn)}

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, bads: Iterable[Bad]) -> None:
        """Counts and lists the new rows; raises DataError once their share is too large."""
        new = {b.id: b for b in bads if b.id not in self._ids}
        if not new:
            return
        self._ids.update(new)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(b._asdict(), ensure_ascii=False) + "\n" for b in new.values())
        paths.append(self.path, "".join(lines))
        if len(self._ids) > self.max_share * self.rows:
            last = list(new.values())[-1]
            raise DataError(
                f"{len(self._ids)} of {self.rows} rows cannot be used, more than "
                f"config.data.max_bad_share={self.max_share}; the last is {last.where}: "
                f"{last.reason}. See {self.path}; mend the files, or allow a larger share, such "
                f"as {_round_up(len(self._ids) / self.rows)}"
            )


def _round_up(share: float) -> float:
    return min(1.0, round(share * 1.5 + 0.005, 2))
