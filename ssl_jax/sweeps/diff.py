"""Compares runs: the differences of their configs and of their results."""

import json
from collections.abc import Mapping, Sequence
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.core import config as config_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.engine import log
from ssl_jax.evals.table import NONE, missing, text_table
from ssl_jax.sweeps import run_folders

WIDE = 6  # up to this many runs are shown as columns, more as rows
SPLITS = ("valid/", "test/")
NAMES = ("split", "features", "probe", "layer")  # keys that identify a row of evaluation.json


def expand(patterns: str) -> list[Path]:
    """Returns the run folders that match patterns such as "kws/*,3f9a", in this order, each once.

    A pattern is matched in the current folder and below `run_folders.roots`; it may also be the
    beginning of a signature. Raises FileNotFoundError for a pattern that matches no run.
    """
    found: dict[Path, Path] = {}
    for pattern in patterns.split(","):
        places = [Path(), *run_folders.roots()]
        hits = [p for root in places for p in _glob(root, pattern.strip())]
        own = [p for p in hits if (p / "config.json").is_file()]
        for folder in own or [run_folders.find(pattern.strip())]:
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _glob(root: Path, pattern: str) -> list[Path]:
    if Path(pattern).is_absolute():
        root, pattern = Path(Path(pattern).anchor), str(Path(pattern).relative_to("/"))
    return sorted(root.glob(pattern)) if pattern else []


def results(folder: Path) -> dict[str, float]:
    """Returns name -> number: the last value of every metric, and those of evaluation.json."""
    found: dict[str, float] = {}
    if (folder / "metrics.jsonl").is_file():
        for row in log.read(folder / "metrics.jsonl"):
            found["step"] = row["step"]
            found |= {
                name: value
                for name, value in row.items()
                if name.startswith(SPLITS) or name == "train/loss"
            }
    file = folder / "evaluation.json"
    if file.is_file():
        for row in json.loads(file.read_text(encoding="utf-8"))["results"]:
            about = " ".join(str(row[name]) for name in NAMES[: _named(row)] if name in row)
            found |= {f"{about} {k}": v for k, v in _numbers(row).items()}
    return found


def _named(row: Mapping[str, Any]) -> int:
    """Returns how many of NAMES identify a row: a probe chooses its layer itself."""
    return len(NAMES) - ("probe" in row)


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers of a row, with lists of numbers averaged."""
    found = {}
    for name, value in row.items():
        values = value if isinstance(value, list) else [value]
        if name not in NAMES and values and all(isinstance(v, Number | None) for v in values):
            found[name] = float(np.mean(np.asarray(values, float)))  # null is NaN
    return found


def compare(folders: Sequence[Path]) -> tuple[dict[str, list[Any]], dict[str, list[Any]], int]:
    """Returns the differences of configs and of results as {key: value per run}, and a count.

    The count is the number of config keys that agree. A missing value is `ABSENT`. Raises
    ConfigError for fewer than two runs.
    """
    if len(folders) < 2:
        raise ConfigError(
            f"--runs matches {len(folders)} runs ({', '.join(map(str, folders))}): name two or "
            f"more, such as 'kws/*' or 'runs/a,runs/b'"
        )
    given = [config_lib.of_file(folder / "config.json") for folder in folders]
    configs = _beside([config_lib.flatten(config) for config in given])
    different = {key: values for key, values in configs.items() if _differ(values)}
    codes = [" then ".join(run_folders.code(folder)) or config_lib.ABSENT for folder in folders]
    agreed = len(configs) - len(different)
    if _differ(codes):
        different["code"] = codes
    found = _beside([results(folder) for folder in folders])
    return different, {k: v for k, v in found.items() if _differ(v)}, agreed


def _beside(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name, config_lib.ABSENT) for row in rows] for name in names}


def _differ(values: Sequence[Any]) -> bool:
    return any(repr(value) != repr(values[0]) for value in values)


def text(folders: Sequence[Path]) -> str:
    """Returns `compare` as a table, with runs as columns or, if there are many, as rows."""
    different, found, agreed = compare(folders)
    names = [folder.as_posix() for folder in folders]
    rows = [{"": "signature"} | dict(zip(names, map(_label, folders), strict=True))]
    for part, keys in (("config.", different), ("", found)):
        for key, values in keys.items():
            title = key if key == "code" else part + key
            rows.append({"": title} | dict(zip(names, map(_short, values), strict=True)))
    if len(folders) > WIDE:
        rows = [{"run": name} | {row[""]: row[name] for row in rows} for name in names]
    return f"{text_table(rows)}\n\n{agreed} config keys are the same in all runs"


def _label(folder: Path) -> str:
    return run_folders.signature(folder)[: run_folders.SHORT]


def _short(value: Any) -> str:
    if value is config_lib.ABSENT:
        return "-"
    if missing(value):
        return NONE
    return f"{value:.4g}" if isinstance(value, float) else str(value)
