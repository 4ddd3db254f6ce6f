"""One process at a time in a folder: a lock that names its holder and can be found stale.

The file `lock` in the folder names the holder, and is locked by the operating system, which
releases it when the process dies. Where system locks do not work, the name decides: a process on
this machine holds the lock if it exists and started at the recorded time; one on another machine
holds it as long as its heartbeats update the time of the file. An object store has neither locks
nor atomic creation, so there only the name and the heartbeats, written into the object, count. If
two processes start within a second of each other, one of them ends at its next heartbeat.
"""

import _thread
import contextlib
import errno
import fcntl
import functools
import json
import os
import pathlib
import platform
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

from ssl_jax.core import paths

FILE = "lock"
PATIENCE = 1.0  # seconds to wait for a process that only checks the folder
BEAT, REMOTE_BEAT = 10.0, 30.0  # seconds between two heartbeats
STALE = 120.0  # seconds without one after which a process of another machine counts as dead
TAKEN = 75  # exit status of a process whose folder was taken over: try again
POLL = 1.0  # seconds between two checks for a heartbeat
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
_held: dict[str, int] = {}  # folder -> the thread of this process that holds it
_handles: set[int] = set()
_taken_over: set[pathlib.Path] = set()  # folders that this process has lost to another


class Busy(RuntimeError):
    """Another process is using the folder."""


@contextlib.contextmanager
def hold(folder: paths.Given, keep: bool = False, within: bool = False) -> Iterator[None]:
    """Creates a folder, and keeps other processes and other threads out of it; raises Busy.

    A folder that it created is removed at the end if nothing was written to it. keep: leave the
    empty file `lock` at the end, to show that work was done. within: this thread may hold the
    folder already, as it does when a stage trains a model.
    """
    folder = paths.of(folder)
    name, thread = os.fspath(paths.absolute(folder)), threading.get_ident()
    if within and _held.get(name) == thread:
        yield
        return
    with paths.made(folder), _held_by(thread, name, folder, keep):
        yield


@contextlib.contextmanager
def _held_by(thread: int, name: str, folder: pathlib.Path, keep: bool) -> Iterator[None]:
    lock = (_Object if paths.is_remote(folder) else _File)(folder)
    lock.acquire()
    _held[name] = thread
    beats = threading.Event()
    heart = threading.Thread(target=lock.beat, args=(beats,), name="lock", daemon=True)
    heart.start()
    try:
        yield
    except KeyboardInterrupt:
        if lock.lost:
            raise Busy(_taken(folder)) from None
        raise
    finally:
        beats.set()
        heart.join(PATIENCE)
        _taken_over.discard(folder)
        del _held[name]
        lock.release(keep)


def taken() -> bool:
    """Returns whether another process took over a folder of this one, which must not save then."""
    return bool(_taken_over)


def holder(folder: paths.Given) -> str:
    """Returns who holds a folder, or held it last: "process 17 on node3"."""
    about = _about(paths.of(folder) / FILE)
    return f"process {about['process']} on {about['host']}" if about else "another process"


def busy(folder: paths.Given) -> bool:
    """Returns whether a process, another or this one, holds the folder."""
    path = paths.of(folder) / FILE
    if not path.exists():
        return False
    about = _about(path)
    if not paths.is_remote(path):
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            granted = _flock(handle)  # held for an instant, which `hold` waits out
        finally:
            os.close(handle)
        if granted is not None and (not granted or not about or about["boot"] == _boot()):
            return not granted
    alive = _alive(about)
    return _age(path, about) < STALE if alive is None else alive


