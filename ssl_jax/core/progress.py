"""Progress on the error stream: one line, the same look for data, evaluation and training."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TextIO, TypeVar

T = TypeVar("T")
Clock = Callable[[], float]

PATIENCE = 5.0  # seconds of work before a bar appears
_TERMINAL, _PLAIN, _STAGE = 0.2, 10.0, 60.0  # seconds between two updates
_TICK = 1.0  # seconds after which a line is shown again, though nothing was counted


class Alive(Protocol):
    """What a line needs to be kept alive while nothing is counted."""

    def refresh(self) -> None:
        """Shows the line if it is time."""


class _Screen:
    """What is open and shown in this process: see `within`, `_tick` and `clear`."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.open: list[Alive] = []  # the innermost last
        self.ticker: threading.Thread | None = None
        self.forked = False  # whether this process is the fork of another
        self.line: TextIO | None = None  # the terminal whose last line is to be rewritten
        self.stage = ""  # the stage of a pipeline that is running, whose details are not shown
        self.compiling: Callable[[], float] = lambda: 0.0  # seconds so far, see compile_time


_screen = _Screen()


def show(text: str, out: TextIO) -> None:
    """Prints to a stream; if its pipe is closed or its disk is full, the run continues."""
    with contextlib.suppress(OSError, ValueError):
        print(text, end="", file=out, flush=True)


def tell(text: str, out: TextIO | None = None) -> None:
    """Prints a line that stays, in place of the progress that a terminal shows."""
    out = out or sys.stderr
    with _screen.lock:
        terminal = is_terminal(out)
        if terminal:
            text = wrapped(text, _width(out))
        show(("\r\033[K" if terminal and _screen.line is out else "") + text + "\n", out)
        _screen.line = None


def detail(text: str, out: TextIO | None = None) -> None:
    """The same for a line that a pipeline shows only with --verbose."""
    if not _screen.stage:
        tell(text, out)


@contextlib.contextmanager
def within(stage: str) -> Iterator[None]:
    """Hides the details of what runs inside, a stage of a pipeline; its progress is named so."""
    before, _screen.stage = _screen.stage, stage
    try:
        yield
    finally:
        _screen.stage = before


def clear() -> None:
    """Takes the progress line off the terminal, where one is left."""
    with _screen.lock:
        if _screen.line is not None:
            show("\r\033[K", _screen.line)
        _screen.line = None


def without_compiling(seconds: Callable[[], float]) -> None:
    """Sets the clock of compilation, whose time does not count for the speed of work."""
    _screen.compiling = seconds


def compiling() -> float:
    """Returns the seconds that this process has compiled, 0 where they are not known."""
    return _screen.compiling()


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
        self._terminal = is_terminal(self.out)
        rare = _STAGE if _screen.stage else _PLAIN
        self._every = _TERMINAL if self._terminal else rare
        if patience is None or (_screen.stage and not self._terminal):
            patience = self._every
        self._next = clock() + patience

    def due(self) -> bool:
        """Returns whether it is time for another update."""
        return self._clock() >= self._next

    def update(self, text: str) -> None:
        """Shows `text`, shortened to the width of the terminal."""
        with _screen.lock:
            self._next, self.shown = self._clock() + self._every, True
            text = f"[{_screen.stage}] {text}" if _screen.stage else text
            if self._terminal:
                show("\r\033[K" + fitted(text, _width(self.out)), self.out)
                _screen.line = self.out
            else:
                show(text + "\n", self.out)

    def at_once(self, text: str) -> None:
        """Shows `text` now on a terminal, where a later line replaces it."""
        if self._terminal:
            self.update(text)

    def end(self, text: str) -> None:
        """Shows the last state of the work, which stays; within a stage it does not."""
        if _screen.stage:
            clear()
            return
        tell(fitted(text, _width(self.out)) if self._terminal else text, self.out)


