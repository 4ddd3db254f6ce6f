"""The progress of the runs of a sweep, read from their folders, also while they run."""

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl_jax.core import config as config_lib
from ssl_jax.core import paths
from ssl_jax.core import rows as rows_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.evals.table import text_table
from ssl_jax.sweeps import run_folders, sweep
from ssl_jax.sweeps.sweep import Run

_ROW: rows_lib.Needs = {"step": int, "time": (int, float)}
TAIL = 1 << 16  # bytes of metrics.jsonl that are read: the last few rows


def table(found: Sequence[Run]) -> list[dict[str, Any]]:
    """Returns a row per run: its values, state, step, training loss and time left."""
    short = sweep.short_names(found[0].values)
    rows = []
    for run in found:
        row = {"run": run.index, "signature": run.label}
        row |= {short[name]: value for name, value in run.values.items()}
        state = run_folders.state(run.folder)
        row["state"] = state
        if state != "waiting":
            row |= _progress(run, state)
        if state == "failed":
            row["error"] = run_folders.failure(run.folder).splitlines()[0][:80]
        rows.append(row)
    return rows


def watch(found: Sequence[Run], every: float = 2.0) -> None:
    """Prints the table of states; on a terminal, refreshes it for as long as a run is running."""
    live = sys.stdout.isatty()
    while True:
        text = f"{text_table(table(found))}\n\n{summary(found)}"
        print(("\033[H\033[2J" if live else "") + text, flush=True)
        if not live or not any(run_folders.busy(run.folder) for run in found):
            return
        time.sleep(every)


def summary(found: Sequence[Run]) -> str:
    """Returns the number of runs in each state: "8 runs: 3 done, 2 running, 3 waiting"."""
    states = [run_folders.state(run.folder) for run in found]
    words = ", ".join(f"{states.count(s)} {s}" for s in run_folders.STATES if s in states)
    return f"{len(found)} runs: {words}"


def _progress(run: Run, state: str) -> dict[str, Any]:
    rows = _tail(run.folder / "metrics.jsonl")
    if not rows:
        return {}
    step, total = rows[-1]["step"], _total(run)
    found = {"step": f"{step}/{total}" if total else str(step)}
    losses = [row["train/loss"] for row in rows if row.get("train/loss") is not None]
    if losses:
        found["loss"] = f"{losses[-1]:.4g}"
    done, spent = step - rows[0]["step"], rows[-1]["time"] - rows[0]["time"]
    if state == "running" and total and done > 0:
        found["left"] = clock(spent / done * (total - step))
    return found


def _tail(path: Path) -> list[dict[str, Any]]:
    """Returns the last complete rows of a metrics.jsonl, which may be being written to."""
    if not path.is_file():
        return []
    if paths.is_remote(path):
        return rows_lib.parse(path.read_bytes(), _ROW).rows
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        begun = file.tell() > 0
        data = file.read()
    # the last row may be incomplete, and the first may lack its beginning
    whole = data.partition(b"\n")[2] if begun else data
    return rows_lib.parse(whole, _ROW).rows


def _total(run: Run) -> int | None:
    """Returns the steps of a run, None if they depend on the data, as epochs do."""
    try:
        return config_lib.steps_of(run.config)
    except ConfigError:
        return None  # in epochs


def clock(seconds: float) -> str:
    """Formats a duration for people: 42s, 17m, 2h07m."""
    if not math.isfinite(seconds) or seconds < 99:
        return f"{seconds:.0f}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}h{minutes % 60:02d}m" if minutes >= 60 else f"{minutes}m"
