"""LightHuBERT written out literally: a subnet cut out by index, one clip at a time, no padding.

NumPy in float64; parameters are a flat dict of path names. It follows 2203.15610 and the slicing
rules of the released code, and 2106.07447 for the teacher.
"""

import math

import data2vec_literal as parts
import numpy as np
import wav2vec2_literal as wav2vec2


def hidden_units(embed, ratio, block):
    """The hidden units of the supernet that a layer uses, one after another."""
    units = []
    for i in range(math.ceil(ratio)):
        share = min(1.0, ratio - i)
        units += [i * block + j for j in range(int(share * embed))]
    return units


def positions(p, x, embed, groups):
    """x (S, E): the kernel is scaled as a whole, then cut; channels are grouped anew."""
    kernel = p["positions/kernel"]
    norm = np.array([np.linalg.norm(tap) for tap in kernel])[:, None, None]
    kernel = (kernel / norm * p["positions/gain"])[:, : embed // groups, :embed]
    y = parts._grouped(x, kernel, p["positions/bias"][:embed], groups)
    return parts.gelu(y[: len(x)])


def attention(p, i, x, heads, size):
    """Block i of the supernet, of which the first `heads` heads are used; x (S, E)."""
    embed, y = x.shape[1], np.zeros_like(x)
    for h in range(heads):
        own = range(h * size, (h + 1) * size)
        query, key, value = (
            x @ p[f"blocks/attention/{n}/kernel"][i][:embed][:, own]
            + p[f"blocks/attention/{n}/bias"][i][own]
            for n in ("query", "key", "value")
        )
        scores = query @ key.T / math.sqrt(size)
        scores = np.exp(scores - scores.max(1, keepdims=True))
        scores /= scores.sum(1, keepdims=True)
        y = y + scores @ value @ p["blocks/attention/out/kernel"][i][own][:, :embed]
    return y + p["blocks/attention/out/bias"][i][:embed]


def subnet_last(p, x, embed, heads, ratios, kept, size, groups=4):
    """Masked frames x (S, D of the supernet) -> the last layer (S, E) of a subnet."""
    block = x.shape[1]
    x = x[:, :embed]
    y = x + positions(p, x, embed, groups)
    x = parts.affine(y, p["norm/scale"][:embed], p["norm/bias"][:embed])
    for i, h, ratio in zip(kept, heads, ratios, strict=True):
        scale, bias = (
            [p[f"blocks/{n}/{kind}"][i][:embed] for n in ("norm1", "norm2")]
            for kind in ("scale", "bias")
        )
        x = parts.affine(x + attention(p, i, x, h, size), scale[0], bias[0])
        units = hidden_units(embed, ratio, block)
        up = x @ p["blocks/mlp/up/kernel"][i][:embed][:, units] + p["blocks/mlp/up/bias"][i][units]
        down = parts.gelu(up) @ p["blocks/mlp/down/kernel"][i][units][:, :embed]
        x = parts.affine(x + down + p["blocks/mlp/down/bias"][i][:embed], scale[1], bias[1])
    return x


def targets(teacher, clip, layers):
    """clip (N,) int16 -> the mean of the feed-forward outputs of the teacher's last layers."""
    p = parts.part(teacher, "encoder/")
    x = wav2vec2.convolutions(p, clip)
    x = parts.affine(x, p["frontend/norm/scale"], p["frontend/norm/bias"])
    x = x @ p["frontend/projection/kernel"] + p["frontend/projection/bias"]
    x = parts.affine(x + wav2vec2.positions(p, x), p["norm/scale"], p["norm/bias"])
    return sum(parts.blocks(p, x, post=True)[1][-layers:]) / layers


def loss(params, clips, wanted, masks, subnet, kept, size):
    """Mean absolute error at the masked frames of all clips; wanted: the targets of each."""
    p, errors = parts.part(params, "encoder/"), []
    for clip, target, mask in zip(clips, wanted, masks, strict=True):
        x = parts.waveform_frames(p, clip)
        x = np.where(mask[:, None], params["mask/vector"], x)
        y = subnet_last(p, x, subnet.embed, subnet.heads, subnet.ratios, kept, size)
        predicted = y @ params["head/kernel"][: subnet.embed]
        errors += [np.abs(predicted[t] - target[t]).mean() for t in np.flatnonzero(mask)]
    return np.mean(errors)
