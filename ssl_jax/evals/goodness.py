"""Goodness of pronunciation: how probable each canonical phone is, from the posteriors of CTC.

Two scores of every phone, both at most 0 where the phone is as it should be, or nearly so:

  posterior  log p(all canonical phones), minus the logarithm of the sum of the same with this phone
             replaced by each phone of the vocabulary, or left out. It is summed over all
             alignments, so peaks of CTC at other frames do no harm; its exponential is a
             probability.
  ratio      the mean of log p(phone) - max log p(any phone) over the frames of the phone in the
             most probable alignment, as Witt and Young (2000) defined it.

S frames, V tokens of which the first is the blank, L canonical phones. In numpy and float64, on the
host: one recording takes milliseconds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ssl_jax.evals import scores as scores_lib
from ssl_jax.ops.ctc import BLANK

_NEVER = -1e30  # stands for log 0, as in ops/ctc.py


class Goodness(NamedTuple):
    """Scores (L,) of the canonical phones, and their frames [start, stop) (L,)."""

    posterior: np.ndarray
    ratio: np.ndarray
    start: np.ndarray
    stop: np.ndarray


def goodness(log_probs: np.ndarray, tokens: Sequence[int]) -> Goodness:
    """Scores the canonical phones `tokens` (L,) of a recording with log_probs (S, V).

    Raises ValueError without a phone, or where the phones need more frames than there are.
    """
    log_probs = np.asarray(log_probs, np.float64)
    start, stop = force(log_probs, tokens)
    real = np.delete(log_probs, BLANK, 1).max(1)
    ratio = [
        np.mean(log_probs[a:b, token] - real[a:b])
        for token, a, b in zip(tokens, start, stop, strict=True)
    ]
    return Goodness(posterior(log_probs, tokens), np.array(ratio), start, stop)


def force(log_probs: np.ndarray, tokens: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the frames [start, stop), (L,) each, of every token in the most probable path.

    The states are 2 L + 1: blanks at even places, tokens between them (Viterbi). Among equally
    probable paths, a state is entered as late as possible. Raises ValueError as `goodness` does.
    """
    ids = _states(log_probs, tokens)
    size = len(ids)
    skips = np.zeros(size, bool)
    skips[3::2] = ids[3::2] != ids[1:-2:2]
    best = np.full(size, -np.inf)
    best[:2] = log_probs[0, ids[:2]]
    moves = np.zeros((len(log_probs), size), np.int8)
    for frame in range(1, len(log_probs)):
        from_ = np.full((3, size), -np.inf)
        from_[0], from_[1, 1:] = best, best[:-1]
        from_[2, 2:] = np.where(skips[2:], best[:-2], -np.inf)
        moves[frame] = from_.argmax(0)
        best = from_.max(0) + log_probs[frame, ids]
    state = size - 2 + int(best[-1] > best[-2])
    path = np.zeros(len(log_probs), int)
    for frame in range(len(log_probs) - 1, -1, -1):
        path[frame] = state
        state -= moves[frame, state]
    places = [np.flatnonzero(path == 2 * i + 1) for i in range(len(tokens))]
    return np.array([p[0] for p in places]), np.array([p[-1] + 1 for p in places])


