"""DMAE written out literally on top of mae_literal: one example and one token at a time, float64.

It follows vision transformers whose blocks are those of mae_literal, and 2208.12256.
"""

import mae_literal as mae
import numpy as np
from data2vec_literal import attention, gelu


def states(params, patches, columns, visible, heads=2):
    """The class token and the visible patches ahead of the first block and after each, no norm."""
    p = {k.removeprefix("encoder/"): v for k, v in params.items() if k.startswith("encoder/")}
    kernel, bias = (p[f"frontend/projection/{k}"] for k in ("kernel", "bias"))
    tokens = [
        patches[i] @ kernel + bias + mae.position(*divmod(i, columns), kernel.shape[1])
        for i in visible
    ]
    found = [np.stack([p["cls"], *tokens])]
    for i in range(len(p["blocks/norm1/scale"])):
        x = found[-1]
        x = x + attention(p, i, mae._norm(x, p, "blocks/norm1", i), heads)
        y = mae._norm(x, p, "blocks/norm2", i) @ p["blocks/mlp/up/kernel"][i]
        y = gelu(y + p["blocks/mlp/up/bias"][i]) @ p["blocks/mlp/down/kernel"][i]
        found.append(x + y + p["blocks/mlp/down/bias"][i])
    return found


def projected(params, i, x, kind):
    """x (D,) of pair i at the teacher's width."""
    if kind == "none":
        return x
    layers = ("hidden", "out") if kind == "mlp" else ("out",)
    for layer in layers:
        x = x @ params[f"projector/{i}/{layer}/kernel"] + params[f"projector/{i}/{layer}/bias"]
        x = gelu(x) if layer == "hidden" else x
    return x


def normalized(x, how):
    """A vector as it is compared."""
    if how == "l2":
        return x / np.sqrt((x**2).sum())
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) if how == "layer" else x


def loss(params, teacher, examples, columns, align, norm_pix=False):
    """The loss of MAE plus alpha times the sum over pairs of the mean absolute difference.

    examples: pairs of patches (S, P) and a list of visible ids; align: config.method.align.
    """
    total = mae.loss(params, examples, columns, norm_pix)
    for i, (mine, theirs) in enumerate(zip(align["student"], align["teacher"], strict=True)):
        own = [states(params, *given(e, columns))[mine] for e in examples]
        other = [states(teacher, *given(e, columns))[theirs] for e in examples]
        if align["center"] == "batch":
            other = centred(other, examples)
        errors = []
        for student, target in zip(own, other, strict=True):
            for a, b in zip(student, target, strict=True):
                a = projected(params, i, a, align["projector"])
                a, b = (normalized(v, align["normalize_features"]) for v in (a, b))
                errors.append(np.abs(a - b).mean())
        total = total + align["alpha"] * np.mean(errors)
    return total


def given(example, columns):
    """The arguments of `states` for an example."""
    patches, visible = example
    return patches, columns, visible


def centred(features, examples):
    """Features minus their mean at the same place over the examples that see that place."""
    seen = {}
    for x, (_, visible) in zip(features, examples, strict=True):
        for place, vector in zip((-1, *visible), x, strict=True):
            seen.setdefault(place, []).append(vector)
    mean = {place: np.mean(vectors, 0) for place, vectors in seen.items()}
    return [
        np.stack([v - mean[place] for place, v in zip((-1, *visible), x, strict=True)])
        for x, (_, visible) in zip(features, examples, strict=True)
    ]


def adamw(x, gradient, lr, betas, eps, decay):
    """One update of a parameter from zero moments, with decoupled decay."""
    first, second = (1 - betas[0]) * gradient, (1 - betas[1]) * gradient**2
    step = (first / (1 - betas[0])) / (np.sqrt(second / (1 - betas[1])) + eps)
    return x - lr * (step + decay * x)
