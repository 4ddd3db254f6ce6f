"""data2vec v1 written out literally: one clip at a time, padding cut off, no layers, no masks.

NumPy in float64; parameters are a flat dict of path names. It follows 2202.03555 (waveform,
post-norm) and 2210.01703 (keyword spotting, norms inside the residual).
"""

import functools
import math

import jax
import numpy as np
import scipy.special

from ssl_jax.ops import dsp

STRIDES = (5, 8, 8)
_mfcc = jax.jit(functools.partial(dsp.mfcc, fmin=20.0))


def affine(x, scale=1.0, bias=0.0, axis=-1, eps=1e-5):
    mean = x.mean(axis, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * scale + bias


def gelu(x):
    return x * (1 + scipy.special.erf(x / math.sqrt(2))) / 2


def _conv(x, kernel, stride):
    """x (N, C), kernel (K, C, D) -> (N', D), no padding."""
    frames = (len(x) - len(kernel)) // stride + 1
    return sum(
        x[k : k + (frames - 1) * stride + 1 : stride] @ kernel[k] for k in range(len(kernel))
    )


def waveform_frames(p, clip):
    """clip (N,) int16 -> projected frames (S, D)."""
    x = np.asarray(clip / 32768.0)[:, None]
    x = affine(x, axis=0)
    for i, stride in enumerate(STRIDES):
        x = _conv(x, p[f"frontend/convs/conv{i}/kernel"], stride)
        name = f"frontend/convs/norm{i}"
        x = gelu(affine(x, p[f"{name}/scale"], p[f"{name}/bias"]))
    x = affine(x, p["frontend/norm/scale"], p["frontend/norm/bias"])
    return x @ p["frontend/projection/kernel"] + p["frontend/projection/bias"]


def keyword_frames(p, clip, stack=2):
    """clip (N,) int16 -> projected tokens (S, D) of `stack` MFCC frames."""
    mfcc = np.asarray(_mfcc(np.asarray(clip)[None]))[0]
    tokens = len(mfcc) // stack
    x = np.asarray(mfcc[: tokens * stack].reshape(tokens, -1), p["cls"].dtype)
    return x @ p["frontend/projection/kernel"] + p["frontend/projection/bias"]


def _grouped(x, kernel, bias, groups=4):
    """x (S, D), kernel (K, D / groups, D) -> (S, D), zeros around."""
    half, width = len(kernel) // 2, x.shape[1] // groups
    zeros = np.zeros((half, x.shape[1]), x.dtype)
    x = np.concatenate([zeros, x, zeros])
    cut = [slice(g * width, (g + 1) * width) for g in range(groups)]
    return np.concatenate([_conv(x[:, c], kernel[:, :, c], 1) for c in cut], 1) + bias


def attention(p, i, x, heads, bias=None):
    def project(name):
        shift = p.get(f"blocks/attention/{name}/bias")
        y = x @ p[f"blocks/attention/{name}/kernel"][i]
        return y if shift is None else y + shift[i]

    query, key, value = (project(n) for n in ("query", "key", "value"))
    size = x.shape[1] // heads
    out = []
    for h in range(heads):
        c = slice(h * size, (h + 1) * size)
        scores = query[:, c] @ key[:, c].T / math.sqrt(size)
        scores = scores if bias is None else scores + bias[h]
        scores = np.exp(scores - scores.max(1, keepdims=True))
        out.append(scores / scores.sum(1, keepdims=True) @ value[:, c])
    y = np.concatenate(out, 1) @ p["blocks/attention/out/kernel"][i]
    return y + p["blocks/attention/out/bias"][i]


def blocks(p, x, post, heads=2):
    """x (T, D) -> ([end of each block], [raw MLP output of each])."""
    ends, ffns = [], []
    for i in range(len(p["blocks/norm1/scale"])):

        def norm(y, which, i=i):
            return affine(y, p[f"blocks/{which}/scale"][i], p[f"blocks/{which}/bias"][i])

        def mlp(y, i=i):
            y = gelu(y @ p["blocks/mlp/up/kernel"][i] + p["blocks/mlp/up/bias"][i])
            return y @ p["blocks/mlp/down/kernel"][i] + p["blocks/mlp/down/bias"][i]

        attended = attention(p, i, x, heads)
        x = norm(x + attended, "norm1") if post else x + norm(attended, "norm1")
        ffns.append(mlp(x))
        x = norm(x + ffns[-1], "norm2") if post else x + norm(ffns[-1], "norm2")
        ends.append(x)
    return ends, ffns


def encode_waveform(p, x):
    """Projected frames (S, D) -> block outputs, with convolutional positions."""
    y = x
    for i in range(2):
        name = f"positions/conv{i}"
        y = gelu(affine(_grouped(y, p[f"{name}/kernel"], p[f"{name}/bias"])))
    return blocks(p, affine(x + y, p["norm/scale"], p["norm/bias"]), post=True)


def encode_keyword(p, x):
    """Tokens (S, D) -> block outputs of 1 + S tokens."""
    x = np.concatenate([p["cls"][None], x]) + p["positions"][: len(x) + 1]
    return blocks(p, x, post=False)


def part(params, prefix):
    return {k.removeprefix(prefix): v for k, v in params.items() if k.startswith(prefix)}


def loss_waveform(params, teacher, clips, masks, held=None, layers=2):
    """Mean over all masked frames of ||prediction - target||^2 / sqrt(D).

    The teacher uses the front end of `held` (default: of `params`), so that a
    derivative can leave this path out.
    """
    student, tokens = part(params, "encoder/"), []
    own = {**part(held or params, "encoder/"), **part(teacher, "encoder/")}
    for clip, mask in zip(clips, masks, strict=True):
        x = waveform_frames(student, clip)
        seen = np.where(mask[:, None], params["mask/vector"], x)
        y = encode_waveform(student, seen)[0][-1]
        _, ffns = encode_waveform(own, waveform_frames(own, clip))
        target = sum(affine(ffn, axis=0) for ffn in ffns[-layers:]) / layers
        tokens.append(_errors(params, y, target)[np.flatnonzero(mask)])
    return np.concatenate(tokens).mean()


def loss_keyword(params, teacher, clips, masks, held=None, layers=2):
    """Sum over all masked tokens of ||prediction - target||^2 / sqrt(D); `held` is not used."""
    del held
    student, own, tokens = part(params, "encoder/"), part(teacher, "encoder/"), []
    for clip, mask in zip(clips, masks, strict=True):
        x = keyword_frames(student, clip)
        seen = np.where(mask[:, None], params["mask/vector"], x)
        y = encode_keyword(student, seen)[0][-1][1:]
        ends, _ = encode_keyword(own, keyword_frames(own, clip))
        target = sum(affine(end, axis=0) for end in ends[-layers:]) / layers
        target = affine(target, axis=0)[1:]
        tokens.append(_errors(params, y, target)[np.flatnonzero(mask)])
    return np.concatenate(tokens).sum()


def _errors(params, y, target):
    prediction = y @ params["predictor/kernel"] + params["predictor/bias"]
    return ((prediction - target) ** 2).sum(1) / math.sqrt(y.shape[1])


def adam(params, gradients, lr, b1=0.9, b2=0.98, eps=1e-3, decay=0.01):
    """The first AdamW step from zero moments."""
    out = {}
    for name, x in params.items():
        g = gradients[name]
        mean, square = (1 - b1) * g / (1 - b1), (1 - b2) * g * g / (1 - b2)
        out[name] = x - lr * (mean / (np.sqrt(square) + eps) + decay * x)
    return out
