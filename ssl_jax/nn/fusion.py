"""Blocks that read the tokens of two streams together (MAViL, 2212.08071, section 3.1).

joint       ordinary blocks over the tokens of both, one after the other.
bottleneck  blocks of each stream's own, which meet only in a few learned tokens (MBT, 2107.00135):
            each stream's blocks move them, and the next layer has their mean.

Axes: B examples, S and T tokens of the two streams, N learned tokens, D width.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from ssl_jax.core import options as options_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import Array
from ssl_jax.nn.transformer import ALL, INITS, Layers, Transformer, TransformerOptions, layer_norm

KINDS = ("joint", "bottleneck")


@dataclasses.dataclass(frozen=True)
class FusionOptions:
    """How two streams are read together."""

    kind: str  # joint | bottleneck
    depth: int
    tokens: int  # learned ones, of the kind bottleneck

    def __post_init__(self) -> None:
        key = "config.method.fusion"
        options_lib.choose(f"{key}.kind", self.kind, KINDS)
        for name, such in (("depth", 2), ("tokens", 4)):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"{key}.{name} is {getattr(self, name)}: use 1 or more, such as {such}"
                )


class Fusion(nn.Module):
    """Blocks over two streams, and a LayerNorm behind them."""

    options: FusionOptions
    blocks: TransformerOptions  # of the encoders; `depth` is not used
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        o, b = self.options, self.blocks
        size = dataclasses.replace(b, depth=o.depth, norm="pre", final_norm=False)
        if o.kind == "joint":
            self.joint = Transformer(size, self.dtype)
        else:
            each = dataclasses.replace(size, depth=1)
            self.first = [Transformer(each, self.dtype) for _ in range(o.depth)]
            self.second = [Transformer(each, self.dtype) for _ in range(o.depth)]
            self.learned = self.param("learned", INITS["bert"], (o.tokens, b.width), jnp.float32)
        self.final_norm = layer_norm(b.eps, self.dtype)

    def __call__(
        self,
        first: tuple[Array, Array],
        second: tuple[Array, Array],
        train: bool,
        layers: Layers = ALL,
    ) -> tuple[Array, Array]:
        """Tokens (B, S, D), (B, T, D) and which are real, (B, S), (B, T) -> hidden states (L, B, S
        + T, D) of the layers that are asked for, of 0 to `depth`, and which tokens are real."""
        (x, valid_x), (y, valid_y) = first, second
        valid = jnp.concatenate([valid_x, valid_y], 1)
        if self.options.kind == "joint":
            both = jnp.concatenate([x, y], 1)
            found = self.joint(both, valid, train, layers=layers)
            states = [*found.hidden_states]
        else:
            wanted = layers.indices(self.options.depth)[0]
            states = self._bottleneck((x, valid_x), (y, valid_y), train)
            states = [states[i] for i in wanted]
        last = self.options.depth in layers.indices(self.options.depth)[0]
        if last:
            states[-1] = self.final_norm(states[-1])
        return jnp.stack(states), valid

    def _bottleneck(
        self, first: tuple[Array, Array], second: tuple[Array, Array], train: bool
    ) -> list[Array]:
        """Returns the hidden states (B, S + T, D) of all layers."""
        (x, valid_x), (y, valid_y) = first, second
        learned = jnp.broadcast_to(self.learned.astype(self.dtype), (len(x), *self.learned.shape))
        count = learned.shape[1]
        real = jnp.ones(learned.shape[:2], bool)
        states = [jnp.concatenate([x, y], 1)]
        for own, other in zip(self.first, self.second, strict=True):
            moved = []
            streams = ((own, x, valid_x), (other, y, valid_y))
            for block, tokens, valid in streams:
                joined = jnp.concatenate([learned.astype(tokens.dtype), tokens], 1)
                seen = block(joined, jnp.concatenate([real, valid], 1), train)
                moved.append(seen.hidden_states[-1])
            learned = (moved[0][:, :count] + moved[1][:, :count]) / 2
            x, y = moved[0][:, count:], moved[1][:, count:]
            states.append(jnp.concatenate([x, y], 1))
        return states
