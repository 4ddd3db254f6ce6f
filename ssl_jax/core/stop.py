"""SIGTERM: the request to end, which long work checks for between batches.

While there is nothing to save yet, `Stopped` is raised in the main thread at once. If that thread
does not return to Python (a program is compiled, storage does not respond), another one ends the
process after PATIENCE seconds. After `keep` the request is only noted, and `asked` returns it. With
many hosts jax handles the signal, and all of them agree on the check after which to end.
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

from ssl_jax.core import pulse

T = TypeVar("T")
PATIENCE = 5.0
"""Seconds that Python has to end by itself where there is nothing to save."""
_NOTHING = b"SIGTERM: there is nothing to save yet; the same command begins where this one did\n"


class Stopped(SystemExit):
    """Ends a process that was asked to end, with status 0, unless it is caught to save."""

    def __init__(self) -> None:
        super().__init__(0)


class _State:
    """The state of the process, which has one SIGTERM."""

    listening = False
    many = False
    noted = False
    keeps = False
    looks = 0  # checks by this host; the number is the same on all of them
    agreed = False


_state = _State()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Handles SIGTERM until the block ends; does nothing inside another such block.

    Nor does it outside the main thread, which alone may handle signals.
    """
    if _state.listening:
        yield
        return
    _state.listening, _state.noted, _state.keeps = True, False, False
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
    before = signal.signal(signal.SIGTERM, _ask)
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
        signal.signal(signal.SIGTERM, before)
        pipe[1].close()  # which ends the thread


def _ask(number: int, frame: FrameType | None) -> None:
    del number, frame
    again, _state.noted = _state.noted, True
    if not _state.keeps and not again:
        os.write(2, _NOTHING)  # a handler must not print: it may interrupt another print
        raise Stopped


def _end_late(pipe: socket.socket, ended: threading.Event) -> None:
    """Ends the process after SIGTERM if there is nothing to save and nothing else ends it."""
    with pipe:
        while signals := pipe.recv(64):
            if signal.SIGTERM in signals and not ended.wait(PATIENCE) and not _state.keeps:
                if not _state.noted:
                    os.write(2, _NOTHING)
                os._exit(0)


def keep() -> None:
    """From here on there is something to save: SIGTERM is noted and raises nothing."""
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


def between(batches: Iterable[T]) -> Iterator[T]:
    """Yields the batches of an evaluation or other work; raises Stopped between two if `asked`."""
    source = iter(batches)
    try:
        for batch in source:
            check()
            yield batch
    finally:
        if hasattr(source, "close"):
            source.close()


def leave_soon() -> None:
    """Ends the process in PATIENCE seconds: threads that hang must not keep it from ending."""
    timer = threading.Timer(PATIENCE, os._exit, (0,))
    timer.daemon = True
    timer.start()
