"""Time to an accuracy, from probe curves and the cost of a step."""

import math
from collections.abc import Mapping, Sequence

Curve = Mapping[str, Sequence[float]]


def crossing(curve: Curve, accuracy: float, start: float) -> float | None:
    """Returns the step at which a probe curve first reaches `accuracy`, by linear interpolation.

    `start` is the accuracy at step 0, that of the untrained encoder. None: never reached.
    """
    steps, values = [0.0, *curve["step"]], [start, *curve["accuracy"]]
    for i in range(1, len(steps)):
        if values[i] >= accuracy:
            before, after = values[i - 1], values[i]
            share = 0.0 if before >= accuracy else (accuracy - before) / (after - before)
            return steps[i - 1] + share * (steps[i] - steps[i - 1])
    return None


def between(low: float, curves: Mapping[str, Sequence[Curve]], step: float = 0.02) -> list[float]:
    """Returns the multiples of `step` above `low` that at least one run reaches, ascending."""
    high = max(max(c["accuracy"]) for runs in curves.values() for c in runs)
    first, last = math.floor(low / step) + 1, math.floor(high / step + 1e-9)
    return [round(i * step, 6) for i in range(first, last + 1)]


def times(
    curves: Mapping[str, Sequence[Curve]],
    seconds_per_step: Mapping[str, float],
    accuracy: float,
    starts: Mapping[str, float],
) -> dict[str, list[float | None]]:
    """Returns the training seconds to `accuracy`, per method and seed; None: never reached.

    `starts` as in `crossing`.
    """
    found: dict[str, list[float | None]] = {}
    for name, runs in curves.items():
        steps = [crossing(c, accuracy, starts[name]) for c in runs]
        found[name] = [None if s is None else seconds_per_step[name] * s for s in steps]
    return found
