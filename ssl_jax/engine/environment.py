"""Where a run ran, how it was started and how it ended: environment.jsonl of its folder.

A run that was interrupted and resumed has a row for each of its starts; one that was killed
outright has no row for its end.
"""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from ssl_jax.core import code, paths
from ssl_jax.core import rows as rows_lib
from ssl_jax.engine import log

FILE = "environment.jsonl"
_ROW: rows_lib.Needs = {"event": str, "time": (int, float)}
PACKAGES = ("jax", "jaxlib", "flax", "optax", "grain", "orbax-checkpoint", "numpy")
# a user's home folder, on any system
_PEOPLE = re.compile(
    r"(?<![\w.])(?:/(?:home|Users)/[^/\s\"'<&]+|[A-Z]:\\Users\\[^\\\s\"'<&]+|/root(?=[/\s\"'<&]|$))"
)


def began(workdir: Path, **more: Any) -> None:
    """Adds the row of a start: time, command, code, packages, devices; and `more`."""
    devices = jax.devices()
    row = {
        "event": "start",
        "command": command(),
        "code": code.version(),
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "platform": devices[0].platform,
        "device": devices[0].device_kind,
        "devices": len(devices),
        "processes": jax.process_count(),
    }
    _append(workdir, row | more)


def ended(workdir: Path, how: str) -> None:
    """Adds the row of an end: "done", or what ended the run early."""
    _append(workdir, {"event": "end", "how": without_people(how)})


def read(workdir: Path) -> list[dict[str, Any]]:
    """Returns the rows in order, each with its event and its time in unix seconds."""
    path = workdir / FILE
    return rows_lib.read(path, _ROW, log.notify) if path.is_file() else []


def seconds(rows: list[dict[str, Any]], last: float) -> float:
    """Returns how long a run ran, from its rows; `last` is when it last showed progress.

    The start of a run that was killed has no end: if another start follows, it counts as nothing,
    since its end is not known; if it is the last, it counts up to `last`.
    """
    total, since = 0.0, None
    for row in rows:
        if row["event"] == "start":
            since = row["time"]
        elif since is not None:
            total, since = total + row["time"] - since, None
    return total + (max(last - since, 0.0) if since is not None else 0.0)


def command() -> str:
    """Returns the command line of this process, without the home folder of the user."""
    given = [word if re.fullmatch(r"[\w./:=,+-]+", word) else repr(word) for word in sys.orig_argv]
    return without_people(" ".join(["python", *given[1:]]))


def without_people(text: str) -> str:
    """Returns a text with "~" in place of every home folder."""
    home = os.path.expanduser("~")  # "~" itself where there is none
    if len(home) > 1:
        text = re.sub(r"(?<![\w.])" + re.escape(home) + r"(?![\w.-])", "~", text)
    return _PEOPLE.sub("~", text)


def commit() -> str:
    """Returns the commit of this code, with "+" where files differ from it; "" if unknown."""
    root = Path(__file__).parents[2]

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *words],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        if Path(git("rev-parse", "--show-toplevel") or "/") != root.resolve():
            return ""  # installed, perhaps inside another repository
        return git("rev-parse", "--short=12", "HEAD") + "+" * bool(git("status", "--porcelain"))
    except OSError:  # no git on this machine
        return ""


def _append(workdir: Path, row: Mapping[str, Any]) -> None:
    if jax.process_index() != 0:
        return
    line = json.dumps({**row, "time": round(time.time(), 3)}) + "\n"
    try:
        if row["event"] == "start":
            rows_lib.mend(workdir / FILE, _ROW, log.notify)
        paths.append(workdir / FILE, line)
    except OSError as error:  # no reason to end the run
        log.notify(f"{workdir / FILE} cannot be written: {error}")
