import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import Method
from ssl_jax.evals import baselines
from ssl_jax.evals import pool as pool_lib


def test_mean_std_equals_a_loop_and_ignores_padding():
    frames = np.random.default_rng(0).normal(size=(3, 6, 4)).astype(np.float32)
    lengths = np.array([6, 2, 0])
    mask = np.arange(6) < lengths[:, None]
    frames[~mask] = 1e6
    got = np.asarray(pool_lib.frames_mean_std(frames, mask))
    assert got.shape == (3, 8)
    for row, n in enumerate(lengths[:2]):
        want = np.concatenate([frames[row, :n].mean(0), frames[row, :n].std(0)])
        np.testing.assert_allclose(got[row], want, atol=1e-5)
    np.testing.assert_array_equal(got[2], 0)


@pytest.mark.parametrize(
    ("kind", "encoder", "raw"),
    [
        ("mean_std", "mean_std", "mean_std"),
        ("mean", "mean", "mean"),
        ("raw_mean_std", "mean", "mean_std"),
    ],
)
def test_encoders_and_frames_of_raw_features_are_pooled_alike(kind, encoder, raw):
    method = Method(lambda *_: ({}, {}), lambda *_: None, lambda *_: None, {}, (), ())
    about = {"seed": 0, "key": "k", "step": 1, "pool": kind}
    for modality, own in (("audio", raw), ("image", "mean"), ("text", "mean")):
        given = baselines.raw_encoder(modality, sample_rate=8000, vocab_size=300)
        found = baselines.encoders(method, {}, {}, given, **about)
        assert [e.pool for e in found] == [encoder, encoder, own]
    with pytest.raises(
        ConfigError, match=r"config\.eval\.pool is 'max': use one of mean_std, mean"
    ):
        baselines.encoders(method, {}, {}, given, **(about | {"pool": "max"}))


def test_the_untrained_encoder_is_made_only_where_it_is_asked_for():
    made = []
    method = Method(
        lambda *_: made.append(1) or ({}, {}), lambda *_: None, lambda *_: None, {}, (), ()
    )
    given = baselines.raw_encoder("image")
    for name, count in (("this run", 0), ("pixels", 0), ("random encoder", 1)):
        (found,) = baselines.encoders(method, {}, {}, given, seed=0, key="k", step=1, only=name)
        assert found.name == name and len(made) == count


def test_random_encoders_differ_by_seed_and_from_the_run():
    def init(key, batch):
        return {"w": jax.random.normal(key, (batch["audio"].shape[1],))}, {}

    method = Method(init, lambda *_: None, lambda *_: None, {}, (), ())
    batch = {"audio": jnp.zeros((1, 7), jnp.int16)}
    first, again, other = (baselines.random_encoder(method, s, batch)["w"] for s in (0, 0, 1))
    run = init(jax.random.key(0), batch)[0]["w"]
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1 and np.abs(first - run).max() > 0.1


def test_pixels_are_the_means_of_areas():
    image = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), np.uint8)
    got = np.asarray(baselines.pixels({"image": jnp.asarray(image)})).reshape(2, 8, 8, 3)
    want = image.reshape(2, 8, 2, 8, 3, 3).mean((2, 4)) / 255
    np.testing.assert_allclose(got, want, atol=1e-6)
    odd = np.full((1, 9, 5, 3), 51, np.uint8)
    np.testing.assert_allclose(baselines.pixels({"image": jnp.asarray(odd)}), 0.2, atol=1e-6)
    assert baselines.pixels({"image": jnp.asarray(odd)}).shape == (1, 8 * 5 * 3)


def test_token_counts_are_shares_of_real_tokens():
    batch = {"tokens": jnp.array([[1, 1, 4, 9], [12, 0, 0, 0]]), "tokens_len": jnp.array([3, 1])}
    got = np.asarray(baselines.token_counts(batch, 10))
    want = np.zeros((2, 10))
    want[0, 1], want[0, 4], want[1, 2] = 2 / 3, 1 / 3, 1
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_every_modality_has_raw_features():
    batches = {
        "audio": {"audio": jnp.ones((2, 800), jnp.int16), "audio_len": jnp.array([800, 600])},
        "image": {"image": jnp.ones((2, 8, 8, 3), jnp.uint8)},
        "text": {"tokens": jnp.ones((2, 4), jnp.int32), "tokens_len": jnp.array([4, 2])},
    }
    sizes = {"audio": 80, "image": 192, "text": 300}
    for modality, batch in batches.items():
        raw = baselines.raw_encoder(modality, sample_rate=8000, vocab_size=300)
        found = raw.features(raw.params, batch)
        frames = 8 if raw.frames else 1
        assert raw.frames == (modality == "audio") and found.mask.sum(1).tolist()[0] == frames
        assert found.hidden_states.shape == (1, 2, frames, sizes[modality])
    assert baselines.raw_encoder("text", vocab_size=50_000).key == str(baselines.COUNTERS)
