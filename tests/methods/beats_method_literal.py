"""BEATs and its tokenizer written out literally over a plain encoder, one clip at a time.

NumPy in float64; parameters are a flat dict of path names. It follows 2212.09058, and for the
codebook 2208.06366.
"""

import mae_literal as mae
import numpy as np


def part(params, prefix):
    """The parameters below a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in params.items() if k.startswith(prefix)}


def unit(x):
    """Vectors (..., C) of length 1."""
    return x / np.sqrt((x**2).sum(-1, keepdims=True))


def encode(p, patches, visible=None, columns=2, heads=2):
    """patches (S, P) -> the last features (V, D) of the visible ones, in their order."""
    visible = range(len(patches)) if visible is None else visible
    kernel, bias = (p[f"frontend/projection/{k}"] for k in ("kernel", "bias"))
    tokens = [
        patches[i] @ kernel + bias + mae.position(*divmod(i, columns), kernel.shape[1])
        for i in visible
    ]
    return mae._blocks(p, np.stack(tokens), heads)


def decode(p, tokens, columns=2, heads=2):
    """tokens (S, W), embedded -> predictions (S, outputs)."""
    width = tokens.shape[1]
    places = [mae.position(*divmod(i, columns), width) for i in range(len(tokens))]
    y = mae._blocks(p, tokens + np.stack(places), heads)
    return y @ p["predict/kernel"] + p["predict/bias"]


def embed(p, x):
    """The first layer of a decoder."""
    return x @ p["embed/kernel"] + p["embed/bias"]


def vectors(params, patches):
    """patches (S, P) -> the unit vectors (S, C) of a tokenizer that are to be quantized."""
    x = encode(part(params, "encoder/"), patches)
    x = np.tanh(x @ params["head/hidden/kernel"] + params["head/hidden/bias"])
    return unit(x @ params["head/out/kernel"] + params["head/out/bias"])


def tokenizer_loss(params, targets, clips, codes, ids, shifts, commitment):
    """The loss of the tokenizer on clips, where `shifts`, codes minus vectors, stay as they are.

    targets: what the teacher says of each clip (S, T). Its slope is that of the gradient straight
    through.
    """
    far, square = [], []
    for patches, target, own, shift in zip(clips, targets, ids, shifts, strict=True):
        z = vectors(params, patches)
        p = part(params, "estimator/")
        estimate = decode(p, embed(p, z + shift))
        far += list(1 - (unit(estimate) * unit(target)).sum(1))
        square += list(((z - codes[own]) ** 2).mean(1))
    return np.mean(far) + commitment * np.mean(square)


def model_loss(params, clips, visible, labels, mask_token, smoothing):
    """The mean cross-entropy of the labels of the masked patches of all clips."""
    found = []
    for patches, seen, label in zip(clips, visible, labels, strict=True):
        x = encode(part(params, "encoder/"), patches, seen)
        p = part(params, "predictor/")
        empty = p["mask_token"] if mask_token == "learned" else np.zeros(p["embed/bias"].shape)
        tokens = np.stack([empty] * len(patches))
        tokens[seen] = embed(p, x)
        logits = decode(p, tokens)
        log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        for i in set(range(len(patches))) - set(seen):
            own = log[i, label[i]]
            found.append(-(1 - smoothing) * own - smoothing * log[i].mean())
    return np.mean(found)


def random_labels(patches, matrices, codes, norm):
    """patches (S, P) -> the nearest random code of each."""
    x = patches
    for i, matrix in enumerate(matrices):
        x = mae_norm(x) if i else x
        x = x @ matrix
    x = mae_norm(x) if norm == "layer" else x
    if norm == "l2":
        x, codes = unit(x), unit(codes)
    return [int(((codes - row) ** 2).sum(1).argmin()) for row in x]


def mae_norm(x):
    """A LayerNorm without parameters."""
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
