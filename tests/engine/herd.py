"""Many real training processes, started quickly: forks of one that has imported everything.

As a program it reads one job per line from stdin, forks a process for it, and answers with
lines [pid, null] at the start and [pid, exit status] at the end of each.
"""

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from concurrent import futures
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Child:
    """A process of the herd, with its output."""

    def __init__(self, pid: int, log: Path):
        self.pid, self.log = pid, log
        self.ended: futures.Future = futures.Future()

    def text(self) -> str:
        """Returns the output so far."""
        return self.log.read_text(errors="replace")

    def signal(self, number: int) -> None:
        """Sends a signal."""
        os.kill(self.pid, number)

    def wait(self, seconds: float = 300) -> int:
        """Returns the exit status, negative for a signal; AssertionError on timeout."""
        try:
            return self.ended.result(seconds)
        except TimeoutError:
            raise AssertionError(f"still running after {seconds} s:\n{self.text()}") from None

    def until(self, ready, seconds: float = 300) -> None:
        """Waits until ready() is true, as long as the process runs."""
        deadline = time.monotonic() + seconds
        while not ready():
            assert not self.ended.done() and time.monotonic() < deadline, self.text()
            time.sleep(0.002)


class Herd:
    """Starts children; all have ended when the block ends."""

    def __init__(self, folder: Path):
        self.folder, self._children, self._count = folder, {}, 0
        self._started: queue.Queue = queue.Queue()

    def __enter__(self) -> "Herd":
        pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen([sys.executable, __file__], env=env, cwd=ROOT, **pipe)
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *error: object) -> None:
        for child in self._children.values():
            if not child.ended.done():
                child.signal(signal.SIGKILL)
        self._process.stdin.close()
        self._process.wait(60)
        self._reader.join(60)

    def start(
        self, *arguments: object, pause: float = 0.0, expect: float = 120, toy: bool = False
    ) -> Child:
        """Starts `ssl_jax.train` with arguments; `pause` seconds follow each of its steps.

        With `toy` it starts toy_process.py, whose arguments are a folder, the number of steps, and
        the change of the folder at which it is killed (none: never).
        """
        self._count += 1
        log = self.folder / f"child-{self._count}.log"
        job = {"arguments": [str(a) for a in arguments], "pause": pause, "log": str(log)}
        job["toy"] = toy
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        pid = self._started.get(timeout=expect)
        self._children[pid].log = log
        return self._children[pid]

    def _listen(self) -> None:
        for line in self._process.stdout:
            pid, status = json.loads(line)
            if status is None:
                self._children[pid] = Child(pid, self.folder)
                self._started.put(pid)
            else:
                self._children[pid].ended.set_result(status)


def main() -> None:
    """Forks for each line of stdin; ends when stdin and all children have ended."""
    from ssl_jax import train  # imported once, for all

    assert train
    watchers = []
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _work(job)
        _say(pid, None)
        watchers.append(threading.Thread(target=_watch, args=(pid,)))
        watchers[-1].start()
    for watcher in watchers:
        watcher.join()


def _watch(pid: int) -> None:
    _say(pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _say(pid: int, status: int | None) -> None:
    os.write(1, (json.dumps([pid, status]) + "\n").encode())


def _work(job: dict) -> None:
    """Runs a job in a fork, which exits like an ordinary process."""
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(log, stream)
    status = 0
    try:
        (_toy if job["toy"] else _train)(job["arguments"], job["pause"])
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        status = 1
        traceback.print_exc()
    sys.stderr.flush()
    if not status:  # as at exit of Python: many hosts disconnect
        import jax

        jax.distributed.shutdown()
    os._exit(status)


def _train(arguments: list[str], pause: float) -> None:
    from ssl_jax import train
    from ssl_jax.core import config as config_lib
    from ssl_jax.engine import hosts

    if not pause:
        train.main(arguments)
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--config")
    parser.add_argument("--workdir")
    hosts.add_flags(parser)
    known, overrides = parser.parse_known_args(arguments)
    with hosts.session(known):
        config = config_lib.load(known.config, overrides)
        train.run(config, known.workdir, [(lambda step, state: time.sleep(pause), 1)])


def _toy(arguments: list[str], pause: float) -> None:
    import kill
    import toy_process

    folder, steps, *die = arguments
    if die:
        kill.at(int(die[0]), Path(folder))
    toy_process.main(Path(folder), int(steps), pause)


if __name__ == "__main__":
    main()
