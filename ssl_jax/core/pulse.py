"""What this process is at, and when something last moved: for the watchdog, and for its message."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
SHOWN = 3  # works of which a message tells
_last = (time.monotonic(), "its start")
_open: dict[int, tuple[float, str | Callable[[], str]]] = {}  # by thread: since when it is at what


def beat(what: str) -> None:
    """Notes that the work goes on, and what is waited for next."""
    global _last
    _last = (time.monotonic(), what)


def touch() -> None:
    """Notes that the work goes on with what it was at."""
    beat(_last[1])


def last() -> tuple[float, str]:
    """Returns (monotonic time, what) of the last beat."""
    return _last


def along(items: Iterable[T]) -> Iterator[T]:
    """Yields items; each is a beat, so that long work is not taken for work that hangs."""
    for item in items:
        touch()
        yield item


class During:
    """Around work that may hang, such as `with During("reading a.wav")`; its end is a beat.

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
    """Returns what goes on in the threads, the longest first; "" where nothing is known to."""
    found = sorted(_open.copy().values(), key=lambda item: item[0])[:SHOWN]
    return "; ".join(what if isinstance(what, str) else what() for _, what in found)
