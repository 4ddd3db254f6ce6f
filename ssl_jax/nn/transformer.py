"""The transformer encoder: attention, MLP, block, and a stack scanned over its layers.

Axes: B examples, T tokens, D width, H heads, L layers.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core import mesh as mesh_lib
from ssl_jax.core import platform
from ssl_jax.core.types import Array, Tree
from ssl_jax.nn import attention, sharding

NORMS = ("pre", "post", "res_post")

# What a layer saves for the backward pass; everything else is recomputed.
REMAT: dict[str, Callable | None] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}

# `bert`: N(0, 0.02). `torch`: uniform with bound 1/sqrt(fan in). `xavier`: uniform with bound
# sqrt(6 / (fan in + fan out)). `truncated`: N(0, 0.02) cut at +-0.02. `xavier_qkv`: as `xavier`,
# with query, key and value as matrices of their own (MoCo v3). `deep_norm`: Xavier normal, times
# (8 depth)^(-1/4) except for query and key (2203.00555). Biases start at zero in all.
INITS = {
    "bert": nn.initializers.normal(0.02),
    "torch": nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform"),
    "xavier": nn.initializers.xavier_uniform(),
    "truncated": nn.initializers.truncated_normal(0.02, lower=-1.0, upper=1.0),
    "xavier_qkv": nn.initializers.xavier_uniform(),
    "deep_norm": nn.initializers.xavier_normal(),
}
# The originals hold query, key and value in one matrix (D, 3 D), which has twice the mean fan.
FUSED_INITS = {**INITS, "xavier": nn.initializers.variance_scaling(0.5, "fan_avg", "uniform")}


@dataclasses.dataclass(frozen=True)
class TransformerOptions:
    """Shape and regularization of a stack of blocks; the defaults are BERT Base."""

    depth: int = 12
    width: int = 768
    heads: int = 12
    mlp_width: int = 3072
    norm: str = "post"  # pre | post | res_post: x + norm(f(x))
    qkv_bias: bool = True
    key_bias: bool = True  # false: only query and value have the bias of qkv_bias (BEiT)
    out_proj: bool = True  # false: attention returns its heads without a last projection
    dropout: float = 0.0  # on both residual branches
    attention_dropout: float = 0.0  # on the attention weights
    activation_dropout: float = 0.0  # on the hidden layer of the MLP
    drop_path: float = 0.0  # of a branch per example: 0 in the first block, this in the last
    layerdrop: float = 0.0  # of a whole block, one draw per batch
    layer_scale: float = 0.0  # initial learned factor per channel on each branch; 0: none
    final_norm: bool | None = None  # after the last block; None: under pre-norm only
    eps: float = 1e-5
    init: str = "bert"
    remat: str = "none"  # none | full | dots | dots_no_batch
    unroll: bool | None = None  # None: see `unrolled`
    head_width: int | None = None  # channels of a head; None: width / heads
    # of each block, where blocks differ: their parameters are then not stacked
    layer_heads: tuple[int, ...] | None = None
    layer_mlp_widths: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for key, choices in (("norm", NORMS), ("init", INITS), ("remat", REMAT)):
            if getattr(self, key) not in choices:
                raise ValueError(
                    f"config.method.encoder.{key} is {getattr(self, key)!r}: "
                    f"use one of {', '.join(choices)}"
                )
        for key in ("depth", "width", "heads", "mlp_width"):
            if getattr(self, key) < 1:
                raise ValueError(
                    f"config.method.encoder.{key} is {getattr(self, key)}: use 1 or more"
                )
        for key in ("dropout", "attention_dropout", "activation_dropout", "drop_path", "layerdrop"):
            check_share(key, getattr(self, key))
        self._check_heads()

    def _check_heads(self) -> None:
        if self.head_width is None and self.width % self.heads:
            raise ValueError(
                f"config.method.encoder.heads {self.heads} does not divide "
                f"config.method.encoder.width {self.width}: use a divisor, such as 1"
            )
        if self.layer_heads is not None and self.head_width is None:
            raise ValueError(
                "config.method.encoder.layer_heads needs config.method.encoder.head_width: set it, "
                "for example to 64"
            )
        for key in ("layer_heads", "layer_mlp_widths"):
            sizes = getattr(self, key)
            if sizes is not None and (len(sizes) != self.depth or min(sizes) < 1):
                raise ValueError(
                    f"config.method.encoder.{key} is {sizes}: use one number of 1 or more for each "
                    f"of the {self.depth} blocks"
                )

    @property
    def head(self) -> int:
        """The channels of a head of attention."""
        return self.head_width or self.width // self.heads

    @property
    def uneven(self) -> bool:
        """Whether each block has a size of its own, so that they can not be stacked."""
        return self.layer_heads is not None or self.layer_mlp_widths is not None

    def of_block(self, i: int) -> "TransformerOptions":
        """Returns the options of block `i` of an uneven stack."""
        heads, sizes = self.layer_heads, self.layer_mlp_widths
        return dataclasses.replace(
            self,
            heads=self.heads if heads is None else heads[i],
            mlp_width=self.mlp_width if sizes is None else sizes[i],
            layer_heads=None,
            layer_mlp_widths=None,
        )


def unrolled(options: TransformerOptions) -> bool:
    """Returns whether every layer is compiled separately, instead of a loop over one block.

    A loop compiles in the time of one layer and suits a TPU. It is slower on CPU, and on a GPU,
    which copies parameters and activations in and out at every iteration (a fifth of a step of
    data2vec 2.0 on an H100), so stacks of up to 24 layers are unrolled on a GPU.
    """
    if options.unroll is not None:
        return options.unroll
    device = platform.name()
    return device == "cpu" or (device == "gpu" and options.depth <= 24)


def check_share(key: str, value: float) -> None:
    """Raises ValueError unless the named encoder option is a probability below 1."""
    if not 0.0 <= value < 1.0:
        raise ValueError(f"config.method.encoder.{key} is {value}: use 0.0 or more and below 1.0")


@dataclasses.dataclass(frozen=True)
class Layers:
    """The layers that an encoder returns: indices, from the end where negative; None: all."""

    hidden_states: tuple[int, ...] | None = None  # 0: input of the first block
    ffn: tuple[int, ...] | None = None

    def indices(self, depth: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Returns the indices of hidden states, 0 to `depth`, and of ffn, below `depth`, ascending.

        Raises ValueError on a layer that `depth` blocks do not have.
        """
        return _indices(self.hidden_states, depth + 1), _indices(self.ffn, depth)


