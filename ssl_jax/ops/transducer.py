"""The transducer (Graves, 1211.3711): its loss with a gradient of its own, and greedy decoding.

A lattice has a node for each frame t and each number u of tokens said so far. From (t, u) one step
goes to (t + 1, u) with the blank, or to (t, u + 1) with token u of the transcript; their
log-probabilities come from a joint network, which reads frame t of the encoder and the prediction
for the first u tokens.

Memory. Logits are (B, S, W, V), too large to keep. They are computed for `block` frames at a time,
and of each block only the log-probabilities of the two steps are kept, (B, S, W) each: this is
linear in the lattice. The backward pass runs over the blocks again: it recomputes the logits of one
block, has their gradient in closed form, and takes it back through the joint network before it goes
on to the next. At no time is more than one block of logits alive.

Time. The nodes with equal t + u, a diagonal, depend on the diagonal before alone, so that a lattice
takes S + W - 1 steps. Each path takes one step from a diagonal to the next, so the shares of the
paths that take each of these steps add up to 1. They are normalized to do so, and therefore exact
in float32 however small the probability of the whole transcript is.

Axes: B utterances, S frames, W = L + 1 numbers of tokens, V tokens of which 0 is the blank.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ssl_jax.core.types import Array, Tree
from ssl_jax.ops.ctc import BLANK

Joint = Callable[[Tree, Array, Array], Array]
"""joint(params, frames (B, S, E), predictions (B, W, P)) -> logits (B, S, W, V) float32."""

# stands for log 0; unlike -inf, it keeps sums, differences and gradients finite
_NEVER = -1e30


def needed_frames(label_len: Array, per_frame: int) -> Array:
    """label_len (B,) -> (B,): frames for that many tokens, of which each has at most `per_frame`.

    Even an empty transcript needs one, as it ends with the blank of the last frame.
    """
    return jnp.maximum(-(-label_len // per_frame), 1)


def loss(
    joint: Joint,
    params: Tree,
    encoded: Array,
    predicted: Array,
    frames: Array,
    labels: Array,
    label_len: Array,
    *,
    block: int,
    per_frame: int,
) -> tuple[Array, Array]:
    """Returns (-log p(transcript) (B,) in nats, which rows are feasible (B,) bool).

    encoded (B, S, E), of which frames (B,) are real; predicted (B, L + 1, P), that of the empty
    transcript first; labels (B, L), of which the first label_len (B,) are real and none is the
    blank. block: frames whose logits exist at the same time. A row with fewer frames than
    `needed_frames` could never be decoded: its loss and gradient are 0.
    """
    feasible = frames >= needed_frames(label_len, per_frame)
    labels = jnp.pad(labels, ((0, 0), (0, 1)), constant_values=-1)
    block = min(block, encoded.shape[1])
    each = _loss(joint, block, params, encoded, predicted, frames, labels, label_len)
    return jnp.where(feasible, each, 0.0), feasible


def greedy(
    extend: Callable[[Tree, Array], Tree],
    scores: Callable[[Array, Tree], Array],
    start: Tree,
    encoded: Array,
    frames: Array,
    per_frame: int,
) -> tuple[Array, Array]:
    """Returns the most probable token after token: (B, S per_frame), -1 after the end, number (B,).

    start: the states of B empty transcripts. scores(frame (B, E), state) -> (B, V);
    extend(state, tokens (B,)) -> the state after these. A frame ends with the blank, or after
    `per_frame` tokens.
    """
    rows, size = encoded.shape[:2]
    empty = jnp.full((rows, size * per_frame), -1, jnp.int32)
    none = jnp.zeros(rows, jnp.int32)

    def unfinished(carry: tuple) -> Array:
        return (carry[0] < frames).any()

    def step(carry: tuple) -> tuple:
        time, here, count, tokens, state = carry
        frame = encoded[jnp.arange(rows), jnp.minimum(time, size - 1)]
        best = scores(frame, state).argmax(-1).astype(jnp.int32)
        said = (best != BLANK) & (time < frames)
        place = jnp.where(said, count, size * per_frame)  # beyond the end: dropped
        tokens = tokens.at[jnp.arange(rows), place].set(best, mode="drop")
        grown = extend(state, best)
        state = jax.tree.map(lambda new, old: jnp.where(_as(said, new), new, old), grown, state)
        here = jnp.where(said, here + 1, 0)
        ends = ~said | (here == per_frame)
        return time + ends, jnp.where(ends, 0, here), count + said, tokens, state

    found = jax.lax.while_loop(unfinished, step, (none, none, none, empty, start))
    return found[3], found[2]


def _as(chosen: Array, x: Array) -> Array:
    return chosen.reshape(-1, *(1,) * (x.ndim - 1))


class _Steps(NamedTuple):
    """By diagonal, (S + W - 1, B, W): log-probabilities of the two steps from each node, and of
    reaching it, relative to the best of the diagonal; length (B,): the steps of a whole path."""

    blank: Array
    token: Array
    reached: Array
    length: Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _loss(joint: Joint, block: int, *given: Any) -> Array:
    return _forward(joint, block, *given)[0]


def _forward(
    joint: Joint,
    block: int,
    params: Tree,
    encoded: Array,
    predicted: Array,
    frames: Array,
    labels: Array,
    label_len: Array,
) -> tuple[Array, tuple]:
    """labels (B, W), of which the last is -1 -> (-log p (B,), what the backward pass needs)."""

    def lattice(_: None, part: Array) -> tuple[None, tuple[Array, Array]]:
        return None, _scores(joint(params, part, predicted), labels)

    _, parts = jax.lax.scan(lattice, None, _cut(encoded, block))
    size, width = encoded.shape[1], labels.shape[1]
    blank, token = (_joined(x, size) for x in parts)
    # a path ends with the blank from the last frame, after the last token
    time, said = jnp.arange(size)[:, None], jnp.arange(width)
    last, end = frames[:, None, None] - 1, label_len[:, None, None]
    blank = jnp.where((time < last) | ((time == last) & (said == end)), blank, _NEVER)
    token = jnp.where((time <= last) & (said < end), token, _NEVER)
    blank, token, count = _skew(blank), _skew(token), frames + label_len
    total, reached = _reach(blank, token, count)
    steps = _Steps(blank, token, reached, count)
    return -total, (params, encoded, predicted, labels, label_len, steps)


def _backward(joint: Joint, block: int, saved: tuple, slope: Array) -> tuple:
    """slope (B,): the gradient of the losses -> that of params, encoded and predicted."""
    params, encoded, predicted, labels, label_len, steps = saved
    size = encoded.shape[1]
    shares = (
        _cut(_straight(x, size) * slope[:, None, None], block) for x in _taken(steps, label_len)
    )

    def back(carry: tuple[Tree, Array], part: tuple[Array, ...]) -> tuple:
        frames, blank, token = part
        logits, to_inputs = jax.vjp(joint, params, frames, predicted)
        to_params, to_frames, to_predicted = to_inputs(_slope(logits, labels, blank, token))
        return jax.tree.map(jnp.add, carry, (to_params, to_predicted)), to_frames

    start = jax.tree.map(jnp.zeros_like, (params, predicted))
    parts = _cut(encoded, block), *shares
    found: Any = jax.lax.scan(back, start, parts)
    (to_params, to_predicted), to_frames = found
    return to_params, _joined(to_frames, size), to_predicted, None, None, None


_loss.defvjp(_forward, _backward)


def _cut(x: Array, block: int) -> Array:
    """x (B, S, ...) -> (blocks, B, block, ...), the last filled up with zeros."""
    missing = -x.shape[1] % block
    x = jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(x.shape[0], -1, block, *x.shape[2:]), 1, 0)


def _joined(parts: Array, size: int) -> Array:
    """The inverse of `_cut`: (blocks, B, block, ...) -> (B, S, ...)."""
    x = jnp.moveaxis(parts, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :size]


def _is(labels: Array, size: int) -> Array:
    """labels (B, W) -> (B, 1, W, V) bool: a one-hot row for each, none for -1."""
    return (jnp.arange(size) == labels[..., None])[:, None]


def _scores(logits: Array, labels: Array) -> tuple[Array, Array]:
    """logits (B, S, W, V) -> log-probabilities (B, S, W) of the blank, and of the next token."""
    total = jax.nn.logsumexp(logits, axis=-1)
    token = jnp.where(_is(labels, logits.shape[-1]), logits, 0).sum(-1)
    return logits[..., BLANK] - total, token - total


def _slope(logits: Array, labels: Array, blank: Array, token: Array) -> Array:
    """Returns the gradient by logits (B, S, W, V) of -blank log p(blank) - token log p(token)."""
    shares = jax.nn.softmax(logits) * (blank + token)[..., None]
    size = logits.shape[-1]
    shares = shares - jnp.where(jnp.arange(size) == BLANK, blank[..., None], 0)
    return shares - jnp.where(_is(labels, size), token[..., None], 0)


def _skew(x: Array) -> Array:
    """x (B, S, W) -> (S + W - 1, B, W): [t + u, :, u] is that of (t, u); log 0 elsewhere."""
    rows, size, width = x.shape
    x = jnp.pad(jnp.moveaxis(x, 1, 2), ((0, 0), (0, 0), (0, width)), constant_values=_NEVER)
    x = x.reshape(rows, -1)[:, :-width].reshape(rows, width, size + width - 1)
    return jnp.moveaxis(x, 2, 0)


def _straight(x: Array, size: int) -> Array:
    """The inverse of `_skew`: (S + W - 1, B, W) -> (B, S, W)."""
    rows, width = x.shape[1:]
    x = jnp.moveaxis(x, 0, 2).reshape(rows, -1)
    x = jnp.pad(x, ((0, 0), (0, width))).reshape(rows, width, size + width)
    return jnp.moveaxis(x[..., :size], 1, 2)


def _reach(blank: Array, token: Array, count: Array) -> tuple[Array, Array]:
    """Returns log p (B,) of the whole transcript, and of reaching each node; see `_Steps`."""
    diagonals, rows, width = blank.shape

    def step(carry: tuple[Array, ...], arcs: tuple[Array, ...]) -> tuple:
        here, taken, total = carry
        number, blank, token = arcs
        spoken = jnp.pad((here + token)[:, :-1], ((0, 0), (1, 0)), constant_values=_NEVER)
        after = jnp.logaddexp(here + blank, spoken)
        best = after.max(1)
        taken = taken + best
        # after all steps of a path, the end is the only node that can be reached
        total = jnp.where(number + 1 == count, taken, total)
        return (after - best[:, None], taken, total), here

    start = jnp.full((rows, width), _NEVER).at[:, 0].set(0.0)
    carry = start, jnp.zeros(rows), jnp.zeros(rows)
    found: Any = jax.lax.scan(step, carry, (jnp.arange(diagonals), blank, token))
    (_, _, total), reached = found
    return total, reached


def _taken(steps: _Steps, label_len: Array) -> tuple[Array, Array]:
    """Returns the shares (S + W - 1, B, W) of the paths that take the blank, and the token, from
    each node."""
    diagonals, _, width = steps.blank.shape
    end = jnp.where(jnp.arange(width) == label_len[:, None], 0.0, _NEVER)

    def step(after: Array, arcs: tuple[Array, ...]) -> tuple:
        number, blank, token, reached = arcs
        after = jnp.where((number + 1 == steps.length)[:, None], end, after)
        spoken = jnp.pad(after[:, 1:], ((0, 0), (0, 1)), constant_values=_NEVER)
        blank, token = blank + after, token + spoken
        here = jnp.logaddexp(blank, token)
        both = jnp.stack([blank, token]) + reached
        shares = jnp.exp(both - jax.nn.logsumexp(both, axis=(0, 2), keepdims=True))
        shares = jnp.where((number < steps.length)[:, None], shares, 0)
        return here - here.max(1, keepdims=True), (shares[0], shares[1])

    arcs = jnp.arange(diagonals), steps.blank, steps.token, steps.reached
    return jax.lax.scan(step, jnp.full_like(end, _NEVER), arcs, reverse=True)[1]
