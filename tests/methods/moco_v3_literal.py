"""MoCo v3 written out in torch, float64: one image at a time through the encoder, lists of views.

It follows 2104.02057. Parameters are a dict of path names to tensors.
"""

import math

import torch
import torch.nn.functional as F


def position(first, second, width):
    """The vector (D,) of one position: the row in the first half, the column in the second."""
    quarter = width // 4
    omega = [10000 ** (-k / quarter) for k in range(quarter)]
    parts = [f(place * w) for place in (first, second) for f in (math.sin, math.cos) for w in omega]
    return torch.tensor(parts, dtype=torch.float64)


def tokens(p, image, patch, row_first=True):
    """image (H, W, 3), 0..255 -> the class token and the patches with positions (1 + S, D)."""
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)
    std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)
    x, found = (image / 255 - mean) / std, [p["encoder/cls"]]
    kernel, bias = (p[f"encoder/frontend/projection/{k}"] for k in ("kernel", "bias"))
    for row in range(len(x) // patch):
        for column in range(x.shape[1] // patch):
            at = (
                slice(row * patch, (row + 1) * patch),
                slice(column * patch, (column + 1) * patch),
            )
            place = (row, column) if row_first else (column, row)
            found.append(x[at].reshape(-1) @ kernel + bias + position(*place, kernel.shape[1]))
    return torch.stack(found)


def block(p, x, heads):
    """One pre-norm block over x (T, D); p has the names within a block."""
    width = x.shape[1]

    def norm(x, name):
        return F.layer_norm(x, (width,), p[f"{name}/scale"], p[f"{name}/bias"], 1e-6)

    def linear(x, name):
        return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]

    y = norm(x, "norm1")
    q, k, v = (
        linear(y, f"attention/{n}").reshape(len(x), heads, -1) for n in ("query", "key", "value")
    )
    out = []
    for head in range(heads):
        scores = q[:, head] @ k[:, head].T / math.sqrt(width / heads)
        out.append(torch.softmax(scores, -1) @ v[:, head])
    x = x + linear(torch.cat(out, -1), "attention/out")
    y = F.gelu(linear(norm(x, "norm2"), "mlp/up"))
    return x + linear(y, "mlp/down")


def blocks(p, x, heads, part="encoder"):
    """x (T, D) -> (T, D): all blocks of a part and its last norm."""
    start = f"{part}/blocks/"
    for i in range(len(p[f"{start}norm1/scale"])):
        own = {k.removeprefix(start): v[i] for k, v in p.items() if k.startswith(start)}
        x = block(own, x, heads)
    scale, bias = (p[f"{part}/final_norm/{k}"] for k in ("scale", "bias"))
    return F.layer_norm(x, scale.shape, scale, bias, 1e-6)


def encode(p, images, patch, heads):
    """images (B, H, W, 3) -> the class token after the last norm (B, D)."""
    return torch.stack([blocks(p, tokens(p, image, patch), heads)[0] for image in images])


def head(p, running, name, x, layers):
    """x (B, D) -> (B, E); moves the running statistics, a dict of names to tensors, in place."""
    for i in range(layers):
        x = x @ p[f"{name}/linear{i}/kernel"]
        scale, bias = (p.get(f"{name}/norm{i}/{k}") for k in ("scale", "bias"))
        mean, var = (running[f"{name}/norm{i}/{k}"] for k in ("mean", "var"))
        x = F.batch_norm(x, mean, var, scale, bias, training=True, momentum=0.1, eps=1e-5)
        x = F.relu(x) if i < layers - 1 else x
    return x


def contrast(q, k, temperature):
    """The cross-entropy of the own key among those of all rows, times 2 temperature."""
    logits = F.normalize(q, dim=1) @ F.normalize(k, dim=1).T / temperature
    return 2 * temperature * F.cross_entropy(logits, torch.arange(len(q)))


def momentum(start, step, total):
    """The decay of the momentum encoder at a step, counted from 0."""
    return 1 - (1 - start) * (1 + math.cos(math.pi * step / total)) / 2


def loss(p, teacher, running, views, decay, patch=4, heads=2, temperature=0.2):
    """The loss of views [(B, H, W, 3), (B, H, W, 3)].

    First the teacher (in place) moves towards the student p. running: {"student": statistics,
    "teacher": statistics}, moved in place too.
    """
    with torch.no_grad():
        for name, old in teacher.items():
            old.copy_(old * decay + p[name] * (1 - decay))
    queries, keys = [], []
    for view in views:
        x = head(p, running["student"], "projector", encode(p, view, patch, heads), 3)
        queries.append(head(p, running["student"], "predictor", x, 2))
        with torch.no_grad():
            y = encode(teacher, view, patch, heads)
            keys.append(head(teacher, running["teacher"], "projector", y, 3))
    first = contrast(queries[0], keys[1], temperature)
    return first + contrast(queries[1], keys[0], temperature)
