"""Run folders: the state of the work in them; `core.run_lookup` finds and identifies them.

Work that runs once in a folder leaves DONE or FAILED.
"""

import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssl_jax.core import atomic, lock
from ssl_jax.core.lock import Busy, busy, holder
from ssl_jax.core.run_lookup import MANY, Found, code, find, roots, signature, walk

# the parts of `lock` and `run_lookup` that a sweep uses
__all__ = (
    "MANY",
    "Busy",
    "Found",
    "busy",
    "code",
    "find",
    "holder",
    "roots",
    "signature",
    "walk",
)

SHORT = 8  # digits of a signature shown in folder names and tables
STATES = ("done", "failed", "running", "stopped", "waiting")


def state(folder: Path) -> str:
    """Returns one of STATES; stopped: begun, but neither finished nor running."""
    if (folder / "DONE").exists():
        return "done"
    if busy(folder):
        return "running"
    if (folder / "FAILED").exists():
        return "failed"
    return "stopped" if (folder / "lock").exists() else "waiting"


def once(folder: Path, work: Callable[[], Any]) -> bool:
    """Calls work() and leaves DONE, unless the folder is done; returns whether it was called.

    If work raises an error, FAILED is left with it. Interrupted work leaves neither: it is called
    again the next time, and may resume from its files. Raises Busy.
    """
    with lock.hold(folder, keep=True):
        if (folder / "DONE").exists():
            return False
        if (folder / "FAILED").exists():
            (folder / "FAILED").unlink()
        start = time.monotonic()
        try:
            work()
        except Exception as error:
            fail(folder, f"{type(error).__name__}: {error}", traceback.format_exc())
            raise
        _write(folder / "DONE", {"seconds": round(time.monotonic() - start, 1)})
        return True


def fail(folder: Path, error: str, trace: str = "") -> None:
    """Writes FAILED; `error`: the reason, as text for people."""
    _write(folder / "FAILED", {"error": error, "trace": trace})


def failure(folder: Path) -> str:
    """Returns the reason why a run failed, '' if it did not."""
    file = folder / "FAILED"
    if not file.is_file():
        return ""
    try:
        return atomic.read_json(file, "start the run again")["error"]
    except ValueError as error:
        return str(error)


def _write(path: Path, content: dict[str, Any]) -> None:
    atomic.write_json(path, content)
