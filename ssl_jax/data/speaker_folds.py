"""Folds of speakers with about equal rates of errors, for corpora where few speakers make most."""

import collections
import zlib
from collections.abc import Sequence

import numpy as np

from ssl_jax.data.errors import DataError


def folds(
    speakers: Sequence[str], wrong: Sequence[float], total: Sequence[float], count: int
) -> np.ndarray:
    """Returns the fold (n,) of each utterance, below `count`; a speaker is in one fold.

    wrong, total: mispronounced and scored phones of each utterance. Speakers are ranked by their
    share of wrong phones, those of equal shares by a hash of their names, and dealt out to the
    folds back and forth. Raises DataError for fewer speakers than folds.
    """
    sums: dict[str, np.ndarray] = collections.defaultdict(lambda: np.zeros(2))
    for speaker, *counts in zip(speakers, wrong, total, strict=True):
        sums[speaker] += counts
    if not 1 < count <= len(sums):
        raise DataError(f"{count} folds of {len(sums)} speakers: use 2 to {len(sums)}")
    rates = {name: w / n if n else 0.0 for name, (w, n) in sums.items()}
    ranked = sorted(rates, key=lambda name: (-rates[name], zlib.crc32(name.encode())))
    fold = {}
    for i, name in enumerate(ranked):
        turn, place = divmod(i, count)
        fold[name] = count - 1 - place if turn % 2 else place
    return np.array([fold[name] for name in speakers])
