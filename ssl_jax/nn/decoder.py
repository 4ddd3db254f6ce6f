"""The transformer decoder of masked autoencoders (MAE, 2111.06377, section 3)."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.types import Array
from ssl_jax.nn.transformer import INITS, LAST, Transformer, TransformerOptions
from ssl_jax.ops import tubelets
from ssl_jax.ops.patches import restore, sincos_table


def filled(tokens: Array, ids_shuffle: Array, visible: Array, mask: Array) -> Array:
    """Puts tokens (B, V, D) back in their places (B, S, D), with `mask` (D,) in the other places.

    See `PatchDecoder.__call__` for ids_shuffle and visible.
    """
    return jnp.where(visible[..., None], restore(tokens, ids_shuffle), mask.astype(tokens.dtype))


def positions(grid: tuple[int, ...], width: int, swapped: bool) -> np.ndarray:
    """Returns the fixed positions (S, D) of a grid, of clips those of time and of place.

    `swapped`: those of the grid with its axes exchanged, in its raster order, which do not fit the
    places (see nn/spectrogram.py).
    """
    if len(grid) == 3:
        return tubelets.positions("space_time", grid, width)
    return sincos_table(grid[::-1] if swapped else grid, width)


class PatchDecoder(nn.Module):
    """Predicts every patch from the encoded visible ones, with mask tokens in place of the others.

    Patches get fixed sin-cos positions again, of the decoder's width; prefix tokens get none.
    """

    outputs: int  # numbers in a patch
    options: TransformerOptions
    dtype: jnp.dtype = jnp.float32
    swapped: bool = False  # see `positions`

    def setup(self) -> None:
        o, init = self.options, INITS[self.options.init]
        self.embed = nn.Dense(o.width, dtype=self.dtype, kernel_init=init)
        self.mask = self.param("mask", nn.initializers.normal(0.02), (o.width,), jnp.float32)
        self.transformer = Transformer(o, self.dtype)
        nn.share_scope(self, self.transformer)
        self.predict = nn.Dense(self.outputs, dtype=self.dtype, kernel_init=init)

    def __call__(
        self,
        x: Array,
        ids_shuffle: Array,
        visible: Array,
        valid: Array,
        grid: tuple[int, ...],
        prefix: int,
    ) -> Array:
        """x (B, prefix + V, E) -> patches (B, S, P) float32, raster order, prefix left out.

        ids_shuffle (B, S): x[:, prefix + i] belongs at place ids_shuffle[:, i]. visible, valid
        (B, S): the places whose token was encoded, and those that are real.
        """
        x = self.embed(x)
        first, tokens = x[:, :prefix], x[:, prefix:]
        tokens = filled(tokens, ids_shuffle, visible, self.mask)
        tokens = tokens + positions(grid, self.options.width, self.swapped).astype(x.dtype)
        valid = jnp.pad(valid, ((0, 0), (prefix, 0)), constant_values=True)
        x = jnp.concatenate([first, tokens], 1)
        encoded = self.transformer(x, valid, False, layers=LAST)
        return self.predict(encoded.hidden_states[-1][:, prefix:]).astype(jnp.float32)
