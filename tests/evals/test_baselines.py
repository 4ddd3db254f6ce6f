import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.types import Method
from ssl_jax.evals import baselines
from ssl_jax.evals.pool import masked_mean


def test_mean_std_equals_a_loop_and_ignores_padding():
    frames = np.random.default_rng(0).normal(size=(3, 6, 4)).astype(np.float32)
    lengths = np.array([6, 2, 0])
    mask = np.arange(6) < lengths[:, None]
    frames[~mask] = 1e6
    got = np.asarray(baselines.mean_std(frames, mask))
    assert got.shape == (3, 8)
    for row, n in enumerate(lengths[:2]):
        want = np.concatenate([frames[row, :n].mean(0), frames[row, :n].std(0)])
        np.testing.assert_allclose(got[row], want, atol=1e-5)
    np.testing.assert_array_equal(got[2], 0)


def test_raw_features_pool_to_mean_std():
    frames = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    mask = np.ones((2, 5), bool)
    features = baselines.raw_features(lambda batch: (batch["x"], mask))
    got = masked_mean(features(None, {"x": frames}))
    np.testing.assert_allclose(got[:, 0], baselines.mean_std(frames, mask), atol=1e-6)


def test_random_encoders_differ_by_seed_and_from_the_run():
    def init(key, batch):
        return {"w": jax.random.normal(key, (batch["audio"].shape[1],))}, {}

    method = Method(init, lambda *_: None, lambda *_: None, {}, (), ())
    batch = {"audio": jnp.zeros((1, 7), jnp.int16)}
    first, again, other = (baselines.random_encoder(method, s, batch)["w"] for s in (0, 0, 1))
    run = init(jax.random.key(0), batch)[0]["w"]
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1 and np.abs(first - run).max() > 0.1
