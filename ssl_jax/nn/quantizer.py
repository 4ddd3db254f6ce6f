"""The product quantizer of wav2vec 2.0: one code per group for every frame."""

import flax.linen as nn
import flax.struct
import jax.numpy as jnp

from ssl_jax.core.types import Array
from ssl_jax.ops import quantize


@flax.struct.dataclass
class Quantized:
    """Frames as codes. Axes: B examples, S frames, G groups, V codes, D channels of all groups."""

    vectors: Array  # (B, S, D), the chosen codes of all groups, concatenated
    ids: Array  # (B, S, G) int32, their indices
    logits: Array  # (B, S, G, V), before any noise


class GumbelQuantizer(nn.Module):
    """Linear to logits of V codes in each of G groups, and one code of each (2006.11477, sec. 2).

    params: `logits` (a Linear, weights from N(0, 1)) and `codes` (G, V, D / G), uniform in [0, 1).
    Computes in float32.
    """

    groups: int = 2
    codes: int = 320
    width: int = 256  # of all groups together
    dropout: float = 0.0  # of the frames

    @nn.compact
    def __call__(
        self, x: Array, noise: Array | None, temperature: Array | float, train: bool
    ) -> Quantized:
        """x (B, S, C), noise (B, S, G, V) or None -> Quantized; see `ops.quantize.choose`."""
        x = nn.Dropout(self.dropout, deterministic=not train)(x.astype(jnp.float32))
        kernel_init = nn.initializers.normal(1.0)
        logits = nn.Dense(self.groups * self.codes, kernel_init=kernel_init, name="logits")(x)
        logits = logits.reshape(*x.shape[:-1], self.groups, self.codes)
        shape = (self.groups, self.codes, self.width // self.groups)
        codes = self.param("codes", nn.initializers.uniform(1.0), shape, jnp.float32)
        choice = quantize.choose(logits, noise, temperature)
        return Quantized(quantize.look_up(choice, codes), choice.argmax(-1), logits)
