"""Multi-stage programs as ordinary Python: a stage that is complete is not run again.

With several hosts, all run the same stages on a shared folder. Process 0 keeps the records, and
alone runs the kinds of stages that need no device (ALONE).
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from ssl_jax.core import atomic, paths, progress
from ssl_jax.engine import hosts

KINDS = ("data", "import", "train", "embed", "kmeans", "label", "decode", "eval", "export")
ALONE = ("data", "import", "export")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of a program: its kind, its resolved config, and the stages it needs.

    name: the folder below the program's root. config: JSON-able. Two stages are the same work
    exactly when their kind, config and needed stages are equal.
    """

    kind: str
    name: str
    config: dict[str, Any]
    needs: tuple["Stage", ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"stage {self.name!r} has kind {self.kind!r}: use one of {KINDS}")

    @property
    def signature(self) -> str:
        """16 hex digits over the kind, the resolved config and the signatures it needs."""
        content = [self.kind, self.config, [s.signature for s in self.needs]]
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Graph:
    """Runs stages below one root folder and remembers which are complete."""

    def __init__(
        self,
        root: str | pathlib.Path,
        notify: Callable[[str], None] = print,
        verbose: bool = False,
    ) -> None:
        """`notify` gets a line for each stage that is skipped. verbose: show what others print."""
        self.root = pathlib.Path(root)
        self._notify, self._verbose = notify, verbose

    def folder(self, stage: Stage) -> pathlib.Path:
        """Returns the folder of a stage: its name and signature, so that a changed
        hyper-parameter gets a folder of its own and nothing is overwritten."""
        return self.root / f"{stage.name}-{stage.signature[:8]}"

    def done(self, stage: Stage) -> bool:
        """Returns whether this very work was completed here before."""
        return bool(hosts.of_first((self.folder(stage) / "DONE").exists()))

    def run(self, stage: Stage, work: Callable[[pathlib.Path], None]) -> pathlib.Path:
        """Calls work(folder) unless the stage is complete; returns the folder.

        A stage that was killed has no DONE file: it is called again and may resume from its files.
        Raises RuntimeError when a stage that it needs is not complete.
        """
        for need in stage.needs:
            if not self.done(need):
                raise RuntimeError(f"stage {stage.name!r} needs {need.name!r}: run that first")
        folder = self.folder(stage)
        if self.done(stage):
            self._notify(f"[{stage.name}] complete, skipped")
            return folder
        with paths.made(folder), hosts.holding(folder):
            if not self.done(stage):  # another process may have done it meanwhile
                self._work(stage, folder, work)
        return folder

    def _work(
        self, stage: Stage, folder: pathlib.Path, work: Callable[[pathlib.Path], None]
    ) -> None:
        """Does the work of a stage, and writes DONE."""
        first = hosts.is_first()
        if first:
            text = json.dumps(stage.config, indent=1, sort_keys=True)
            atomic.write_text(folder / "stage.json", text)
        if self._verbose:
            self._notify(f"[{stage.name}] {stage.kind} in {folder}")
        start = time.monotonic()
        shown = contextlib.nullcontext() if self._verbose else progress.within(stage.name)
        if first or stage.kind not in ALONE:
            with shown, progress.Waiting(stage.kind), self._forgotten(folder):
                work(folder)
        hosts.all_of(True)  # wait until every host is done
        seconds = time.monotonic() - start
        if first:
            atomic.write_json(folder / "DONE", {"seconds": round(seconds, 1)})
        hosts.all_of(True)  # no host reads DONE before it exists

    @contextlib.contextmanager
    def _forgotten(self, folder: pathlib.Path) -> Iterator[None]:
        """Removes the record of a stage whose work was refused before it wrote anything."""
        try:
            yield
        except BaseException:
            if hosts.is_first() and {p.name for p in folder.iterdir()} <= {"stage.json", "lock"}:
                (folder / "stage.json").unlink(missing_ok=True)
            raise

    def seconds(self, stage: Stage) -> float:
        """Returns how long a complete stage took; 0 where an earlier version was killed before it
        wrote the time to DONE."""
        try:
            return float(atomic.read_json(self.folder(stage) / "DONE", "")["seconds"])
        except ValueError:
            return 0.0
