"""A supernet: one set of parameters that holds many smaller encoders as leading slices.

LightHuBERT (2203.15610). The parameters are those of an ordinary encoder of waveforms, post-norm,
with one wide position convolution. A subnet has a width of the residual stream, and in each of the
blocks that it keeps a number of attention heads and a feed-forward width; see nn/elastic_space.py.
It exists in two forms that compute the same function:

- `extract` copies its slices: an ordinary encoder, for a subnet that is known when compiling;
- `encode` computes in the width of the largest subnet and zeroes the rest, for one that is given
  by arrays, its genes (`Space.arrays`, or `draw`): all subnets share one compilation.

Slices are leading: the first channels, the first heads. Hidden units are seen as blocks as long as
the supernet is wide, of each of which the first are used. The position convolution keeps the number
of its groups, so channels change group with the width; its kernel is scaled by the weight norm of
the whole kernel first, through which the rest of that kernel, alone of all, gets a gradient.

Axes: B examples, S frames, D width of the supernet, L blocks, F hidden units.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core import mesh as mesh_lib
from ssl_jax.core import tree as tree_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import Array, Tree
from ssl_jax.nn import transformer
from ssl_jax.nn.conv import WeightNormConv
from ssl_jax.nn.elastic_space import Space, Subnet, waveform_frontend
from ssl_jax.nn.transformer import ALL, Encoded, Layers, TransformerOptions
from ssl_jax.nn.waveform import Options, WaveformEncoder

Genes = dict[str, Array]
"""A subnet on device: embed () int32, keep (L,) bool, heads (L,) int32, ratios (L,) float32."""

KEY = "config.method.encoder"
# options of the encoder that a supernet must have
FIXED: dict[str, tuple[Any, ...]] = {
    "blocks": ("transformer",),
    "conv_norm": ("layer",),  # as the sizes of subnets count it
    "conv_bias": (False,),
    "positions": ("weight_norm",),
    "alibi": ("none",),
    "norm": ("post",),
    "final_norm": (None, False),
    "out_proj": (True,),
    "layer_scale": (0.0,),
    "drop_path": (0.0,),
    "layerdrop": (0.0,),
    "layer_heads": (None,),
    "layer_mlp_widths": (None,),
}
COLUMNS = {"query": "inner", "key": "inner", "value": "inner", "up": "units"}


def space_of(encoder: WaveformEncoder, **choices: Any) -> Space:
    """Returns the space of the subnets of an encoder: `choices` are embed, heads, ratios, depths,
    drop_order and named. Raises ConfigError for an encoder that is no supernet."""
    o, b = encoder.options, encoder.transformer_options
    for key, allowed in FIXED.items():
        value = getattr(o if hasattr(o, key) else b, key)
        if value not in allowed:
            raise ConfigError(
                f"{KEY}.{key} is {value!r}, but a supernet has {allowed[0]!r}: use that"
            )
    if b.mlp_width % b.width:
        raise ConfigError(
            f"{KEY}.mlp_width is {b.mlp_width}, no multiple of {KEY}.width {b.width}, which the "
            f"ratios of subnets need: use {b.width * max(1, round(b.mlp_width / b.width))}"
        )
    return Space(
        **choices,
        layers=b.depth,
        head_width=b.head,
        width=b.width,
        heads_full=b.heads,
        blocks=b.mlp_width // b.width,
        position_kernel=o.position_kernel,
        position_groups=o.position_groups,
        frontend=waveform_frontend(o.conv_channels, o.conv_kernels, o.conv_strides),
    )


def draw(space: Space, key: Array) -> Genes:
    """Draws the genes of a subnet: depth, width, and heads and ratio of each block, uniformly."""
    keys = jax.random.split(key, 4)

    def one_of(key: Array, values: Any, shape: tuple[int, ...] = ()) -> Array:
        return jnp.asarray(values)[jax.random.randint(key, shape, 0, len(values))]

    keep = one_of(keys[0], space.keep_table())
    heads = one_of(keys[2], np.asarray(space.heads, np.int32), keep.shape)
    ratios = one_of(keys[3], np.asarray(space.ratios, np.float32), keep.shape)
    return {
        "embed": one_of(keys[1], np.asarray(space.embed, np.int32)),
        "keep": keep,
        "heads": jnp.where(keep, heads, 0),
        "ratios": jnp.where(keep, ratios, 0),
    }


def encode(
    encoder: WaveformEncoder,
    space: Space,
    params: Tree,
    x: Array,
    valid: Array,
    genes: Mapping[str, Array],
    dropout: Array | None = None,
    layers: Layers = ALL,
) -> Encoded:
    """x (B, S, D), valid (B, S) -> Encoded of the subnet, as wide as the largest of the space.

    params: of the whole encoder. What lies behind the width of the subnet is zero. A dropped block
    passes its input on. In training mode when there is a `dropout` key.
    """
    largest = space.largest()
    o, b = encoder.options, encoder.transformer_options
    blocks = dataclasses.replace(
        b,
        width=largest.embed,
        heads=largest.heads[0],
        head_width=space.head_width,
        mlp_width=largest.mlp_widths[0],
    )
    every = space.uniform(largest.embed, largest.heads[0], largest.ratios[0], space.layers)
    cut = _slices(params, space, every, range(space.layers))
    masked = Masked(space.embed, o, blocks, encoder.dtype)
    zeroed = _zeroed(cut, space, blocks, genes)
    return masked.apply(  # type: ignore
        {"params": zeroed},
        x[..., : largest.embed],
        valid,
        genes,
        dropout is not None,
        layers,
        rngs=None if dropout is None else {"dropout": dropout},
        method="encode",
    )


def extract(params: Tree, space: Space, subnet: Subnet) -> Tree:
    """Returns the parameters of a subnet as those of an ordinary encoder, with `section`'s options.

    params: of the whole encoder, numpy or jax arrays. Raises ValueError outside the space, of which
    the whole encoder counts as a part.
    """
    if subnet != space.full():
        space.check(subnet)
    return _slices(params, space, subnet, space.kept(subnet.depth)) | {
        "frontend": {
            **params["frontend"],
            "projection": {n: x[..., : subnet.embed] for n, x in _projection(params).items()},
        }
    }


def section(given: Mapping[str, Any], space: Space, subnet: Subnet) -> dict[str, Any]:
    """Returns config.method.encoder of an extracted subnet; `given` is that of its supernet."""
    heads, widths = subnet.heads, subnet.mlp_widths
    found = {**given, "width": subnet.embed, "depth": subnet.depth}
    found |= {"heads": max(heads), "mlp_width": max(widths)}
    if subnet.embed != space.head_width * max(heads) or len(set(heads)) > 1:
        found["head_width"] = space.head_width
    if len(set(heads)) > 1:
        found["layer_heads"] = heads
    if len(set(widths)) > 1:
        found["layer_mlp_widths"] = widths
    return found


class Norm(nn.Module):
    """LayerNorm over the first `width` channels; those behind are zero, and stay so.

    Its parameters are those of an ordinary one, zero behind `width`.
    """

    eps: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, width: Array) -> Array:
        """x (B, S, D), width () -> (B, S, D)."""
        size = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (size,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (size,), jnp.float32)
        x = x.astype(jnp.float32)
        mean = x.sum(-1, keepdims=True) / width
        centred = jnp.where(jnp.arange(size) < width, x - mean, 0)
        variance = jnp.square(centred).sum(-1, keepdims=True) / width
        y = centred * (jax.lax.rsqrt(variance + self.eps) * scale) + bias
        return y.astype(self.dtype)


class Block(nn.Module):
    """A post-norm block, of which a part of the channels, heads and hidden units is in use.

    Its parameters are those of `transformer.Block`, zero where they are not in use.
    """

    options: TransformerOptions
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, valid: Array, width: Array, keep: Array, train: bool
    ) -> tuple[Array, Array]:
        """x (B, S, D), width (), keep () bool -> (output, raw MLP output), both (B, S, D)."""
        o, x = self.options, mesh_lib.by_example(x)
        dropout = nn.Dropout(o.dropout, deterministic=not train)
        attended = transformer.Attention(o, self.dtype, name="attention")(x, valid, None, train)
        y = Norm(o.eps, self.dtype, name="norm1")(x + dropout(attended), width)
        ffn = transformer.MLP(o, self.dtype, name="mlp")(y, train)
        y = Norm(o.eps, self.dtype, name="norm2")(y + dropout(ffn), width)
        return jnp.where(keep, y, x), ffn


class Masked(nn.Module):
    """What follows the front end of an encoder of waveforms, of which a subnet is in use.

    widths: those that a subnet may have. Parameters are those of a WaveformEncoder without its
    front end, as `_zeroed` returns them.
    """

    widths: tuple[int, ...]
    options: Options
    blocks_options: TransformerOptions
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        o, b = self.options, self.blocks_options
        self.positions = WeightNormConv(o.position_kernel, o.position_groups, self.dtype)
        self.norm = Norm(b.eps, self.dtype)
        self.dropout = nn.Dropout(o.embed_dropout)
        self.blocks = Block(b, self.dtype)

    def encode(
        self, x: Array, valid: Array, genes: Mapping[str, Array], train: bool, layers: Layers
    ) -> Encoded:
        """x (B, S, D), valid (B, S) -> Encoded."""
        width, groups = genes["embed"], self.options.position_groups
        x = jnp.where(jnp.arange(x.shape[-1]) < width, x, 0)
        spread = _by_width(self.widths, width, lambda e, x: _spread(x, e, groups), x)
        y = self.positions(spread, valid)
        x = x + _by_width(self.widths, width, lambda e, y: _joined(y, e, groups), y)
        x = self.dropout(self.norm(x, width), deterministic=not train)

        def layer(block: Block, x: Array, keep: Array) -> tuple[Array, Array]:
            return block(x, valid, width, keep, train)

        run = transformer.over_layers(layer, self.blocks_options, self.dtype, layers)
        hidden_states, ffn = run(self.blocks, x.astype(self.dtype), genes["keep"], lambda y: y)
        return Encoded(hidden_states, ffn, valid)


def _projection(params: Tree) -> dict[str, Array]:
    return params["frontend"]["projection"]


def _slices(params: Tree, space: Space, subnet: Subnet, layers: Sequence[int]) -> Tree:
    """Returns the parameters behind the front end of a subnet that keeps these blocks.

    Stacked if all its blocks are alike, else `blocks_0`, `blocks_1` and so on.
    """
    e, found = subnet.embed, {}
    found["positions"] = _positions(params["positions"], space, e)
    found["norm"] = {name: x[:e] for name, x in params["norm"].items()}
    kinds = list(zip(subnet.heads, subnet.ratios, strict=True))
    if len(set(kinds)) == 1:
        whole = list(layers) == list(range(space.layers))
        kept = params["blocks"] if whole else _map(params["blocks"], lambda x: x[np.array(layers)])
        return found | {"blocks": _block(kept, space, e, *kinds[0])}
    for i, (layer, kind) in enumerate(zip(layers, kinds, strict=True)):
        one = _map(params["blocks"], lambda x, layer=layer: x[layer])
        found[f"blocks_{i}"] = _block(one, space, e, *kind)
    return found


def _map(tree: Tree, function: Callable) -> Tree:
    return jax.tree.map(function, tree)


def _block(params: Tree, space: Space, embed: int, heads: int, ratio: float) -> Tree:
    """Slices the parameters of one block, or of stacked ones: (..., in, out) and (..., out)."""
    inner = slice(0, heads * space.head_width)
    units: Any = space.hidden_units(embed, ratio)
    if len(units) == units[-1] + 1:
        units = slice(0, len(units))  # one piece: no gather
    channels = slice(0, embed)
    sides = {"query": (channels, inner), "key": (channels, inner), "value": (channels, inner)}
    sides |= {"out": (inner, channels), "up": (channels, units), "down": (units, channels)}

    def cut(name: str, x: Array) -> Array:
        *_, part, kind = name.split("/")
        rows, columns = sides.get(part, (channels, channels))
        x = x[..., columns]
        return x[..., rows, :] if kind == "kernel" else x

    return tree_lib.map_named(cut, params)


def _positions(params: Tree, space: Space, embed: int) -> Tree:
    """Slices the position convolution: its kernel, scaled as a whole, is then its own norm."""
    if embed == space.width:
        return params
    kernel = params["kernel"]
    norm = (kernel**2).sum((1, 2), keepdims=True) ** 0.5
    kernel = (kernel * (params["gain"] / norm))[:, : embed // space.position_groups, :embed]
    gain = (kernel**2).sum((1, 2), keepdims=True) ** 0.5
    return {"kernel": kernel, "gain": gain, "bias": params["bias"][:embed]}


def _zeroed(
    params: Tree, space: Space, options: TransformerOptions, genes: Mapping[str, Array]
) -> Tree:
    """Returns the parameters of the largest subnet with zeros where that of the genes has none.

    Zeros in the columns are enough: what the rows of a matrix read is then zero too. The kernel of
    positions is laid out for the channels of each group side by side, as `_spread` does.
    """
    width = genes["embed"]
    inner = jnp.arange(options.heads * options.head) // options.head
    masks = {
        "inner": inner < genes["heads"][:, None],
        "units": _units(space, options, genes),
        "channels": jnp.arange(options.width)[None] < width,
    }

    def zero(name: str, x: Array) -> Array:
        *_, part, kind = name.split("/")
        mask = masks[COLUMNS.get(part, "channels")]
        return jnp.where(mask[:, None] if kind == "kernel" else mask, x, 0)

    groups, p = space.position_groups, params["positions"]

    def laid(e: int, kernel: Array) -> Array:
        size, room = e // groups, kernel.shape[1]
        kernel = jnp.pad(kernel[:, :size], ((0, 0), (0, room - size), (0, 0)))
        return _spread(kernel, e, groups)

    kernel = p["kernel"] * (
        p["gain"] / jnp.sqrt(jnp.square(p["kernel"]).sum((1, 2), keepdims=True))
    )
    kernel = _by_width(space.embed, width, laid, kernel)
    bias = _by_width(space.embed, width, lambda e, b: _spread(b, e, groups), p["bias"])
    gain = jnp.sqrt(jnp.square(kernel).sum((1, 2), keepdims=True))
    return {
        "positions": {"kernel": kernel, "gain": gain, "bias": bias},
        "norm": _map(params["norm"], lambda x: jnp.where(masks["channels"][0], x, 0)),
        "blocks": tree_lib.map_named(zero, params["blocks"]),
    }


def _units(space: Space, options: TransformerOptions, genes: Mapping[str, Array]) -> Array:
    """Returns the hidden units in use, (L, F) bool."""
    sizes = np.array([[int(r * e) for r in space.ratios] for e in space.embed], np.int32)
    embeds, ratios = np.asarray(space.embed, np.int32), np.asarray(space.ratios, np.float32)
    which = jnp.argmin(jnp.abs(genes["ratios"][:, None] - ratios), -1)
    count = jnp.asarray(sizes)[jnp.argmax(embeds == genes["embed"]), which]
    block, place = jnp.divmod(jnp.arange(options.mlp_width), options.width)
    return place < jnp.clip(count[:, None] - block * genes["embed"], 0, genes["embed"])


def _by_width(widths: tuple[int, ...], width: Array, function: Callable, x: Array) -> Array:
    """Returns function(width, x), whose shape is the same for all widths; slices stay static."""
    if len(widths) == 1:
        return function(widths[0], x)
    index = jnp.argmax(np.asarray(widths) == width)
    branches = [lambda x, e=e: function(e, x) for e in widths]
    return jax.lax.switch(index, branches, x)


def _spread(x: Array, width: int, groups: int) -> Array:
    """x (..., D): moves the first `width` channels to the heads of `groups` equal groups of D."""
    *axes, size = x.shape
    y = x[..., :width].reshape(*axes, groups, width // groups)
    return jnp.pad(y, [(0, 0)] * (len(axes) + 1) + [(0, (size - width) // groups)]).reshape(x.shape)


def _joined(x: Array, width: int, groups: int) -> Array:
    """Undoes `_spread`."""
    *axes, size = x.shape
    y = x.reshape(*axes, groups, size // groups)[..., : width // groups].reshape(*axes, width)
    return jnp.pad(y, [(0, 0)] * len(axes) + [(0, size - width)])