ALL, STATES, LAST = Layers(), Layers(None, ()), Layers((-1,), ())
MOVED = "moved"  # the collection of running statistics that a training step has moved


def _indices(asked: tuple[int, ...] | None, count: int) -> tuple[int, ...]:
    if asked is None:
        return tuple(range(count))
    for layer in asked:
        if not -count <= layer < count:
            raise ValueError(
                f"layers has {layer}, which does not exist: the encoder has {count}, so use "
                f"{-count} to {count - 1}"
            )
    return tuple(sorted({layer % count for layer in asked}))


@flax.struct.dataclass
class Encoded:
    """What an encoder returns.

    `hidden_states` holds the input of the first block, then the output of each block; the last
    one has passed the final norm, if there is one. `ffn` holds the raw output of each block's
    second MLP layer, before dropout, residual and norm: the targets of data2vec. Of both it has
    the layers that were asked for, N and M of them, in the order of depth. The first
    `prefix` of the T tokens come before the frames (a class token). Tokens with `valid` false hold
    finite but meaningless numbers.
    """

    hidden_states: Array  # (N, B, T, D), by default N = L + 1
    ffn: Array  # (M, B, T, D), by default M = L
    valid: Array  # (B, T) bool
    prefix: int = flax.struct.field(pytree_node=False, default=0)
    # of a training step: new values of parameters that are running statistics; {}: none
    moved: Tree = flax.struct.field(default_factory=dict)


