import math

import jax
import numpy as np
import pytest

from ssl_jax.core.types import of_layers
from ssl_jax.evals.extract import Extractor, audio_batch
from ssl_jax.nn import build
from ssl_jax.nn import encoder as encoder_lib

RATE, FIELD, HOP = 1000, 40, 16  # of the toy model


def noise(samples, seed=0):
    return np.random.default_rng(seed).integers(-20000, 20000, samples).astype(np.int16)


@pytest.fixture(scope="module")
def extractor(toy):
    features, params = toy
    return Extractor(features, params, sample_rate=RATE, window_s=1.0, batch=4)


def whole(toy, clip):
    """One pass over the full clip."""
    features, params = toy
    batch = {"audio": clip[None], "audio_len": np.array([len(clip)])}
    return np.asarray(jax.jit(features)(params, batch).hidden_states)[:, 0]


def test_geometry_is_found_from_the_mask(extractor):
    assert (extractor.field, extractor.hop) == (FIELD, HOP)
    np.testing.assert_allclose(extractor.times(3), [0.020, 0.036, 0.052])


@pytest.mark.parametrize("samples", [FIELD, FIELD + HOP - 1, 126, 500, 999, 1000])
def test_a_clip_equals_one_pass(extractor, toy, samples):
    clip = noise(samples)
    (got,) = extractor.run([clip])
    np.testing.assert_allclose(got, whole(toy, clip), atol=1e-5)


# what makes the encoder of a kind local, so that windows can equal one pass over the whole clip
CONVS = {"conv_channels": 4, "conv_kernels": (10, 4), "conv_strides": (8, 4)}
LOCAL = {
    "keyword_transformer": {"feature": "log_mel", "frames_per_token": 4},
    "waveform": {"normalize": False, "position_depth": 1, "position_kernel": 3, **CONVS},
    "spectrogram": {"positions": "none", "patch": (4, 16), "num_mels": 32},
    "mel_conformer": {
        "feature_norm": "none",
        "num_mels": 16,
        "conv_channels": 4,
        "depthwise_kernel": 1,
        "attention_positions": "none",
    },
    "beats": {"patch": (4, 16), "num_mels": 32, "patch_width": 8, "position_kernel": 3},
}


def local(kind):
    """An encoder whose tokens do not attend to each other and have no positions, and its params."""
    options = {"kind": kind, "depth": 1, "width": 16, "heads": 2, "mlp_width": 16, "out_proj": True}
    made = build.encoder({**options, **LOCAL[kind]}, precision="float32", sample_rate=16000)
    batch = {"audio": np.zeros((1, 8000), np.int16), "audio_len": np.array([8000], np.int32)}
    params, _ = jax.jit(lambda key: encoder_lib.init(made, key, batch))(jax.random.key(0))
    attention = params["blocks"]["attention"]
    attention["out"] = jax.tree.map(np.zeros_like, attention["out"])
    if kind == "keyword_transformer":
        params["positions"] = np.zeros_like(params["positions"])
    return lambda params, batch: encoder_lib.features(made, params, batch), params


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=[pytest.mark.slow] * (k in ("beats", "mel_conformer"))) for k in LOCAL],
)
def test_windows_equal_one_pass_for_every_kind_of_encoder(kind):
    features, params = local(kind)
    extractor = Extractor(features, params, sample_rate=16000, window_s=0.4551, batch=1)
    assert extractor.stride % extractor.hop == 0 and extractor.window % extractor.hop
    clip = noise(15000)
    (got,) = extractor.run([clip])
    want = whole((features, params), clip)
    np.testing.assert_allclose(got, want, atol=1e-4)
    times, tokens = extractor.times(got.shape[1]), 2 if kind in ("spectrogram", "beats") else 1
    np.testing.assert_array_equal(times[::tokens], times[tokens - 1 :: tokens])
    np.testing.assert_allclose(np.diff(times[::tokens]), extractor.hop / 16000)
    assert times[0] < 0.05 and 0.85 < times[-1] < len(clip) / 16000


def test_the_kinds_above_are_all_that_have_time():
    def rate(kind):
        return build.encoder({"kind": kind}, precision="float32", sample_rate=16000).rate

    assert set(LOCAL) == {kind for kind in build.kinds() if rate(kind)}


