"""SIGTERM: raised at once, recorded, checked between batches, and handled where Python cannot."""

import os
import signal
import subprocess
import sys
import time

import pytest

from ssl_jax.core import stop

SLOW = """
import hashlib, sys
from ssl_jax.core import stop

stop.PATIENCE = 0.5
with stop.listening():
    print("ready", flush=True)
    # one call below Python, which no handler interrupts
    hashlib.pbkdf2_hmac("sha512", b"", b"", 2**31 - 1)
"""


def ask(number=signal.SIGTERM):
    os.kill(os.getpid(), number)
    time.sleep(0.05)


def test_before_there_is_something_to_save_it_is_raised_at_once(capfd):
    before, woken = signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1)
    with pytest.raises(stop.Stopped) as ended, stop.listening():
        ask()
        raise AssertionError("went on")
    assert ended.value.code == 0 and "nothing to save" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before and signal.set_wakeup_fd(woken) == -1


def test_after_that_it_is_noted_and_ends_work_between_two_batches():
    seen, closed = [], []

    def batches():
        try:
            yield from range(9)
        finally:
            closed.append(True)

    with stop.listening():
        stop.keep()
        with pytest.raises(stop.Stopped):
            for batch in stop.between(batches()):
                seen.append(batch)
                if batch == 3:
                    ask()
        assert stop.asked() and stop.noted()
    assert seen == [0, 1, 2, 3] and closed == [True]
    assert list(stop.between(range(3))) == [0, 1, 2]  # outside of the block it is not handled


def test_one_inside_another_changes_nothing():
    with stop.listening():
        stop.keep()
        with stop.listening():
            ask()
        assert stop.asked()


def test_ctrl_c_ends_like_sigterm_with_the_status_that_shells_know(capfd):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(stop.Stopped) as ended, stop.listening():
        ask(signal.SIGINT)
    assert ended.value.code == stop.INTERRUPTED == 130
    assert capfd.readouterr().err == (
        "Ctrl-C: there is nothing to save yet; the same command begins where this one did\n"
    )
    with stop.listening():
        stop.keep()
        ask(signal.SIGINT)
        assert stop.asked() and stop.by() == "Ctrl-C"
    assert signal.getsignal(signal.SIGINT) is before
    assert capfd.readouterr().err == ""  # without a terminal the loop alone prints a line


def test_a_second_ctrl_c_ends_at_once(monkeypatch, capfd):
    left = []
    monkeypatch.setattr(stop.os, "_exit", left.append)
    with stop.listening():
        stop.keep()
        ask(signal.SIGINT)
        assert left == []
        ask(signal.SIGINT)
        assert left == [130]
    assert "Ctrl-C again: ended at once" in capfd.readouterr().err


def test_a_process_whose_folder_was_taken_over_does_not_save(monkeypatch):
    monkeypatch.setattr(stop.lock, "taken", lambda: True)
    with pytest.raises(KeyboardInterrupt), stop.listening():
        stop.keep()
        ask(signal.SIGINT)


def test_in_the_background_ctrl_c_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop.listening():
            stop.keep()
            ask(signal.SIGINT)
            assert not stop.asked()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_a_call_that_does_not_come_back_to_python():
    program = SLOW.replace("with stop.listening():", "with stop.listening():\n    stop.keep()")
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130


@pytest.mark.slow
def test_a_call_that_does_not_come_back_to_python_ends_too():
    process = subprocess.Popen([sys.executable, "-c", SLOW], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.terminate()
    assert process.wait(timeout=20) == 0
