"""The decoder of AudioMAE (2207.06405, section 3.2): attention in shifted windows of the patches.

Axes: B examples, H by W places of the grid, N windows of T places each, D width. Blocks are those
of Swin V2 (2111.09883): the norm follows each branch, attention compares by cosine, and a small MLP
turns the offset of two places into a bias.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core import mesh as mesh_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import Array
from ssl_jax.nn.decoder import filled, positions
from ssl_jax.nn.transformer import (
    INITS,
    LAST,
    MLP,
    TransformerOptions,
    dense,
    layer_norm,
    over_layers,
)

_APART = -100.0  # added to the scores of places that only the shift brought into one window


@dataclasses.dataclass(frozen=True)
class LocalOptions:
    """The section config.method.local: the windows of a decoder with local attention."""

    window: tuple[int, int]  # patches along time and along mel
    shift: tuple[int, int]  # of every second block; 0: not along that axis
    bias_width: int  # hidden units of the MLP from offsets to biases
    bias_dropout: float  # on them, in training

    def __post_init__(self) -> None:
        key, (window, shift) = "config.method.local", (self.window, self.shift)
        if len(window) != 2 or min(window) < 1:
            raise ConfigError(f"{key}.window is {window}: use (time, mel), such as (4, 4)")
        if len(shift) != 2 or not all(0 <= s < w for s, w in zip(shift, window, strict=True)):
            raise ConfigError(
                f"{key}.shift is {shift}: use (time, mel), each 0 or more and less than "
                f"{key}.window {window}, such as {(window[0] // 2, 0)}"
            )
        if self.bias_width < 1:
            raise ConfigError(f"{key}.bias_width is {self.bias_width}: use 1 or more, such as 384")
        if not 0 <= self.bias_dropout < 1:
            raise ConfigError(
                f"{key}.bias_dropout is {self.bias_dropout}: use 0.0 or more and below 1.0"
            )

    def check(self, grid: tuple[int, ...]) -> None:
        """Raises ConfigError unless the windows fit the columns of a grid; rows are filled up."""
        if len(grid) != 2 or grid[1] % self.window[1]:
            raise ConfigError(
                f"config.method.local.window is {self.window}, and its second number does not "
                f"divide the {grid[-1]} columns of patches: use a divisor, such as {grid[-1]}"
            )


def windows(x: Array, window: tuple[int, int]) -> Array:
    """x (B, H, W, ...) -> (B, N, T, ...), windows and their places in raster order."""
    high, wide = window
    batch, height, width, *rest = x.shape
    x = x.reshape(batch, height // high, high, width // wide, wide, *rest)
    return x.swapaxes(2, 3).reshape(batch, -1, high * wide, *rest)


def unwindowed(x: Array, window: tuple[int, int], width: int) -> Array:
    """Undoes `windows` for a grid of `width` columns: (B, N, T, D) -> (B, H, W, D)."""
    high, wide = window
    x = x.reshape(len(x), -1, width // wide, high, wide, x.shape[-1])
    return x.swapaxes(2, 3).reshape(len(x), -1, width, x.shape[-1])


def offsets(window: tuple[int, int]) -> np.ndarray:
    """Returns sign(d) ln(1 + |d|) of the offsets d from key to query, (T, T, 2) float32."""
    places = np.stack(np.meshgrid(*map(np.arange, window), indexing="ij"), -1).reshape(-1, 2)
    d = places[:, None] - places[None]
    return (np.sign(d) * np.log1p(np.abs(d))).astype(np.float32)


class WindowAttention(nn.Module):
    """Attention of the places of each window to each other, by cosine, in float32."""

    options: TransformerOptions
    local: LocalOptions
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, valid: Array, apart: Array, train: bool) -> Array:
        """x (B, N, T, D), valid (B, N, T), apart (N, T, T) -> (B, N, T, D).

        apart: pairs of places that are far from each other in the unshifted grid.
        """
        o = self.options
        heads = *x.shape[:3], o.heads, o.width // o.heads
        query, key, value = (
            dense(o.width, o, self.dtype, name)(x).reshape(heads)
            for name in ("query", "key", "value")
        )
        scores = jnp.einsum("bnqhd,bnkhd->bnhqk", query, key, preferred_element_type=jnp.float32)
        q, k = (jnp.square(y.astype(jnp.float32)).sum(-1).swapaxes(2, 3) for y in (query, key))
        # the product of the norms, at least 1e-6; a root of zero would have no gradient
        scores = scores * jax.lax.rsqrt(jnp.maximum(q[..., :, None] * k[..., None, :], 1e-12))
        tau = self.param("tau", nn.initializers.ones, (o.heads,), jnp.float32)
        scores = scores / jnp.maximum(tau, 0.01)[:, None, None] + self._bias(train)
        scores = scores + jnp.where(apart, _APART, 0.0)[None, :, None]
        # as in nn/transformer.py, a window without any valid key stays finite
        scores = jnp.where(valid[:, :, None, None], scores, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        y = jnp.einsum("bnhqk,bnkhd->bnqhd", weights, value).reshape(x.shape)
        return dense(o.width, o, self.dtype, "out")(y)

    def _bias(self, train: bool) -> Array:
        """Returns what is added to the scores of each head, (H, T, T)."""
        init = INITS[self.options.init]
        x = nn.Dense(self.local.bias_width, kernel_init=init, name="offset0")(
            offsets(self.local.window)
        )
        x = nn.Dropout(self.local.bias_dropout, deterministic=not train)(nn.relu(x))
        x = nn.Dense(self.options.heads, kernel_init=init, name="offset1")(x)
        return x.transpose(2, 0, 1)


class LocalBlock(nn.Module):
    """One layer: attention within windows and MLP, each with its residual after its norm."""

    options: TransformerOptions
    local: LocalOptions
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, valid: Array, shift: Array, train: bool) -> Array:
        """x (B, H, W, D), valid (B, H, W) -> (B, H, W, D); shift (2,): how far the windows move."""
        o, window, (height, width) = self.options, self.local.window, x.shape[1:3]
        x = mesh_lib.by_example(x)
        rows, columns = jnp.arange(height), jnp.arange(width)
        # rows and columns that the shift moves from one end of the grid to the other
        part = (rows >= height - shift[0])[:, None] * 2 + (columns >= width - shift[1])
        part = windows(part[None], window)[0]
        apart = part[:, :, None] != part[:, None]
        moved, real = (windows(jnp.roll(y, -shift, (1, 2)), window) for y in (x, valid))
        attend = WindowAttention(o, self.local, self.dtype, name="attention")
        y = unwindowed(attend(moved, real, apart, train), window, width)
        x = x + layer_norm(o.eps, self.dtype, name="norm1")(jnp.roll(y, shift, (1, 2)))
        y = MLP(o, self.dtype, name="mlp")(x, train)
        return x + layer_norm(o.eps, self.dtype, name="norm2")(y)


class LocalDecoder(nn.Module):
    """Predicts every patch from the encoded visible ones, with attention within windows.

    Prefix tokens have no place in a window and are left out. Rows are filled up with padding to
    whole windows.
    """

    outputs: int  # numbers in a patch
    options: TransformerOptions
    local: LocalOptions
    dtype: jnp.dtype = jnp.float32
    swapped: bool = False  # see `decoder.positions`

    def setup(self) -> None:
        o, init = self.options, INITS[self.options.init]
        self.embed = nn.Dense(o.width, dtype=self.dtype, kernel_init=init)
        self.mask = self.param("mask", nn.initializers.normal(0.02), (o.width,), jnp.float32)
        self.blocks = LocalBlock(o, self.local, self.dtype)
        self.final_norm = layer_norm(o.eps, self.dtype)
        self.predict = nn.Dense(self.outputs, dtype=self.dtype, kernel_init=init)

    def __call__(
        self,
        x: Array,
        ids_shuffle: Array,
        visible: Array,
        valid: Array,
        grid: tuple[int, ...],
        prefix: int,
        train: bool = False,
    ) -> Array:
        """x (B, prefix + V, E) -> patches (B, S, P) float32; see `decoder.PatchDecoder`."""
        o, (rows, columns) = self.options, grid
        x = filled(self.embed(x[:, prefix:]), ids_shuffle, visible, self.mask)
        x = x + positions(grid, o.width, self.swapped).astype(x.dtype)
        more = ((0, 0), (0, -rows % self.local.window[0]), (0, 0))
        x = jnp.pad(x.reshape(len(x), rows, columns, o.width), (*more, (0, 0)))
        real = jnp.pad(valid.reshape(len(x), rows, columns), more)

        def layer(block: LocalBlock, x: Array, shift: Array) -> tuple[Array, Array]:
            y = block(x, real, shift, train)
            return y, y

        shifts = np.arange(o.depth)[:, None] % 2 * np.array(self.local.shift)
        run = over_layers(layer, o, self.dtype, LAST)
        states, _ = run(self.blocks, x, jnp.asarray(shifts), self.final_norm)
        y = states[-1][:, :rows].reshape(len(x), rows * columns, o.width)
        return self.predict(y).astype(jnp.float32)
