"""wav2vec 2.0 written out literally: one clip, one frame, one negative at a time; no padding.

NumPy in float64; parameters are a flat dict of path names. It follows 2006.11477 in the layout of
the Base model: a norm per channel over time after the first convolution, post-norm blocks.
"""

import math

import data2vec_literal as parts
import numpy as np

STRIDES = (5, 8, 8)


def convolutions(p, clip):
    """clip (N,) int16 -> output of the convolutions (S, C)."""
    x = np.asarray(clip / 32768.0)[:, None]
    for i, stride in enumerate(STRIDES):
        x = parts._conv(x, p[f"frontend/convs/conv{i}/kernel"], stride)
        if i == 0:
            name = "frontend/convs/norm0"
            x = parts.affine(x, p[f"{name}/scale"], p[f"{name}/bias"], axis=0)
        x = parts.gelu(x)
    return x


def positions(p, x):
    """x (S, D) -> (S, D): a convolution whose taps have the norms of the gain."""
    kernel = p["positions/kernel"]
    norm = np.array([np.linalg.norm(tap) for tap in kernel])[:, None, None]
    kernel = kernel / norm * p["positions/gain"]
    return parts.gelu(parts._grouped(x, kernel, p["positions/bias"])[: len(x)])


def context(params, frames, mask):
    """Projected frames (S, D) -> the transformer's view of the masked clip, (S, E)."""
    p = parts.part(params, "encoder/")
    x = np.where(mask[:, None], params["mask/vector"], frames)
    x = parts.affine(x + positions(p, x), p["norm/scale"], p["norm/bias"])
    y = parts.blocks(p, x, post=True)[0][-1]
    return y @ params["predictor/kernel"] + params["predictor/bias"]


def quantized(params, frames, noise):
    """frames (S, C), noise (S, G, V) -> (targets (S, E), codes (S, G), softmax (S, G, V))."""
    logits = frames @ params["quantizer/logits/kernel"] + params["quantizer/logits/bias"]
    logits = logits.reshape(noise.shape)
    codes, targets = [], []
    for frame, own in zip(logits, noise, strict=True):
        chosen = [int(np.argmax(g + n)) for g, n in zip(frame, own, strict=True)]
        vectors = [params["quantizer/codes"][g, v] for g, v in enumerate(chosen)]
        codes.append(chosen)
        targets.append(np.concatenate(vectors) @ params["target/kernel"] + params["target/bias"])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return np.array(targets), codes, weights / weights.sum(-1, keepdims=True), logits.argmax(-1)


def contrast(own, targets, codes, t, places, temperature):
    """The loss of frame t, whose output is `own`, against the negatives at positions `places`."""
    scores = []
    for s in [t, *places]:
        if s != t and codes[s] == codes[t]:
            continue
        size = np.linalg.norm(own) * np.linalg.norm(targets[s])
        scores.append(own @ targets[s] / size / temperature)
    top = max(scores)
    return top + math.log(sum(math.exp(x - top) for x in scores)) - scores[0]


def loss(params, clips, masks, places, noises, scale="mean", weights=(0.1, 10.0), pool=None):
    """The three terms over a batch of clips -> (loss, masked frames, soft and hard perplexities).

    masks (S,) of each clip, places (S, K), noises (S, G, V); pool (S,): the frames from
    which negatives come, default the mask. A frame that is alone in its pool is skipped.
    """
    p, losses, shares, used, squares = parts.part(params, "encoder/"), [], [], [], []
    for i, (clip, mask) in enumerate(zip(clips, masks, strict=True)):
        raw = convolutions(p, clip)
        frames = parts.affine(raw, p["frontend/norm/scale"], p["frontend/norm/bias"])
        x = frames @ p["frontend/projection/kernel"] + p["frontend/projection/bias"]
        outputs = context(params, x, mask)
        targets, codes, share, best = quantized(params, frames, noises[i])
        alone = (mask if pool is None else pool[i]).sum() < 2
        for t in np.flatnonzero(mask):
            shares.append(share[t])
            used.append(np.eye(share.shape[-1])[best[t]])
            if not alone:
                losses.append(contrast(outputs[t], targets, codes, t, places[i][t], 0.1))
        squares.extend((raw**2).mean(1))
    soft, hard = (_perplexities(np.array(x)) for x in (shares, used))
    count = soft.size * shares[0].shape[-1]
    diversity = (count - soft.sum()) / count
    diversity = diversity if scale == "mean" else diversity / len(losses)
    total = np.mean(losses) + weights[0] * diversity + weights[1] * np.mean(squares)
    return total, len(losses), soft, hard


def linear_loss(params, clips, masks, places):
    """The contrastive loss with targets from a Linear layer of the frames -> (loss, frames)."""
    p, losses = parts.part(params, "encoder/"), []
    for clip, mask, own in zip(clips, masks, places, strict=True):
        raw = convolutions(p, clip)
        frames = parts.affine(raw, p["frontend/norm/scale"], p["frontend/norm/bias"])
        x = frames @ p["frontend/projection/kernel"] + p["frontend/projection/bias"]
        outputs = context(params, x, mask)
        targets = frames @ params["target/kernel"] + params["target/bias"]
        if mask.sum() > 1:
            losses += [
                contrast(outputs[t], targets, range(len(mask)), t, own[t], 0.1)
                for t in np.flatnonzero(mask)
            ]
    return np.mean(losses), len(losses)


def _perplexities(shares):
    mean = shares.mean(0)
    return np.exp(-(mean * np.log(mean + 1e-7)).sum(-1))
