"""A watchdog for a run: ends a process that makes no progress, naming what it waits for.

A step that waits for a lost host, or a file system that no longer responds, blocks below Python,
where no exception can be raised; only another thread can notice. Progress is noted in `core.pulse`.
"""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from ssl_jax.core import pulse

STALLED = 75
"""Exit status: try again (EX_TEMPFAIL)."""
_ADVICE = (
    "A host may be lost, a message between hosts stuck, or storage out of reach. The same command "
    "goes on from the newest checkpoint in {}. If this work really takes that long, set "
    "config.guard.stall_seconds higher (0: wait for ever)"
)


class Watchdog:
    """Ends the process with status STALLED when nothing has moved for `seconds` (0: never).

    `checkpoints` is the folder that the message names. Nested inside an active watchdog it does
    nothing. `leave` is for tests.
    """

    _active = False

    def __init__(
        self,
        seconds: float,
        checkpoints: str | Path,
        out: TextIO | None = None,
        leave: Callable[[int], object] = os._exit,
    ):
        self.seconds, self.checkpoints, self.out, self.leave = seconds, checkpoints, out, leave
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self.seconds > 0 and not type(self)._active:
            type(self)._active = True
            pulse.beat("its start")
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._thread.ident is not None:  # it was this one
            type(self)._active = False

    def _watch(self) -> None:
        while not self._stop.wait(min(self.seconds / 8, 10.0)):
            since, what = pulse.last()
            if time.monotonic() - since > self.seconds:
                self._bark(what)
                return

    def _bark(self, what: str) -> None:
        at = pulse.at_work()
        print(
            f"error: nothing has moved for {self.seconds:g} s; waiting for {what}"
            f"{f' ({at})' if at else ''}. {_ADVICE.format(self.checkpoints)}",
            file=self.out or sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(2, all_threads=True)
        self.leave(STALLED)
