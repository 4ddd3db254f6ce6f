"""Runs of a sweep as processes of this machine: so many at a time, each once, any may fail."""

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from ssl_jax.core import orphans, paths
from ssl_jax.sweeps import run_folders
from ssl_jax.sweeps.status import clock
from ssl_jax.sweeps.sweep import Run

Command = Callable[[Run], list[str]]
Say = Callable[[str], None]

BUSY = 75  # the exit status of a process that found its run held by another
POLL = 0.1  # seconds between looks at the processes
LOG_LINES = 3  # of a process that ended without a word, which say why


def local(
    found: Sequence[Run],
    command: Command,
    parallel: int,
    say: Say,
    devices: Sequence[str] = (),
) -> None:
    """Runs what is not done, `parallel` at a time, in the order of the sweep.

    A run that failed is tried again, one that was interrupted goes on, one that another process
    holds is waited for; the others go on whatever becomes of one. Output goes to log.txt of its
    folder. devices: the n-th of the runs at work sees the n-th alone, as CUDA_VISIBLE_DEVICES.
    Ctrl-C and SIGTERM are handed on, and every run saves; raises KeyboardInterrupt then. So does a
    run whose launcher was killed.
    """
    launcher = _Launcher(found, command, parallel, say, devices)
    with _interrupts():
        try:
            while launcher.go_on():
                time.sleep(POLL)
        except KeyboardInterrupt:
            say(f"ending {len(launcher.active)} runs, which save")
            launcher.end()
            raise


class _Launcher:
    """The runs that wait, and those at work by their slot."""

    def __init__(
        self,
        found: Sequence[Run],
        command: Command,
        parallel: int,
        say: Say,
        devices: Sequence[str],
    ):
        self.waiting = [run for run in found if run_folders.state(run.folder) != "done"]
        self.total, self.command, self.say, self.devices = len(found), command, say, devices
        self.slots = list(range(parallel))
        self.active: dict[int, tuple[Run, subprocess.Popen]] = {}
        self.ended, self.start = 0, time.monotonic()
        self.patient: set[int] = set()
        done = self.total - len(self.waiting)
        if done:
            say(f"{done} of {self.total} runs are done and stay as they are")

    def go_on(self) -> bool:
        """Takes note of what ended and starts what there is room for; says if more is to do."""
        for slot, (run, process) in list(self.active.items()):
            if process.poll() is not None:
                del self.active[slot]
                self._note(run, process.returncode)
        for run in list(self.waiting):
            free = [slot for slot in self.slots if slot not in self.active]
            if not free:
                break
            if run_folders.busy(run.folder):
                if run.index not in self.patient:
                    self.say(f"{_name(run)}: {run_folders.holder(run.folder)} works on it; waiting")
                self.patient.add(run.index)
                continue
            self.waiting.remove(run)
            if run_folders.state(run.folder) != "done":
                self.active[free[0]] = (run, self._begin(run, free[0]))
        return bool(self.waiting or self.active)

    def _begin(self, run: Run, slot: int) -> subprocess.Popen:
        was, command = run_folders.state(run.folder), self.command(run)
        run.folder.mkdir(parents=True, exist_ok=True)
        # the log is UTF-8 on every machine, and no character ends a run
        environment = orphans.child_of_this(
            {"PYTHONIOENCODING": "utf-8:backslashreplace", **os.environ}
        )
        if self.devices:
            environment["CUDA_VISIBLE_DEVICES"] = self.devices[slot]
        again = {"stopped": "goes on", "failed": "tried again"}.get(was, "begins")
        self.say(f"{_name(run)} {again}: {_values(run)}")
        with (run.folder / "log.txt").open("ab") as log:
            log.write(paths.utf8(f"$ {shlex.join(command)}\n"))
            log.flush()
            # a session of its own: Ctrl-C reaches the launcher alone, which ends it in order
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def _note(self, run: Run, status: int) -> None:
        if status == BUSY:
            self.waiting.append(run)
            return
        if status != 0 and run_folders.state(run.folder) != "failed":
            run_folders.fail(run.folder, _last_words(run.folder / "log.txt", status))
        self.ended += 1
        left = len(self.waiting) + len(self.active)
        pace = (time.monotonic() - self.start) / self.ended
        words = f"; {left} to go, about {clock(pace * left)}" if left else ""
        became, why = run_folders.state(run.folder), run_folders.failure(run.folder)
        self.say(f"{_name(run)} {became}{': ' + why if why else ''}{words}")

    def end(self) -> None:
        """Asks every process to save and end, and waits for them."""
        for _, process in self.active.values():
            process.terminate()
        for _, process in self.active.values():
            process.wait()


@contextlib.contextmanager
def _interrupts() -> Iterator[None]:
    """Turns SIGTERM into KeyboardInterrupt."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _last_words(log: Path, status: int) -> str:
    """Returns why a process ended without leaving FAILED."""
    lines = [x for x in log.read_text(encoding="utf-8", errors="replace").splitlines() if x.strip()]
    last = " / ".join(x for x in lines[-LOG_LINES:] if not x.startswith("$ "))
    if status >= 0:
        return f"exit status {status}: {last or 'no word in log.txt'}"
    hint = " (out of memory? lower --parallel)" if -status == signal.SIGKILL else ""
    return f"ended by {signal.Signals(-status).name}{hint}: {last or 'no word in log.txt'}"


def _name(run: Run) -> str:
    return f"run {run.index} ({run.label})"


def _values(run: Run) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in run.values.items())
