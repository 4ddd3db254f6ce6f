"""data2vec 2.0 written out literally: one view of one example at a time, masked tokens left out.

NumPy in float64; parameters are a flat dict of path names. It follows 2212.07525 in the sizes of
the toy configs; masks and noise are given.
"""

import math

import data2vec_literal as v1
import numpy as np

HEADS = 2
SLOPES = {2: (2.0**-4, 2.0**-8)}
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def linear(p, name, x, layer=None):
    """x (..., I) -> (..., O), from stacked parameters when a layer is named."""
    kernel, bias = p[f"{name}/kernel"], p[f"{name}/bias"]
    return x @ kernel + bias if layer is None else x @ kernel[layer] + bias[layer]


def blocks(p, x, bias, eps):
    """x (T, D), bias (H, T, T) -> (last output, [raw MLP output of each block])."""
    ffns, size = [], x.shape[1] // HEADS
    for i in range(len(p["blocks/norm1/scale"])):
        query, key, value = (
            linear(p, f"blocks/attention/{n}", x, i) for n in ("query", "key", "value")
        )
        heads = []
        for h in range(HEADS):
            c = slice(h * size, (h + 1) * size)
            scores = query[:, c] @ key[:, c].T / math.sqrt(size) + bias[h]
            scores = np.exp(scores - scores.max(1, keepdims=True))
            heads.append(scores / scores.sum(1, keepdims=True) @ value[:, c])
        x = x + linear(p, "blocks/attention/out", np.concatenate(heads, 1), i)
        x = v1.affine(x, p["blocks/norm1/scale"][i], p["blocks/norm1/bias"][i], eps=eps)
        ffns.append(linear(p, "blocks/mlp/down", v1.gelu(linear(p, "blocks/mlp/up", x, i)), i))
        x = v1.affine(x + ffns[-1], p["blocks/norm2/scale"][i], p["blocks/norm2/bias"][i], eps=eps)
    return x, ffns


