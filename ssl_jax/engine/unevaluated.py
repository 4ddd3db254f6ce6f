"""The step whose evaluation has begun and not ended: a run that goes on from it makes it then."""

from pathlib import Path

from ssl_jax.core import atomic
from ssl_jax.engine import hosts


class Unevaluated:
    """evaluating.txt of a run folder, kept by the first process."""

    def __init__(self, folder: Path):
        self._file = folder / "evaluating.txt"

    def step(self) -> int:
        """Returns the step, -1 for none; every host has to ask."""
        there = hosts.is_first() and self._file.exists()
        return hosts.of_first(int(self._file.read_text(encoding="utf-8")) if there else -1)

    def note(self, step: int) -> None:
        """Notes that the evaluation of a step begins."""
        if hosts.is_first():
            atomic.write_text(self._file, f"{step}\n")

    def clear(self) -> None:
        """Notes that it is made, and its numbers are written."""
        if hosts.is_first() and self._file.exists():
            self._file.unlink()
