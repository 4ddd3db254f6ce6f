"""Randomness of the data side: a counter-based hash, equal on every machine and library version.

Everything drawn here is a pure function of integers (seed, row, epoch), so nothing has a state
to save and whole batches are drawn at once. The mixer is the finalizer of SplitMix64 (Steele,
Lea and Flood, 2014).
"""

import numpy as np

_MASK = (1 << 64) - 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(*parts: int | np.ndarray) -> np.ndarray:
    """Hashes integers, broadcast against each other, to uint64 of the same shape."""
    state: np.ndarray = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            state = _finalize((state ^ _unsigned(part)) + _GOLDEN)
    return state


def uniform(*parts: int | np.ndarray) -> np.ndarray:
    """Draws float64 in [0, 1) from integers; shape as they broadcast."""
    return (mix(*parts) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(n: int, *parts: int) -> np.ndarray:
    """Returns a permutation (n,) int64 of 0..n-1 drawn from integers."""
    return np.argsort(mix(*parts, np.arange(n, dtype=np.uint64)), kind="stable")


def _unsigned(part: int | np.ndarray) -> np.ndarray:
    if isinstance(part, np.ndarray):
        return part.astype(np.uint64)
    return np.array(int(part) & _MASK, np.uint64)


def _finalize(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
