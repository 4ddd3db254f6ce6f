"""MimCo-style losses written out in torch, float64: one image and one patch at a time."""

import torch
import torch.nn.functional as F
from moco_v3_literal import blocks, position, tokens


def predictions(p, image, visible, columns, patch=4, heads=2):
    """image (H, W, 3), the ids of the visible patches -> (patches (S, E), image (E,))."""
    x = tokens(p, image, patch, row_first=False)
    size = len(x) - 1
    x = blocks(p, x[[0] + [1 + i for i in visible]], heads)
    pooled = x[1:].mean(0)
    x = x @ p["decoder/embed/kernel"] + p["decoder/embed/bias"]
    rows = [x[0]]
    for i in range(size):
        row, column = divmod(i, columns)
        token = x[1 + visible.index(i)] if i in visible else p["decoder/mask"]
        rows.append(token + position(column, row, x.shape[1]))
    y = blocks(p, torch.stack(rows), heads, "decoder")[1:]
    y = F.gelu(y @ p["decoder/predict/kernel"] + p["decoder/predict/bias"])
    y = y @ p["patch_head/linear0/kernel"] + p["patch_head/linear0/bias"]
    z = F.gelu(pooled @ p["image_head/linear0/kernel"] + p["image_head/linear0/bias"])
    return y, z @ p["image_head/linear1/kernel"] + p["image_head/linear1/bias"]


def distance(kind, prediction, target):
    """The loss of one vector that is no contrast."""
    if kind == "cosine":
        return 1 - F.cosine_similarity(prediction, target, 0)
    return F.smooth_l1_loss(prediction, target)


def patch_term(o, predicted, keys, b, s, center):
    """The loss of patch s of image b; predicted and keys: lists over images of (S, E)."""
    keys = [k - center if o["center"] == "batch" else k for k in keys]
    if o["loss"] != "infonce":
        return distance(o["loss"], predicted[b][s], keys[b][s])
    others = []
    if o["negatives"] in ("image", "both"):
        others += [keys[b][t] for t in range(len(keys[b])) if t != s]
    if o["negatives"] in ("place", "both"):
        others += [keys[c][s] for c in range(len(keys)) if c != b]
    cosines = [F.cosine_similarity(predicted[b][s], k, 0) for k in (keys[b][s], *others)]
    return -F.log_softmax(torch.stack(cosines) / o["temperature"], 0)[0]


def image_term(o, predicted, keys, b):
    """The loss of image b; predicted and keys: lists over images of (E,)."""
    if o["loss"] != "infonce":
        return distance(o["loss"], predicted[b], keys[b])
    cosines = torch.stack([F.cosine_similarity(predicted[b], k, 0) for k in keys])
    return -2 * o["temperature"] * F.log_softmax(cosines / o["temperature"], 0)[b]


def loss(p, teacher, examples, o, columns=4, patch=4, heads=2):
    """(loss of the patches, loss of the images) of examples [(image, visible ids)].

    o: config.method, as nested dicts.
    """
    with torch.no_grad():
        seen = [blocks(teacher, tokens(teacher, image, patch), heads)[1:] for image, _ in examples]
        pooled = [x.mean(0) for x in seen]
    found = [predictions(p, image, visible, columns, patch, heads) for image, visible in examples]
    patches, images = [y for y, _ in found], [z for _, z in found]
    center = torch.stack(seen).mean(0)
    terms = [
        patch_term(o["patch"], patches, seen, b, s, center)
        for b, (_, visible) in enumerate(examples)
        for s in range(len(seen[b]))
        if s not in visible
    ]
    whole = [image_term(o["image"], images, pooled, b) for b in range(len(examples))]
    return sum(terms) / len(terms), sum(whole) / len(whole)
