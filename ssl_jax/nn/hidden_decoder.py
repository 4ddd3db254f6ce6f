"""The decoder of masked video (VideoMAE, 2203.12602; MVD, 2212.04500): of hidden tokens alone."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import Array, Tree
from ssl_jax.nn.transformer import INITS, LAST, Transformer, TransformerOptions
from ssl_jax.ops import tubelets


@dataclasses.dataclass(frozen=True)
class DecoderOptions:
    """Its blocks; pre-norm, with the eps, init, remat and drop path of the encoder."""

    width: int
    depth: int
    heads: int
    mlp_width: int

    def check(self, key: str) -> None:
        """Raises ConfigError, naming keys below `key`, on values that do not work."""
        for name, value in dataclasses.asdict(self).items():
            if value < 1:
                raise ConfigError(f"{key}.{name} is {value}: use 1 or more")
        if self.width % 16 or self.width % self.heads:
            raise ConfigError(
                f"{key}.width is {self.width}: use a multiple of 16, for its fixed positions, and "
                f"of {key}.heads {self.heads}"
            )

    def blocks(self, like: TransformerOptions) -> TransformerOptions:
        """Returns the options of the blocks, with what an encoder's have in common with them."""
        names = ("eps", "init", "remat", "unroll", "drop_path", "qkv_bias", "key_bias")
        same = {name: getattr(like, name) for name in names}
        return TransformerOptions(norm="pre", **dataclasses.asdict(self), **same)


class HiddenDecoder(nn.Module):
    """Predicts the hidden tokens from the encoded visible ones; these come first in its input.

    Unlike the decoder of MAE it never puts tokens back in their places, which its fixed positions
    tell, and it has no output for visible ones.
    """

    outputs: int  # numbers that are predicted of a token
    options: TransformerOptions
    positions: str  # see ops/tubelets.py
    embed_bias: bool = True
    embed_init: str = "xavier"
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        o = self.options
        self.embed = nn.Dense(
            o.width,
            use_bias=self.embed_bias,
            dtype=self.dtype,
            kernel_init=INITS[self.embed_init],
        )
        self.mask = self.param("mask", INITS["truncated"], (o.width,), jnp.float32)
        self.transformer = Transformer(o, self.dtype)
        nn.share_scope(self, self.transformer)
        self.predict = nn.Dense(self.outputs, dtype=self.dtype, kernel_init=INITS[o.init])

    def __call__(
        self, x: Array, ids_shuffle: Array, grid: tuple[int, ...], train: bool = False
    ) -> Array:
        """x (B, V, E) -> (B, S - V, outputs) float32, of the places ids_shuffle[:, V:].

        ids_shuffle (B, S): the places of the V visible tokens, in the order of x, then the others.
        """
        width = self.options.width
        table = jnp.asarray(tubelets.positions(self.positions, grid, width))
        places = table[ids_shuffle].astype(self.dtype)
        seen = x.shape[1]
        hidden = jnp.broadcast_to(
            self.mask.astype(self.dtype), (len(x), ids_shuffle.shape[1] - seen, width)
        )
        tokens = jnp.concatenate([self.embed(x), hidden], 1) + places
        valid = jnp.ones(tokens.shape[:2], bool)
        encoded = self.transformer(tokens, valid, train, layers=LAST)
        return self.predict(encoded.hidden_states[-1][:, seen:]).astype(jnp.float32)


def predicted(
    decoder: HiddenDecoder,
    params: Tree,
    x: Array,
    ids_shuffle: Array,
    grid: tuple[int, ...],
    key: Array | None,
) -> Array:
    """Returns the predictions of a decoder with these parameters, in training if there is a key."""
    given = (x, ids_shuffle, grid, key is not None)
    rngs = None if key is None else {"dropout": key}
    return decoder.apply({"params": params}, *given, rngs=rngs)  # type: ignore
