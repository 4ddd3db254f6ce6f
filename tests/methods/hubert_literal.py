"""HuBERT's objective written out literally: one clip, one frame, one unit at a time; no padding.

NumPy in float64; parameters are a flat dict of path names. It follows 2106.07447 in the layout of
the Base model, and fairseq in the form of the loss: the scores of a frame are that of its unit,
then those of all other units, and the first is right.
"""

import math

import data2vec_literal as parts
import numpy as np
import wav2vec2_literal as wav2vec2


def encoded(p, x):
    """x (S, D), masked -> the last layer (S, D)."""
    x = parts.affine(x + wav2vec2.positions(p, x), p["norm/scale"], p["norm/bias"])
    return parts.blocks(p, x, post=True)[0][-1]


def entropy(frame, units, truth, temperature=0.1):
    """frame (E,), units (C, E) -> minus the log probability of the unit `truth`, in nats."""

    def score(c):
        size = np.linalg.norm(frame) * np.linalg.norm(units[c])
        return frame @ units[c] / size / temperature

    scores = [score(truth), *(score(c) for c in range(len(units)) if c != truth)]
    return math.log(sum(math.exp(s - scores[0]) for s in scores))


def loss(params, clips, masks, labels, classes, tied=False, weights=(1.0, 0.0), ratio=2):
    """Returns (loss, frames it is divided by, feature penalty) of a batch.

    masks (S,) of each clip; labels: for each clip, one list of units per set.
    A frame t without label int(t * ratio) does not count.
    """
    p, total, squares = parts.part(params, "encoder/"), 0.0, []
    counts = [0, 0]
    for clip, mask, sets in zip(clips, masks, labels, strict=True):
        raw = wav2vec2.convolutions(p, clip)
        squares += [float(v) ** 2 for v in raw.ravel()]
        x = parts.affine(raw, p["frontend/norm/scale"], p["frontend/norm/bias"])
        x = x @ p["frontend/projection/kernel"] + p["frontend/projection/bias"]
        y = encoded(p, np.where(mask[:, None], params["mask/vector"], x))
        y = y @ params["head/projection/kernel"] + params["head/projection/bias"]
        first, width = 0, params["head/units"].shape[1]
        for k, size in enumerate(classes):
            own = params["head/units"][first : first + size]
            first += size
            place = slice(0, width) if tied else slice(k * width, (k + 1) * width)
            for t in range(len(y)):
                label, part = math.floor(t * ratio), 0 if mask[t] else 1
                if label >= len(sets[k]) or not weights[part]:
                    continue
                total += weights[part] * entropy(y[t, place], own, sets[k][label])
                counts[part] += k == 0
    penalty = sum(squares) / len(squares)
    return total / sum(counts) + 10 * penalty, sum(counts), penalty
