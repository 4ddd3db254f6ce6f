"""Connectionist temporal classification (Graves et al. 2006): loss and greedy decoding.

Axes: B utterances, S frames, V tokens of which 0 is the blank, L tokens of a transcript.
"""

import jax
import jax.numpy as jnp

from ssl_jax.core.types import Array

BLANK = 0
# stands for log 0; unlike -inf, it keeps sums, differences and gradients finite
_NEVER = -1e30


def needed_frames(labels: Array, label_len: Array) -> Array:
    """labels (B, L), label_len (B,) -> (B,): the tokens, plus a blank between two equal ones."""
    pairs = jnp.arange(1, labels.shape[1]) < label_len[:, None]
    return label_len + ((labels[:, 1:] == labels[:, :-1]) & pairs).sum(1)


def loss(log_probs: Array, frames: Array, labels: Array, label_len: Array) -> tuple[Array, Array]:
    """Returns (-log p(transcript) (B,) in nats, which rows are feasible (B,) bool).

    log_probs (B, S, V) float32, normalized over V, of which frames (B,) are real; labels (B, L),
    of which the first label_len (B,) are real and none is the blank. A row with fewer frames than
    `needed_frames` has no path: its loss and gradient are 0 (`zero_infinity` in torch).
    """
    feasible = frames >= needed_frames(labels, label_len)
    blank = log_probs[..., BLANK]
    # a product with one-hot rows in full precision: exact, and its gradient needs no scatter
    chosen = jax.nn.one_hot(labels, log_probs.shape[-1], dtype=log_probs.dtype)
    tokens = jnp.einsum("bsv,blv->bsl", log_probs, chosen, precision="highest")
    spoken = jnp.arange(labels.shape[1]) < label_len[:, None]
    tokens = jnp.where(spoken[:, None], tokens, _NEVER)
    # the blank between two tokens may be skipped only if they differ
    other = jnp.pad(labels[:, 1:] != labels[:, :-1], ((0, 0), (1, 0)))

    def step(state: tuple[Array, ...], frame: tuple[Array, ...]) -> tuple:
        on_blank, on_token, taken = state
        s, blank, tokens = frame
        before = jnp.pad(on_token, ((0, 0), (1, 0)), constant_values=_NEVER)
        skipped = jnp.where(other, before[:, :-1], _NEVER)
        to_blank = jnp.logaddexp(on_blank, before) + blank[:, None]
        to_token = jnp.logaddexp(jnp.logaddexp(on_token, on_blank[:, :-1]), skipped) + tokens
        # subtract the most probable state: float32 then resolves the differences between paths
        best = jax.lax.stop_gradient(jnp.maximum(to_blank.max(1), to_token.max(1)))
        real = (s < frames)[:, None]
        on_blank = jnp.where(real, to_blank - best[:, None], on_blank)
        on_token = jnp.where(real, to_token - best[:, None], on_token)
        return (on_blank, on_token, taken + jnp.where(real[:, 0], best, 0)), None

    rows, size = labels.shape
    start = jnp.full((rows, size + 1), _NEVER).at[:, 0].set(0.0)
    states = start, jnp.full((rows, size), _NEVER), jnp.zeros(rows)
    times = jnp.arange(log_probs.shape[1])
    (on_blank, on_token, taken), _ = jax.lax.scan(
        step, states, (times, jnp.moveaxis(blank, 1, 0), jnp.moveaxis(tokens, 1, 0))
    )
    # a transcript ends on its last token or on the blank after it
    end = jnp.take_along_axis(on_blank, label_len[:, None], 1)[:, 0]
    last = jnp.pad(on_token, ((0, 0), (1, 0)), constant_values=_NEVER)
    last = jnp.take_along_axis(last, label_len[:, None], 1)[:, 0]
    return jnp.where(feasible, -jnp.logaddexp(end, last) - taken, 0.0), feasible


def greedy(log_probs: Array, frames: Array) -> tuple[Array, Array]:
    """Returns the tokens of the best path: (B, S) int32, -1 after the end, and their number (B,).

    The path takes the most probable token of each frame; repeats are merged, blanks dropped.
    """
    path = log_probs.argmax(-1)
    size = path.shape[1]
    new = jnp.pad(path[:, 1:] != path[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    kept = new & (path != BLANK) & (jnp.arange(size) < frames[:, None])
    order = jnp.argsort(~kept, axis=1, stable=True)
    count = kept.sum(1)
    tokens = jnp.take_along_axis(path, order, 1)
    return jnp.where(jnp.arange(size) < count[:, None], tokens, -1).astype(jnp.int32), count