def test_one_layer_of_many_takes_the_memory_of_one():
    """As in k-means and labels, which read one layer of an encoder whose blocks are a loop."""
    options = {"kind": "spectrogram", "depth": 12, "width": 8, "heads": 2, "mlp_width": 8}
    options |= {"patch": (4, 16), "num_mels": 32, "unroll": False}
    made = build.encoder(options, precision="float32", sample_rate=16000)
    batch = audio_batch(np.zeros((4, 16000), np.int16), np.full(4, 16000, np.int32))
    params, _ = jax.eval_shape(lambda key: encoder_lib.init(made, key, batch), jax.random.key(0))

    def features(params, batch, layers=None):
        return encoder_lib.features(made, params, batch, layers)

    def needs(features, place):
        run = jax.jit(lambda p: features(p, batch).hidden_states[place])
        found = run.lower(params).compile().memory_analysis()
        return found.temp_size_in_bytes + found.output_size_in_bytes

    layers, *layer = jax.eval_shape(features, params, batch).hidden_states.shape
    assert layers == 13
    assert needs(features, 6) - needs(of_layers(features, (6,)), 0) > 8 * 4 * math.prod(layer)


def test_alone_and_among_others_are_equal(extractor):
    clips = [noise(n, seed=n) for n in (700, 90, 300, 1000, 41, 2500, 310)]
    together = extractor.run(clips)
    for clip, got in zip(clips, together, strict=True):
        (alone,) = extractor.run([clip])
        assert got.shape == alone.shape
        np.testing.assert_allclose(got, alone, atol=1e-5)


@pytest.mark.parametrize("samples", [1001, 1002, 1264, 1750, 1760, 3333, 5000])
def test_windows_join_to_one_pass_where_context_suffices(extractor, toy, samples):
    clip = noise(samples)
    (got,) = extractor.run([clip])
    np.testing.assert_allclose(got, whole(toy, clip), atol=1e-5)


def test_every_length_gives_every_frame(extractor):
    for samples in range(1000, 1900, 7):
        pieces = list(extractor.windows([noise(samples)]))
        kept = 0
        for piece in pieces:
            frames = (len(piece.samples) - FIELD) // HOP + 1
            last = frames if piece.last is None else piece.last
            assert piece.first <= last <= frames
            kept += last - piece.first
        assert kept == (samples - FIELD) // HOP + 1


def test_stream_equals_run_however_the_clip_arrives(extractor):
    clip = noise(9000)
    (want,) = extractor.run([clip])
    for sizes in ([9000], [1, 4000, 4999], [300] * 30):
        blocks = np.split(clip, np.cumsum(sizes)[:-1])
        parts = list(extractor.stream(blocks))
        assert len(parts) > 1
        np.testing.assert_allclose(np.concatenate([p for p, _ in parts], 1), want, atol=1e-5)
        times = np.concatenate([t for _, t in parts])
        np.testing.assert_allclose(times, extractor.times(want.shape[1]))


def test_stream_holds_a_bounded_part_of_the_clip(extractor):
    read = []

    def blocks():
        for n in range(200):
            read.append(n)
            yield noise(500, seed=n)

    stream = extractor.stream(blocks())
    next(stream)
    assert len(read) < 10


def test_few_shapes_are_compiled(toy):
    shapes = set()
    features, params = toy

    def spy(params, batch):
        shapes.add(batch["audio"].shape)
        return features(params, batch)

    extractor = Extractor(spy, params, sample_rate=RATE, window_s=1.0, batch=4)
    shapes.clear()
    extractor.run([noise(n) for n in range(50, 1500, 13)])
    for n in range(50, 1500, 131):
        extractor.run([noise(n)])
    assert len(shapes) <= 8


def test_too_short_and_empty_clips_are_errors(extractor):
    for samples in (0, FIELD - 1):
        with pytest.raises(ValueError, match=f"{samples} samples.*at least {FIELD}"):
            extractor.run([noise(samples)])


def test_bad_windows_are_errors(toy):
    features, params = toy
    for window, overlap in ((1.0, 0.6), (1.0, 0.001), (0.1, 0.05)):
        with pytest.raises(ValueError, match="overlap"):
            Extractor(features, params, sample_rate=RATE, window_s=window, overlap_s=overlap)
    with pytest.raises(ValueError, match="shorter than one frame"):
        Extractor(features, params, sample_rate=RATE, window_s=0.02)
    with pytest.raises(ValueError, match="do not divide"):
        Extractor(features, params, sample_rate=RATE + 1, window_s=1.0)
