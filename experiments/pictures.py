"""Draws the pictures of the experiments from what was kept of their runs.

    python -m experiments.pictures [experiments/kws/results.png ...]

The folder of an experiment has a file pictures.py with PICTURES: {picture: Kept}. Panels whose file
was not kept are left out.
"""

import argparse
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import results
from ssl_jax.reports import figures


class Kept(NamedTuple):
    """How a picture is drawn: draw(path, *contents of the files).

    The files are relative to the folder of the experiment; one that is not there gives None.
    """

    draw: Callable[..., None]
    files: tuple[str, ...]


def clip(log_mel: Any, mask: Any, seconds_per_token: float) -> dict[str, Any]:
    """Returns a clip, log-mel (T, M), and its mask (S,) as JSON: 8 bits for each value."""
    values = np.asarray(log_mel, float)
    low, high = np.percentile(values, (2, 99.8))
    pixels = (255 * np.clip((values - low) / max(high - low, 1e-9), 0, 1)).round().astype(np.uint8)
    return {
        "log_mel": [row.tobytes().hex() for row in pixels],
        "mask": np.asarray(mask, int).tolist(),
        "seconds_per_token": seconds_per_token,
    }


def log_mel(kept: Mapping[str, Any]) -> np.ndarray:
    """Returns the log-mel (T, M) of a clip that was kept."""
    return np.array([list(bytes.fromhex(row)) for row in kept["log_mel"]], float)


def masked(kept: Mapping[str, Any] | None, title: str) -> figures.Panel | None:
    """Returns the panel of a clip and its mask, None where none was kept."""
    if kept is None:
        return None
    given = log_mel(kept), np.array(kept["mask"]), kept["seconds_per_token"]
    return lambda ax: figures.masked_spectrogram(ax, *given, title)


def found() -> dict[Path, Callable[[], None]]:
    """Returns {picture: function that draws it} of every experiment that has run."""
    made: dict[Path, Callable[[], None]] = {}
    for path in sorted(results.HERE.glob("*/pictures.py")):
        module = importlib.import_module(f"experiments.{path.parent.name}.pictures")
        for name, kept in module.PICTURES.items():
            if not (path.parent / kept.files[0]).is_file():
                continue
            made[(path.parent / name).resolve()] = _drawer(path.parent, name, kept)
    return made


def _drawer(folder: Path, name: str, kept: Kept) -> Callable[[], None]:
    def draw() -> None:
        files = [(folder / file).resolve() for file in kept.files]
        contents = [
            json.loads(f.read_text(encoding="utf-8")) if f.is_file() else None for f in files
        ]
        kept.draw((folder / name).resolve(), *contents)

    return draw


def main(argv: Sequence[str] | None = None) -> None:
    """Draws the named pictures, by default all."""
    parser = argparse.ArgumentParser(prog="python -m experiments.pictures", description=__doc__)
    parser.add_argument("pictures", nargs="*", type=Path, help="default: all")
    args = parser.parse_args(argv)
    known = found()
    for path in [p.resolve() for p in args.pictures] or known:
        if path not in known:
            names = ", ".join(p.relative_to(results.HERE.parent).as_posix() for p in known)
            parser.error(f"{path} is no picture of an experiment: use some of {names}")
        known[path]()
        print(path)


if __name__ == "__main__":
    main()
