"""Stages that do not need each other, run at the same time by worker processes.

Each worker runs the same program and is told, by its folder, which stage to do. It replays the
program up to that stage: stages that are complete are skipped, and others are left to their
workers. So a stage may be any Python code, and nothing has to be sent between processes.

Every worker computes with as many threads as one process alone would, because sums of another
number of threads differ in their last bits. Only then are its threads pinned to its share of the
cores.
"""

import collections
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import jax

from ssl_jax.core import orphans, stop
from ssl_jax.core.config import ConfigError
from ssl_jax.stages.graph import Graph, Stage

Notify = Callable[[str], None]
Work = Callable[[pathlib.Path], None]
ENDED = "\x1estage ended"  # printed by a worker after each stage; \x1e is no part of any text
LAST_LINES = 3  # of the output of a worker, shown when it fails
POLL = 0.5  # seconds between two checks by a thread that waits


class StageFailed(RuntimeError):
    """A worker could not complete a stage."""


class StageEnded(Exception):
    """A worker has done its stage, so it needs no more of the program."""


class Runner(Protocol):
    """Decides when and where the stages of a program run."""

    def run(self, stage: Stage, work: Work) -> None:
        """Runs a stage, or sees to it that it will be run."""

    def wait(self, stage: Stage) -> None:
        """Waits until a stage is complete."""


class OneByOne:
    """Runs every stage in this process as soon as the program asks for it."""

    def __init__(self, graph: Graph, ended: Callable[[Stage], None]):
        self._graph, self._ended = graph, ended

    def run(self, stage: Stage, work: Work) -> None:
        """Runs a stage that is not complete."""
        skipped = self._graph.done(stage)
        self._graph.run(stage, work)
        if not skipped:
            self._ended(stage)

    def wait(self, stage: Stage) -> None:
        """Returns at once: `run` has completed the stage."""


class Only:
    """Runs the one stage that a worker was told to do."""

    def __init__(self, graph: Graph, folder: str):
        self._graph, self._folder = graph, folder

    def run(self, stage: Stage, work: Work) -> None:
        """Leaves other stages alone; raises StageEnded after its own."""
        if self._graph.folder(stage).name == self._folder:
            self._graph.run(stage, work)
            raise StageEnded

    def wait(self, stage: Stage) -> None:
        """Raises RuntimeError where the program reads a stage that its own does not need."""
        if not self._graph.done(stage):
            raise RuntimeError(
                f"the program reads stage {stage.name!r}, which is not complete: add it to the "
                f"`needs` of the stage that reads it"
            )


