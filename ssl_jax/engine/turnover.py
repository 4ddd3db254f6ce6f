"""Teacher turnover: how much of a moving-average teacher a run replaces.

T is the sum of 1 - decay over the updates; exp(-T) of the teacher is still its random start at the
end. The papers have 14 and more. Below 3 the targets are those of a random network to the end.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import Method
from ssl_jax.engine import log

LOW, GOOD = 3.0, 10.0
ALLOW = "allow_low_turnover"
"""The option of a program whose published runs stay below LOW."""


def by_step(method: Method, total: int) -> np.ndarray | None:
    """Returns T after each update, (total + 1,) from 0 on; None if no teacher follows."""
    if method.decay is None:
        return None
    steps = np.arange(1, total + 1)
    decays = np.asarray(jax.device_get(method.decay(steps)), np.float64)
    return np.concatenate([[0.0], np.cumsum(1 - np.broadcast_to(decays, steps.shape))])


def line(method: Method, total: int) -> str:
    """Returns T of a run as text, with its remedy where it is low; "" without a teacher."""
    found = by_step(method, total)
    if found is None:
        return ""
    turnover = float(found[-1])
    text = f"{turnover:.3g} in {total:,} updates: {math.exp(-turnover):.1%} of the teacher is "
    text += "its start at the end"
    return text if turnover >= LOW else f"{text}, a random network; {_remedy(total)}"


def low(method: Method, config: Mapping[str, Any], total: int) -> str:
    """Returns what is wrong with the teacher of a run in one line, "" if nothing is.

    A run that starts from another (config.init_from) has no random teacher.
    """
    found = by_step(method, total)
    if found is None or config["init_from"] or found[-1] >= LOW:
        return ""
    return f"teacher turnover is {line(method, total)} (docs/troubleshooting.md)"


def judge(
    method: Method, config: Mapping[str, Any], total: int, allowed: bool = True
) -> dict[str, str]:
    """Returns {"low_turnover": the text of `low`}, and logs it; {} where nothing is wrong.

    Raises ConfigError in place of that unless it is `allowed`, as for a program of experiments.
    """
    text = low(method, config, total)
    if text and not allowed:
        raise ConfigError(
            f"{text}. A program of experiments refuses such a run; if that is what it is to show, "
            f"say so with --{ALLOW}=True, an option of the program"
        )
    if text:
        log.notify(text)
    return {"low_turnover": text} if text else {}


def _remedy(total: int) -> str:
    if total <= GOOD:
        return f"train for hundreds of updates, with a decay that gives {GOOD:g}"
    return f"a decay of {1 - GOOD / total:.4g} throughout gives {GOOD:g}"
