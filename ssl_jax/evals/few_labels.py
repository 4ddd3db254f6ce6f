"""Ridge probes of few labels: accuracy at shares of the training labels, over several draws.

What was learned without labels shows where labels are few; with all labels of a small set it hardly
can.
"""

import numpy as np

from ssl_jax.evals import ridge
from ssl_jax.evals.pool import Labelled

SHARES = (0.01, 0.05, 0.1, 1.0)
DRAWS = 5


def drawn(labels: np.ndarray, share: float, draw: int) -> np.ndarray:
    """Returns bool (N,): that share of the rows of each class, at least one, by draw number.

    The rows depend on the labels alone, so all features see the same ones.
    """
    rng, kept = np.random.default_rng(draw), np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        kept[rows[: max(1, round(share * len(rows)))]] = True
    return kept


def probe(
    train: Labelled, select: Labelled, test: Labelled, *, classes: int
) -> dict[float, list[ridge.Scores]]:
    """Returns {share of `train`: the scores of each draw}; all labels are drawn once.

    `select` chooses the penalties and keeps all of its labels.
    """
    features, labels = train
    found = {}
    for share in SHARES:
        draws = [drawn(labels, share, draw) for draw in range(DRAWS if share < 1 else 1)]
        found[share] = [
            ridge.probe((features[rows], labels[rows]), test, classes=classes, select=select)
            for rows in draws
        ]
    return found


def best_layer(scores: list[ridge.Scores]) -> int:
    """Returns the layer that is best on the selection rows, on average over the draws."""
    return int(np.nan_to_num(np.mean([s.select for s in scores], 0), nan=-np.inf).argmax())
