"""SIGTERM and Ctrl-C: the request to end, which long work checks for between batches.

While there is nothing to save yet, `Stopped` is raised in the main thread at once. If that thread
does not return to Python (a program is compiled, storage does not respond), another one ends the
process after PATIENCE seconds. After `keep` the request is only noted, and `asked` returns it. A
second Ctrl-C ends the process at once, without saving. With many hosts jax handles SIGTERM, and all
of them agree on the check after which to end; Ctrl-C ends one of them, and with it the others.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TypeVar

import jax
from jax.experimental import multihost_utils

from ssl_jax.core import lock, progress, pulse

T = TypeVar("T")
PATIENCE = 5.0
"""Seconds that Python has to end by itself where there is nothing to save."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells know it; it is 0 after SIGTERM, which a scheduler sends."""
_NOTHING = "%s: there is nothing to save yet; the same command begins where this one did\n"
_AGAIN = "Ctrl-C again: ended at once; the same command goes on from the newest checkpoint\n"
_SAVING = "Ctrl-C: saving (again ends at once)"  # shown on a terminal until it is saved


class Stopped(SystemExit):
    """Ends a process that was asked to end, with status 0 or INTERRUPTED, unless it is caught."""

    def __init__(self) -> None:
        super().__init__(INTERRUPTED if _state.by == signal.SIGINT else 0)


class _State:
    """The state of the process, which has one SIGTERM."""

    listening = False
    many = False
    noted = False
    by = 0  # the signal that was noted
    keeps = False
    looks = 0  # checks by this host; the number is the same on all of them
    agreed = False


_state = _State()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Handles SIGTERM and Ctrl-C until the block ends; does nothing inside another such block.

    Nor does it outside the main thread, which alone may handle signals.
    """
    if _state.listening:
        yield
        return
    _state.listening, _state.noted, _state.keeps, _state.by = True, False, False, 0
    _state.many = jax.distributed.is_initialized() and jax.process_count() > 1
    main = threading.current_thread() is threading.main_thread()
    try:
        with _handled() if main and not _state.many else contextlib.nullcontext():
            yield
    finally:
        _state.listening = _state.many = _state.noted = _state.keeps = False


@contextlib.contextmanager
def _handled() -> Iterator[None]:
    """Handles SIGTERM, and starts the thread for when the handler cannot run."""
    pipe, ended = socket.socketpair(), threading.Event()
    for end in pipe:
        end.setblocking(False)
    pipe[0].setblocking(True)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    # a process in the background ignores Ctrl-C, and goes on to do so
    for number in [n for n, handler in before.items() if handler is not signal.SIG_IGN]:
        signal.signal(number, _ask)
    woken = signal.set_wakeup_fd(pipe[1].fileno(), warn_on_full_buffer=False)
    if woken != -1:  # that of an event loop, such as a notebook's
        signal.set_wakeup_fd(woken)
    threading.Thread(target=_end_late, args=(pipe[0], ended), name="stop", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        if woken == -1:
            signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        pipe[1].close()  # which ends the thread


def _ask(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT and lock.taken():
        signal.default_int_handler(number, frame)  # another process has the folder: save nothing
    again, _state.noted = _state.noted, True
    if again and number == signal.SIGINT:
        _end_now()
    _state.by = _state.by or number
    if not _state.keeps and not again:
        _write(_NOTHING % by())  # a handler must not print: it may interrupt another print
        raise Stopped
    if number == signal.SIGINT and os.isatty(2):
        _write(_SAVING)


def _end_now() -> None:
    _write(_AGAIN)
    os._exit(INTERRUPTED)


def _write(text: str) -> None:
    """Writes to the error stream, in place of the progress that a terminal shows."""
    os.write(2, ("\r\033[K" * os.isatty(2) + text).encode())


def _end_late(pipe: socket.socket, ended: threading.Event) -> None:
    """Ends the process where its main thread does not: at a second Ctrl-C, and after a signal if
    there is nothing to save."""
    interrupts = 0
    with pipe:
        while signals := pipe.recv(64):
            interrupts += signals.count(signal.SIGINT)
            if interrupts > 1 and not ended.wait(PATIENCE / 10):
                _end_now()
            asked_to = {signal.SIGTERM, signal.SIGINT} & set(signals)
            if asked_to and interrupts < 2 and not _state.keeps:
                given = (asked_to.pop(), ended)
                threading.Thread(target=_end_soon, args=given, daemon=True).start()


def _end_soon(number: int, ended: threading.Event) -> None:
    if ended.wait(PATIENCE) or _state.keeps:
        return
    if not _state.noted:
        _state.by = number
        _write(_NOTHING % by())
    os._exit(INTERRUPTED if number == signal.SIGINT else 0)


def by() -> str:
    """Returns what asked this process to end: Ctrl-C or SIGTERM."""
    return "Ctrl-C" if _state.by == signal.SIGINT else "SIGTERM"


def keep() -> None:
    """From here on there is something to save: a signal is noted and raises nothing."""
    _state.keeps = True


def noted() -> bool:
    """Returns whether this process was asked to end; on many hosts use `asked`."""
    return _state.noted


def asked() -> bool:
    """Returns whether to end here; with many hosts each must call it, in the same order."""
    if not _state.many:
        return _state.noted
    if not _state.agreed:
        _state.looks += 1
        _state.agreed = bool(multihost_utils.reached_preemption_sync_point(_state.looks))
    return _state.agreed


def check(what: str = "") -> None:
    """Raises Stopped if `asked`; notes progress for the watchdog, and what comes next."""
    pulse.beat(what or pulse.last()[1])
    if asked():
        raise Stopped


def between(batches: Iterable[T], name: str = "", total: int = 0) -> Iterator[T]:
    """Yields the batches of an evaluation or other work; raises Stopped between two if `asked`.

    Shows how many are done of `total` (0: not known), as work called `name` if it has a name.
    """
    source = iter(batches)
    try:
        with progress.Progress(name, total) if name else contextlib.nullcontext() as bar:
            for batch in source:
                check()
                yield batch
                if bar:
                    bar.step()
    finally:
        if hasattr(source, "close"):
            source.close()


def leave_soon(status: int) -> None:
    """Ends the process in PATIENCE seconds, whatever its threads hang at."""
    timer = threading.Timer(PATIENCE, os._exit, (status,))
    timer.daemon = True
    timer.start()
