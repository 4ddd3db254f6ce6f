"""The transformer decoder of masked autoencoders (MAE, 2111.06377, section 3)."""

import flax.linen as nn
import jax.numpy as jnp

from ssl_jax.core.types import Array
from ssl_jax.nn.transformer import INITS, LAST, Transformer, TransformerOptions
from ssl_jax.ops.patches import restore, sincos_table


class PatchDecoder(nn.Module):
    """Predicts every patch from the encoded visible ones, with mask tokens in place of the others.

    Patches get fixed sin-cos positions again, of the decoder's width; prefix tokens get none.
    """

    outputs: int  # numbers in a patch
    options: TransformerOptions
    dtype: jnp.dtype = jnp.float32

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
        tokens = jnp.where(
            visible[..., None], restore(tokens, ids_shuffle), self.mask.astype(x.dtype)
        )
        tokens = tokens + sincos_table(grid, self.options.width).astype(x.dtype)
        valid = jnp.pad(valid, ((0, 0), (prefix, 0)), constant_values=True)
        x = jnp.concatenate([first, tokens], 1)
        encoded = self.transformer(x, valid, False, layers=LAST)
        return self.predict(encoded.hidden_states[-1][:, prefix:]).astype(jnp.float32)