class Progress:
    """Counts work: `name: 5/10 (50%)  2.0/s  3s left`. Work that ends quickly shows nothing.

    total: None where it is not known. done: the count that an earlier run reached. In a `with`
    block the line stays alive while nothing is counted, as when a program is compiled.
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
        self._compiled, self._worked = compiling(), 0.0
        self._line = Line(out, clock, patience)

    def step(self, count: int = 1) -> None:
        """Counts `count` more as done."""
        self.done += count
        self._worked = self._clock() - self._start - (compiling() - self._compiled)
        self.refresh()

    def refresh(self) -> None:
        """Shows the line if it is time."""
        if self._line.due():
            self._line.update(self._text())

    def close(self) -> None:
        """Ends the line, if there was one, with the time that the work took."""
        if self._line.shown:
            self._line.end(self._text(f"{clock_text(self._clock() - self._start)} in total"))

    def __enter__(self) -> "Progress":
        keep_alive(self)
        return self

    def __exit__(self, *error: object) -> None:
        let_go(self)
        self.close()

    def _text(self, end: str = "") -> str:
        done, spent = self.done - self._first, self._clock() - self._start
        rate = done / max(self._worked, 1e-9)  # of what has ended, without compilation
        count = f"{self.done}"
        if self.total:
            count = f"{self.done}/{self.total} ({self.done / self.total:.0%})"
        if self.total and done:
            end = end or f"{clock_text(max(0, self.total - self.done) / rate)} left"
        speed = f"{rate:.3g}/s" if done else ""
        end = end or ("" if done else f"{clock_text(spent)} so far")
        return "  ".join(filter(None, [f"{self.name}: {count}", speed, end]))


class Waiting(Progress):
    """Work that cannot be counted: `with Waiting("compiling"):` shows for how long it goes on."""

    def __init__(self, text: str, *, clock: Clock = time.monotonic, out: TextIO | None = None):
        super().__init__(text, patience=_TICK, clock=clock, out=out)

    def __enter__(self) -> "Waiting":
        super().__enter__()
        self._line.at_once(self._text())
        return self

    def close(self) -> None:
        """Ends it without a trace."""
        clear()

    def _text(self, end: str = "") -> str:
        room = max(width(self._line.out) - 8, 0) or None  # the time stays, and the beginning
        return f"{self.name[:room]}  {clock_text(self._clock() - self._start)}"


def keep_alive(line: Alive) -> None:
    """Has `line.refresh` called every second, until another one is kept alive or it is let go."""
    with _screen.lock:
        _screen.open.append(line)
        if _screen.ticker is None and not _screen.forked:
            _screen.ticker = threading.Thread(target=_tick, name="progress", daemon=True)
            _screen.ticker.start()


def let_go(line: Alive) -> None:
    """Ends what `keep_alive` began."""
    with _screen.lock:
        _screen.open.remove(line)


def _tick() -> None:
    """Keeps the innermost line alive while nothing is counted, as long as the process runs."""
    while True:
        time.sleep(_TICK)
        with _screen.lock:
            if _screen.open:
                _screen.open[-1].refresh()


def _no_ticker() -> None:
    """Leaves a forked child without the thread: the writer of ArrayRecord crashed beside one."""
    _screen.ticker, _screen.lock, _screen.forked = None, threading.RLock(), True
    _screen.open.clear()


os.register_at_fork(after_in_child=_no_ticker)


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


def wrapped(text: str, width: int) -> str:
    """Returns a line of parts, separated by two spaces, as lines that fit `width` columns.

    Text of several lines, such as a table, stays as it is, and so does a part that is longer.
    """
    first, *rest = text.split("  ")
    if "\n" in text or len(text) <= width or not rest:
        return text
    lines = [first]
    for part in rest:
        if len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += "  " + part
        else:
            lines.append("  " + part)
    return "\n".join(lines)


def is_terminal(out: TextIO) -> bool:
    """Returns whether a stream is a terminal, where a line can be rewritten."""
    return not out.closed and out.isatty()


def width(out: TextIO | None = None) -> int:
    """Returns the columns of the terminal of a stream (the error stream), 0 without one."""
    out = out or sys.stderr
    return _width(out) if is_terminal(out) else 0


def _width(out: TextIO) -> int:
    try:
        return os.get_terminal_size(out.fileno()).columns or 80
    except (OSError, ValueError):
        return 80
