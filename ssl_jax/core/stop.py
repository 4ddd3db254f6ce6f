"""SIGTERM: the request to end, which long work looks at between two batches.

While there is nothing to save yet, `Stopped` is raised in the main thread at once. Where that does
not come back to Python (a program is compiled, storage does not answer), a thread ends the process
after PATIENCE seconds. From `keep` on the request is noted, and `asked` tells of it. On many hosts
jax takes the signal, and all agree after which look of theirs to end.
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
"""Seconds that are left to Python to end by itself where there is nothing to save."""
_NOTHING = b"SIGTERM: there is nothing to save yet; the same command begins where this one did\n"


class Stopped(SystemExit):
    """Ends a process that was asked to end, with status 0, unless it is caught to save."""

    def __init__(self) -> None:
        super().__init__(0)


class _State:
    """Of the process: there is one SIGTERM."""

    listening = False
    many = False
    noted = False
    keeps = False
    looks = 0  # of this host: the same number on all of them
    agreed = False


_state = _State()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Obeys SIGTERM until the block ends; inside another such block it changes nothing.

    Outside the main thread, which alone may handle signals, it does nothing either.
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
    """Handles SIGTERM, and starts the thread for when Python cannot."""
    told, ended = socket.socketpair(), threading.Event()
    for end in told:
        end.setblocking(False)
    told[0].setblocking(True)
    before = signal.signal(signal.SIGTERM, _ask)
    woken = signal.set_wakeup_fd(told[1].fileno(), warn_on_full_buffer=False)
    if woken != -1:  # that of an event loop, such as a notebook's
        signal.set_wakeup_fd(woken)
    threading.Thread(target=_end_late, args=(told[0], ended), name="stop", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        if woken == -1:
            signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, before)
        told[1].close()  # which ends the thread


def _ask(number: int, frame: FrameType | None) -> None:
    del number, frame
    again, _state.noted = _state.noted, True
    if not _state.keeps and not again:
        os.write(2, _NOTHING)  # a handler must not print: it may stand inside another print
        raise Stopped


def _end_late(told: socket.socket, ended: threading.Event) -> None:
    """Ends the process when SIGTERM came and there is nothing to save, if nobody else does."""
    with told:
        while signals := told.recv(64):
            if signal.SIGTERM in signals and not ended.wait(PATIENCE) and not _state.keeps:
                if not _state.noted:
                    os.write(2, _NOTHING)
                os._exit(0)


def keep() -> None:
    """From here on there is something to save: SIGTERM is noted, and no longer raised."""
    _state.keeps = True


def noted() -> bool:
    """Says whether this process alone was told to end; on many hosts use `asked`."""
    return _state.noted


def asked() -> bool:
    """Says whether to end here; of many hosts each has to ask, in the same order."""
    if not _state.many:
        return _state.noted
    if not _state.agreed:
        _state.looks += 1
        _state.agreed = bool(multihost_utils.reached_preemption_sync_point(_state.looks))
    return _state.agreed


def check(what: str = "") -> None:
    """Raises Stopped where `asked`; tells the watchdog of life, and of what comes next."""
    pulse.beat(what or pulse.last()[1])
    if asked():
        raise Stopped


def between(batches: Iterable[T]) -> Iterator[T]:
    """Yields batches, of an evaluation for one, and raises Stopped between two where `asked`."""
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
