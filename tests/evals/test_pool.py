import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from ssl_jax.core.mesh import make_mesh
from ssl_jax.core.types import Features
from ssl_jax.evals import pool as pool_lib


def batches(count=3, rows=4, *, label=True):
    rng = np.random.default_rng(0)
    for n in range(count):
        batch = {
            "id": np.arange(n * rows, (n + 1) * rows, dtype=np.uint32),
            "weight": np.ones(rows, np.float32),
            "audio": rng.integers(-9999, 9999, (rows, 200)).astype(np.int16),
            "audio_len": rng.integers(60, 200, rows).astype(np.int32),
        }
        if label:
            batch["label"] = (batch["id"] % 3).astype(np.int32)
        if n == count - 1:
            batch["weight"][-2:] = 0
        yield batch


def test_masked_mean_equals_a_loop_and_ignores_padding():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(3, 4, 7, 5)).astype(np.float32)
    lengths = np.array([7, 3, 1, 0])
    mask = np.arange(7) < lengths[:, None]
    hidden[:, ~mask] = np.nan
    got = np.asarray(pool_lib.masked_mean(Features(hidden, mask, 50.0)))
    assert got.shape == (4, 3, 5)
    for b, n in enumerate(lengths[:3]):
        np.testing.assert_allclose(got[b], hidden[:, b, :n].mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got[3], 0)


def test_mean_std_pools_every_layer_as_frames_are():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(3, 2, 7, 5)).astype(np.float32)
    mask = np.arange(7) < np.array([[7], [3]])
    got = np.asarray(pool_lib.mean_std(Features(hidden, mask, 50.0)))
    assert got.shape == (2, 3, 10)
    for layer in range(3):
        each = pool_lib.frames_mean_std(hidden[layer], mask)
        np.testing.assert_array_equal(got[:, layer], each)
    mean = np.asarray(pool_lib.masked_mean(Features(hidden, mask, 50.0)))
    np.testing.assert_allclose(pool_lib.means(got, "mean_std"), mean, atol=1e-6)
    assert pool_lib.means(mean, "mean") is mean


def test_windows_are_taken_one_by_one_and_joined(toy):
    features, params = toy
    features = jax.jit(features)
    batch = next(batches(1, 2))
    batch["audio_len"] = np.array([200, 70], np.int32)
    whole = pool_lib.windowed(features, 80, 1000)(params, batch)
    frames = (80 - 40) // 16 + 1
    assert whole.hidden_states.shape == (2, 2, 3 * frames, 6)
    for row, length in enumerate(batch["audio_len"]):
        kept = []
        for start in range(0, 240, 80):
            piece = np.zeros((1, 80), np.int16)
            got = batch["audio"][row, start : min(start + 80, 200)]
            piece[0, : len(got)] = got
            size = np.array([np.clip(length - start, 0, 80)], np.int32)
            alone = features(params, {"audio": piece, "audio_len": size})
            kept.append(alone.hidden_states[:, 0, np.asarray(alone.mask[0])])
        mask = np.asarray(whole.mask[row])
        joined = np.concatenate(kept, 1)
        np.testing.assert_allclose(whole.hidden_states[:, row, mask], joined, atol=1e-5)
    longer = pool_lib.windowed(features, 95, 1000)(params, batch)  # whole steps of 16
    np.testing.assert_array_equal(longer.hidden_states, whole.hidden_states)
    same = pool_lib.windowed(features, 200, 1000)(params, batch)
    alone = features(params, batch)
    np.testing.assert_array_equal(same.hidden_states, alone.hidden_states)


def test_pooling_commutes_with_a_linear_head():
    rng = np.random.default_rng(0)
    hidden, mask = rng.normal(size=(2, 3, 9, 5)), np.arange(9) < np.array([[9], [4], [2]])
    head = rng.normal(size=(5, 4)).astype(np.float32)
    before = pool_lib.masked_mean(Features(hidden @ head, mask, 1.0))
    after = pool_lib.masked_mean(Features(hidden, mask, 1.0)) @ head
    np.testing.assert_allclose(before, after, atol=1e-5)


def test_rows_of_weight_zero_are_dropped(toy):
    features, params = toy
    pooled = pool_lib.pool(pool_lib.pooler(features), params, batches())
    assert len(pooled) == 10
    np.testing.assert_array_equal(pooled.ids, np.arange(10))
    np.testing.assert_array_equal(pooled.labels, np.arange(10) % 3)
    assert pooled.features.shape == (10, 2, 6) and pooled.features.dtype == np.float32
    assert np.isfinite(pooled.features).all() and pooled.features.std() > 0


def test_labelled_keeps_what_has_a_label(toy):
    features, params = toy
    pooled = pool_lib.pool(pool_lib.pooler(features), params, batches(label=False))
    with pytest.raises(ValueError, match=r"config\.data"):
        pooled.labelled()
    some = pool_lib.Pooled(pooled.features, pooled.ids, np.where(pooled.ids < 4, 1, -1))
    np.testing.assert_array_equal(some.labelled().ids, np.arange(4))


def test_no_example_is_an_error(toy):
    features, params = toy
    with pytest.raises(ValueError, match="is the split empty"):
        pool_lib.pool(pool_lib.pooler(features), params, [])


def test_pooling_over_a_mesh_of_what_there_is(toy):
    features, params = toy
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    one = pool_lib.pool(pool_lib.pooler(features), params, batches())
    got = pool_lib.pool(pool_lib.pooler(features, mesh), params, batches(), mesh=mesh)
    np.testing.assert_array_equal(one.features, got.features)


@pytest.mark.slow
def test_two_devices_give_what_one_gives(root):
    """Runs the test above on two forced devices and compares with one."""
    code = """
import sys; sys.path[:0] = ["tests/evals", "."]
import jax, numpy as np
import conftest, test_pool
from ssl_jax.core.mesh import make_mesh
from ssl_jax.evals.pool import pool, pooler
kernel = np.random.default_rng(0).normal(size=(conftest.FIELD, conftest.WIDTH))
params, found = {"kernel": kernel.astype(np.float32)}, []
for count in (1, 2):
    mesh = make_mesh({"data": count}, jax.devices()[:count])
    apply = pooler(conftest.toy_features, mesh)
    found.append(pool(apply, params, test_pool.batches(), mesh=mesh))
np.testing.assert_allclose(found[0].features, found[1].features, atol=1e-6)
np.testing.assert_array_equal(found[0].ids, found[1].ids)
print("equal on", len(jax.devices()))
"""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    env = os.environ | {"XLA_FLAGS": flags}
    run = subprocess.run([sys.executable, "-c", code], cwd=root, env=env, capture_output=True)
    assert run.stdout.decode().strip() == "equal on 2", run.stderr.decode()


def test_cache_is_read_and_complete(toy, tmp_path):
    features, params = toy
    calls = []

    def compute():
        calls.append(1)
        return pool_lib.pool(pool_lib.pooler(features), params, batches())

    key = pool_lib.signature("run", 100, "train")
    first = pool_lib.cached(tmp_path / "features", key, compute)
    second = pool_lib.cached(tmp_path / "features", key, compute)
    assert len(calls) == 1
    for name in ("features", "ids", "labels"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert [p.name for p in (tmp_path / "features").iterdir()] == [f"{key}.npz"]


def test_signature_tells_apart_and_repeats():
    assert pool_lib.signature("a", 1) == pool_lib.signature("a", 1)
    found = [pool_lib.signature(*p) for p in (("a", 1), ("a", 2), ("b", 1), ("a1",))]
    assert len(set(found)) == 4 and all(len(s) == 16 for s in found)
