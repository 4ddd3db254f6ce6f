"""Structured pruning by magnitude: of each kind of unit, those with the largest weights stay."""

from typing import Any

import jax
import numpy as np

from ssl_jax.core.types import Tree
from ssl_jax.nn.elastic_space import Space, Subnet


def prune(params: Tree, space: Space, subnet: Subnet) -> Tree:
    """Returns the parameters of an encoder of the sizes of `subnet`, cut out of the whole one.

    params: of the run, {encoder, mask, head}. Blocks are those that the subnet keeps. Channels of
    the residual stream are chosen within the groups of the position convolution, by all that reads
    and writes them; heads and hidden units within their block.
    """
    params = jax.tree.map(np.asarray, params)
    encoder, layers = params["encoder"], list(space.kept(subnet.depth))
    kept = channels(encoder, space, subnet.embed)
    blocks = [
        _block(jax.tree.map(lambda x, i=i: x[i], encoder["blocks"]), space, kept, *sizes)
        for i, *sizes in zip(layers, subnet.heads, subnet.mlp_widths, strict=True)
    ]
    found = {
        "frontend": {**encoder["frontend"], "projection": _last(encoder, kept)},
        "positions": _positions(encoder["positions"], space, kept),
        "norm": {name: x[kept] for name, x in encoder["norm"].items()},
    }
    if len(set(zip(subnet.heads, subnet.ratios, strict=True))) == 1:
        found["blocks"] = jax.tree.map(lambda *xs: np.stack(xs), *blocks)
    else:
        found |= {f"blocks_{i}": block for i, block in enumerate(blocks)}
    return {
        "encoder": found,
        "mask": {"vector": params["mask"]["vector"][kept]},
        "head": {"kernel": params["head"]["kernel"][kept]},
    }


def channels(encoder: Tree, space: Space, embed: int) -> np.ndarray:
    """Returns the channels of the residual stream that stay, as many in each group, ascending."""
    size = np.square(encoder["frontend"]["projection"]["kernel"]).sum(0)
    for parts in encoder["blocks"].values():
        for name, part in parts.items():
            if "kernel" not in part:
                continue
            axes = (0, 1) if name in ("out", "down") else (0, 2)
            size = size + np.square(part["kernel"]).sum(axes)
    groups = size.reshape(space.position_groups, -1)
    first = np.arange(space.position_groups) * groups.shape[1]
    inside = _largest(groups, embed // space.position_groups)
    return (inside + first[:, None]).ravel()


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Returns the indices of the `count` largest along the last axis, ascending."""
    return np.sort(np.argsort(-values, axis=-1, kind="stable")[..., :count], axis=-1)


def _last(encoder: Tree, kept: np.ndarray) -> dict[str, np.ndarray]:
    return {name: x[..., kept] for name, x in encoder["frontend"]["projection"].items()}


def _positions(params: Any, space: Space, kept: np.ndarray) -> dict[str, np.ndarray]:
    """Cuts the position convolution, kernel (taps, inputs of a group, channels), as it is."""
    kernel = params["kernel"]
    norm = np.sqrt(np.square(kernel).sum((1, 2), keepdims=True))
    kernel, inputs = kernel * (params["gain"] / norm), kernel.shape[1]
    inside = (kept % inputs).reshape(space.position_groups, -1)
    outputs = kept.reshape(space.position_groups, -1)
    parts = [kernel[:, a][:, :, b] for a, b in zip(inside, outputs, strict=True)]
    kernel = np.concatenate(parts, -1)
    gain = np.sqrt(np.square(kernel).sum((1, 2), keepdims=True))
    return {"kernel": kernel, "gain": gain, "bias": params["bias"][kept]}


def _block(block: Any, space: Space, kept: np.ndarray, heads: int, hidden: int) -> Tree:
    """Cuts one block to its largest heads and hidden units."""
    attention, mlp = block["attention"], block["mlp"]
    size = np.square(attention["out"]["kernel"]).sum(1)
    size = size + sum(np.square(attention[n]["kernel"]).sum(0) for n in ("query", "key", "value"))
    chosen = _largest(size.reshape(-1, space.head_width).sum(1), heads)
    inner = (chosen[:, None] * space.head_width + np.arange(space.head_width)).ravel()
    units = np.square(mlp["up"]["kernel"]).sum(0) + np.square(mlp["down"]["kernel"]).sum(1)
    units = _largest(units, hidden)
    sides = {"query": (kept, inner), "key": (kept, inner), "value": (kept, inner)}
    sides |= {"out": (inner, kept), "up": (kept, units), "down": (units, kept)}

    def cut(name: str, part: Any) -> dict[str, np.ndarray]:
        rows, columns = sides[name]
        return {"kernel": part["kernel"][rows][:, columns], "bias": part["bias"][columns]}

    return {
        "attention": {name: cut(name, part) for name, part in attention.items()},
        "mlp": {name: cut(name, part) for name, part in mlp.items()},
        **{n: {k: x[kept] for k, x in block[n].items()} for n in ("norm1", "norm2")},
    }