class Workers:
    """Processes that run the stages of one program."""

    def __init__(
        self,
        graph: Graph,
        jobs: int,
        command: Sequence[str],
        notify: Notify,
        ended: Callable[[Stage], None],
    ):
        """Starts `jobs` processes of `command`, each with its number and their total as last
        arguments; `ended` is called after each stage.
        """
        self._graph, self._notify, self._ended = graph, notify, ended
        self._changed = threading.Condition()
        self._waiting: collections.deque[Stage] = collections.deque()
        self._known: set[pathlib.Path] = set()  # folders of all stages that were queued
        self._failed: list[str] = []
        self._closed = False
        self._processes = [
            subprocess.Popen(
                [*command, str(number), str(jobs)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=orphans.child_of_this({"PYTHONIOENCODING": "utf-8", **os.environ}),
                start_new_session=True,  # Ctrl-C reaches this process alone, which stops them
            )
            for number in range(jobs)
        ]
        self._threads = [
            threading.Thread(target=self._serve, args=(process,), daemon=True)
            for process in self._processes
        ]
        for thread in self._threads:
            thread.start()

    def run(self, stage: Stage, work: Work) -> None:
        """Queues a stage, which starts when a worker is free and the stages it needs are done."""
        if self._graph.done(stage):
            self._graph.run(stage, work)  # which says that it is complete
            return
        self._raise_failure()
        with self._changed:
            if self._graph.folder(stage) not in self._known:
                self._known.add(self._graph.folder(stage))
                self._waiting.append(stage)
                self._changed.notify_all()

    def wait(self, stage: Stage) -> None:
        """Waits until a stage is complete; raises StageFailed where it, or another one, failed."""
        with self._changed:
            while self._graph.folder(stage) in self._known and not self._graph.done(stage):
                self._raise_failure()
                self._changed.wait(POLL)

    def close(self) -> None:
        """Waits for all stages, and ends the workers; raises StageFailed."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            while thread.is_alive():
                self._raise_failure()
                thread.join(POLL)
        self._raise_failure()

    def stop(self) -> None:
        """Asks every worker to save and end, and waits for them."""
        with self._changed:
            self._waiting.clear()
            self._closed = True
            self._changed.notify_all()
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            process.wait()

    def _raise_failure(self) -> None:
        if self._failed:
            raise StageFailed("; ".join(self._failed))

    def _next(self) -> Stage | None:
        """Returns the first queued stage whose needs are done; None where no more will come."""
        with self._changed:
            while True:
                if self._failed or (self._closed and not self._waiting):
                    return None
                for stage in self._waiting:
                    if all(self._graph.done(need) for need in stage.needs):
                        self._waiting.remove(stage)
                        return stage
                self._changed.wait(POLL)

    def _serve(self, process: subprocess.Popen) -> None:
        """Gives one worker stage after stage."""
        while stage := self._next():
            last = _run(process, stage, self._graph.folder(stage).name, self._notify)
            done = self._graph.done(stage)
            if done:
                self._ended(stage)
            with self._changed:
                if not done and not self._closed:
                    words = " / ".join(last) or f"exit status {process.poll()}"
                    self._failed.append(f"stage {stage.name!r} failed: {words}")
                self._changed.notify_all()
        assert process.stdin is not None
        process.stdin.close()  # which ends the worker


def _run(process: subprocess.Popen, stage: Stage, folder: str, notify: Notify) -> Sequence[str]:
    """Lets a worker do a stage, and passes on what it prints; returns its last lines."""
    assert process.stdin is not None and process.stdout is not None
    last: collections.deque[str] = collections.deque(maxlen=LAST_LINES)
    try:
        process.stdin.write(folder + "\n")
        process.stdin.flush()
    except OSError:  # it has ended; its last lines are in the pipe
        last.append(f"its worker ended with status {process.wait()}")
    for line in process.stdout:
        line = line.rstrip("\n")
        if line == ENDED:
            break
        if line.strip():
            last.append(line.strip())
            named = line.startswith(f"[{stage.name}]")
            notify(line if named else f"[{stage.name}] {line}")
    return last


def check(jobs: int) -> None:
    """Raises ConfigError unless this machine can run `jobs` workers side by side."""
    cores = len(_cores())
    if not 1 <= jobs <= cores:
        raise ConfigError(f"--jobs is {jobs}, but there are {cores} cores: use 1 to {cores}")
    if jobs > 1 and jax.default_backend() != "cpu":
        raise ConfigError(
            f"--jobs {jobs} shares out the cores of a CPU, but jax computes on "
            f"{jax.default_backend()}: use --jobs 1, or set JAX_PLATFORMS=cpu"
        )


def take_share(number: int, jobs: int) -> list[int]:
    """Pins this process to its share of the cores; call it when a worker starts.

    The thread pool of jax is made first, so its size, and every result, is that of all cores.
    Returns the cores, [] where the system cannot pin threads.
    """
    jax.devices()
    cores = _cores()
    if not hasattr(os, "sched_setaffinity"):
        return []
    share = cores[number * len(cores) // jobs : (number + 1) * len(cores) // jobs]
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), share)
    return share


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@contextlib.contextmanager
def working(
    graph: Graph,
    jobs: int,
    command: Sequence[str],
    notify: Notify,
    ended: Callable[[Stage], None],
) -> Iterator[Workers]:
    """Yields Workers, and waits for all stages at the end of the block.

    Ctrl-C, SIGTERM and errors make every worker save and end. Raises StageFailed where a stage
    failed; the same command then goes on with it.
    """
    check(jobs)

    def interrupt(*given: object) -> None:
        del given
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    workers = Workers(graph, jobs, command, notify, ended)
    try:
        yield workers
        workers.close()
    except KeyboardInterrupt:
        notify("stopping the stages, which save first; the same command goes on")
        workers.stop()
        raise stop.Stopped from None
    except BaseException:
        workers.stop()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def serve(place: Sequence[int], do: Callable[[str], None]) -> None:
    """Calls do(folder) for each line of the standard input, the life of a worker.

    place: the number of the worker and how many there are.
    """
    orphans.end_command()
    number, jobs = place
    take_share(number, jobs)
    for line in sys.stdin:
        with contextlib.suppress(StageEnded):
            do(line.strip())
            raise RuntimeError("this program no longer has the stage that its worker is to do")
        print(ENDED, flush=True)
