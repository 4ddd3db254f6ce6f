"""The parts of a transducer behind its encoder: prediction network and joint network.

Axes: B utterances, S frames, L tokens of a transcript, V tokens of the vocabulary, N rows of a
beam, P width of the prediction network, J width of the joint.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax.core.types import Array, Tree
from ssl_jax.nn.transformer import INITS, layer_norm
from ssl_jax.ops.ctc import BLANK


class PredictionNetwork(nn.Module):
    """Layers of LSTM over the tokens so far; what stands before the first is a vector of zeros.

    Computes in float32. params: embedding (V, E), and per layer input (E or P, 4 P), hidden
    (P, 4 P) and bias (4 P,), whose quarters are those of input, forget, cell and output gate.
    """

    tokens: int
    embed: int
    width: int
    layers: int
    dropout: float = 0.0

    def setup(self) -> None:
        bound = INITS["torch"]
        zeros = nn.initializers.zeros
        sizes = [self.embed, *[self.width] * (self.layers - 1)]
        gates = 4 * self.width
        self.embedding = self.param(
            "embedding", nn.initializers.normal(1.0), (self.tokens, self.embed), jnp.float32
        )
        self.kernels = [
            (
                self.param(f"input{i}_kernel", bound, (size, gates), jnp.float32),
                self.param(f"hidden{i}_kernel", bound, (self.width, gates), jnp.float32),
                self.param(f"gates{i}_bias", zeros, (gates,), jnp.float32),
            )
            for i, size in enumerate(sizes)
        ]
        self.drop = nn.Dropout(self.dropout)

    def __call__(self, tokens: Array, train: bool = False) -> Array:
        """tokens (B, L), -1 where padded -> (B, L + 1, P): after none of them, after one, ..."""
        x = self._embedded(jnp.pad(tokens, ((0, 0), (1, 0)), constant_values=BLANK))
        for kernels in self.kernels:
            x = self.drop(_over_time(kernels, x), deterministic=not train)
        return x

    def start(self, rows: int) -> Tree:
        """Returns the state of `rows` empty transcripts; see `extend`."""
        none = jnp.zeros((rows, self.layers, self.width))
        return self._advance((none, none), jnp.full(rows, BLANK))

    def extend(self, state: Tree, tokens: Array) -> Tree:
        """Returns the state after one more of the tokens (N,): hidden, cell (N, layers, P)."""
        return self._advance(state, tokens)

    def _advance(self, state: tuple[Array, Array], tokens: Array) -> tuple[Array, Array]:
        x, after = self._embedded(tokens), []
        for i, (into, within, bias) in enumerate(self.kernels):
            carry = _step(state[0][:, i], state[1][:, i], x @ into + bias, within)
            after.append(carry)
            x = carry[0]
        hidden, cell = (jnp.stack(parts, 1) for parts in zip(*after, strict=True))
        return hidden, cell

    def _embedded(self, tokens: Array) -> Array:
        """tokens (...) -> (..., E); zeros for the blank, which is what stands before the first."""
        found = self.embedding[jnp.maximum(tokens, 0)]
        return jnp.where((tokens > BLANK)[..., None], found, 0)


def _over_time(kernels: tuple[Array, ...], x: Array) -> Array:
    """x (B, T, E) -> the hidden states of one layer (B, T, P)."""
    into, within, bias = kernels
    start = jnp.zeros((len(x), within.shape[0]))

    def step(carry: tuple[Array, Array], gates: Array) -> tuple[tuple[Array, Array], Array]:
        carry = _step(*carry, gates, within)
        return carry, carry[0]

    _, found = jax.lax.scan(step, (start, start), jnp.moveaxis(x @ into + bias, 1, 0))
    return jnp.moveaxis(found, 0, 1)


def _step(hidden: Array, cell: Array, gates: Array, within: Array) -> tuple[Array, Array]:
    """One step of an LSTM from gates (N, 4 P) that have their input -> hidden, cell (N, P)."""
    enter, forget, new, leave = jnp.split(gates + hidden @ within, 4, axis=-1)
    cell = nn.sigmoid(forget) * cell + nn.sigmoid(enter) * jnp.tanh(new)
    return nn.sigmoid(leave) * jnp.tanh(cell), cell


class Joint(nn.Module):
    """From a frame and a prediction to logits: tanh of the sum of both, then Linear.

    A frame comes by Linear, swish and LayerNorm (`frame`), a prediction by Linear (`said`); both
    are computed once for each, not for each pair. Computes in float32.
    """

    tokens: int
    width: int
    norm: bool = True

    def setup(self) -> None:
        self.from_frame = nn.Dense(self.width, kernel_init=INITS["torch"])
        self.from_said = nn.Dense(self.width, kernel_init=INITS["torch"], use_bias=False)
        if self.norm:
            self.frame_norm = layer_norm(1e-5, jnp.float32)
        self.answer = nn.Dense(self.tokens, kernel_init=INITS["xavier"])

    def frame(self, x: Array) -> Array:
        """x (B, S, D) -> (B, S, J)."""
        x = nn.swish(self.from_frame(x.astype(jnp.float32)))
        return self.frame_norm(x) if self.norm else x

    def said(self, x: Array) -> Array:
        """x (..., P) -> (..., J)."""
        return self.from_said(x)

    def pairs(self, frames: Array, said: Array) -> Array:
        """frames (B, S, J), said (B, L + 1, J) -> logits (B, S, L + 1, V)."""
        return self.rows(frames[:, :, None], said[:, None])

    def rows(self, frame: Array, said: Array) -> Array:
        """frame (..., J), said (..., J) -> logits (..., V)."""
        return self.answer(jnp.tanh(frame + said))

    def __call__(self, frames: Array, predicted: Array) -> Array:
        """frames (B, S, D), predicted (B, L + 1, P) -> logits (B, S, L + 1, V)."""
        return self.pairs(self.frame(frames), self.said(predicted))
