"""The text encoder of data2vec (2202.03555, 2212.07525): RoBERTa's embeddings and blocks.

Axes: B examples, L tokens of a text, V tokens kept, D width. The tokenizer of config.data gives
the tokens; a first token that stands for the text (BOS) is treated like any other.
"""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from ssl_jax.core.types import Array, Spec
from ssl_jax.nn.conv import length_mask
from ssl_jax.nn.transformer import (
    ALL,
    INITS,
    Encoded,
    Layers,
    Transformer,
    TransformerOptions,
    check_share,
    layer_norm,
    select,
)

AugmentFn = Callable[[Array, Array], Array]

_REGULARIZATION = {
    "norm": "post",
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "embed_dropout": 0.1,
}
PRESETS = {
    "base": {"depth": 12, "width": 768, "heads": 12, "mlp_width": 3072, **_REGULARIZATION},
    "large": {"depth": 24, "width": 1024, "heads": 16, "mlp_width": 4096, **_REGULARIZATION},
}


@dataclasses.dataclass(frozen=True)
class Options:
    """From tokens to vectors: the options of a TextEncoder except for its blocks."""

    vocab_size: int = 50265  # RoBERTa's byte-level BPE
    max_tokens: int = 512  # the longest text that has positions
    position_std: float = 0.02  # of the initial positions; data2vec 2.0: width ** -0.5
    embed_norm: bool = True  # LayerNorm of token + position, then dropout | dropout alone
    embed_dropout: float = 0.1

    def __post_init__(self) -> None:
        check_share("embed_dropout", self.embed_dropout)
        for key, use in (("vocab_size", "the tokenizer's"), ("max_tokens", "such as 512")):
            if getattr(self, key) < 1:
                raise ValueError(
                    f"config.method.encoder.{key} is {getattr(self, key)}: use 1 or more, {use}"
                )


class TextFrontEnd(nn.Module):
    """Token ids to their vectors, without positions."""

    options: Options
    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Array, tokens_len: Array, train: bool, augment_fn: AugmentFn | None = None
    ) -> tuple[Array, Array]:
        """tokens (B, L) int32, tokens_len (B,) -> x (B, L, D), valid (B, L).

        augment_fn(tokens, tokens_len) replaces ids before they are looked up. An id outside of the
        vocabulary gives NaN, which config.guard.nan reports, not the vector of another token.
        """
        del train  # nothing random in here
        shape = (self.options.vocab_size, self.width)
        table = self.param("embedding", INITS["bert"], shape, jnp.float32)
        if augment_fn is not None:
            tokens = augment_fn(tokens, tokens_len)
        # looked up in float32, in which the gradients of all occurrences of a token are summed
        x = jnp.take(table, tokens, axis=0, mode="fill", fill_value=jnp.nan).astype(self.dtype)
        return x, length_mask(tokens_len, tokens.shape[1])


class TextEncoder(nn.Module):
    """Token vectors, learned positions, LayerNorm, dropout, a stack of blocks.

    `positions` has a row for each of `max_tokens` places. RoBERTa's table has two more rows at
    its start (place 0 is row 2, its padding index plus 1), and the same token-type vector is added
    everywhere: positions = table[2:] + token_type[0].
    """

    frontend: TextFrontEnd
    options: Options
    transformer_options: TransformerOptions
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        o, blocks = self.options, self.transformer_options
        shape = (o.max_tokens, blocks.width)
        init = nn.initializers.normal(o.position_std)
        self.positions = self.param("positions", init, shape, jnp.float32)
        if o.embed_norm:
            self.norm = layer_norm(blocks.eps, self.dtype)
        self.dropout = nn.Dropout(o.embed_dropout)
        self.transformer = Transformer(blocks, self.dtype)
        nn.share_scope(self, self.transformer)

    @property
    def reads(self) -> dict[str, Spec]:
        """The arrays of a batch that `frontend` takes, in order."""
        return {"tokens": Spec((None,), "int32"), "tokens_len": Spec((), "int32")}

    @property
    def rate(self) -> float:
        """Steps per second: 0, as text has no time."""
        return 0.0

    @property
    def grid(self) -> tuple[int, ...]:
        """(0,): the tokens are a sequence of any length."""
        return (0,)

    @property
    def width(self) -> int:
        """The size of a token, D."""
        return self.transformer_options.width

    @property
    def depth(self) -> int:
        """The number of blocks."""
        return self.transformer_options.depth

    @property
    def prefix(self) -> int:
        """The number of tokens ahead of the text: none."""
        return 0

    def encode(
        self,
        x: Array,
        valid: Array,
        train: bool,
        ids_keep: Array | None = None,
        layers: Layers = ALL,
    ) -> Encoded:
        """x (B, L, D), valid (B, L) -> Encoded of T = L tokens, or of the V in `ids_keep`.

        ids_keep (B, V) int32: places of tokens in any order; the others are not encoded.
        Raises ValueError when L exceeds the positions.
        """
        size = x.shape[1]
        if size > len(self.positions):
            raise ValueError(
                f"config.method.encoder.max_tokens {len(self.positions)} has no positions for a "
                f"batch of {size} tokens: use at least config.data.block_tokens, here {size}"
            )
        x = x + self.positions[:size].astype(x.dtype)
        if ids_keep is not None:
            x, valid = select(x, valid, ids_keep)
        if self.options.embed_norm:
            x = self.norm(x)
        x = self.dropout(x, deterministic=not train)
        return self.transformer(x, valid, train, layers=layers)

    def __call__(self, tokens: Array, tokens_len: Array, train: bool = False) -> Encoded:
        """tokens (B, L), tokens_len (B,) -> Encoded."""
        x, valid = self.frontend(tokens, tokens_len, train)
        return self.encode(x, valid, train)


def make(
    options: Options, blocks: TransformerOptions, *, dtype: jnp.dtype, sample_rate: int
) -> TextEncoder:
    """Returns the encoder; `sample_rate` is not used."""
    del sample_rate
    return TextEncoder(TextFrontEnd(options, blocks.width, dtype), options, blocks, dtype)
