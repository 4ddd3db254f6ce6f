"""k-means on device: k-means++ seeding, assignment, and the mini-batch update, in float32.

The algorithm of scikit-learn's MiniBatchKMeans (Sculley, 2010) with `reassignment_ratio=0` and
`tol=0`, as HuBERT uses it (2106.07447). Rows have weights, 0 for padding, so that shapes stay
fixed; sums over rows are additive, so a mini-batch may come in parts and from many devices.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ssl_jax.core.types import Array

HIGHEST = jax.lax.Precision.HIGHEST
BLOCK = 4096  # rows whose distances to all centres are in memory at once


class Sums(NamedTuple):
    """Sums over a mini-batch: total (K, D) and counts (K,) of the rows nearest to each centre,
    and the sum () of their squared distances."""

    total: Array
    counts: Array
    inertia: Array


class State(NamedTuple):
    """Centres (K, D), the rows assigned to each so far (K,), and when to stop.

    average: exponentially weighted mean of the squared distance of a row; best: its lowest
    value so far; since: updates since then; updates: their number; done: true once nothing changes.
    """

    centres: Array
    counts: Array
    average: Array
    best: Array
    since: Array
    updates: Array
    done: Array


def init(centres: Array) -> State:
    """Returns the state before the first mini-batch."""
    zero, infinite = jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, jnp.float32)
    empty = jnp.zeros(centres.shape[0])
    return State(centres, empty, infinite, infinite, zero, zero, jnp.zeros((), bool))


def assign(x: Array, centres: Array, block: int = BLOCK) -> tuple[Array, Array]:
    """Returns, for each row of x (N, D), its nearest centre (N,) int32 and squared distance (N,).

    Ties go to the first centre. At most `block` rows are compared with all centres at once.
    """
    x, centres = jnp.asarray(x), jnp.asarray(centres)
    rows = x.shape[0]
    label, distance = jax.lax.map(
        lambda part: _nearest(part, centres), _in_blocks(x.astype(jnp.float32), block)
    )
    return label.reshape(-1)[:rows], distance.reshape(-1)[:rows]


def _in_blocks(x: Array, block: int) -> Array:
    """Cuts x (N, ...) into equal parts of at most `block` rows, zeros after the last."""
    rows = x.shape[0]
    size = max(-(-rows // max(-(-rows // block), 1)), 1)
    padded = jnp.pad(x, [(0, -rows % size), *[(0, 0)] * (x.ndim - 1)])
    return padded.reshape(-1, size, *x.shape[1:])


def _nearest(x: Array, centres: Array) -> tuple[Array, Array]:
    # centred on their mean, so that a common offset costs no precision
    middle = centres.mean(0)
    offset = centres - middle
    # |c|^2 - 2 c x in one product, rows last: the minimum over the first axis is vectorized
    norms = jnp.square(offset).sum(1, keepdims=True)
    left = jnp.concatenate([-2 * offset, norms], 1)
    right = jnp.concatenate([x - middle, jnp.ones((x.shape[0], 1))], 1)
    near = jnp.matmul(left, right.T, precision=HIGHEST)
    # the first of the nearest, without argmin, which XLA computes slowly on CPU
    last = centres.shape[0] - 1
    places = jnp.arange(last + 1, dtype=jnp.int32)[:, None]
    label = jnp.where(near <= near.min(0), places, last).min(0)
    return label, jnp.square(x - centres[label]).sum(1)


def sums(x: Array, weight: Array, centres: Array, block: int = BLOCK) -> Sums:
    """Returns the sums over rows x (N, D) of weight (N,), a part of a mini-batch."""
    x, weight, centres = jnp.asarray(x), jnp.asarray(weight), jnp.asarray(centres)
    count, size = centres.shape
    parts, weights = (_in_blocks(part.astype(jnp.float32), block) for part in (x, weight))

    def add(so_far: tuple[Array, Array], part: tuple[Array, Array]) -> tuple[Any, None]:
        rows, weight = part
        label, distance = _nearest(rows, centres)
        # a padded row may hold anything; the last column counts rows
        kept = jnp.where(weight[:, None] > 0, rows, 0) * weight[:, None]
        total = by_label(jnp.concatenate([kept, weight[:, None]], 1), label, count)
        inertia = jnp.where(weight > 0, weight * distance, 0).sum()
        return jax.tree.map(jnp.add, so_far, (total, inertia)), None

    zero = jnp.zeros((count, size + 1)), jnp.zeros(())
    (total, inertia), _ = jax.lax.scan(add, zero, (parts, weights))
    return Sums(total[:, :-1], total[:, -1], inertia)


def by_label(x: Array, label: Array, count: int, scatter: bool | None = None) -> Array:
    """Returns the sums (K, D) of the rows x (N, D) of each label (N,).

    Computed as a product with one-hot rows or, with `scatter`, by adding row after row, which is
    faster on a CPU but not deterministic on a GPU. None: as suits the platform.
    """

    def product(x: Array, label: Array) -> Array:
        return jnp.matmul(jax.nn.one_hot(label, count, axis=0), x, precision=HIGHEST)

    def scattered(x: Array, label: Array) -> Array:
        return jax.ops.segment_sum(x, label, count)

    if scatter is None:
        return jax.lax.platform_dependent(x, label, cpu=scattered, default=product)
    return scattered(x, label) if scatter else product(x, label)


def empty_sums(centres: Array) -> Sums:
    """Returns the sums of no rows."""
    return Sums(jnp.zeros_like(centres), jnp.zeros(centres.shape[0]), jnp.zeros(()))


def update(state: State, batch: Sums, share: Array | float, patience: int) -> State:
    """Moves every centre to the mean of all rows ever assigned to it.

    share: rows of a mini-batch over those of the corpus, which sets how far back `average` looks.
    The state is done when `average` has reached no new low for `patience` updates. An empty
    mini-batch changes nothing.
    """
    count = state.counts + batch.counts
    change = batch.total - batch.counts[:, None] * state.centres
    centres = state.centres + change / jnp.maximum(count, 1)[:, None]
    rows = batch.counts.sum()
    now, rate = batch.inertia / jnp.maximum(rows, 1), jnp.minimum(2.0 * share, 1.0)
    # the first value is that of the seeds and does not count
    average = jnp.where(state.updates < 2, now, state.average * (1 - rate) + now * rate)
    average = jnp.where(state.updates < 1, jnp.inf, average)
    better = average < state.best
    since = jnp.where(better | (state.updates < 1), 0, state.since + 1)
    best = jnp.minimum(state.best, average)
    new = State(centres, count, average, best, since, state.updates + 1, since >= patience)
    frozen = state.done | (rows == 0)
    return jax.tree.map(lambda old, n: jnp.where(frozen, old, n), state, new)


def seed(key: Array, x: Array, weight: Array, clusters: int) -> tuple[Array, Array]:
    """Greedy k-means++ (Arthur and Vassilvitskii, 2007): x (N, D) -> centres (K, D), inertia ().

    Each further centre is a row drawn in proportion to its squared distance from those before,
    the best of 2 + log(K) draws. Rows of weight 0 are never drawn; with fewer distinct rows than
    centres, some centres are equal.
    """
    trials = 2 + int(math.log(clusters))
    x, weight = jnp.asarray(x), jnp.asarray(weight)
    x, weight = x.astype(jnp.float32), weight.astype(jnp.float32)
    x = jnp.where(weight[:, None] > 0, x, 0)
    middle = (weight[:, None] * x).sum(0) / jnp.maximum(weight.sum(), 1e-9)
    centred = x - middle
    norm = jnp.square(centred).sum(1)

    def distances(rows: Array) -> Array:
        """Returns the squared distances (R, N) of all rows from those with indices `rows` (R,)."""
        product = jnp.matmul(centred[rows], centred.T, precision=HIGHEST)
        return weight * jnp.maximum(norm[rows][:, None] - 2 * product + norm, 0)

    def next_centre(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        chosen, closest = carry
        chance = jnp.where(closest.sum() > 0, closest, weight)
        drawn = _draw(jax.random.fold_in(key, i), chance, trials)
        left = jnp.minimum(closest, distances(drawn))
        best = left.sum(1).argmin()
        return chosen.at[i].set(drawn[best]), left[best]

    first = _draw(jax.random.fold_in(key, clusters), weight, 1)
    chosen = jnp.zeros(clusters, jnp.int32).at[0].set(first[0])
    chosen, closest = jax.lax.fori_loop(1, clusters, next_centre, (chosen, distances(first)[0]))
    return x[chosen], closest.sum()


def _draw(key: Array, chance: Array, count: int) -> Array:
    """Draws indices (count,) int32 with weights `chance` (N,), with replacement."""
    upto = jnp.cumsum(chance)
    value = jax.random.uniform(key, (count,)) * upto[-1]
    # below the total, so that the last index of nonzero weight is found
    value = jnp.minimum(value, jnp.nextafter(upto[-1], jnp.zeros(())))
    return jnp.searchsorted(upto, value, side="right").astype(jnp.int32)


def best_seed(
    key: Array, x: Array, weight: Array, clusters: int, tries: int
) -> tuple[Array, Array]:
    """Returns centres (K, D) and inertia () of the best of `tries` seedings of x (N, D)."""
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(tries))
    centres, inertia = jax.lax.map(lambda k: seed(k, x, weight, clusters), keys)
    best = inertia.argmin()
    return centres[best], inertia[best]
