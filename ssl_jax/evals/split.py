"""A part of the training rows set aside, for choices that must not see the test."""

import numpy as np

Labelled = tuple[np.ndarray, np.ndarray]
"""Pooled features (N, L + 1, D) float32 and their labels (N,) int32, none of them -1."""


def held_out(labels: np.ndarray, share: float = 0.2, seed: int = 0) -> np.ndarray:
    """Returns bool (N,): a share of each class of labels (N,), at least one row where it has two.

    Raises ValueError when every class has a single row.
    """
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        chosen[rows[: min(max(1, round(share * len(rows))), len(rows) - 1)]] = True
    if not chosen.any():
        raise ValueError(
            "every class has one labelled training row, which leaves none to choose a probe on: "
            "give a labelled validation split (config.data.valid) or more labels"
        )
    return chosen
