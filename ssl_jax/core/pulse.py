"""What this process is at, and when something last moved: for the watchdog, and for its message."""

import threading
import time

_last = (time.monotonic(), "its start")
_open: dict[int, tuple[float, str]] = {}  # by thread: since when it is at what


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


class During:
    """Around work that may hang, such as `with During("reading a.wav")`; its end is a beat."""

    def __init__(self, what: str):
        self.what = what

    def __enter__(self) -> None:
        _open[threading.get_ident()] = (time.monotonic(), self.what)

    def __exit__(self, *error: object) -> None:
        _open.pop(threading.get_ident(), None)
        touch()


def longest() -> str:
    """Returns what has been going on for the longest time in any thread, "" where nothing is."""
    return min(_open.values(), default=(0.0, ""))[1]