class Image:
    """16 x 16 pixels in patches of 4: 4 x 4 tokens after a class token."""

    places, prefix, eps, kernel, groups, residual = (4, 4), 1, 1e-6, 3, 4, True

    @staticmethod
    def local(p, image):
        """image (16, 16, 3) uint8 -> (16, D)."""
        x = (np.asarray(image) / 255 - MEAN) / STD
        cut = [x[4 * r : 4 * r + 4, 4 * c : 4 * c + 4].ravel() for r in range(4) for c in range(4)]
        return linear(p, "frontend/projection", np.array(cut))

    @classmethod
    def encode(cls, p, x, ids):
        """x (16, D) -> the output and the MLP outputs of [class token, x[ids]]."""
        omega = 10000.0 ** (-np.arange(x.shape[1] // 4) / (x.shape[1] / 4))
        rows = [[p["cls"]]]
        for i in ids:
            column, row = (i % 4) * omega, (i // 4) * omega
            place = [np.sin(column), np.cos(column), np.sin(row), np.cos(row)]
            rows.append([x[i] + np.concatenate(place)])
        x = v1.affine(np.concatenate(rows), p["norm/scale"], p["norm/bias"], eps=cls.eps)
        return blocks(p, x, np.zeros((HEADS, len(x), len(x))), cls.eps)


class Audio:
    """Frames of a waveform, positions by two grouped convolutions, ALiBi."""

    places, prefix, eps, kernel, groups, residual = None, 0, 1e-5, 7, 4, True
    local = staticmethod(v1.waveform_frames)

    @classmethod
    def encode(cls, p, x, ids):
        """x (S, D) -> outputs of x[ids]; the positions see zeros at the other frames."""
        x = np.array([row if i in set(ids) else 0 * row for i, row in enumerate(x)])
        y = x
        for i in range(2):
            name = f"positions/conv{i}"
            y = v1.gelu(v1.affine(v1._grouped(y, p[f"{name}/kernel"], p[f"{name}/bias"])))
        x = v1.affine((x + y)[ids], p["norm/scale"], p["norm/bias"])
        distance = np.abs(np.subtract.outer(ids, ids))
        factors = np.maximum(p["alibi_scale"], 0)
        bias = [-slope * f * distance for slope, f in zip(SLOPES[HEADS], factors, strict=True)]
        return blocks(p, x, bias, cls.eps)


class Text:
    """Token vectors with learned positions and a norm."""

    places, prefix, eps, kernel, groups, residual = None, 0, 1e-5, 3, 1, False

    @staticmethod
    def local(p, tokens):
        """tokens (S,) -> (S, D)."""
        return p["frontend/embedding"][np.asarray(tokens)]

    @classmethod
    def encode(cls, p, x, ids):
        """x (S, D) -> outputs of x[ids]."""
        x = v1.affine((x + p["positions"][: len(x)])[ids], p["norm/scale"], p["norm/bias"])
        return blocks(p, x, np.zeros((HEADS, len(x), len(x))), cls.eps)


KINDS = {"image": Image, "audio": Audio, "text": Text}


def decode(kind, p, x):
    """x (S, D), visible outputs and noise at their positions -> predictions (S, D)."""
    places = kind.places or (len(x),)
    for i in range(2):
        name, half = f"conv{i}", kind.kernel // 2
        grid = np.pad(x.reshape(*places, -1), [(half, half)] * len(places) + [(0, 0)])
        kernel = p[f"{name}/kernel"]
        inputs, outputs = kernel.shape[-2], kernel.shape[-1] // kind.groups
        y = np.zeros((*places, kernel.shape[-1])) + p[f"{name}/bias"]
        for tap in np.ndindex(*kernel.shape[:-2]):
            cells = grid[tuple(slice(t, t + n) for t, n in zip(tap, places, strict=True))]
            for g in range(kind.groups):
                into = slice(g * outputs, (g + 1) * outputs)
                part = cells[..., g * inputs : (g + 1) * inputs]
                y[..., into] += part @ kernel[tap][:, into]
        y = v1.gelu(v1.affine(y)).reshape(len(x), -1)
        x = x + y if kind.residual and x.shape == y.shape else y
    if "up/kernel" in p:
        x = v1.gelu(linear(p, "up", x))
    return linear(p, "projection", x)


def targets(kind, p, x, final_layer_norm, layers=2):
    """Local tokens (S, D) of the whole example -> targets (S, D)."""
    _, ffns = kind.encode(p, x, np.arange(len(x)))
    mean = sum(v1.affine(ffn[kind.prefix :], axis=0) for ffn in ffns[-layers:]) / layers
    return v1.affine(mean) if final_layer_norm else mean


def loss(name, params, teacher, examples, masks, noises, *, held=None, cls_weight=0.0):
    """Mean over the masked tokens of all views of ||prediction - target||^2, scaled.

    masks (M, S) bool and noises (M, S, D) per example. The teacher reads parameters it lacks
    from `held` (default: params), so that a derivative can leave this path out. The class token
    of every view predicts the mean target; its mean over the views is weighted by cls_weight.
    """
    kind = KINDS[name]
    student, decoder = v1.part(params, "encoder/"), v1.part(params, "decoder/")
    own = {**v1.part(held or params, "encoder/"), **v1.part(teacher, "encoder/")}
    scale = 1.0 if name == "text" else 1 / math.sqrt(len(decoder["projection/bias"]))
    tokens, classes = [], []
    for example, hidden, noise in zip(examples, masks, noises, strict=True):
        x = kind.local(student, example)
        target = targets(kind, own, kind.local(own, example), name == "image")
        for mask, fill in zip(hidden, noise, strict=True):
            ids = np.flatnonzero(~mask)
            last, _ = kind.encode(student, x, ids)
            seen = np.array(fill)
            seen[ids] = last[kind.prefix :]
            error = (decode(kind, decoder, seen) - target)[mask]
            tokens.append((error**2).sum(1) * scale)
            if cls_weight:
                classes.append(((last[0] - target.mean(0)) ** 2).sum() * scale)
    return np.concatenate(tokens).mean() + (cls_weight * np.mean(classes) if cls_weight else 0.0)
