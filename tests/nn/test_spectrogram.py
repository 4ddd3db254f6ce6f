import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.nn import build
from ssl_jax.nn import encoder as encoder_lib
from ssl_jax.ops import dsp

TINY = {"kind": "spectrogram", "depth": 1, "width": 16, "heads": 2, "mlp_width": 16}


def encoder(**options):
    return build.encoder({**TINY, **options}, precision="float32", sample_rate=16000)


def shapes(made, samples):
    audio = jax.ShapeDtypeStruct((2, samples), "int16")
    batch = {"audio": audio, "audio_len": jax.ShapeDtypeStruct((2,), "int32")}
    params, _ = jax.eval_shape(lambda: encoder_lib.init(made, jax.random.key(0), batch))
    return jax.eval_shape(lambda p, b: encoder_lib.features(made, p, b), params, batch)


def test_ten_seconds_are_62_steps_of_8_tokens():
    made = encoder()
    features = shapes(made, 160_000)
    assert features.hidden_states.shape == (2, 2, 496, 16)
    assert features.rate == made.rate == 6.25 and features.token_rate == 50
    assert features.grid == made.grid == (0, 8) and set(made.reads) == {"audio", "audio_len"}
    assert shapes(encoder(patch=(8, 64)), 16_000).mask.shape == (2, 24)


@pytest.mark.parametrize("features", ["audiomae", "beats"])
def test_patches_are_those_of_the_normalized_filterbank(features):
    made = encoder(features=features, num_mels=32, patch=(4, 16))
    noise = np.random.default_rng(0).normal(0, 3000, (1, 4000)).astype(np.int16)

    def patches_of(made):
        run = jax.jit(lambda *a: made.frontend.apply({}, *a, method="patches"))
        return np.asarray(run(noise, np.array([4000])))

    patches = patches_of(made)
    fbank = functools.partial(dsp.fbank, **{**dsp.CONVENTIONS[features], "num_mels": 32})
    cells = np.asarray(jax.jit(fbank)(noise, np.array([4000])))
    assert cells.shape == (1, 23, 32) and patches.shape == (1, 10, 64)  # 3 frames left over
    np.testing.assert_allclose(patches[0, 3], np.ravel(cells[0, 4:8, 16:]), atol=1e-6)
    own = encoder(features=features, num_mels=32, patch=(4, 16), mean=2.0, std=3.0)
    other = patches_of(own)
    convention = dsp.CONVENTIONS[features]
    raw = patches * convention["divisor"] + convention["mean"]
    np.testing.assert_allclose(other, (raw - 2.0) / 6.0, atol=1e-5)


def test_a_patch_is_real_when_all_its_frames_are():
    made = encoder(num_mels=16, patch=(4, 8))
    # 400 samples are the first frame, each 160 another one
    ends = np.array([0, 400 + 2 * 160, 400 + 3 * 160, 400 + 7 * 160 - 1, 400 + 7 * 160])
    audio = jnp.zeros((5, 2000), jnp.int16)
    params = {"projection": {"kernel": jnp.zeros((32, 16)), "bias": jnp.zeros(16)}}
    run = jax.jit(lambda p: made.frontend.apply({"params": p}, audio, ends, False)[1])
    valid = np.asarray(run(params))
    assert valid.shape == (5, 4)
    np.testing.assert_array_equal(valid.sum(1), [0, 0, 2, 2, 4])
    assert valid[2, :2].all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_mels": 40}, r"encoder\.num_mels 40 is not a multiple of the 16 bands .* such as 32"),
        ({"num_mels": 8}, r"encoder\.num_mels 8 is not a multiple of the 16 bands .* such as 16"),
        ({"patch": (16,)}, r"encoder\.patch is \(16,\): use \(frames, mel bands\)"),
        ({"features": "mfcc"}, r"encoder\.features is 'mfcc': use one of beats, audiomae"),
        ({"positions": "learned"}, r"encoder\.positions is 'learned': use one of sincos, none"),
        ({"std": 0.0}, r"encoder\.std is 0\.0"),
        ({"width": 18}, r"encoder\.width 18 cannot hold sin-cos positions"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        encoder(**options)


def test_a_bucket_shorter_than_a_patch_is_named():
    with pytest.raises(ValueError, match=r"0\.150 s holds no patch .*config\.data\.buckets to at"):
        shapes(encoder(), 2400)
    assert shapes(encoder(), 2800).mask.shape == (2, 8)