def _states(log_probs: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
    """Returns the token of each of the 2 L + 1 states."""
    if not len(tokens):
        raise ValueError("there is no canonical phone to score: give one or more")
    ids = np.full(2 * len(tokens) + 1, BLANK)
    ids[1::2] = tokens
    needed = len(tokens) + int(np.sum(ids[3::2] == ids[1:-2:2]))
    if needed > len(log_probs):
        raise ValueError(
            f"{len(tokens)} canonical phones need {needed} frames, and the recording has "
            f"{len(log_probs)}: give the phones of what was said in it"
        )
    return ids


def posterior(log_probs: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
    """Returns the log of the posterior probability (L,) of each phone, the others being canonical.

    For every phone i and token q, `inside` sums over the paths that have reached q in its place;
    what comes before and after are the sums of the canonical sequence.
    """
    _states(log_probs, tokens)
    ids, frames = np.asarray(tokens), len(log_probs)
    blank_in, token_in = _before(log_probs, ids)
    # what comes after is the same on the reversed sequence, whose blanks are counted from the end
    blank_out, token_out = (x[::-1, ::-1] for x in _before(log_probs[::-1], ids[::-1]))
    every = np.arange(log_probs.shape[1])
    last = np.append(-1, ids[:-1])
    following = np.append(ids[1:], -1)
    others = every != last[:, None], every != following[:, None]
    # row t of *_in: frames before t are spent; row t of *_out: frames from t on remain
    found = np.full((len(ids), len(every)), _NEVER)
    inside = found.copy()
    before = np.full((frames + 1, len(ids)), _NEVER)
    before[:, 1:] = token_in[:, :-1]
    after = np.full((frames + 1, len(ids)), _NEVER)
    after[:, :-1] = token_out[:, 1:]
    for t in range(frames):
        entered = np.logaddexp(
            blank_in[t, :-1, None], np.where(others[0], before[t][:, None], _NEVER)
        )
        inside = np.logaddexp(inside, entered) + log_probs[t]
        left = np.logaddexp(
            blank_out[t + 1, 1:, None], np.where(others[1], after[t + 1][:, None], _NEVER)
        )
        found = np.logaddexp(found, inside + left)
    found[:, BLANK] = _left_out(blank_in, before, after, last != following, len(ids))
    top = found.max(1, keepdims=True)
    total = top[:, 0] + np.log(np.exp(found - top).sum(1))
    return np.minimum(found[np.arange(len(ids)), ids] - total, 0.0)


def _left_out(
    blank_in: np.ndarray, before: np.ndarray, after: np.ndarray, differ: np.ndarray, count: int
) -> np.ndarray:
    """Returns the log of the sum over paths (L,) in which phone i is left out.

    Then the token before it, or the blank between them, is followed by the token after it. The last
    phone is left out where the path ends before it.
    """
    reached = np.logaddexp(blank_in[:, :-1], np.where(differ, before, _NEVER))
    joined = np.logaddexp.reduce(reached + after, axis=0)
    joined[count - 1] = np.logaddexp(blank_in[-1, count - 1], before[-1, count - 1])
    return joined


def _before(log_probs: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the log of the sums over paths that have spent t frames and are on the blank after
    `l` tokens (S + 1, L + 1), or on token l (S + 1, L)."""
    size = len(ids)
    on_blank = np.full((len(log_probs) + 1, size + 1), _NEVER)
    on_token = np.full((len(log_probs) + 1, size), _NEVER)
    on_blank[0, 0] = 0.0
    differ = np.append(False, ids[1:] != ids[:-1])
    for t, frame in enumerate(log_probs):
        came = np.append(_NEVER, on_token[t])
        on_blank[t + 1] = np.logaddexp(on_blank[t], came) + frame[BLANK]
        skipped = np.where(differ, came[:-1], _NEVER)
        entered = np.logaddexp(on_blank[t, :-1], skipped)
        on_token[t + 1] = np.logaddexp(on_token[t], entered) + frame[ids]
    return on_blank, on_token


def detection_auc(scores: np.ndarray, wrong: np.ndarray) -> float:
    """Returns the area under the ROC curve of detecting `wrong` phones (N,) by low scores (N,).

    Phones whose `wrong` or score is NaN, unscored ones, are left out. Raises ValueError where all
    or none are wrong.
    """
    wrong, scores = np.asarray(wrong, float), np.asarray(scores, float)
    known = ~np.isnan(wrong) & ~np.isnan(scores)
    return scores_lib.roc_auc(-scores[known][:, None], wrong[known][:, None])


def threshold(scores: np.ndarray, wrong: np.ndarray) -> float:
    """Returns the score up to which a phone is best called wrong, by F1: take it from validation.

    Raises ValueError where no phone is wrong.
    """
    order = np.argsort(scores, kind="stable")
    ranked, hits = np.asarray(scores, float)[order], np.cumsum(np.asarray(wrong)[order] > 0)
    if not len(hits) or not hits[-1]:
        raise ValueError("no phone is wrong: choose the threshold on rows with mispronunciations")
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])
    ends = np.append(np.diff(ranked) > 0, True)  # equal scores are called alike
    return float(ranked[np.where(ends, f1, -1).argmax()])
