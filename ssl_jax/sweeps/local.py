"""Launches the runs of a sweep as local processes, a few at a time; one may fail alone."""

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
Notify = Callable[[str], None]

BUSY = 75  # the exit status of a process whose run is held by another process
POLL = 0.1  # seconds between polls of the processes
LOG_LINES = 3  # last lines of log.txt, shown for a process that left no error


def local(
    found: Sequence[Run],
    command: Command,
    parallel: int,
    notify: Notify,
    devices: Sequence[str] = (),
) -> None:
    """Runs what is not done, `parallel` at a time, in the order of the sweep.

    A failed run is retried, an interrupted one resumes, and one that another process holds is
    waited for; if one fails, the others continue. The output of a run goes to log.txt in its
    folder. devices: the n-th parallel run sees only the n-th device, by CUDA_VISIBLE_DEVICES.
    Ctrl-C and SIGTERM are passed on, every run saves, and KeyboardInterrupt is raised. A run also
    saves and ends if its launcher is killed.
    """
    launcher = _Launcher(found, command, parallel, notify, devices)
    with _interrupts():
        try:
            while launcher.go_on():
                time.sleep(POLL)
        except KeyboardInterrupt:
            notify(f"stopping {len(launcher.active)} runs, which save first")
            launcher.end()
            raise


class _Launcher:
    """The waiting runs, and the active ones by their slot."""

    def __init__(
        self,
        found: Sequence[Run],
        command: Command,
        parallel: int,
        notify: Notify,
        devices: Sequence[str],
    ):
        self.waiting = [run for run in found if run_folders.state(run.folder) != "done"]
        self.total, self.command, self.devices = len(found), command, devices
        self.notify = notify
        self.slots = list(range(parallel))
        self.active: dict[int, tuple[Run, subprocess.Popen]] = {}
        self.ended, self.start = 0, time.monotonic()
        self.notified: set[int] = set()  # runs in use elsewhere, each reported once
        done = self.total - len(self.waiting)
        if done:
            notify(f"{done} of {self.total} runs are done and are kept")

    def go_on(self) -> bool:
        """Records finished runs and starts others in free slots; returns whether any are left."""
        for slot, (run, process) in list(self.active.items()):
            if process.poll() is not None:
                del self.active[slot]
                self._note(run, process.returncode)
        for run in list(self.waiting):
            free = [slot for slot in self.slots if slot not in self.active]
            if not free:
                break
            if run_folders.busy(run.folder):
                if run.index not in self.notified:
                    holder = run_folders.holder(run.folder)
                    self.notify(f"{_name(run)} is in use by {holder}; waiting")
                self.notified.add(run.index)
                continue
            self.waiting.remove(run)
            if run_folders.state(run.folder) != "done":
                self.active[free[0]] = (run, self._begin(run, free[0]))
        return bool(self.waiting or self.active)

    def _begin(self, run: Run, slot: int) -> subprocess.Popen:
        was, command = run_folders.state(run.folder), self.command(run)
        run.folder.mkdir(parents=True, exist_ok=True)
        # the log is UTF-8 on every machine, and no character can crash a run
        environment = orphans.child_of_this(
            {"PYTHONIOENCODING": "utf-8:backslashreplace", **os.environ}
        )
        if self.devices:
            environment["CUDA_VISIBLE_DEVICES"] = self.devices[slot]
        verb = {"stopped": "resumes", "failed": "is retried"}.get(was, "starts")
        self.notify(f"{_name(run)} {verb}: {_values(run)}")
        with (run.folder / "log.txt").open("ab") as log:
            log.write(paths.utf8(f"$ {shlex.join(command)}\n"))
            log.flush()
            # a session of its own: Ctrl-C reaches only the launcher, which stops it in order
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
        rest = f"; {left} to go, about {clock(pace * left)}" if left else ""
        state, why = run_folders.state(run.folder), run_folders.failure(run.folder)
        self.notify(f"{_name(run)} {state}{': ' + why if why else ''}{rest}")

    def end(self) -> None:
        """Makes every process save and exit, and waits for them."""
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
    """Returns the reason why a process ended without leaving FAILED."""
    lines = [x for x in log.read_text(encoding="utf-8", errors="replace").splitlines() if x.strip()]
    last = " / ".join(x for x in lines[-LOG_LINES:] if not x.startswith("$ "))
    if status >= 0:
        return f"exit status {status}: {last or 'log.txt is empty'}"
    hint = " (out of memory? lower --parallel)" if -status == signal.SIGKILL else ""
    return f"ended by {signal.Signals(-status).name}{hint}: {last or 'log.txt is empty'}"


def _name(run: Run) -> str:
    return f"run {run.index} ({run.label})"


def _values(run: Run) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in run.values.items())
