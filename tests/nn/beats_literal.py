"""The encoder of BEATs written out for one clip, token by token, in NumPy float64.

Parameters are by their names here, without `encoder/`; x (S, D) are real tokens.
"""

import math

import numpy as np

_erf = np.vectorize(math.erf)


def gelu(x):
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def norm(p, name, x, layer=...):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-5) * p[f"{name}/scale"][layer] + p[f"{name}/bias"][layer]


def linear(p, name, x, layer):
    return x @ p[f"{name}/kernel"][layer] + p[f"{name}/bias"][layer]


def bucket(delta, num_buckets, max_distance):
    half, exact, size = num_buckets // 2, num_buckets // 4, abs(delta)
    if size >= exact:
        ratio = math.log(size / exact) / math.log(max_distance / exact)
        size = min(half - 1, exact + int(ratio * (half - exact)))
    return half * (delta > 0) + size


def positions(p, x, groups):
    """The weight-normalized convolution, as a sum over taps."""
    kernel, gain = p["positions/kernel"], p["positions/gain"]
    taps, _, width = kernel.shape
    each, out = width // groups, np.zeros_like(x)
    for t in range(len(x)):
        for k in range(taps):
            at = t + k - taps // 2
            if 0 <= at < len(x):
                scaled = kernel[k] * gain[k, 0, 0] / np.sqrt((kernel[k] ** 2).sum())
                for g in range(groups):
                    own = slice(g * each, (g + 1) * each)
                    out[t, own] += x[at, own] @ scaled[:, own]
    return gelu(out + p["positions/bias"])


def attention(p, x, places, layer, o):
    """x (T, D) at `places` (T,) of the clip -> (T, D)."""
    size, head = len(x), o["width"] // o["heads"]
    query, key, value = (
        linear(p, f"blocks/attention/{n}", x, layer).reshape(size, o["heads"], head)
        for n in ("query", "key", "value")
    )
    joined = np.zeros((size, o["heads"], head))
    for h in range(o["heads"]):
        for i in range(size):
            u = linear(p, "blocks/attention/gate", query[i, h], layer)
            a, b = (1 / (1 + math.exp(-u[4 * n : 4 * n + 4].sum())) for n in range(2))
            gate = a * (b * p["blocks/attention/gate_scale"][layer][h] - 1) + 2
            scores = np.empty(size)
            for j in range(size):
                row = bucket(places[j] - places[i], o["num_buckets"], o["max_distance"])
                bias = p["relative/table"][row, h]
                scores[j] = query[i, h] @ key[j, h] / math.sqrt(head) + gate * bias
            weights = np.exp(scores - scores.max())
            joined[i, h] = weights / weights.sum() @ value[:, h]
    return linear(p, "blocks/attention/out", joined.reshape(size, -1), layer)


def encode(p, x, o, ids=None, original=False):
    """x (S, D), of which `ids` are visible -> hidden states (L + 1, T, D)."""
    p = {name: np.asarray(value, np.float64) for name, value in p.items()}
    x, ids = np.asarray(x, np.float64), np.arange(len(x)) if ids is None else np.asarray(ids)
    if original:
        whole = np.zeros_like(x)
        whole[ids] = x[ids]
        x, places = (whole + positions(p, whole, o["position_groups"]))[ids], ids
    else:
        x, places = x[ids], np.arange(len(ids))
        x = x + positions(p, x, o["position_groups"])
    found, alpha = [norm(p, "norm", x)], (2 * o["depth"]) ** 0.25
    for layer in range(o["depth"]):
        x = found[-1]
        x = norm(p, "blocks/norm1", alpha * x + attention(p, x, places, layer, o), layer)
        hidden = gelu(linear(p, "blocks/mlp/up", x, layer))
        x = norm(p, "blocks/norm2", alpha * x + linear(p, "blocks/mlp/down", hidden, layer), layer)
        found.append(x)
    return np.stack(found)
