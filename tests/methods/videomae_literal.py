"""VideoMAE written out literally: one clip at a time, lists of ids. NumPy in float64.

Parameters are a flat dict of path names. It follows 2203.12602.
"""

import math

import numpy as np
from data2vec_literal import attention, gelu
from mae_literal import _norm, _part

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def flat_position(place, width):
    """The vector (D,) of a place in raster order: sine and cosine in turn."""
    waves = [10000 ** (-2 * (j // 2) / width) for j in range(width)]
    return np.array([(math.cos if j % 2 else math.sin)(place * w) for j, w in enumerate(waves)])


def cubes(clip, size):
    """clip (T, H, W, 3) -> list over time, row and column of cubes of 2 x size x size pixels."""
    steps, side = len(clip) // 2, clip.shape[1] // size
    return [
        clip[2 * t : 2 * t + 2, size * i : size * i + size, size * j : size * j + size]
        for t in range(steps)
        for i in range(side)
        for j in range(side)
    ]


def states(p, x, heads=2):
    """x (T, D) -> the output of each pre-norm block, without the last norm."""
    found = []
    for i in range(len(p["blocks/norm1/scale"])):
        x = x + attention(p, i, _norm(x, p, "blocks/norm1", i), heads)
        y = _norm(x, p, "blocks/norm2", i) @ p["blocks/mlp/up/kernel"][i]
        y = gelu(y + p["blocks/mlp/up/bias"][i]) @ p["blocks/mlp/down/kernel"][i]
        x = x + y + p["blocks/mlp/down/bias"][i]
        found.append(x)
    return found


def embedded(encoder, clip, size, position, ids=None):
    """The tokens (V, D) of a clip of uint8, with their positions, of the places `ids`."""
    found = cubes((np.asarray(clip, np.float64) / 255 - MEAN) / STD, size)
    kernel, bias = (encoder[f"frontend/projection/{k}"] for k in ("kernel", "bias"))
    ids = range(len(found)) if ids is None else ids
    width = kernel.shape[1]
    return np.stack([found[i].ravel() @ kernel + bias + position(i, width) for i in ids])


def decoded(decoder, x, visible, hidden, position):
    """Encoded visible tokens (V, E) -> predictions of the hidden places (M, P)."""
    x = x @ decoder["embed/kernel"] + decoder.get("embed/bias", 0)
    width = x.shape[1]
    rows = [token + position(i, width) for token, i in zip(x, visible, strict=True)]
    rows += [decoder["mask"] + position(i, width) for i in hidden]
    y = _norm(states(decoder, np.stack(rows))[-1], decoder, "final_norm")[len(visible) :]
    return y @ decoder["predict/kernel"] + decoder["predict/bias"]


def target(cube, norm_pix):
    """A cube (2, p, p, 3) in [0, 1] -> its numbers, each channel normalized for itself."""
    if norm_pix:
        pixels = cube.reshape(-1, 3)
        spread = np.sqrt(((pixels - pixels.mean(0)) ** 2).sum(0) / (len(pixels) - 1))
        cube = (cube - pixels.mean(0)) / (spread + 1e-6)
    return cube.ravel()


def loss(params, clips, masks, size, norm_pix=True):
    """The mean squared error over the hidden tubelets of clips of uint8; masks (S,) bool."""
    encoder, decoder = _part(params, "encoder/"), _part(params, "decoder/")
    errors = []
    for clip, mask in zip(clips, masks, strict=True):
        visible, hidden = np.flatnonzero(~mask).tolist(), np.flatnonzero(mask).tolist()
        x = embedded(encoder, clip, size, flat_position, visible)
        x = _norm(states(encoder, x)[-1], encoder, "final_norm")
        y = decoded(decoder, x, visible, hidden, flat_position)
        found = cubes(np.asarray(clip, np.float64) / 255, size)
        errors += [((y[k] - target(found[i], norm_pix)) ** 2).mean() for k, i in enumerate(hidden)]
    return np.mean(errors)
