"""What this process is working on, and when it last made progress: for the watchdog's message."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
SHOWN = 3  # at most this many in a message
_last = (time.monotonic(), "its start")
_open: dict[int, tuple[float, str | Callable[[], str]]] = {}  # by thread: (start, work)


def beat(what: str) -> None:
    """Notes progress, and what the process waits for next."""
    global _last
    _last = (time.monotonic(), what)


def touch() -> None:
    """Notes progress of the current work."""
    beat(_last[1])


def last() -> tuple[float, str]:
    """Returns (monotonic time, what) of the last beat."""
    return _last


def along(items: Iterable[T]) -> Iterator[T]:
    """Yields items; each is a beat, so that long work does not look like a stall."""
    for item in items:
        touch()
        yield item


class During:
    """A block of work that may hang: `with During("reading a.wav")`. Its end is a beat.

    `what` may be a function, which is called only for a message.
    """

    def __init__(self, what: str | Callable[[], str]):
        self.what = what

    def __enter__(self) -> None:
        self.thread = threading.get_ident()
        self.before = _open.get(self.thread)
        _open[self.thread] = (time.monotonic(), self.what)

    def __exit__(self, *error: object) -> None:
        if self.before is None:
            _open.pop(self.thread, None)
        else:
            _open[self.thread] = self.before
        touch()


def at_work() -> str:
    """Returns what the threads are doing, the longest first; "" if there is nothing."""
    found = sorted(_open.copy().values(), key=lambda item: item[0])[:SHOWN]
    return "; ".join(what if isinstance(what, str) else what() for _, what in found)
