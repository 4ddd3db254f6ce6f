"""A watchdog beside the loop: ends a process in which nothing moves, saying what it waits for.

A step that waits for a lost host, or a file system that answers no more, blocks below Python,
where no exception can be raised; only another thread can see it.
"""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

STALLED = 75
"""Exit status: try again (EX_TEMPFAIL)."""


class Watchdog:
    """Ends the process with status STALLED when `beat` was not called for `seconds` (0: never).

    `advice` ends the message. `leave` is for tests.
    """

    def __init__(
        self,
        seconds: float,
        advice: str,
        out: TextIO | None = None,
        leave: Callable[[int], object] = os._exit,
    ):
        self.seconds, self.advice, self.out, self.leave = seconds, advice, out, leave
        self._last = (time.monotonic(), "its start")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self, what: str) -> None:
        """Notes that the loop lives, and what it does next."""
        self._last = (time.monotonic(), what)

    def __enter__(self) -> "Watchdog":
        if self.seconds > 0:
            self.beat("its start")
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(min(self.seconds / 8, 10.0)):
            since, what = self._last
            if time.monotonic() - since > self.seconds:
                self._bark(what)
                return

    def _bark(self, what: str) -> None:
        out = self.out or sys.stderr
        print(
            f"error: nothing has moved for {self.seconds:g} s; waiting for {what}. {self.advice}",
            file=out,
            flush=True,
        )
        faulthandler.dump_traceback(2, all_threads=True)
        self.leave(STALLED)
