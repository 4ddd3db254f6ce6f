"""Progress on the error stream: one line, the same look for data, evaluation and training."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO, TypeVar

T = TypeVar("T")
Clock = Callable[[], float]

PATIENCE = 5.0  # seconds of work before a bar appears
_TERMINAL, _PLAIN = 0.2, 10.0  # seconds between two updates


def show(text: str, out: TextIO) -> None:
    """Prints to a stream; if its pipe is closed or its disk is full, the run continues."""
    with contextlib.suppress(OSError, ValueError):
        print(text, end="", file=out, flush=True)


class Line:
    """A line that is rewritten in place on a terminal, and printed every ten seconds elsewhere.

    patience: seconds before it first appears; by default the time between two updates.
    """

    def __init__(
        self,
        out: TextIO | None = None,
        clock: Clock = time.monotonic,
        patience: float | None = None,
    ):
        self.out = out or sys.stderr
        self.shown = False
        self._clock = clock
        self._terminal = not self.out.closed and self.out.isatty()
        self._every = _TERMINAL if self._terminal else _PLAIN
        self._next = clock() + (self._every if patience is None else patience)

    def due(self) -> bool:
        """Returns whether it is time for another update."""
        return self._clock() >= self._next

    def update(self, text: str) -> None:
        """Shows `text`, shortened to the width of the terminal."""
        self._next, self.shown = self._clock() + self._every, True
        if self._terminal:
            show("\r\033[K" + fitted(text, _width(self.out)), self.out)
        else:
            show(text + "\n", self.out)

    def note(self, text: str) -> None:
        """Prints `text` on a line of its own, above the next update."""
        show(("\r\033[K" if self._terminal else "") + text + "\n", self.out)


class Progress:
    """Counts work: `name: 5/10 (50%)  2.0/s  3s left`. Work that ends quickly shows nothing.

    total: None where it is not known. done: the count that an earlier run reached.
    """

    def __init__(
        self,
        name: str,
        total: int | None = None,
        *,
        done: int = 0,
        patience: float = PATIENCE,
        clock: Clock = time.monotonic,
        out: TextIO | None = None,
    ):
        self.name, self.total, self.done = name, total, done
        self._first, self._clock, self._start = done, clock, clock()
        self._line = Line(out, clock, patience)

    def step(self, count: int = 1) -> None:
        """Counts `count` more as done."""
        self.done += count
        if self._line.due():
            self._line.update(self._text())

    def close(self) -> None:
        """Ends the line, if there was one, with the time that the work took."""
        if self._line.shown:
            self._line.note(self._text(f"{clock_text(self._clock() - self._start)} in total"))

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _text(self, end: str = "") -> str:
        spent = max(self._clock() - self._start, 1e-9)
        rate = (self.done - self._first) / spent
        count = f"{self.done}"
        if self.total:
            count = f"{self.done}/{self.total} ({self.done / self.total:.0%})"
            left = clock_text(max(0, self.total - self.done) / rate) if rate else "?"
            end = end or f"{left} left"
        return "  ".join(filter(None, [f"{self.name}: {count}", f"{rate:.3g}/s", end]))


def along(items: Sequence[T], name: str) -> Iterator[T]:
    """Yields items, and shows how many are done."""
    with Progress(name, len(items)) as bar:
        for item in items:
            yield item
            bar.step()


def clock_text(seconds: float) -> str:
    """Returns a duration as text: 42s, 3m05s, 2h07m."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes}m{seconds:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"


def fitted(text: str, width: int) -> str:
    """Returns a line that fits a terminal of `width` columns, its last column left free.

    Parts, separated by two spaces, are dropped from the second to last on, since the first counts
    the work and the last is the time left; if these are still too long, their end stays.
    """
    parts = text.split("  ")
    while len("  ".join(parts)) >= width and len(parts) > 2:
        del parts[-2]
    return "  ".join(parts)[-max(width - 1, 1) :]


def _width(out: TextIO) -> int:
    try:
        return os.get_terminal_size(out.fileno()).columns or 80
    except (OSError, ValueError):
        return 80