def layer_norm(
    eps: float, dtype: jnp.dtype, *, affine: bool = True, name: str | None = None
) -> nn.LayerNorm:
    """Returns a LayerNorm over the last axis that computes in float32 and returns `dtype`."""
    return nn.LayerNorm(
        epsilon=eps,
        dtype=dtype,
        use_bias=affine,
        use_scale=affine,
        use_fast_variance=False,  # E[x^2] - E[x]^2 loses precision on features far from zero
        name=name,
    )


def gelu(x: Array) -> Array:
    """Returns the exact GELU, by the error function."""
    return nn.gelu(x, approximate=False)


def dense(
    width: int, options: TransformerOptions, dtype: jnp.dtype, name: str, bias: bool = True
) -> nn.Dense:
    """Returns a linear layer with float32 parameters that computes in `dtype`."""
    inits = FUSED_INITS if name in ("query", "key", "value") else INITS
    init = inits[options.init]
    if options.init == "deep_norm" and name not in ("query", "key"):
        scale = (8 * options.depth) ** -0.5  # of the variance
        init = nn.initializers.variance_scaling(scale, "fan_avg", "normal")
    return nn.Dense(width, use_bias=bias, dtype=dtype, kernel_init=init, name=name)


def select(x: Array, valid: Array, ids_keep: Array) -> tuple[Array, Array]:
    """Gathers the tokens `ids_keep` (B, V) of x (B, S, D) and of valid (B, S)."""
    return (
        jnp.take_along_axis(x, ids_keep[..., None], axis=1),
        jnp.take_along_axis(valid, ids_keep, axis=1),
    )


class Attention(nn.Module):
    """Self-attention with keys masked by validity and the softmax in float32."""

    options: TransformerOptions
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, valid: Array, bias: Array | None, train: bool) -> Array:
        """x (B, T, D), valid (B, T), bias broadcastable to (B, H, T, T) or None -> (B, T, D)."""
        o = self.options
        head = o.head
        query, key, value = (
            dense(o.heads * head, o, self.dtype, name, bias)(x).reshape(*x.shape[:2], o.heads, head)
            for name, bias in (
                ("query", o.qkv_bias),
                ("key", o.qkv_bias and o.key_bias),
                ("value", o.qkv_bias),
            )
        )
        flat = (*x.shape[:2], o.heads * head)
        dropout = o.attention_dropout if train else 0.0
        if attention.has_kernel(head, self.dtype, bias, dropout):
            y = attention.in_one_kernel(query, key, value, valid).reshape(flat)
            return self._out(y)
        scores = attention.scores(query * head**-0.5, key)
        if bias is not None:
            scores = scores + bias.astype(jnp.float32)
        # The smallest finite number, not -inf: a row without any valid key stays finite.
        scores = jnp.where(valid[:, None, None, :], scores, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores, axis=-1)
        weights = nn.Dropout(o.attention_dropout, deterministic=not train)(weights)
        y = attention.weighted(weights.astype(self.dtype), value).reshape(flat)
        return self._out(y)

    def _out(self, y: Array) -> Array:
        o = self.options
        return dense(o.width, o, self.dtype, "out")(y) if o.out_proj else y


class MLP(nn.Module):
    """Two linear layers with an exact GELU between them."""

    options: TransformerOptions
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """x (B, T, D) -> (B, T, D)."""
        o = self.options
        x = gelu(dense(o.mlp_width, o, self.dtype, "up")(x))
        x = nn.Dropout(o.activation_dropout, deterministic=not train)(x)
        return dense(o.width, o, self.dtype, "down")(x)


