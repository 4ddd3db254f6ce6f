"""Scores of a head: of classes, tags and regression, and the weighted score of musical keys.

All are computed from the outputs over a whole split, in numpy and float64 on the host. Without rows
a score is NaN, which is never the best.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

TONICS = {
    name: i
    for i, names in enumerate(
        ("c b#", "c# db", "d", "d# eb", "e fb", "f e#", "f# gb", "g", "g# ab", "a", "a# bb", "b cb")
    )
    for name in names.split()
}
# those of mir_eval and MIREX: the estimate is the key, a fifth off, its relative or parallel
KEY_WEIGHTS = {"correct": 1.0, "fifth": 0.5, "relative": 0.3, "parallel": 0.2, "other": 0.0}


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share of rows whose largest of logits (N, C) is their label (N,)."""
    return _mean(np.argmax(logits, -1) == labels)


def mcc(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the Matthews correlation of the largest of logits (N, C) with labels (N,); CoLA.

    In [-1, 1], for any number of classes; 0 if all predictions or all labels are one class.
    """
    if not len(labels):
        return math.nan
    classes = np.arange(logits.shape[1])
    guess = (np.argmax(logits, -1)[:, None] == classes).astype(float)
    truth = (np.asarray(labels)[:, None] == classes).astype(float)
    guess, truth = guess - guess.mean(0), truth - truth.mean(0)
    scale = np.sqrt(np.sum(guess * guess) * np.sum(truth * truth))
    return float(np.sum(guess * truth) / scale) if scale else 0.0


def f1(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns F1 of the second of two classes: logits (N, 2), labels (N,); MRPC and QQP."""
    if logits.shape[1] != 2:
        raise ValueError(f"f1 needs two classes, and there are {logits.shape[1]}: use 'mcc'")
    guess, truth = np.argmax(logits, -1) == 1, np.asarray(labels) == 1
    either = guess.sum() + truth.sum()
    if not len(truth):
        return math.nan
    return float(2 * np.sum(guess & truth) / either) if either else 0.0


def pearson(predictions: np.ndarray, targets: np.ndarray) -> float:
    """Returns the linear correlation (N, K), (N, K) -> mean over K; NaN targets are left out."""
    from scipy import stats  # a second to import, which would delay the start of every command

    return _correlation(stats.pearsonr, predictions, targets)


def spearman(predictions: np.ndarray, targets: np.ndarray) -> float:
    """Returns the correlation of ranks (N, K), (N, K) -> mean over K; NaN targets are left out."""
    from scipy import stats

    return _correlation(stats.spearmanr, predictions, targets)


def _correlation(of: Callable, predictions: np.ndarray, targets: np.ndarray) -> float:
    found = []
    for guess, truth in zip(np.asarray(predictions, float).T, np.asarray(targets).T, strict=True):
        real = ~np.isnan(truth)
        if len(np.unique(truth[real])) < 2:
            raise ValueError("a regression target has only one value: a correlation needs two")
        constant = len(np.unique(guess[real])) < 2  # as an untrained head may give
        found.append(0.0 if constant else of(guess[real], truth[real]).statistic)
    return float(np.mean(found))


def roc_auc(scores: np.ndarray, tags: np.ndarray) -> float:
    """Returns the area under the ROC curve, mean over tags: scores (N, C), tags (N, C) 0 or 1.

    Ties count half. Tags that all rows or no rows have are left out; raises ValueError if no
    other tag remains.
    """
    from scipy import stats

    found = []
    for score, tag in zip(np.asarray(scores, float).T, np.asarray(tags).T > 0.5, strict=True):
        positive = int(tag.sum())
        negative = len(tag) - positive
        if positive and negative:
            above = stats.rankdata(score)[tag].sum() - positive * (positive + 1) / 2
            found.append(above / (positive * negative))
    return _macro(found)


def d_prime(scores: np.ndarray, tags: np.ndarray) -> float:
    """Returns sqrt(2) times the normal quantile of `roc_auc`, as AudioSet reports it.

    It is how far the scores of a tag's rows lie from those of the others, in standard deviations,
    if both are normal; infinite if no row scores above another of the wrong kind. scores, tags
    (N, C) and left-out tags as in `roc_auc`.
    """
    from scipy import stats

    return float(np.sqrt(2) * stats.norm.ppf(roc_auc(scores, tags)))


def average_precision(scores: np.ndarray, tags: np.ndarray) -> float:
    """Returns the mean over tags of sum over thresholds of (gain in recall) * precision.

    Rows of equal score share a threshold. scores, tags (N, C) and left-out tags as in `roc_auc`.
    """
    found = []
    for score, tag in zip(np.asarray(scores, float).T, np.asarray(tags).T > 0.5, strict=True):
        if tag.all() or not tag.any():
            continue
        order = np.argsort(-score, kind="stable")
        hits = np.cumsum(tag[order])
        last = np.append(np.diff(score[order]) != 0, True)  # of each run of equal scores
        hits, rows = hits[last], np.flatnonzero(last) + 1
        found.append(np.sum(np.diff(hits, prepend=0) * hits / rows) / tag.sum())
    return _macro(found)


def all_slots(outputs: np.ndarray, truth: np.ndarray, slots: Sequence[Sequence[int]]) -> float:
    """Returns the share of rows whose largest output is right in every slot.

    outputs, truth (N, C); slots: for each, the indices of its values in C.
    """
    right = [np.argmax(outputs[:, s], -1) == np.argmax(truth[:, s], -1) for s in map(list, slots)]
    return _mean(np.all(right, 0)) if right else math.nan


def r2(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns the coefficient of determination of each target: (N, K), (N, K) -> (K,).

    Rows whose target is NaN are left out. Raises ValueError where a target is constant.
    """
    out = []
    for guess, truth in zip(np.asarray(predictions, float).T, np.asarray(targets).T, strict=True):
        real = ~np.isnan(truth)
        guess, truth = guess[real], truth[real].astype(float)
        spread = np.sum((truth - truth.mean()) ** 2) if len(truth) else 0.0
        if spread == 0:
            raise ValueError("a regression target has only one value: R2 needs two or more")
        out.append(1 - np.sum((guess - truth) ** 2) / spread)
    return np.array(out)


def key_relation(estimate: str, truth: str, descending_fifths: bool = False) -> str:
    """Returns the relation of an estimated key to the true one: a key of KEY_WEIGHTS.

    Keys are text such as "C# minor". "fifth" has the tonic a fifth above and the same mode; one
    below counts only with `descending_fifths`, as in mir_eval.
    """
    (guess, guess_mode), (key, mode) = parse_key(estimate), parse_key(truth)
    above = (guess - key) % 12
    if mode == guess_mode:
        fifths = (5, 7) if descending_fifths else (7,)
        return "correct" if above == 0 else "fifth" if above in fifths else "other"
    if above == 0:
        return "parallel"
    return "relative" if above == (9 if mode == "major" else 3) else "other"


def weighted_key_score(logits: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> float:
    """Returns the mean weight of the keys chosen by logits (N, C); labels (N,) into classes."""
    table = np.array([[KEY_WEIGHTS[key_relation(a, b)] for b in classes] for a in classes])
    return _mean(table[np.argmax(logits, -1), labels])


def parse_key(text: str) -> tuple[int, str]:
    """Returns (semitones above C, "major" or "minor") of text such as "Bb minor" or "f# maj"."""
    words = text.strip().lower().split()
    mode = next((m for m in ("major", "minor") if len(words) == 2 and words[1][:3] == m[:3]), None)
    if mode is None or words[0] not in TONICS:
        raise ValueError(f"{text!r} is not a musical key: write it as 'C# minor' or 'Bb major'")
    return TONICS[words[0]], mode


def known(values: np.ndarray) -> np.ndarray:
    """Returns scores for argmax: NaN becomes the lowest."""
    return np.where(np.isnan(values), -np.inf, values)


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _macro(found: list) -> float:
    if not found:
        raise ValueError("every tag is on all rows or on none: a score needs rows of both kinds")
    return float(np.mean(found))
