"""MAViL written out in torch, float64: one clip at a time, lists of ids.

It follows 2212.08071. Parameters are a dict of path names to tensors; encoders have no last norm.
"""

import math

import torch
import torch.nn.functional as F
from moco_v3_literal import block, position


def layers(p, part, x, heads):
    """x (T, D) -> (T, D): the blocks of a part, one after the other."""
    start = f"{part}/blocks/"
    for i in range(len(p[f"{start}norm1/scale"])):
        own = {k.removeprefix(start): v[i] for k, v in p.items() if k.startswith(start)}
        x = block(own, x, heads)
    return x


def norm(p, part, x):
    """LayerNorm with parameters."""
    scale, bias = (p[f"{part}/final_norm/{k}"] for k in ("scale", "bias"))
    return F.layer_norm(x, scale.shape, scale, bias, 1e-6)


def encode(p, stream, tokens, keep, heads):
    """The tokens with positions (S, D) of a stream, and which to keep -> (1 + V, D)."""
    chosen = [tokens[i] for i in keep]
    return layers(p, f"encoder/{stream}", torch.stack([p[f"encoder/{stream}/cls"], *chosen]), heads)


def embedded(p, stream, pieces, places):
    """Patches (S, P) of the normalized input and their positions (S, D) -> tokens (S, D)."""
    kernel, bias = (p[f"encoder/{stream}/frontend/projection/{k}"] for k in ("kernel", "bias"))
    return pieces @ kernel + bias + places


def fuse(p, first, second, heads):
    """Joint attention over the tokens of both streams."""
    both = norm(p, "fusion", layers(p, "fusion/joint", torch.cat([first, second]), heads))
    return both[: len(first)], both[len(first) :]


def bottleneck(p, first, second, heads):
    """Streams that meet in learned tokens only."""
    z, depth = p["fusion/learned"], sum(k.endswith("norm1/scale") for k in p if "first_" in k)
    count = len(z)
    for i in range(depth):
        x = layers(p, f"fusion/first_{i}", torch.cat([z, first]), heads)
        y = layers(p, f"fusion/second_{i}", torch.cat([z, second]), heads)
        z, first, second = (x[:count] + y[:count]) / 2, x[count:], y[count:]
    return norm(p, "fusion", first), norm(p, "fusion", second)


def decode(p, stream, x, keep, places, heads):
    """x (1 + V, D) -> predictions (S, P); places: the decoder's positions (S, E)."""
    part = f"decoder/{stream}"
    x = x @ p[f"{part}/embed/kernel"] + p[f"{part}/embed/bias"]
    rows = [x[0]]
    for i, place in enumerate(places):
        token = x[1 + keep.index(i)] if i in keep else p[f"{part}/mask"]
        rows.append(token + place)
    y = norm(p, part, layers(p, part, torch.stack(rows), heads))[1:]
    return y @ p[f"{part}/predict/kernel"] + p[f"{part}/predict/bias"]


def contrast(one, other, temperature):
    """The cross-entropy of the counterpart among all clips, in both directions."""
    x, y = F.normalize(torch.stack(one), dim=1), F.normalize(torch.stack(other), dim=1)
    logits, own = x @ y.T / temperature, torch.arange(len(x))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def normalized(x):
    """Each patch (S, P) to mean 0 and variance 1."""
    return (x - x.mean(1, keepdim=True)) / torch.sqrt(x.var(1, keepdim=True) + 1e-6)


def loss(p, clips, o, heads=2, teacher=None, fusion=fuse):
    """{name: loss} of clips; o: config.method as nested dicts.

    clips: one dict each, {stream: (input patches (S, P), target patches (S, Q), positions (S, D),
    the decoder's positions (S, E), ids kept in each of two views)}. teacher: parameters of a model
    of the first stage.
    """
    pooled = {s: ([], []) for s in ("audio", "video")}
    errors = {s: [] for s in pooled}
    for clip in clips:
        seen = {}
        for s, (pieces, _, places, _, views) in clip.items():
            tokens = embedded(p, s, pieces, places)
            seen[s] = [encode(p, s, tokens, keep, heads) for keep in views]
            for found, x in zip(pooled[s], seen[s], strict=True):
                found.append(x[1:].mean(0))
        fused = dict(zip(seen, fusion(p, *(x[0] for x in seen.values()), heads), strict=True))
        for s, target in targets(clip, teacher, heads, fusion).items():
            *_, places, views = clip[s]
            error = ((decode(p, s, fused[s], views[0], places, heads) - target) ** 2).mean(1)
            errors[s] += [error[i] for i in range(len(error)) if i not in views[0]]
    found = {f"{s}_loss": sum(e) / len(e) for s, e in errors.items()}
    audio, video = pooled["audio"], pooled["video"]
    found["inter_loss"] = contrast(audio[0], video[0], o["inter"]["temperature"])
    found["intra_loss"] = sum(contrast(*x, o["intra"]["temperature"]) for x in (audio, video))
    found["loss"] = o["raw"] * (found["audio_loss"] + found["video_loss"])
    found["loss"] += o["inter"]["weight"] * found["inter_loss"]
    found["loss"] += o["intra"]["weight"] * found["intra_loss"]
    return found


def targets(clip, teacher, heads, fusion):
    """What the decoders of a clip predict, of each stream."""
    if teacher is None:
        return {s: normalized(found[1]) for s, found in clip.items()}
    with torch.no_grad():
        whole = []
        for s, (pieces, _, places, *_) in clip.items():
            tokens = embedded(teacher, s, pieces, places)
            whole.append(encode(teacher, s, tokens, range(len(tokens)), heads))
        fused = fusion(teacher, *whole, heads)
        width = fused[0].shape[1:]
        return {s: F.layer_norm(x[1:], width) for s, x in zip(clip, fused, strict=True)}


def space_time(steps, rows, columns, width):
    """Positions (S, D) of a clip: a quarter for the step, three for column and row."""
    found, waves = [], width // 8
    omega = [10000 ** (-k / waves) for k in range(waves)]
    for step in range(steps):
        when = [f(step * w) for f in (math.sin, math.cos) for w in omega]
        for row in range(rows):
            for column in range(columns):
                where = position(column, row, width - width // 4)
                found.append(torch.cat([torch.tensor(when, dtype=torch.float64), where]))
    return torch.stack(found)


def grid(rows, columns, width):
    """Positions (S, D) of a spectrogram: the column in the first half."""
    cells = [(r, c) for r in range(rows) for c in range(columns)]
    return torch.stack([position(c, r, width) for r, c in cells])
