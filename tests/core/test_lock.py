"""The lock of a folder: who holds it, and what happens when the holder died."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ssl_jax.core import lock, paths

HOLD = """
import sys, time
from ssl_jax.core import lock
with lock.hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["gs://bucket/run", ""], ids=["store", "local"])
def folder(request, bucket, tmp_path):
    return paths.of(request.param) if request.param else tmp_path / "run"


def leave(folder, **changes):
    """Leaves the lock of a process that was killed, or is still running on another machine."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / lock.FILE).write_bytes(json.dumps(lock._me() | changes).encode())


def test_another_thread_is_kept_out_and_the_same_one_is_not(folder, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.05)
    told = []

    def other():
        try:
            with lock.hold(folder):
                told.append("in")
        except lock.Busy as error:
            told.append(str(error))

    with lock.hold(folder):
        with lock.hold(folder, within=True):
            assert lock.busy(folder)
        with pytest.raises(lock.Busy), lock.hold(folder):
            raise AssertionError
        assert lock.busy(folder)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert f"process {os.getpid()} on {lock.platform.node()} is using {folder}" in told[0]
    assert not lock.busy(folder) and not (folder / lock.FILE).exists()
    with lock.hold(folder, keep=True):
        told.clear()
    other()
    assert told == ["in"]


@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
def test_a_dead_process_of_this_machine_holds_nothing_and_a_living_one_does(
    folder, monkeypatch, locks
):
    if not locks:
        monkeypatch.setattr(lock, "_flock", lambda handle: None)
    leave(folder, started="1")  # the process id is reused by a later process
    assert not lock.busy(folder)
    with lock.hold(folder):
        assert lock.busy(folder)
    leave(folder, boot="before it was started again")
    with lock.hold(folder):
        assert lock.busy(folder)
    leave(folder)
    if paths.is_remote(folder) or not locks:
        with pytest.raises(lock.Busy, match=f"process {os.getpid()} on"), lock.hold(folder):
            raise AssertionError
    else:
        with lock.hold(folder):  # the system's lock takes precedence
            assert lock.busy(folder)


def test_a_process_of_another_machine_is_dead_when_it_beats_no_more(folder, monkeypatch, capsys):
    monkeypatch.setattr(lock, "POLL", 0.01)
    elsewhere = {"host": "node3", "boot": "another", "process": 17}
    leave(folder, **elsewhere, at=time.time() - lock.STALE - 1)
    if not paths.is_remote(folder):
        os.utime(folder / lock.FILE, (1, 1))
    assert not lock.busy(folder)
    with lock.hold(folder):
        assert lock.busy(folder) and capsys.readouterr().err == ""
    monkeypatch.setattr(lock, "STALE", 0.2)
    leave(folder, **elsewhere)
    assert lock.busy(folder)
    with lock.hold(folder):
        told = capsys.readouterr().err
    assert told.startswith(f"process 17 on node3 held {folder} 0 s ago: waiting up to")
    monkeypatch.setattr(lock, "STALE", 60.0)
    leave(folder, **elsewhere)
    beats = iter(range(1, 9))

    def beat(seconds):
        leave(folder, **elsewhere, beat=next(beats))

    monkeypatch.setattr(lock.time, "sleep", beat)
    with pytest.raises(lock.Busy, match="process 17 on node3 is using"), lock.hold(folder):
        raise AssertionError
    monkeypatch.setattr(lock.time, "sleep", lambda s: (folder / lock.FILE).write_bytes(b""))
    with lock.hold(folder):  # it was released
        assert lock.holder(folder) == f"process {os.getpid()} on {lock.platform.node()}"


def test_one_that_was_taken_over_ends_and_leaves_the_lock_of_the_other(folder, monkeypatch):
    for kind in (lock._File, lock._Object):
        monkeypatch.setattr(kind, "every", 0.02)
    # tests that run in the background ignore Ctrl-C
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        taken = pytest.raises(lock.Busy, match="process 17 on node3 has taken over")
        with taken, lock.hold(folder):
            leave(folder, host="node3", process=17)
            for _ in range(500):
                time.sleep(0.01)
    finally:
        signal.signal(signal.SIGINT, before)
    assert lock.holder(folder) == "process 17 on node3"


@pytest.mark.slow
def test_one_that_was_taken_over_in_the_background_ends_too(tmp_path):
    quick = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {HOLD}".replace(
        "with lock", "lock._File.every = 0.02\nwith lock"
    )
    command = [sys.executable, "-c", quick, str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        leave(tmp_path, host="node3", process=17)
        assert process.wait(20) == lock.TAKEN
        assert process.stderr.read().startswith("error: process 17 on node3 has taken over")


def test_signs_of_life_are_given_and_outlive_a_storage_that_is_away(folder, monkeypatch):
    for kind in (lock._File, lock._Object):
        monkeypatch.setattr(kind, "every", 0.02)
    with lock.hold(folder):
        signs = {lock._sign(folder / lock.FILE)}
        for _ in range(100):
            time.sleep(0.02)
            signs.add(lock._sign(folder / lock.FILE))
            if len(signs) > 3:
                break
        assert len(signs) > 3


def test_a_lock_of_an_earlier_version_is_known_by_the_system_alone(tmp_path):
    (tmp_path / lock.FILE).write_text("process 1 on pod")
    assert not lock.busy(tmp_path) and lock.holder(tmp_path) == "another process"
    with lock.hold(tmp_path):
        assert lock.busy(tmp_path)


def test_a_link_in_its_place_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / lock.FILE).symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="lock"), lock.hold(tmp_path):
        raise AssertionError
    assert (tmp_path / "victim").read_text() == "mine"


@pytest.mark.filterwarnings("ignore:os.fork")
def test_a_forked_child_holds_nothing_after_its_parent(tmp_path):
    with lock.hold(tmp_path):
        child = os.fork()
        if not child:
            time.sleep(5)
            os._exit(0)
    try:
        with lock.hold(tmp_path):
            assert lock.busy(tmp_path)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


@pytest.mark.slow
def test_a_killed_process_lets_go_at_once(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(lock.Busy, match=f"process {process.pid} on"), lock.hold(tmp_path):
            raise AssertionError
        process.kill()
        process.wait()
    with lock.hold(tmp_path):
        assert lock.busy(tmp_path)
