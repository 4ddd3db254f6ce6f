"""Randomness of the data: a counter-based hash, the same on every machine and library version.

Everything drawn here is a pure function of integers (seed, row, epoch), so there is no state
to save, and a batch is drawn at once. The mixer is the finalizer of SplitMix64 (Steele, Lea and
Flood, 2014).
"""

import math

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
    """Draws float64 in [0, 1) from integers, broadcast against each other."""
    return (mix(*parts) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(n: int, *parts: int) -> np.ndarray:
    """Draws n standard normal float64 from integers, in pairs by the Box-Muller transform."""
    half = np.arange((n + 1) // 2, dtype=np.uint64)
    radius = np.sqrt(-2 * np.log1p(-uniform(*parts, 0, half)))
    angle = 2 * np.pi * uniform(*parts, 1, half)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:n]


def permutation(n: int, *parts: int) -> np.ndarray:
    """Returns a permutation (n,) int64 of 0..n-1 drawn from integers."""
    return np.argsort(mix(*parts, np.arange(n, dtype=np.uint64)), kind="stable")


class Draws:
    """Draws random numbers from `key` one by one, for the few decisions of one row.

    The same generator in plain integers: ten times as fast as numpy for single numbers.
    """

    def __init__(self, key: int, stream: int = 0):
        self._state = _next(key ^ _next(stream + 1))

    def bits(self) -> int:
        """Returns a uniform integer of 64 bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        return _next(self._state)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Returns a number in [low, high)."""
        return low + (high - low) * ((self.bits() >> 11) * 2.0**-53)

    def below(self, n: int) -> int:
        """Returns an integer of 0..n-1."""
        return (self.bits() * n) >> 64

    def chance(self, prob: float) -> bool:
        """Returns True with probability `prob`."""
        return self.uniform() < prob

    def normal(self) -> float:
        """Returns a standard normal number."""
        radius = math.sqrt(-2 * math.log1p(-self.uniform()))
        return radius * math.cos(2 * math.pi * self.uniform())

    def order(self, n: int) -> list[int]:
        """Returns 0..n-1 in random order."""
        out = list(range(n))
        for i in range(n - 1, 0, -1):
            j = self.below(i + 1)
            out[i], out[j] = out[j], out[i]
        return out


def _unsigned(part: int | np.ndarray) -> np.ndarray:
    if isinstance(part, np.ndarray):
        return part.astype(np.uint64)
    return np.array(int(part) & _MASK, np.uint64)


def _finalize(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _next(z: int) -> int:
    """The finalizer in plain integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
