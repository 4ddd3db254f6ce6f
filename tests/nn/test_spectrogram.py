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


def test_patches_may_overlap():
    whole = encoder(frames=1024, stride=(10, 10))
    assert whole.grid == (101, 12) and whole.rate == 10  # the 1212 tokens of AudioMAE
    made = encoder(num_mels=16, patch=(4, 8), stride=(3, 4))
    noise = np.random.default_rng(0).normal(0, 3000, (2, 2000)).astype(np.int16)
    ends = np.array([2000, 400 + 6 * 160])  # 11 frames, of which 3 patches need 10; and 7
    params = {"projection": {"kernel": jnp.zeros((32, 16)), "bias": jnp.zeros(16)}}

    @jax.jit
    def run(params):
        valid = made.frontend.apply({"params": params}, noise, ends, False)[1]
        cells = dsp.fbank(noise, ends, **{**dsp.CONVENTIONS["audiomae"], "num_mels": 16})
        return valid, made.frontend.apply({}, noise, ends, method="patches"), cells

    valid, patches, cells = map(np.asarray, run(params))
    assert patches.shape == (2, 9, 32) and made.grid == (0, 3)
    np.testing.assert_array_equal(valid.sum(1), [9, 6])
    for place in range(9):
        row, column = 3 * (place // 3), 4 * (place % 3)
        own = cells[0, row : row + 4, column : column + 8]
        np.testing.assert_allclose(patches[0, place], np.ravel(own), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"stride": (20, 10)},
            r"stride is \(20, 10\): use .* of config.method.encoder.patch \(1",
        ),
        ({"stride": (10, 10), "pos_grid": "official"}, "pos_grid is 'official', the table of pat"),
    ],
)
def test_a_stride_that_does_not_work_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        encoder(**options)


def test_clips_are_filled_up_with_frames_that_count():
    both = [encoder(num_mels=16, patch=(4, 8), frames=n) for n in (16, None)]
    ends = np.array([0, 400 + 3 * 160, 2000])
    audio = np.random.default_rng(0).normal(0, 3000, (3, 2000)).astype(np.int16)
    params = {"projection": {"kernel": jnp.zeros((32, 16)), "bias": jnp.zeros(16)}}

    @jax.jit
    def run(params):
        valid = both[0].frontend.apply({"params": params}, audio, ends, False)[1]
        return valid, *(m.frontend.apply({}, audio, ends, method="patches") for m in both)

    valid, filled, shorter = map(np.asarray, run(params))
    np.testing.assert_array_equal(valid.sum(1), [0, 8, 8])
    assert both[0].grid == (4, 2) and filled.shape == (3, 8, 32)
    # frames behind the end of a clip are 0 before normalization
    np.testing.assert_allclose(filled[1, 2:], 0.46703, atol=1e-5)
    np.testing.assert_array_equal(filled[2, :4], shorter[2, :4])
    with pytest.raises(ValueError, match=r"1\.000 s has 98 frames, more than .*s 16: .*0\.175"):
        shapes(both[0], 16_000)


def test_the_published_positions_are_those_of_a_grid_of_8_by_64():
    """Coordinates that reading the published code gives: patch 8 at (8, 0), 64 at (0, 1)."""
    made = encoder(frames=1024, pos_grid="official", class_token=False)
    assert made.grid == (64, 8)
    table = np.asarray(made.bind({})._positions(512))
    wanted = {8: (8, 0), 64: (0, 1), 511: (63, 7), 9: (9, 0), 130: (2, 2)}
    for patch, (width, height) in wanted.items():
        omega = 10000 ** (-np.arange(4) / 4)
        halves = [[np.sin(p * omega), np.cos(p * omega)] for p in (width, height)]
        np.testing.assert_allclose(table[patch], np.ravel(halves), atol=1e-6)
        # w = 8 (t mod 8) + f and h = t div 8, of step t and band f
        step, band = divmod(patch, 8)
        assert (width, height) == (8 * (step % 8) + band, step // 8)
    assert len(np.unique(table, axis=0)) == 512
    correct = np.asarray(encoder(frames=1024, class_token=False).bind({})._positions(512))
    assert not np.allclose(table, correct) and set(map(tuple, table)) != set(map(tuple, correct))


def test_features_are_augmented_before_they_are_normalized():
    made, seen = encoder(num_mels=16, patch=(4, 8)), []
    audio = np.random.default_rng(0).normal(0, 3000, (1, 2000)).astype(np.int16)

    def silence(features, lengths):
        seen.append(features.shape)
        assert lengths.shape == (1,)
        return features.at[:, 4:8].set(0.0)

    @jax.jit
    def run(ends):
        return [made.frontend.apply({}, audio, ends, f, method="patches") for f in (None, silence)]

    plain, changed = map(np.asarray, run(np.array([2000])))
    assert seen == [(1, 8, 16)]
    np.testing.assert_allclose(changed[0, 2:], 0.46703, atol=1e-5)
    np.testing.assert_array_equal(plain[0, :2], changed[0, :2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_mels": 40}, r"encoder\.num_mels 40 is not a multiple of the 16 bands .* such as 32"),
        ({"num_mels": 8}, r"encoder\.num_mels 8 is not a multiple of the 16 bands .* such as 16"),
        ({"patch": (16,)}, r"encoder\.patch is \(16,\): use \(frames, mel bands\)"),
        ({"features": "mfcc"}, r"encoder\.features is 'mfcc': use one of beats, audiomae"),
        ({"positions": "learned"}, r"encoder\.positions is 'learned': use one of sincos, none"),
        ({"std": 0.0}, r"encoder\.std is 0\.0"),
        ({"frames": 100}, r"encoder\.frames 100 is not a multiple of the 16 frames .* such as 96"),
        ({"pos_grid": "own"}, r"encoder\.pos_grid is 'own': use one of correct, official"),
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
