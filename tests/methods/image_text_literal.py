"""data2vec v1 of images and text written out literally: one example at a time, in float64.

Parameters are a flat dict of path names; 2202.03555 in the forms of BEiT and RoBERTa.
"""

import numpy as np
from data2vec_literal import affine, attention, blocks, gelu, part

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
PATCH = 4


def patches(p, image):
    """image (H, W, 3) uint8 -> projected patches (S, D) in raster order."""
    x = (np.asarray(image) / 255 - MEAN) / STD
    cut = [
        x[row : row + PATCH, column : column + PATCH].reshape(-1)
        for row in range(0, len(x), PATCH)
        for column in range(0, len(x), PATCH)
    ]
    return np.stack(cut) @ p["frontend/projection/kernel"] + p["frontend/projection/bias"]


def relative(table, side):
    """table (rows, H) -> bias (H, T, T): offsets of query and key, then the class token's rows."""
    cells = [(r, c) for r in range(side) for c in range(side)]
    offsets = [(r, c) for r in range(1 - side, side) for c in range(1 - side, side)]
    row = {offset: i for i, offset in enumerate(offsets)}
    index = np.full((1 + len(cells), 1 + len(cells)), len(offsets))
    index[1:, 0], index[0, 0] = len(offsets) + 1, len(offsets) + 2
    for q, (a, b) in enumerate(cells):
        for k, (c, d) in enumerate(cells):
            index[1 + q, 1 + k] = row[a - c, b - d]
    return table[index].transpose(2, 0, 1)


def encode_image(p, x, heads=2, eps=1e-6):
    """Patches (S, D) -> the end of each block (1 + S, D), without a final norm."""
    bias = relative(p["relative/table"], round(len(x) ** 0.5))
    x, ends = np.concatenate([p["cls"][None], x]), []
    for i in range(len(p["blocks/norm1/scale"])):

        def norm(y, name, i=i):
            return affine(y, p[f"blocks/{name}/scale"][i], p[f"blocks/{name}/bias"][i], eps=eps)

        x = x + p["blocks/scale1"][i] * attention(p, i, norm(x, "norm1"), heads, bias)
        up = norm(x, "norm2") @ p["blocks/mlp/up/kernel"][i] + p["blocks/mlp/up/bias"][i]
        down = gelu(up) @ p["blocks/mlp/down/kernel"][i] + p["blocks/mlp/down/bias"][i]
        x = x + p["blocks/scale2"][i] * down
        ends.append(x)
    return ends


def smooth_l1(error, beta):
    size = np.abs(error)
    return np.where(size < beta, error**2 / (2 * beta), size - beta / 2)


def loss_image(params, teacher, images, masks, held=None, layers=2):
    """Mean over all elements at masked patches; the teacher is a complete separate model."""
    del held
    student, own, found = part(params, "encoder/"), part(teacher, "encoder/"), []
    for image, mask in zip(images, masks, strict=True):
        seen = np.where(mask[:, None], params["mask/vector"], patches(student, image))
        y = encode_image(student, seen)[-1][1:]
        y = affine(y, params["predictor/norm/scale"], params["predictor/norm/bias"], eps=1e-6)
        prediction = y @ params["predictor/kernel"] + params["predictor/bias"]
        ends = encode_image(own, patches(own, image))[-layers:]
        target = affine(sum(affine(end[1:]) for end in ends) / layers)
        found.append(smooth_l1(prediction - target, 2.0)[mask])
    return np.concatenate(found).mean()


def encode_text(p, blocks_of, x):
    """Token vectors (L, D) -> block outputs; positions and their norm are those of `p`."""
    x = affine(x + p["positions"][: len(x)], p["norm/scale"], p["norm/bias"])
    return blocks(blocks_of, x, post=True)


def loss_text(params, teacher, texts, masks, held=None, layers=2):
    """Mean over all masked tokens of the sum over D; only the blocks of the teacher are separate.

    It reads the token vectors of `held` (default: of `params`).
    """
    student, own, found = part(params, "encoder/"), part(teacher, "encoder/"), []
    shared = part(held or params, "encoder/")
    for tokens, mask in zip(texts, masks, strict=True):
        seen = np.where(mask[:, None], params["mask/vector"], student["frontend/embedding"][tokens])
        y = encode_text(student, student, seen)[0][-1]
        y = gelu(y @ params["predictor/up/kernel"] + params["predictor/up/bias"])
        prediction = y @ params["predictor/kernel"] + params["predictor/bias"]
        _, ffns = encode_text(shared, own, shared["frontend/embedding"][tokens])
        target = sum(affine(ffn) for ffn in ffns[-layers:]) / layers
        found.append(smooth_l1(prediction - target, 4.0).sum(1)[mask])
    return np.concatenate(found).mean()
