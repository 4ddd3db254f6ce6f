"""Name maps between another library's arrays and those here, read in both directions.

A map is a list of rows for one configuration of one family. `to_ours` and `to_theirs` walk the same
rows, so that one writes what the other reads.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]
"""Name -> array; names have slashes here (encoder/norm/scale), dots in the other library."""


class WeightsError(ValueError):
    """Weights or their config.json cannot be used; names the file or key, and what would work."""


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _reverse(x: np.ndarray) -> np.ndarray:
    return x.transpose()


def _patches(x: np.ndarray) -> np.ndarray:
    return x.transpose(2, 3, 1, 0).reshape(-1, len(x))


def _kernel(x: np.ndarray) -> np.ndarray:
    side = round((len(x) / 3) ** 0.5)
    return x.reshape(side, side, 3, -1).transpose(3, 2, 0, 1)


def _cells(x: np.ndarray) -> np.ndarray:
    side = round(len(x) ** 0.5)
    return x.T.reshape(-1, 1, side, side)


# layout: (theirs -> ours, ours -> theirs)
LAYOUTS: dict[str, tuple[Callable, Callable]] = {
    "same": (_same, _same),
    # a Linear (out, in), a Conv1d (out, in / groups, k), a gain (1, 1, k): axes reversed
    "reverse": (_reverse, _reverse),
    # the projection of square patches of colour, (D, 3, p, p) -> (p p 3, D)
    "patches": (_patches, _kernel),
    # the same of one channel, square patches of a spectrogram: (D, 1, p, p) -> (p p, D)
    "cells": (lambda x: x.reshape(len(x), -1).T, _cells),
    # a number per head (1, H, 1, 1) -> (H,)
    "heads": (lambda x: x.reshape(-1), lambda x: x[None, :, None, None]),
    # a number (1,) -> ()
    "scalar": (lambda x: x.reshape(()), lambda x: x.reshape(1)),
    # a convolution over a grid (out, in, rows, columns) -> (rows, columns, in, out)
    "grid": (lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)),
    # a convolution of one tap (out, in, 1) -> (in, out)
    "pointwise": (lambda x: x[..., 0].T, lambda x: x.T[..., None]),
    # taps of each channel (D, 1, k) -> (k, D)
    "depthwise": (lambda x: x[:, 0].T, lambda x: x.T[:, None]),
    # a learned token (1, 1, D) -> (D,)
    "token": (lambda x: x[0, 0], lambda x: x[None, None]),
}


class Row(NamedTuple):
    """One line of a map.

    `{i}` in `theirs` stands for 0 to times - 1. If `ours` has it too, there are as many arrays
    here; otherwise they are stacked along a new first axis. A `part` may be missing altogether;
    the encoder ("") may not.
    """

    theirs: str
    ours: str
    layout: str = "same"
    times: int = 0
    part: str = ""

    def pairs(self) -> list[tuple[list[str], str]]:
        """Returns (names there, name here) of each array that the row makes here."""
        numbers = range(max(self.times, 1))
        theirs = [self.theirs.replace("{i}", str(i)) for i in numbers]
        if "{i}" not in self.theirs or "{i}" not in self.ours:
            return [(theirs, self.ours)]
        ours = [self.ours.replace("{i}", str(i)) for i in numbers]
        return [([a], b) for a, b in zip(theirs, ours, strict=True)]

    @property
    def stacked(self) -> bool:
        """Whether several of their arrays are one array here."""
        return "{i}" in self.theirs and "{i}" not in self.ours


def linear(theirs: str, ours: str, times: int = 0, part: str = "", bias: bool = True) -> list[Row]:
    """Returns the rows of a Linear."""
    rows = [Row(f"{theirs}.weight", f"{ours}/kernel", "reverse", times, part)]
    return rows + [Row(f"{theirs}.bias", f"{ours}/bias", "same", times, part)] * bias


def norm(theirs: str, ours: str, times: int = 0, part: str = "") -> list[Row]:
    """Returns the rows of a LayerNorm, GroupNorm or BatchNorm."""
    return [
        Row(f"{theirs}.weight", f"{ours}/scale", "same", times, part),
        Row(f"{theirs}.bias", f"{ours}/bias", "same", times, part),
    ]


def to_ours(
    rows: Sequence[Row], arrays: Arrays, shapes: dict[str, tuple[int, ...]], where: str
) -> tuple[Arrays, list[str]]:
    """Returns (arrays by their names here, names there that no row takes).

    shapes: of the parameters here; the arrays of a row whose parameter is not among them count as
    taken and are dropped. Raises WeightsError if an array of the encoder is missing, if a part is
    incomplete, and for an array of the wrong shape.
    """
    found: Arrays = {}
    left = dict(arrays)
    there = {r.part for r in rows if any(n in arrays for names, _ in r.pairs() for n in names)}
    for row in rows:
        if row.part and row.part not in there:
            continue
        for names, name in row.pairs():
            missing = next((n for n in names if n not in arrays), None)
            if missing:
                raise WeightsError(
                    f"{where} has no {missing}, which is {name} here: {_near(missing, arrays)}"
                )
            parts = [LAYOUTS[row.layout][0](_float(left.pop(n))) for n in names]
            if name in shapes:
                for n, x in zip(names, parts, strict=True):
                    _check(n, x, shapes[name][row.stacked :], row, where)
                found[name] = np.stack(parts) if row.stacked else parts[0]
    return found, list(left)


def to_theirs(rows: Iterable[Row], arrays: Arrays) -> tuple[Arrays, list[str]]:
    """Returns (arrays by their names there, names here that no row takes)."""
    found: Arrays = {}
    left = dict(arrays)
    for row in rows:
        for names, name in row.pairs():
            if name not in arrays:
                continue
            whole = left.pop(name)
            for n, x in zip(names, whole if row.stacked else [whole], strict=True):
                found[n] = np.ascontiguousarray(LAYOUTS[row.layout][1](x))
    return found, list(left)


def _float(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float32)


def _check(name: str, x: np.ndarray, shape: tuple[int, ...], row: Row, where: str) -> None:
    if x.shape != shape:
        wanted = LAYOUTS[row.layout][1](np.empty(shape, np.bool_)).shape
        got = LAYOUTS[row.layout][1](np.empty(x.shape, np.bool_)).shape
        raise WeightsError(f"{where}: {name} has the shape {got}, but its config asks for {wanted}")


def _near(name: str, arrays: Any) -> str:
    start = name.rsplit(".", 2)[0]
    near = [n for n in arrays if n.startswith(start)] or list(arrays)
    return f"it has {', '.join(sorted(near)[:3])}, ..."