class Block(nn.Module):
    """One layer: attention and MLP, each with its residual and norm."""

    options: TransformerOptions
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, valid: Array, bias: Array | None, drop_path: Array, train: bool
    ) -> tuple[Array, Array]:
        """x (B, T, D) -> (output, raw MLP output), both (B, T, D).

        `drop_path` () is the probability that an example skips a branch of this layer.
        """
        o, x = self.options, mesh_lib.by_example(x)
        skipped = x
        attend = Attention(o, self.dtype, name="attention")
        mlp = MLP(o, self.dtype, name="mlp")
        norm1 = layer_norm(o.eps, self.dtype, name="norm1")
        norm2 = layer_norm(o.eps, self.dtype, name="norm2")
        dropout = nn.Dropout(o.dropout, deterministic=not train)

        def path(branch: Array, name: str) -> Array:
            if o.layer_scale:
                init = nn.initializers.constant(o.layer_scale)
                branch = branch * self.param(name, init, (o.width,)).astype(branch.dtype)
            return self._drop_path(branch, drop_path) if train and o.drop_path else branch

        if o.norm == "pre":
            x = x + path(dropout(attend(norm1(x), valid, bias, train)), "scale1")
            ffn = mlp(norm2(x), train)
            x = x + path(dropout(ffn), "scale2")
        elif o.norm == "post":
            x = norm1(x + path(dropout(attend(x, valid, bias, train)), "scale1"))
            ffn = mlp(x, train)
            x = norm2(x + path(dropout(ffn), "scale2"))
        else:
            x = x + path(norm1(dropout(attend(x, valid, bias, train))), "scale1")
            ffn = mlp(x, train)
            x = x + path(norm2(dropout(ffn)), "scale2")
        if train and o.layerdrop:
            # Computed, then discarded: the cost of a step must not depend on a random draw.
            keep = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - o.layerdrop)
            x = jnp.where(keep, x, skipped)
        return x, ffn

    def _drop_path(self, branch: Array, rate: Array) -> Array:
        """Zeroes whole examples with probability `rate` and scales up the others."""
        shape = (branch.shape[0], 1, 1)
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - rate, shape)
        return jnp.where(keep, branch / (1.0 - rate).astype(branch.dtype), 0)


def over_layers(
    layer: Callable, options: TransformerOptions, dtype: jnp.dtype, asked: Layers
) -> Callable:
    """Returns run(blocks, x, given, last) -> (hidden states, ffn) of the layers that are asked for.

    It scans layer(block, x, given of the layer) -> (output, ffn) over stacked blocks; `last` turns
    the output of the last block into its hidden state. Each layer's parameters are gathered from
    their shards when it runs, and again in its backward pass, and never kept: only one layer's
    parameters have to fit on a chip at a time.
    """
    layer, depth = _frugal(layer, options, dtype), options.depth
    states, ffn = asked.indices(depth)
    kept = {"output": _Kept(tuple(i - 1 for i in states if 0 < i < depth), depth)}
    kept["ffn"] = _Kept(ffn, depth)

    def step(block: nn.Module, carry: Any, given: Any) -> tuple[Any, Any]:
        (x, held), (own, slots) = carry, given
        found = dict(zip(kept, layer(block, x, own), strict=True))
        held = {
            name: jax.lax.dynamic_update_index_in_dim(to, found[name], slots[name], 0)
            for name, to in held.items()
        }
        return (found["output"], held), {n: found[n] for n in kept if kept[n].stacked}

    scan = nn.scan(
        step,
        variable_axes={"params": 0, MOVED: 0},
        split_rngs={"params": True, "dropout": True},
        length=depth,
        unroll=depth if unrolled(options) else 1,
    )

    def run(blocks: nn.Module, x: Array, given: Any, last: Callable) -> tuple[Array, Array]:
        some = {n: k for n, k in kept.items() if k.layers and not k.stacked}
        held = {n: jnp.zeros((k.room, *x.shape), dtype) for n, k in some.items()}
        slots = {n: jnp.asarray(k.slots) for n, k in some.items()}
        (y, held), stacked = scan(blocks, (x, held), (given, slots))
        none = jnp.zeros((0, *x.shape), dtype)
        middle, ffn = ((held | stacked).get(n, none)[: len(k.layers)] for n, k in kept.items())
        parts = [x[None]] * (0 in states) + [middle] * bool(kept["output"].layers)
        parts += [last(y)[None]] if depth in states else []
        return jnp.concatenate(parts or [none]), ffn

    return run


