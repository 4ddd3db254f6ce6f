"""Atomic writes: a reader finds the old content of a file or the new, complete either way.

Everything that one process leaves for a later one (run state, tables, caches) is written here. A
kill at any time leaves the old file intact and at most a temporary file next to it, which the next
write of that name, or `sweep`, removes. Object stores replace objects atomically by themselves.
Text is UTF-8 on every machine.
"""

import contextlib
import errno
import fcntl
import glob
import io
import json
import math
import os
import pathlib
import re
import secrets
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np

from ssl_jax.core import paths

TEMPORARY = ".tmp"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of a disk that cannot be written to: it is full or read-only."""
_CODE = re.compile(r"os_error_code='(\d+)'")  # in messages of tensorstore
_ABSENT = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
# create a new file; fail if a file or link of that name exists
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LEFT = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def write_text(path: paths.Given, text: str) -> None:
    """Writes a text file; raises OSError naming it, which leaves the old file untouched."""
    write_bytes(path, paths.utf8(text))


def write_json(path: paths.Given, content: Any, indent: int | None = 1) -> None:
    """Writes `content` as a JSON file, as `write_text` does; NaN becomes null."""
    write_text(path, json.dumps(_finite(content), indent=indent, allow_nan=False) + "\n")


def _finite(content: Any) -> Any:
    """Returns `content` with null for NaN and infinities, which JSON does not have."""
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_bytes(path: paths.Given, data: bytes) -> None:
    """Writes a binary file, as `write_text` does."""
    with writing(path) as file:
        file.write(data)


@contextlib.contextmanager
def writing(path: paths.Given) -> Iterator[IO[bytes]]:
    """Yields a file to write to, which gets its name when the block ends without an error.

    Raises OSError naming `path`.
    """
    if paths.is_remote(path):
        kept = io.BytesIO()
        yield kept
        paths.of(path).write_bytes(kept.getvalue())
        return
    with _temporary(pathlib.Path(path)) as (_, handle), open(handle, "wb", closefd=False) as file:
        yield file


@contextlib.contextmanager
def making(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Like `writing`, but yields a path, for a library that opens files itself; local only."""
    with _temporary(path) as (fresh, _):
        yield fresh


@contextlib.contextmanager
def _temporary(target: pathlib.Path) -> Iterator[tuple[pathlib.Path, int]]:
    """Yields a temporary file and its handle, and renames it when the block ends."""
    fresh, handle = target, -1
    try:
        sweep(target.parent, target.name)
        fresh, handle = _fresh(target)
        yield fresh, handle
        _sync(handle)
        os.replace(fresh, target)
    except BaseException as error:
        if fresh != target:
            with contextlib.suppress(OSError):  # the first error is the one to raise
                fresh.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and _is_ours(error):
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise
    finally:
        if handle >= 0:
            os.close(handle)  # and with it the lock
    _sync_folder(target.parent)


def _fresh(target: pathlib.Path) -> tuple[pathlib.Path, int]:
    """Returns a new temporary file, locked so that `sweep` knows that its process is alive."""
    while True:
        fresh = target.with_name(f".{target.name}.{secrets.token_hex(8)}{TEMPORARY}")
        handle = os.open(fresh, _NEW, 0o666)
        try:
            if _locked(handle) and os.fstat(handle).st_nlink:
                return fresh, handle
        except BaseException:
            os.close(handle)
            fresh.unlink()
            raise
        os.close(handle)  # another process swept it away before it was locked


def _locked(handle: int) -> bool:
    """Locks a file; False if another process holds it. True on a file system without locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
    return True


def _is_ours(error: OSError) -> bool:
    """Returns whether an error concerns the temporary file; write errors name no file."""
    return error.filename is None or str(error.filename).endswith(TEMPORARY)


def full(error: BaseException | None) -> str:
    """Returns why the disk cannot be written to if that caused an error, else ''."""
    while error is not None:
        code = error.errno if isinstance(error, OSError) else None
        found = _CODE.search(str(error)) if code is None else None
        code = int(found[1]) if found else code
        if code in FULL:
            return os.strerror(code)
        error = error.__cause__ or error.__context__
    return ""


def sweep(folder: pathlib.Path, name: str = "") -> None:
    """Removes the temporary files that killed processes left behind, for one name or for all.

    Files that are still being written are locked, and stay.
    """
    for left in folder.glob(f".{glob.escape(name) or '*'}.*{TEMPORARY}"):
        with contextlib.suppress(OSError):  # gone, a link, or not ours to touch
            handle = os.open(left, _LEFT)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an error where it is held
                left.unlink(missing_ok=True)
            finally:
                os.close(handle)


def _sync(handle: int) -> None:
    """Waits until what was written is on disk, if the file system supports that."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise


def _sync_folder(folder: pathlib.Path) -> None:
    """Makes a rename durable; some file systems neither support nor need this."""
    with contextlib.suppress(OSError):  # the file is complete under either name
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_json(path: paths.Given, remedy: str) -> Any:
    """Returns the content of a JSON file; raises ValueError naming the file and the remedy.

    An earlier version of this package wrote in place, and a kill could leave a file empty.
    """
    text = read_text(path, remedy)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}): {remedy}") from error


def read_text(path: paths.Given, remedy: str) -> str:
    """Returns a text file; raises ValueError, as `read_json`, if it is empty or not UTF-8."""
    try:
        text = paths.of(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}): {remedy}") from error
    if not text.strip():
        raise ValueError(f"{path} is empty, as a kill or a full disk leaves it: {remedy}")
    return text


def read_arrays(path: paths.Given, names: Sequence[str]) -> dict[str, np.ndarray] | None:
    """Returns the arrays, `names` among them, of an .npz file that can be rebuilt.

    Returns None if the file is absent, or, with a warning, if it is damaged.
    """
    try:
        with np.load(path) as kept:
            found = {name: kept[name] for name in {*kept.files, *names}}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        warnings.warn(f"{path} is damaged ({error}): it will be rebuilt", stacklevel=2)
        return None
    return found
