"""The process with many devices that the conformance tests ask."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import cases
import pytest

PROGRAM = cases.ROOT / "tests" / "conformance" / "devices_program.py"
# two along each of the four axes of a mesh
FLAGS = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=16"
MANY = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": FLAGS}


class Program:
    """A process of the program that runs one job after another; a failed job ends it."""

    def __init__(self, log: Path, **env: str):
        self._log, self._env = log, {**os.environ, "PYTHONPATH": str(cases.ROOT), **env}
        self._process: subprocess.Popen | None = None
        self._told: dict[tuple[str, str], dict] = {}

    def ask(self, path: str, job: str, seconds: float = 600) -> dict:
        """Returns the result of a job for a config; it is done once, whoever asks again."""
        if (path, job) not in self._told:
            self._told[path, job] = self._run(path, job, seconds)
        return self._told[path, job]

    def _run(self, path: str, job: str, seconds: float) -> dict:
        if self._process is None or self._process.poll() is not None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            with self._log.open("w") as told:
                self._process = subprocess.Popen(
                    [sys.executable, str(PROGRAM)],
                    cwd=cases.ROOT,
                    env=self._env,
                    stderr=told,
                    **pipes,
                )
        late = threading.Timer(seconds, self._process.kill)
        late.start()
        print(json.dumps([path, job]), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        late.cancel()
        if not answer:
            self.close()
            raise AssertionError(self._log.read_text()[-4000:])
        return json.loads(answer)

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


@pytest.fixture(scope="session")
def program():
    """The class of such processes."""
    return Program


@pytest.fixture(scope="session")
def many(tmp_path_factory):
    """A process with sixteen devices, which imports everything once for all configs."""
    process = Program(tmp_path_factory.mktemp("many") / "stderr.txt", **MANY)
    yield process
    process.close()
