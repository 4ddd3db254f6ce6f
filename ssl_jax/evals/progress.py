"""One line on stderr with the time left, for work that turns out to be long."""

import sys
import time
from collections.abc import Callable
from typing import TextIO


class Progress:
    """Counts steps; silent for `patience` seconds, then rewrites its line once per second."""

    def __init__(
        self,
        name: str,
        total: int | None = None,
        *,
        patience: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        out: TextIO | None = None,
    ):
        self.name, self.total, self.clock = name, total, clock
        self.out = out or sys.stderr
        self.done = 0
        self.shown = False
        self.start = clock()
        self.next = self.start + patience

    def step(self, count: int = 1) -> None:
        """Counts `count` more steps as done."""
        self.done += count
        now = self.clock()
        if now < self.next:
            return
        self.next, self.shown = now + 1.0, True
        text = f"{self.name}: {self.done}"
        if self.total:
            left = (now - self.start) / self.done * max(0, self.total - self.done)
            text += f" of {self.total}, {left:.0f} s left"
        print(f"\r{text}   ", end="", file=self.out, flush=True)

    def close(self) -> None:
        """Ends the line, if there was one."""
        if self.shown:
            print(file=self.out)
