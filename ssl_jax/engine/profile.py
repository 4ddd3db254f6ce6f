"""A trace of some steps that xprof opens, and the table of their time by named scope."""

import tempfile
from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import jax

from ssl_jax.core import atomic, paths
from ssl_jax.engine import scopes as scopes_lib


class Profile:
    """Traces steps first to last of `spec` = "first:last" into <workdir>/profile ("" = never).

    `scopes` are those of the method. After the last step the first process writes scopes.json
    and scopes.txt next to that folder: where the time of its devices went.
    """

    def __init__(self, spec: str, workdir: str | Path, scopes: Sequence[str], total: int):
        """Raises ValueError for an invalid range, or one that does not end by step `total`."""
        self.first, self.last = parse_range(spec) if spec else (-1, -1)
        if self.last > total:
            raise ValueError(
                f"config.log.profile is {spec!r}, and the run ends after step {total}: "
                f'use one such as "{max(1, total - 2)}:{total}"'
            )
        self.folder, self.scopes = paths.of(workdir) / "profile", tuple(scopes)
        # the profiler writes local files; those of an object store are copied there at the end
        self._local = Path(tempfile.mkdtemp()) if spec and paths.is_remote(workdir) else self.folder
        self._on = False
        self._calls: dict[Hashable, tuple] = {}

    def before(self, step: int, running: Sequence[jax.Array] = ()) -> None:
        """Starts the trace if `step` is the first to be traced, once `running` is computed.

        Without that wait it would begin within a step.
        """
        if step == self.first:
            jax.block_until_ready(list(running))
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # tracing Python calls would slow the loop
            jax.profiler.start_trace(str(self._local), profiler_options=options)
            self._on = True

    def waiting(self) -> AbstractContextManager:
        """Marks in the trace that the loop waits for a batch."""
        return jax.profiler.TraceAnnotation(scopes_lib.WAIT) if self._on else nullcontext()

    def running(self, step: int, shapes: Hashable, run: Any, *given: Any) -> AbstractContextManager:
        """Marks a step in the trace: the call of jitted `run` with `given`, of these `shapes`."""
        if not self._on:
            return nullcontext()
        self._calls.setdefault(shapes, (run, given))
        return jax.profiler.StepTraceAnnotation(scopes_lib.STEP, step_num=step)

    def after(self, step: int, loss: jax.Array) -> str:
        """Ends the trace once the last step, whose loss is given, has run; returns its table."""
        if not self._on or step < self.last:
            return ""
        loss.block_until_ready()
        self.close()
        return self._write() if jax.process_index() == 0 else ""

    def close(self) -> None:
        """Ends a trace that is still on."""
        if self._on:
            jax.profiler.stop_trace()
            self._on = False
            if self._local != self.folder:
                paths.put(self._local, self.folder)

    def _write(self) -> str:
        trace = max(self._local.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
        data = jax.profiler.ProfileData.from_file(str(trace))
        try:
            # nothing is compiled again, and arrays that were donated still have their shapes
            calls = self._calls.values()
            programs = [run.lower(*given).compile().as_text() for run, given in calls]
            table = scopes_lib.attribute(data, programs, self.scopes)
        except ValueError as error:
            return f"no scopes.json: {error}"
        text = scopes_lib.as_text(table)
        about = {"first": self.first, "last": self.last, **table._asdict()}
        atomic.write_json(self.folder.parent / "scopes.json", about)
        atomic.write_text(self.folder.parent / "scopes.txt", text + "\n")
        return f"time of steps {self.first} to {self.last}, trace in {self.folder}\n{text}"


def parse_range(spec: str) -> tuple[int, int]:
    """Returns (first, last) of "100:110"; raises ValueError on anything else."""
    first, colon, last = spec.partition(":")
    if not (colon and first.isdigit() and last.isdigit() and 0 < int(first) <= int(last)):
        raise ValueError(f'config.log.profile is {spec!r}: give steps as "100:110"')
    return int(first), int(last)
