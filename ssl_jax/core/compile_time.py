"""The time that a process spends compiling, which says nothing about the speed of its work."""

import time
from typing import Any

import jax

from ssl_jax.core import progress

_EVENTS = "/jax/core/compile/"  # tracing, lowering and compiling, by jax's own clock


class _Counted:
    """The seconds so far, and the spans of time that they come from."""

    def __init__(self) -> None:
        self.seconds, self.listening = 0.0, False
        self.spans: list[tuple[float, float]] = []


_counted = _Counted()


def listen() -> None:
    """Counts the time of compilation from here on, for the speeds that `progress` shows."""
    if _counted.listening:
        return
    _counted.listening = True
    jax.monitoring.register_event_duration_secs_listener(_add)
    progress.without_compiling(seconds)


def seconds() -> float:
    """Returns the seconds that this process has compiled since `listen`."""
    return _counted.seconds


def _add(event: str, duration_secs: float, **about: Any) -> None:
    """Counts an event that ends now; one that contains others counts once."""
    del about
    if not event.startswith(_EVENTS):
        return
    end = time.monotonic()
    start = end - duration_secs
    spans = _counted.spans
    while spans and spans[-1][0] >= start:
        first, last = spans.pop()
        _counted.seconds -= last - first
    spans.append((start, end))
    _counted.seconds += duration_secs
