"""Run folders: their identity, how to find them, and the state of the work in them.

A run is identified by the signature of its resolved config and the version of its code, which are
in signature.txt and code.txt of its folder. Work that runs once in a folder leaves DONE or FAILED.
"""

import dataclasses
import os
import re
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ssl_jax.core import atomic, lock, paths
from ssl_jax.core import code as code_lib
from ssl_jax.core import config as config_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.lock import Busy, busy, holder

__all__ = ("Busy", "busy", "holder")  # the parts of `lock` that a sweep uses

SHORT = 8  # digits of a signature shown in folder names and tables
STATES = ("done", "failed", "running", "stopped", "waiting")
MANY = 12  # candidates that an error lists


@dataclasses.dataclass(frozen=True)
class Found:
    """A run folder, its signature (16 digits), and the versions of the code that worked on it."""

    folder: Path
    signature: str
    code: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.signature}  code {' then '.join(self.code) or 'unknown'}  {self.folder}"


def roots() -> list[Path]:
    """Returns the folders to search for runs: $SSL_JAX_RUNS (a:b), by default `runs`."""
    named = re.split(r":(?!//)", os.environ.get("SSL_JAX_RUNS", ""))
    return [paths.expanded(name) for name in named if name] or [Path("runs")]


def walk(root: Path) -> Iterator[Found]:
    """Yields the run folders below a folder, ordered by name."""
    for folder in _below(root):
        yield Found(folder, signature(folder), code(folder))


def _below(root: Path) -> Iterator[Path]:
    if paths.is_remote(root):
        names = [name for name in paths.files_below(root) if name.endswith("/config.json")]
        yield from ((root / name).parent for name in names)
        return
    for place, folders, files in os.walk(root):
        folders.sort()
        if "config.json" in files:
            folders.clear()  # a run contains many files but no other run
            yield Path(place)


def signature(folder: Path) -> str:
    """Returns the signature of a run folder's config, '' if the config cannot be read."""
    file = folder / "signature.txt"
    if file.is_file():
        sign = file.read_text(encoding="utf-8", errors="replace").strip()
        if re.fullmatch("[0-9a-f]{16}", sign):
            return sign
    try:
        text = (folder / "config.json").read_text(encoding="utf-8")
        return config_lib.sign(config_lib.from_json(text))
    except (ConfigError, OSError, UnicodeDecodeError):
        return ""


def code(folder: Path) -> tuple[str, ...]:
    """Returns the versions of the code that a run was made with, oldest first; () if unknown."""
    file = folder / "code.txt"
    if not file.is_file():
        return ()
    return tuple(
        line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()
    )


def code_note(folder: Path) -> str:
    """Returns a note to add to an error if other code made the run, else ''."""
    made = code(folder)
    if not made or made[-1] == code_lib.version():
        return ""
    return f" (the run was made by code {made[-1]}, and this is {code_lib.version()})"


def find(prefix: str) -> Path:
    """Returns the one run folder below `roots` whose signature begins with `prefix`.

    "<prefix>@<prefix>" also gives the version of the code. Raises FileNotFoundError if there is
    none, and ValueError with the candidates if there are several.
    """
    start, _, version = prefix.partition("@")
    places = [str(root) for root in roots()]
    known = [found for root in roots() for found in walk(root)]
    fits = [f for f in known if start and f.signature.startswith(start)]
    if version:
        fits = [f for f in fits if f.code and f.code[-1].startswith(version)]
    if len(fits) == 1:
        return fits[0].folder
    if fits:
        lines = "\n".join(f"  {f}" for f in fits[:MANY])
        raise ValueError(
            f"the signatures of {len(fits)} runs begin with {prefix!r}: give more digits, "
            f"signature@code, or the folder\n{lines}"
        )
    near = "\n".join(f"  {f}" for f in known[:MANY]) or "  none"
    raise FileNotFoundError(
        f"{prefix!r} is neither a folder nor the signature of a run below {', '.join(places)}: set "
        f"SSL_JAX_RUNS to the folder of your runs, or give one of\n{near}"
    )


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
