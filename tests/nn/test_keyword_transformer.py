"""The Keyword Transformer: published sizes, tokens, positions, padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from ssl_jax.core import tree
from ssl_jax.nn import build, heads
from ssl_jax.ops import dsp

TINY = {
    "kind": "keyword_transformer",
    "depth": 2,
    "width": 8,
    "heads": 2,
    "mlp_width": 12,
    "out_proj": True,
    "n_mels": 20,
    "n_mfcc": 10,
    "unroll": False,
}


def make(**changes):
    return build.encoder({**TINY, **changes}, precision="float32", sample_rate=16000)


def clips(seconds=1.0, batch=2, seed=0):
    audio = np.random.default_rng(seed).standard_normal((batch, round(seconds * 16000)))
    return jnp.asarray(3000 * audio, jnp.int16)


def params_of(encoder, audio):
    lengths = jnp.full(len(audio), audio.shape[1])
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), audio, lengths)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: 0.3 * rng.standard_normal(a.shape, np.float32), shapes)


@pytest.mark.parametrize(
    ("preset", "published"), [("kwt1", 559_075), ("kwt2", 2_397_603), ("kwt3", 5_365_859)]
)
def test_published_parameter_counts(preset, published):
    config = {"kind": "keyword_transformer", "preset": preset}
    encoder = build.encoder(config, precision="float32", sample_rate=16000)
    head = heads.Classifier(35, heads.HeadOptions(**common.supervised().head))

    def init(key):
        body = encoder.init(key, clips(), jnp.array([16000, 16000]))
        tokens = jnp.zeros((2, 99, encoder.width))
        return body, head.init(key, tokens, jnp.ones((2, 99), bool))

    # the published model also has the vector that replaces masked frames
    mask_vector = encoder.width
    assert tree.count(jax.eval_shape(init, jax.random.key(0))) + mask_vector == published


def test_tree_names_and_shapes():
    params = params_of(make(), clips())
    shapes = {name: leaf.shape for name, leaf in tree.named_leaves(params)}
    assert shapes["cls"] == (8,) and shapes["positions"] == (99, 8)
    assert shapes["frontend/projection/kernel"] == (10, 8)
    assert shapes["blocks/attention/out/kernel"] == (2, 8, 8)
    assert "blocks/attention/query/bias" not in shapes
    pre = params_of(make(norm="pre"), clips())
    assert set(pre) == {"frontend", "cls", "positions", "blocks", "final_norm"}


def test_frontend_projects_the_mfcc_of_the_paper():
    encoder, audio = make(), clips()
    params, lengths = params_of(encoder, audio), jnp.array([16000, 8000])
    run = jax.jit(lambda p: encoder.apply({"params": p}, audio, lengths, False, method="frontend"))
    x, valid = run(params)
    options = {"n_mfcc": 10, "n_mels": 20, "fmin": 20.0, "fmax": 7600.0}
    mfcc = jax.jit(lambda audio: dsp.mfcc(audio, lengths, **options))(audio)
    dense = params["frontend"]["projection"]
    np.testing.assert_allclose(x, mfcc @ dense["kernel"] + dense["bias"], atol=2e-3)
    assert x.shape == (2, 98, 8) and valid.sum(1).tolist() == [98, 48] and encoder.rate == 100.0


def test_positions_and_class_token_enter_before_the_blocks():
    encoder, audio = make(embed_dropout=0.0), clips()
    params = params_of(encoder, audio)
    x = jnp.asarray(np.random.default_rng(2).standard_normal((2, 30, 8)), jnp.float32)
    part = {k: v for k, v in params.items() if k != "frontend"}  # a teacher has no front end
    out = jax.jit(
        lambda p: encoder.apply({"params": p}, x, jnp.ones((2, 30), bool), False, method="encode")
    )(part)
    assert out.hidden_states.shape == (3, 2, 31, 8) and out.ffn.shape == (2, 2, 31, 8)
    assert out.prefix == 1 and out.valid.shape == (2, 31)
    np.testing.assert_allclose(
        out.hidden_states[0, :, 1:], x + params["positions"][1:31], atol=1e-6
    )
    np.testing.assert_allclose(out.hidden_states[0, 0, 0], params["cls"] + params["positions"][0])


def test_call_chains_the_two_methods_and_embedding_dropout_acts_in_training():
    encoder, audio = make(embed_dropout=0.5), clips(0.3)
    params, lengths = params_of(encoder, audio), jnp.array([4800, 3000])

    def both(p):
        x, valid = encoder.apply({"params": p}, audio, lengths, False, method="frontend")
        a = encoder.apply({"params": p}, x, valid, False, method="encode")
        b = encoder.apply({"params": p}, audio, lengths, False)
        rngs = {"dropout": jax.random.key(0, impl="unsafe_rbg")}
        return a, b, encoder.apply({"params": p}, audio, lengths, True, rngs=rngs)

    a, b, trained = jax.jit(both)(params)
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert 0.4 < np.mean(trained.hidden_states[0] == 0) < 0.6


@pytest.mark.parametrize(
    ("feature", "norm", "frames"),
    [("mfcc", "none", 1), ("mfcc", "utterance", 4), ("log_mel", "utterance", 1)],
)
def test_padding_changes_no_valid_token(feature, norm, frames):
    encoder = make(
        feature=feature, feature_norm=norm, frames_per_token=frames, depth=1, embed_dropout=0.0
    )
    audio = clips(0.4)
    params, lengths = params_of(encoder, audio), jnp.full(2, 6400)
    run = jax.jit(lambda a: encoder.apply({"params": params}, a, lengths, False))
    short = run(audio)
    long = run(jnp.pad(audio, ((0, 0), (0, 4000))))
    tokens = 1 + 38 // frames
    assert short.valid.sum(1).tolist() == long.valid.sum(1).tolist() == [tokens, tokens]
    short, long = (np.asarray(x.hidden_states)[:, :, :tokens] for x in (short, long))
    # sums over more frames round differently, on the scale of the largest values (near 4); padding
    # with an influence would show in the second digit
    np.testing.assert_allclose(short, long, atol=1e-5 * abs(short).max())


def test_stacked_frames_share_a_token():
    one = make(feature="log_mel", feature_norm="utterance")
    four = make(feature="log_mel", feature_norm="utterance", frames_per_token=4)
    audio, lengths = clips(), jnp.array([16000, 16000])
    params, stacked = params_of(one, audio), params_of(four, audio)
    assert stacked["frontend"]["projection"]["kernel"].shape == (4 * 20, 8)
    assert stacked["positions"].shape == (25, 8) and four.rate == 25.0
    kernel = np.zeros((4, 20, 8), np.float32)
    kernel[1] = params["frontend"]["projection"]["kernel"]  # reads the second frame of each four
    stacked["frontend"]["projection"]["kernel"] = kernel.reshape(80, 8)
    stacked["frontend"]["projection"]["bias"] = params["frontend"]["projection"]["bias"]

    @jax.jit
    def both(audio, *trees):
        return [
            encoder.apply({"params": p}, audio, lengths, False, method="frontend")[0]
            for encoder, p in zip((one, four), trees, strict=True)
        ]

    a, b = both(audio, params, stacked)
    np.testing.assert_allclose(b, np.asarray(a)[:, 1:97:4], atol=1e-5)


def test_utterance_and_global_normalization():
    audio, lengths = clips(), jnp.array([16000, 9000])
    eye = np.eye(20, dtype=np.float32)

    def features(**changes):
        encoder = make(feature="log_mel", width=20, **changes)
        params = params_of(encoder, audio)
        params["frontend"]["projection"] = {"kernel": eye, "bias": np.zeros(20, np.float32)}
        run = jax.jit(
            lambda p: encoder.apply({"params": p}, audio, lengths, False, method="frontend")
        )
        return [np.asarray(x) for x in run(params)]

    raw, valid = features()
    scaled, _ = features(feature_norm="utterance")
    for row in range(2):
        real = scaled[row][valid[row]]
        np.testing.assert_allclose(real.mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(real.std(0), 1, atol=1e-3)
    fixed, _ = features(feature_norm="global", feature_mean=-30.0, feature_std=[2.0] * 20)
    np.testing.assert_allclose(fixed, (raw + 30) / 2, atol=1e-4)


def test_clips_beyond_the_positions_or_below_one_token_are_refused():
    encoder = make()
    with pytest.raises(ValueError, match=r"config.method.encoder.max_seconds 1.0 has .* 98 tokens"):
        encoder.init(jax.random.key(0), clips(1.2), jnp.array([19200, 19200]))
    with pytest.raises(ValueError, match=r"config.data.buckets to at least 0.060"):
        make(frames_per_token=4).init(jax.random.key(0), clips(0.05), jnp.array([800, 800]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"feature": "cqt"}, "encoder.feature is 'cqt'"),
        ({"feature_norm": "batch"}, "encoder.feature_norm is 'batch'"),
        ({"frames_per_token": 0}, "encoder.frames_per_token is 0"),
        ({"embed_dropout": 1.5}, "encoder.embed_dropout is 1.5"),
        ({"feature_mean": (1.0, 2.0)}, "encoder.feature_mean has 2 numbers: use 1 or 10"),
        ({"fmax": 9000.0}, "encoder.fmax 9000.0 Hz lies above half"),
    ],
)
def test_impossible_options_name_their_key(changes, words):
    with pytest.raises(ValueError, match=words):
        make(**changes)


def test_bfloat16_run_is_finite_and_close():
    audio, lengths = clips(), jnp.array([16000, 8000])
    full = make(feature_norm="utterance")
    half = build.encoder(
        {**TINY, "feature_norm": "utterance"}, precision="bfloat16", sample_rate=16000
    )
    params = params_of(full, audio)
    a = jax.jit(lambda p: full.apply({"params": p}, audio, lengths).hidden_states)(params)
    b = jax.jit(lambda p: half.apply({"params": p}, audio, lengths).hidden_states)(params)
    assert b.dtype == jnp.bfloat16
    np.testing.assert_allclose(b.astype(jnp.float32), a, atol=0.25)
