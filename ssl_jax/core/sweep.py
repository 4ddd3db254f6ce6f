"""The algebra of sweeps: product, zip, chain and sample over dotted names of a config.

A config file may define `sweep`. It receives this module, since configs import nothing from
ssl_jax, and returns the points of the sweep:

    def sweep(s):
        return s.product({"optim.lr": (1e-3, 3e-3), "seed": range(3)})

A part is {dotted name: values}, or what one of the functions returned, so that they nest. A point
is {dotted name: value}; what it does not name stays as in the config.
"""

import builtins
import dataclasses
import hashlib
import itertools
import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ssl_jax.core.config import ConfigError, Value
from ssl_jax.core.values import plain

Point = dict[str, Value]
Part = Mapping[str, Any] | Sequence[Point]


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers to draw from; see `uniform`, `log_uniform` and `integers`."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def at(self, share: float) -> float | int:
        """Returns the number at `share`, in [0, 1), of the range."""
        if self.whole:
            return int(self.low) + math.floor(share * (self.high - self.low + 1))
        if self.log:
            value = math.exp(math.log(self.low) * (1 - share) + math.log(self.high) * share)
        else:
            value = self.low * (1 - share) + self.high * share
        return float(f"{value:.4g}")


def uniform(low: float, high: float) -> Range:
    """Returns the numbers from low to high, for `sample`; rounded to four digits."""
    return _checked(Range(low, high))


def log_uniform(low: float, high: float) -> Range:
    """Returns the numbers from low to high whose logarithm is uniform, for `sample`."""
    if low <= 0:
        raise ConfigError(f"log_uniform({low:g}, {high:g}): use a low end above 0, such as 1e-4")
    return _checked(Range(low, high, log=True))


def integers(low: int, high: int) -> Range:
    """Returns the whole numbers from low to high, both included, for `sample`."""
    return _checked(Range(low, high, whole=True))


def _checked(numbers: Range) -> Range:
    if not numbers.low < numbers.high:
        raise ConfigError(f"a range from {numbers.low:g} to {numbers.high:g} is empty: swap them")
    return numbers


def product(*parts: Part) -> list[Point]:
    """Returns every combination; the last part varies fastest."""
    axes = [axis for part in parts for axis in _axes(part)]
    _no_name_twice(axes, "product")
    return [_merged(points) for points in itertools.product(*axes)]


def zip(*parts: Part) -> list[Point]:
    """Returns the first of every part together, the second of every part, and so on."""
    axes = [axis for part in parts for axis in _axes(part)]
    _no_name_twice(axes, "zip")
    if len({len(axis) for axis in axes}) > 1:
        sizes = ", ".join(f"{_names(axis)} has {len(axis)}" for axis in axes)
        raise ConfigError(f"zip needs equally many values of each: {sizes}; product combines all")
    return [_merged(points) for points in builtins.zip(*axes, strict=True)]


def chain(*parts: Part) -> list[Point]:
    """Returns one part after the other; for a mapping, one name after the other, each alone."""
    return [point for part in parts for axis in _axes(part) for point in axis]


def sample(count: int, part: Part, seed: int = 0) -> list[Point]:
    """Returns `count` points drawn by `seed`; the first ones stay the same when `count` grows.

    For a mapping with a range (`uniform`, ...), each name is drawn on its own. Anything else is
    finite, and no point of it is drawn twice.
    """
    if count < 1:
        raise ConfigError(f"sample({count}, ...): draw at least 1 point")
    if isinstance(part, Mapping) and any(isinstance(v, Range) for v in part.values()):
        return [{name: _drawn(part, name, seed, i) for name in part} for i in range(count)]
    points = product(part)
    if count > len(points):
        raise ConfigError(f"sample({count}, ...) of {len(points)} points: draw at most that many")
    return sorted(points, key=lambda point: _digest(seed, point))[:count]


def _drawn(part: Mapping[str, Any], name: str, seed: int, index: int) -> Value:
    # text seeds are hashed, and random() is the same in every version of Python
    share = random.Random(f"{seed}/{name}/{index}").random()
    if isinstance(part[name], Range):
        return part[name].at(share)
    values = _values(name, part[name])
    return values[math.floor(share * len(values))]


def _digest(seed: int, point: Point) -> str:
    return hashlib.sha256(json.dumps([seed, point], sort_keys=True).encode()).hexdigest()


def _axes(part: Part) -> list[list[Point]]:
    """Returns the axes of a part: one per name, or the one that another function made."""
    if isinstance(part, Mapping):
        return [[{n: v} for v in _values(n, values)] for n, values in part.items()]
    points = list(part)
    if not points or not all(isinstance(point, dict) for point in points):
        raise ConfigError(
            f"a part of a sweep is {part!r}: use {{'optim.lr': (1e-3, 3e-3)}}, or what product, "
            f"zip, chain or sample returned"
        )
    return [points]


def _values(name: str, values: Any) -> list[Value]:
    if isinstance(values, Range):
        raise ConfigError(f"{name} has a range, which only sample can draw from: use sample(8, ..)")
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise ConfigError(f"{name} has {values!r} in the sweep: give its values as a tuple")
    found = [plain(value) for value in values]
    if not found:
        raise ConfigError(f"{name} has no value in the sweep: give one or more as a tuple")
    return found


def _no_name_twice(axes: list[list[Point]], function: str) -> None:
    seen: set[str] = set()
    for axis in axes:
        names = {name for point in axis for name in point}
        for name in sorted(names & seen):
            raise ConfigError(f"{name} is in two parts of a {function}: name it once")
        seen |= names


def _names(axis: list[Point]) -> str:
    return " and ".join(axis[0])


def _merged(points: Iterable[Point]) -> Point:
    return {name: value for point in points for name, value in point.items()}
