"""Processes end when their parent is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORKER = """
import multiprocessing, os, sys, time
from multiprocessing import shared_memory
from ssl_jax.core import orphans

def work(name):
    orphans.end_worker(0, 1)
    kept = shared_memory.SharedMemory(name, create=True, size=1 << 16)
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    spawn.Process(target=work, args=(sys.argv[1],), daemon=True).start()
    time.sleep(600)
"""
LAUNCHER = """
import os, subprocess, sys, time
from ssl_jax.core import orphans

child = "from ssl_jax.core import orphans; import os, time; orphans.end_command(); "
child += "assert orphans.VARIABLE not in os.environ; print(os.getpid(), flush=True); "
child += "time.sleep(600)"
subprocess.Popen([sys.executable, "-c", child], env=orphans.child_of_this(os.environ),
                 start_new_session=True)
time.sleep(600)
"""


def kill_parent(command) -> int:
    """Starts a program, reads the id of its child from its output, and kills it by SIGKILL."""
    parent = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    os.kill(child, 0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    return child


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not condition()


@pytest.mark.slow
def test_a_worker_ends_with_its_parent_and_its_shared_memory_is_freed(tmp_path):
    script, name = tmp_path / "work.py", f"ssl_jax_test_{os.getpid()}"
    script.write_text(WORKER)
    child = kill_parent([str(script), name])
    assert ends(lambda: alive(child))
    assert ends(Path(f"/dev/shm/{name}").exists)


@pytest.mark.slow
def test_a_launched_command_is_asked_to_end_when_its_launcher_is_gone():
    child = kill_parent(["-c", LAUNCHER])
    assert ends(lambda: alive(child))
