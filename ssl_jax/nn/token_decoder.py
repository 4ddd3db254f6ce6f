"""A shallow transformer over all tokens of an example, and a linear layer to what is predicted."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from ssl_jax.core import options as options_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import Array
from ssl_jax.nn.gated import GatedTransformer
from ssl_jax.nn.transformer import INITS, LAST, Transformer, TransformerOptions
from ssl_jax.ops.patches import restore, sincos_table


@dataclasses.dataclass(frozen=True)
class TokenDecoderOptions:
    """Its blocks, with the init and remat of the encoder, and how they know positions."""

    width: int
    depth: int
    heads: int
    mlp_width: int
    # relative: gated relative ones, in the blocks of BEATs | sincos: fixed ones, added to the
    # tokens, in pre-norm blocks
    positions: str

    def check(self, key: str) -> None:
        """Raises ConfigError, naming keys below `key`, on values that do not work."""
        options_lib.choose(f"{key}.positions", self.positions, ("relative", "sincos"))
        for name in ("width", "depth", "heads", "mlp_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{key}.{name} is {getattr(self, name)}: use 1 or more")
        if self.width % self.heads or (self.positions == "sincos" and self.width % 4):
            raise ConfigError(
                f"{key}.width is {self.width}: use a multiple of {key}.heads {self.heads}, and of "
                f"4 for {key}.positions='sincos'"
            )

    def blocks(self, like: TransformerOptions) -> TransformerOptions:
        """Returns the options of the blocks, with init, eps, remat and unroll of an encoder's."""
        shape = {name: getattr(self, name) for name in ("width", "depth", "heads", "mlp_width")}
        same = {name: getattr(like, name) for name in ("init", "eps", "remat", "unroll")}
        norm = "pre" if self.positions == "sincos" else "post"
        return TransformerOptions(norm=norm, **shape, **same)


class TokenDecoder(nn.Module):
    """Linear, blocks with positions, which end with a LayerNorm, Linear: a prediction per token.

    params: embed, blocks, predict; final_norm, or for relative positions their table; mask_token
    if it is learned.
    """

    outputs: int
    positions: str
    options: TransformerOptions
    mask: str = "none"  # of tokens without an input: none | zeros | learned
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        o, init = self.options, INITS[self.options.init]
        self.embed = nn.Dense(o.width, dtype=self.dtype, kernel_init=init)
        if self.mask == "learned":
            normal = nn.initializers.normal(0.02)
            self.token = self.param("mask_token", normal, (o.width,), jnp.float32)
        if self.positions == "relative":
            self.transformer: nn.Module = GatedTransformer(o, dtype=self.dtype)
        else:
            self.transformer = Transformer(o, self.dtype)
        nn.share_scope(self, self.transformer)
        self.predict = nn.Dense(self.outputs, dtype=jnp.float32, kernel_init=init)

    def __call__(
        self,
        x: Array,
        valid: Array,
        grid: tuple[int, ...],
        ids_shuffle: Array | None = None,
        visible: Array | None = None,
    ) -> Array:
        """x (B, S, E), valid (B, S) -> (B, S, outputs) float32.

        ids_shuffle (B, S): x holds only the first V tokens, and x[:, i] belongs at place
        ids_shuffle[:, i]; visible (B, S): the places that x has tokens for.
        """
        x = self.embed(x)
        if ids_shuffle is not None and visible is not None:
            empty = self.token.astype(x.dtype) if self.mask == "learned" else 0
            x = jnp.where(visible[..., None], restore(x, ids_shuffle), empty)
        if self.positions == "sincos":
            x = x + sincos_table(grid, self.options.width).astype(x.dtype)
        encoded = self.transformer(x, valid, False, layers=LAST)
        return self.predict(encoded.hidden_states[-1].astype(jnp.float32))


class CodeHead(nn.Module):
    """Linear, tanh, Linear: from an encoder's output to the vectors that are quantized."""

    outputs: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x (..., D) -> (..., outputs) float32."""
        init = INITS["torch"]
        x = nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=init, name="hidden")(x)
        x = nn.Dense(self.outputs, dtype=self.dtype, kernel_init=init, name="out")(jnp.tanh(x))
        return x.astype(jnp.float32)
