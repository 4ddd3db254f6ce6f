"""Numbers as configs hold them: Python's own, from NumPy's and from text that people typed."""

import contextlib
import re
from typing import Any

import numpy as np

_DASHES = re.compile("[\u2010-\u2015\u2212]")


def plain(value: Any) -> Any:
    """Returns a number of NumPy as Python's, an array or list as tuples, the rest as it is."""
    if isinstance(value, list | tuple):
        return tuple(map(plain, value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return tuple(map(plain, value)) if value.ndim else value.item()
    return value


def number(text: str) -> Any:
    """Returns the number that a text was meant to be, whatever its dash; else the text."""
    text = _DASHES.sub("-", text.strip())
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text