class _Kept:
    """The layers whose output is kept, and where the loop over all layers writes it.

    A layer writes to the slot of the next one that is kept, which overwrites it; those behind the
    last one that is kept share a spare slot.
    """

    def __init__(self, layers: tuple[int, ...], depth: int):
        self.layers = layers
        self.slots = np.searchsorted(layers, np.arange(depth)).astype(np.int32)
        self.room = int(self.slots.max()) + 1
        # all, but for the last one perhaps: then the loop stacks them
        self.stacked = bool(layers) and layers in (tuple(range(depth - 1)), tuple(range(depth)))


def _frugal(layer: Callable, options: TransformerOptions, dtype: jnp.dtype) -> Callable:
    """Returns the layer with its parameters gathered when they are needed, and recomputed in its
    backward pass as options.remat says."""
    policy = REMAT[options.remat]
    if mesh_lib.size("fsdp") > 1:
        gather = functools.partial(mesh_lib.gather, rules=sharding.RULES, dtype=dtype)
        layer = nn.map_variables(layer, "params", trans_in_fn=gather)
        policy = policy or mesh_lib.keeps_shards
    if policy is not None:
        # Outside a loop the compiler would merge the recomputation into the first pass.
        layer = nn.remat(layer, policy=policy, prevent_cse=unrolled(options))
    return layer


def one_by_one(
    layer: Callable, options: TransformerOptions, dtype: jnp.dtype, asked: Layers
) -> Callable:
    """Returns the same function as `over_layers`, for a list of blocks of different sizes."""
    apart = dataclasses.replace(options, unroll=True)
    layer = _frugal(layer, apart, dtype)
    states, ffn = asked.indices(options.depth)

    def run(blocks: list[nn.Module], x: Array, given: Any, last: Callable) -> tuple[Array, Array]:
        ends, raw = [x], []
        for i, block in enumerate(blocks):
            x, found = layer(block, x, given[i])
            ends.append(x)
            raw.append(found)
        ends[-1] = last(ends[-1])
        none = jnp.zeros((0, *x.shape), dtype)
        picked = ([ends[i] for i in states], [raw[i] for i in ffn])
        hidden_states, ffns = (jnp.stack(p) if p else none for p in picked)
        return hidden_states, ffns

    return run


class Transformer(nn.Module):
    """A stack of blocks whose parameters are stacked along a leading layer axis.

    Blocks of different sizes are `blocks_0`, `blocks_1` and so on instead. Under pre-norm a final
    norm follows the last block, unless the options say otherwise.
    """

    options: TransformerOptions
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        o = self.options
        if o.uneven:
            self.blocks: Any = [Block(o.of_block(i), self.dtype) for i in range(o.depth)]
        else:
            self.blocks = Block(o, self.dtype)
        final = self.options.final_norm
        self.has_final_norm = self.options.norm == "pre" if final is None else final
        if self.has_final_norm:
            self.final_norm = layer_norm(self.options.eps, self.dtype)

    def __call__(
        self,
        x: Array,
        valid: Array,
        train: bool,
        bias: Array | None = None,
        prefix: int = 0,
        layers: Layers = ALL,
    ) -> Encoded:
        """x (B, T, D), valid (B, T) -> Encoded; `bias` is added to the scores of every layer."""
        o = self.options

        def layer(block: Block, x: Array, drop_path: Array) -> tuple[Array, Array]:
            return block(x, valid, bias, drop_path, train)

        if o.layer_heads is not None and bias is not None:
            raise ValueError(
                "config.method.encoder.layer_heads is set, but this encoder adds a bias to the "
                "scores of every head: set layer_heads to None"
            )
        loop = one_by_one if o.uneven else over_layers
        run = loop(layer, o, self.dtype, layers)
        rates = jnp.asarray(np.linspace(0.0, o.drop_path, o.depth), jnp.float32)
        last = self.final_norm if self.has_final_norm else lambda y: y
        hidden_states, ffn = run(self.blocks, x.astype(self.dtype), rates, last)
        return Encoded(hidden_states, ffn, valid, prefix)
