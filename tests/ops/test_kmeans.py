"""k-means: assignment and sums by hand, the update against scikit-learn, padding without effect."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import MiniBatchKMeans

from ssl_jax.ops import kmeans


def blobs(rows: int, seed: int = 0, groups: int = 12, size: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    middles = 4 * np.random.default_rng(99).standard_normal((groups, size))
    return (middles[rng.integers(groups, size=rows)] + rng.standard_normal((rows, size))).astype(
        np.float32
    )


def test_assignment_is_the_nearest_centre_whatever_the_offset():
    x = blobs(101) + 1000
    centres = blobs(7, seed=1) + 1000
    label, distance = jax.jit(lambda a, c: kmeans.assign(a, c, block=32))(x, centres)
    want = ((x[:, None].astype(np.float64) - centres) ** 2).sum(-1)
    np.testing.assert_array_equal(label, want.argmin(1))
    np.testing.assert_allclose(distance, want.min(1), rtol=1e-4)
    assert label.dtype == jnp.int32


def test_of_equally_near_centres_the_first_counts():
    label, _ = kmeans.assign(jnp.zeros((1, 2)), jnp.array([[0.0, 2.0], [1.0, 0.0], [-1.0, 0.0]]))
    assert label[0] == 1


def test_sums_count_rows_of_weight_alone_and_add_up():
    x, centres = blobs(50), blobs(4, seed=1)
    weight = (np.arange(50) % 3 > 0).astype(np.float32)
    x[weight == 0] = np.nan
    found = jax.jit(lambda a, w, c: kmeans.sums(a, w, c, block=16))(x, weight, centres)
    real = x[weight > 0]
    label, distance = kmeans.assign(real, centres)
    want = np.zeros((4, 6))
    np.add.at(want, np.asarray(label), real)
    np.testing.assert_allclose(found.total, want, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found.counts, np.bincount(label, minlength=4))
    np.testing.assert_allclose(found.inertia, distance.sum(), rtol=1e-5)
    parts = [kmeans.sums(x[i : i + 25], weight[i : i + 25], centres) for i in (0, 25)]
    both = jax.tree.map(jnp.add, *parts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), both, found)


@pytest.mark.parametrize("block", [7, 40, 64])
def test_a_last_block_that_is_not_full_adds_nothing(block):
    x, centres = blobs(40), blobs(4, seed=1)
    found = kmeans.sums(x, np.ones(40), centres, block)
    label, distance = kmeans.assign(x, centres, block)
    assert label.shape == distance.shape == (40,)
    np.testing.assert_array_equal(found.counts, np.bincount(label, minlength=4))
    np.testing.assert_allclose(found.total.sum(0), x.sum(0), rtol=1e-4, atol=1e-3)


def test_sums_by_label_are_the_same_on_every_platform():
    x, label = blobs(60), np.random.default_rng(0).integers(5, size=60)
    want = np.stack([x[label == k].sum(0) for k in range(6)])
    for scatter in (None, True, False):
        got = kmeans.by_label(jnp.asarray(x), jnp.asarray(label), 6, scatter)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


def test_updates_equal_those_of_scikit_learn():
    x, start = blobs(600), blobs(5, seed=3)
    other = MiniBatchKMeans(5, init=start, n_init=1, batch_size=200, reassignment_ratio=0)
    state = kmeans.init(jnp.asarray(start))
    for i in range(0, 600, 200):
        other.partial_fit(x[i : i + 200])
        batch = kmeans.sums(x[i : i + 200], np.ones(200), state.centres)
        state = kmeans.update(state, batch, share=1 / 3, patience=10)
    np.testing.assert_allclose(state.centres, other.cluster_centers_, rtol=1e-4, atol=1e-4)
    assert state.counts.sum() == 600 and state.updates == 3


def test_it_stops_when_the_average_no_longer_falls():
    """The rule of scikit-learn, in Python: it skips the first batch and begins with the second."""
    centres = jnp.zeros((1, 1))
    state = kmeans.init(centres)
    inertias = [9.0, 5.0, 4.0, 6.0, 6.0, 6.0, 1.0]
    average = best = None
    since, done = 0, []
    for n, inertia in enumerate(inertias):
        batch = kmeans.Sums(jnp.zeros((1, 1)), jnp.full(1, 10.0), jnp.asarray(10 * inertia))
        state = kmeans.update(state, batch, share=0.25, patience=2)
        if n and not (done and done[-1]):
            average = inertia if average is None else average * 0.5 + inertia * 0.5
            if best is None or average < best:
                best, since = average, 0
            else:
                since += 1
        done.append(since >= 2)
        assert bool(state.done) == done[-1]
    assert done == [False] * 4 + [True] * 3
    assert state.updates == 5 and state.best == best


def test_an_empty_batch_changes_nothing():
    state = kmeans.init(jnp.ones((2, 3)))
    after = kmeans.update(state, kmeans.empty_sums(state.centres), 0.1, 5)
    jax.tree.map(np.testing.assert_array_equal, after, state)


def test_seeds_are_rows_far_apart_and_never_padding():
    x, weight = blobs(400, groups=5), np.ones(400, np.float32)
    x[300:], weight[300:] = 1e6, 0
    centres, inertia = jax.jit(kmeans.seed, static_argnums=3)(jax.random.key(0), x, weight, 5)
    assert all(np.any(np.all(np.isclose(x[:300], c), 1)) for c in np.asarray(centres))
    _, distance = kmeans.assign(x[:300], centres)
    np.testing.assert_allclose(distance.sum(), inertia, rtol=1e-3)
    # one centre in each of the five groups: no row is as far away as the groups are from each other
    assert distance.max() < 60


def test_the_best_of_several_seedings_is_kept():
    x, key, weight = blobs(200), jax.random.key(1), np.ones(200)
    _, best = kmeans.best_seed(key, x, weight, 12, tries=4)
    one = jax.jit(lambda i: kmeans.seed(jax.random.fold_in(key, i), x, weight, 12)[1])
    each = [one(i) for i in range(4)]
    np.testing.assert_allclose(best, min(map(float, each)), rtol=1e-5)


def test_more_clusters_than_different_rows_is_no_failure():
    x = np.repeat(np.eye(3, dtype=np.float32), 4, 0)
    centres, inertia = kmeans.seed(jax.random.key(0), x, np.ones(12), 6)
    assert np.isfinite(centres).all() and inertia < 1e-5


@pytest.mark.slow
def test_inertia_is_that_of_scikit_learn_within_two_percent():
    x = blobs(20_000, groups=40, size=16)
    other = MiniBatchKMeans(
        30, n_init=5, batch_size=1000, reassignment_ratio=0, max_no_improvement=100, random_state=0
    ).fit(x)
    rng = np.random.default_rng(0)
    centres, _ = kmeans.best_seed(
        jax.random.key(0), x[rng.permutation(len(x))[:3000]], np.ones(3000), 30, tries=5
    )
    state = kmeans.init(centres)
    step = jax.jit(
        lambda s, b: kmeans.update(s, kmeans.sums(b, jnp.ones(len(b)), s.centres), 0.05, 100)
    )
    for _ in range(2000):
        state = step(state, x[rng.integers(len(x), size=1000)])
        if state.done:
            break
    ours = float(kmeans.assign(x, state.centres)[1].sum())
    theirs = float(((x - other.cluster_centers_[other.predict(x)]) ** 2).sum())
    assert ours < 1.02 * theirs


def test_an_update_is_compiled_once():
    state = kmeans.init(jnp.zeros((3, 2)))
    update = jax.jit(
        lambda state, x: kmeans.update(
            state, kmeans.sums(x, jnp.ones(4), state.centres), share=0.1, patience=9
        )
    )
    for _ in range(2):
        state = update(state, jnp.ones((4, 2)))
    assert update._cache_size() == 1