class _File:
    """The lock of a folder on a local or shared file system."""

    every = BEAT

    def __init__(self, folder: pathlib.Path):
        self.folder, self.path = folder, folder / FILE
        self.me = _me()
        self.handle, self.lost = -1, False

    def acquire(self) -> None:
        """Takes the lock; raises Busy."""
        granted = self._open()
        about = _about(self.path)
        # a lock granted by this machine excludes all processes of this machine
        if not (granted and about and about["boot"] == _boot()):
            try:
                _wait(self.folder, self.path, about)
            except BaseException:
                self._close()
                raise
        self._put(json.dumps(self.me).encode())

    def _open(self) -> bool | None:
        deadline = time.monotonic() + PATIENCE
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self.handle = os.open(self.path, flags, 0o666)
            _handles.add(self.handle)
            granted = _flock(self.handle)
            if granted is not False and self._is_there():
                return granted
            self._close()
            if time.monotonic() > deadline:
                raise _error(self.folder)
            time.sleep(PATIENCE / 20)

    def _is_there(self) -> bool:
        """Returns whether the file still has its name: its last holder may have removed it."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self.handle))
        except FileNotFoundError:
            return False

    def _put(self, data: bytes) -> None:
        """Writes who holds it; on a full disk the lock works without the name."""
        with contextlib.suppress(OSError):
            os.ftruncate(self.handle, 0)
            os.pwrite(self.handle, data, 0)

    def _close(self) -> None:
        _handles.discard(self.handle)
        os.close(self.handle)

    def _touch(self) -> None:
        os.utime(self.handle)

    def beat(self, ended: threading.Event) -> None:
        """Sends heartbeats; ends the main thread if another process has taken over."""
        while not ended.wait(self.every):
            with contextlib.suppress(OSError):  # storage out of reach for a while
                about = _about(self.path)
                self.lost = about is not None and any(about[k] != self.me[k] for k in _WHO)
                if self.lost:
                    _taken_over.add(self.folder)
                    self._end()
                    return
                self._touch()

    def _end(self) -> None:
        """Ends the main thread, or the process if it ignores Ctrl-C, as in the background."""
        if callable(signal.getsignal(signal.SIGINT)):
            _thread.interrupt_main()
            return
        print(f"error: {_taken(self.folder)}", file=sys.stderr, flush=True)
        os._exit(TAKEN)

    def release(self, keep: bool) -> None:
        """Releases the folder."""
        if not self.lost:
            self._put(b"")
            if not keep and self._is_there():
                with contextlib.suppress(OSError):
                    self.path.unlink()
        self._close()


class _Object(_File):
    """The lock of a folder in an object store."""

    every = REMOTE_BEAT

    def acquire(self) -> None:
        """Takes the lock; raises Busy."""
        _wait(self.folder, self.path, _about(self.path))
        self._touch()
        about = _about(self.path)
        if about is None or any(about[k] != self.me[k] for k in _WHO):
            raise _error(self.folder)

    def _touch(self) -> None:
        self.path.write_bytes(json.dumps(self.me | {"at": time.time()}).encode())

    def release(self, keep: bool) -> None:
        """Releases the folder."""
        if not self.lost:
            with contextlib.suppress(OSError):
                self.path.write_bytes(b"") if keep else self.path.unlink()


_WHO = ("process", "host", "boot", "started")


def _me() -> dict[str, Any]:
    pid = os.getpid()
    who = {"process": pid, "host": platform.node(), "boot": _boot(), "started": _started(pid)}
    return who | {"at": time.time()}


@functools.cache
def _boot() -> str:
    """Returns an id of this machine since its last boot, or of this container."""
    found = []
    for name in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with contextlib.suppress(OSError):
            link = os.path.islink(name)
            found.append(os.readlink(name) if link else pathlib.Path(name).read_text("ascii"))
    return " ".join(text.strip() for text in found) or platform.node()


def _started(pid: int) -> str | None:
    """Returns when a process on this machine started, in ticks; None if there is none."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
        return text.rpartition(")")[2].split()[19]
    except FileNotFoundError:
        return None


def _about(path: pathlib.Path) -> dict[str, Any] | None:
    """Returns the holder that a lock names; None if it is free, or from an earlier version."""
    try:
        about = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    known = isinstance(about, dict) and all(key in about for key in (*_WHO, "at"))
    return about if known else None


def _alive(about: dict[str, Any] | None) -> bool | None:
    """Returns whether a holder is alive; None if this machine cannot know."""
    if about is None:
        return False
    if about["boot"] == _boot():
        return _started(int(about["process"])) == about["started"]
    # this machine has been rebooted since
    return False if about["host"] == platform.node() else None


def _age(path: pathlib.Path, about: dict[str, Any] | None) -> float:
    """Returns the seconds since the last heartbeat; for a file, by the clock of its storage."""
    if about is not None and paths.is_remote(path):
        return time.time() - about["at"]
    with tempfile.TemporaryFile(dir=path.parent) as now:
        return os.fstat(now.fileno()).st_mtime - path.stat().st_mtime


def _wait(folder: pathlib.Path, path: pathlib.Path, about: dict[str, Any] | None) -> None:
    """Returns once the holder is dead, after STALE seconds at most; raises Busy if it is alive."""
    alive = _alive(about)
    if alive:
        raise _error(folder)
    age = _age(path, about) if alive is None else STALE
    if age >= STALE:
        return
    print(
        f"{holder(folder)} held {folder} {max(age, 0):.0f} s ago: waiting up to {STALE:.0f} s for "
        f"its next heartbeat",
        file=sys.stderr,
        flush=True,
    )
    before, end = _sign(path), time.monotonic() + STALE - max(age, 0.0)
    while time.monotonic() < end:
        time.sleep(POLL)
        if _about(path) is None:
            return  # it has been released
        if _sign(path) != before:
            raise _error(folder)


def _sign(path: pathlib.Path) -> object:
    return path.read_bytes() if paths.is_remote(path) else path.stat().st_mtime_ns


def _taken(folder: pathlib.Path) -> str:
    return (
        f"{holder(folder)} has taken over {folder}, since this process sent no heartbeat for "
        f"{STALE:.0f} s: this one ends here, and the other continues"
    )


def _error(folder: pathlib.Path) -> Busy:
    return Busy(f"{holder(folder)} is using {folder}: wait for it, or end it")


def _flock(handle: int) -> bool | None:
    """Returns whether the system's lock was granted; None on a file system without locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True


def _forget() -> None:
    """Releases the locks that a forked child inherits, since it may outlive its parent."""
    for handle in _handles:
        os.close(handle)
    _handles.clear()
    _held.clear()


os.register_at_fork(after_in_child=_forget)
