"""MAE written out literally: one example at a time, only its real patches, lists of ids.

NumPy in float64; parameters are a flat dict of path names. It follows 2111.06377.
"""

import math

import numpy as np
from data2vec_literal import attention, gelu


def position(row, column, width):
    """The vector (D,) of one position: the column in the first half, the row in the second."""
    quarter = width // 4
    omega = [10000 ** (-k / quarter) for k in range(quarter)]
    parts = [f(place * w) for place in (column, row) for f in (math.sin, math.cos) for w in omega]
    return np.array(parts)


def _norm(x, p, name, i=None):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    scale, bias = (p[f"{name}/{part}"] for part in ("scale", "bias"))
    if i is not None:
        scale, bias = scale[i], bias[i]
    return (x - mean) / np.sqrt(variance + 1e-6) * scale + bias


def _blocks(p, x, heads):
    """x (T, D) -> (T, D): pre-norm blocks and the last norm."""
    for i in range(len(p["blocks/norm1/scale"])):
        x = x + attention(p, i, _norm(x, p, "blocks/norm1", i), heads)
        y = _norm(x, p, "blocks/norm2", i) @ p["blocks/mlp/up/kernel"][i]
        y = gelu(y + p["blocks/mlp/up/bias"][i]) @ p["blocks/mlp/down/kernel"][i]
        x = x + y + p["blocks/mlp/down/bias"][i]
    return _norm(x, p, "final_norm")


def _part(params, prefix):
    return {k.removeprefix(prefix): v for k, v in params.items() if k.startswith(prefix)}


def predictions(params, patches, columns, visible, heads=2):
    """patches (S, P), the ids of the visible ones -> predictions (S, P)."""
    encoder, decoder = _part(params, "encoder/"), _part(params, "decoder/")
    places = [divmod(i, columns) for i in range(len(patches))]

    kernel, bias = (encoder[f"frontend/projection/{k}"] for k in ("kernel", "bias"))
    width = kernel.shape[1]
    tokens = [patches[i] @ kernel + bias + position(*places[i], width) for i in visible]
    x = _blocks(encoder, np.stack([encoder["cls"], *tokens]), heads)
    x = x @ decoder["embed/kernel"] + decoder["embed/bias"]

    width = x.shape[1]
    rows = [x[0]]
    for i, place in enumerate(places):
        token = x[1 + visible.index(i)] if i in visible else decoder["mask"]
        rows.append(token + position(*place, width))
    y = _blocks(decoder, np.stack(rows), heads)[1:]
    return y @ decoder["predict/kernel"] + decoder["predict/bias"]


def loss(params, examples, columns, norm_pix=True, masked_only=True):
    """The mean squared error of a patch, averaged over the hidden patches of all examples.

    examples: pairs of patches (S, P) and a list of visible ids.
    """
    errors = []
    for patches, visible in examples:
        target = patches
        if norm_pix:
            deviation = np.sqrt(patches.var(1, ddof=1, keepdims=True) + 1e-6)
            target = (patches - patches.mean(1, keepdims=True)) / deviation
        error = ((predictions(params, patches, columns, visible) - target) ** 2).mean(1)
        counted = [i for i in range(len(patches)) if i not in visible or not masked_only]
        errors += [error[i] for i in counted]
    return sum(errors) / len(errors)
