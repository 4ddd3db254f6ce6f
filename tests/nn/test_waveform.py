"""The waveform encoder: published size, padding, options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core import tree
from ssl_jax.nn import build
from ssl_jax.nn import encoder as encoder_lib
from ssl_jax.nn.conv import WeightNormConv

TINY = {
    "kind": "waveform",
    "depth": 2,
    "width": 8,
    "heads": 2,
    "mlp_width": 12,
    "conv_channels": 6,
    "conv_kernels": (10, 3, 2),
    "conv_strides": (5, 2, 2),
    "position_depth": 3,
    "position_kernel": 5,
    "position_groups": 2,
    "unroll": False,
}


def make(precision="float32", **changes):
    return build.encoder({**TINY, **changes}, precision=precision, sample_rate=16000)


def clip(samples, batch=2):
    audio = np.random.default_rng(0).standard_normal((batch, samples))
    return jnp.asarray(3000 * audio + 500, jnp.int16)


def params_of(encoder):
    shapes = jax.eval_shape(
        encoder.init, jax.random.key(0), jnp.zeros((2, 400)), jnp.array([400, 400])
    )
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: 0.5 * rng.standard_normal(a.shape, np.float32), shapes["params"])


@pytest.mark.parametrize(("preset", "millions"), [("base", 93_164_288), ("large", None)])
def test_published_parameter_count_without_allocating(preset, millions):
    encoder = build.encoder(
        {"kind": "waveform", "preset": preset}, precision="float32", sample_rate=16000
    )
    lengths = jnp.array([16000, 8000])
    shapes = jax.eval_shape(
        lambda k: encoder.init(k, jnp.zeros((2, 16000), jnp.int16), lengths), jax.random.key(0)
    )["params"]
    mask_vector = encoder.width  # part of the published count; here it belongs to the method
    if millions:
        assert tree.count(shapes) + mask_vector == millions
    else:
        assert shapes["blocks"]["mlp"]["up"]["kernel"].shape == (24, 1024, 4096)
    assert set(shapes) == {"frontend", "positions", "norm", "blocks"}
    assert encoder.rate == 50.0


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("wav2vec2_base", 94_371_712),
        ("wav2vec2_large", 315_438_720),
        ("hubert_large", 315_438_720 - 7 * 512),
        ("hubert_xlarge", 962_493_824),
    ],
)
def test_published_sizes_of_wav2vec2_and_hubert(preset, count):
    """The models of transformers with the same layout, which also contain a mask vector."""
    encoder = build.encoder(
        {"kind": "waveform", "preset": preset}, precision="float32", sample_rate=16000
    )
    shapes = jax.eval_shape(
        lambda k: encoder.init(k, jnp.zeros((1, 16000)), jnp.array([16000])), jax.random.key(0)
    )["params"]
    assert tree.count(shapes) + encoder.width == count
    assert shapes["positions"]["gain"].shape == (128, 1, 1)
    assert ("norm" in shapes) is (preset == "wav2vec2_base")
    assert ("final_norm" in shapes) is (preset != "wav2vec2_base")


def test_the_wide_position_convolution_has_one_gain_per_tap():
    draw = np.random.default_rng(0)
    x, valid = draw.standard_normal((2, 9, 4)), np.arange(9) < np.array([[9], [6]])
    p = {"kernel": (4, 2, 4), "gain": (4, 1, 1), "bias": (4,)}
    p = {name: draw.standard_normal(shape) for name, shape in p.items()}
    got = WeightNormConv(4, 2).apply({"params": p}, x, jnp.asarray(valid))
    taps = [p["gain"][k] * p["kernel"][k] / np.linalg.norm(p["kernel"][k]) for k in range(4)]
    padded = np.pad(x * valid[..., None], ((0, 0), (2, 2), (0, 0)))
    want = np.zeros_like(x) + p["bias"]
    for k in range(4):
        for group in (slice(0, 2), slice(2, 4)):
            want[..., group] += padded[:, k : k + 9, group] @ taps[k][:, group]
    np.testing.assert_allclose(got, jax.nn.gelu(want, approximate=False), atol=1e-5)
    first = jax.jit(WeightNormConv(4, 2).init)(jax.random.key(0), x, jnp.asarray(valid))["params"]
    first = jax.device_get(first)
    np.testing.assert_allclose(
        first["gain"][:, 0, 0], np.linalg.norm(first["kernel"].reshape(4, -1), axis=1), rtol=1e-6
    )


def test_sown_stages_of_the_front_end():
    """The penalty reads the raw stage: its gradient also has the factor of the convolutions."""
    batch = {"audio": clip(400), "audio_len": jnp.array([400, 310])}

    def stages(factor, gain):
        encoder = make(grad_mult=factor, input_dropout=0.5)
        params = params_of(encoder)
        params = {"frontend": {**params["frontend"], "convs": gain(params["frontend"]["convs"])}}
        return encoder_lib.frontend_intermediates(encoder, params, batch)

    def penalty(scale, factor):
        return jnp.square(stages(factor, lambda c: jax.tree.map(lambda a: scale * a, c))[2]["raw"])

    x, valid, taps = jax.jit(lambda: stages(1.0, lambda c: c))()
    assert set(taps) == {"raw", "normed"} and taps["raw"].shape == (2, 19, 6)
    assert x.shape == (2, 19, 8) and valid.sum(1).tolist() == [19, 15]
    front = params_of(make())["frontend"]
    centred = taps["raw"] - taps["raw"].mean(-1, keepdims=True)
    want = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-5)
    want = want * front["norm"]["scale"] + front["norm"]["bias"]
    np.testing.assert_allclose(taps["normed"], want, atol=1e-4)
    project = front["projection"]
    np.testing.assert_allclose(x, want @ project["kernel"] + project["bias"], atol=1e-4)
    slopes = [
        jax.jit(jax.grad(lambda s, f=factor: penalty(s, f).sum()))(1.0) for factor in (1.0, 0.1)
    ]
    np.testing.assert_allclose(slopes[1], 0.1 * slopes[0], rtol=1e-4)


def test_dropout_of_frames_needs_a_key():
    encoder = make(input_dropout=0.5)
    params = params_of(encoder)
    batch = {"audio": clip(400), "audio_len": jnp.array([400, 400])}
    tap = jax.jit(lambda key: encoder_lib.frontend_intermediates(encoder, params, batch, key)[0])
    dropped = tap(jax.random.key(0, impl="unsafe_rbg"))
    assert 0.3 < np.mean(dropped == 0) < 0.7
    np.testing.assert_array_equal(tap(None) == 0, False)


@pytest.mark.parametrize(
    ("conv_norm", "normalize", "norm", "positions"),
    [
        ("layer", True, "post", "stack"),
        ("group", False, "post", "weight_norm"),
        ("group", True, "pre", "stack"),
    ],
)
def test_padding_changes_no_valid_frame(conv_norm, normalize, norm, positions):
    encoder = make(conv_norm=conv_norm, normalize=normalize, norm=norm, positions=positions)
    params, lengths = params_of(encoder), jnp.array([400, 310])
    run = jax.jit(lambda a: encoder.apply({"params": params}, a, lengths, False))
    audio = clip(400) * (jnp.arange(400) < lengths[:, None])
    short, long = run(audio), run(jnp.pad(audio, ((0, 0), (0, 260))))
    counts = [int(n) for n in short.valid.sum(1)]
    assert counts == long.valid.sum(1).tolist() == [19, 15]
    for row, count in enumerate(counts):
        np.testing.assert_allclose(
            short.hidden_states[:, row, :count], long.hidden_states[:, row, :count], atol=1e-5
        )
        np.testing.assert_allclose(short.ffn[:, row, :count], long.ffn[:, row, :count], atol=1e-5)


def test_padding_leaks_in_the_published_positions():
    encoder = make(mask_each=False)
    params, lengths = params_of(encoder), jnp.array([400, 400])
    run = jax.jit(lambda a: encoder.apply({"params": params}, a, lengths, False).hidden_states)
    audio = clip(400)
    short, long = run(audio), run(jnp.pad(audio, ((0, 0), (0, 260))))
    assert np.abs(short[0, :, :19] - long[0, :, :19]).max() > 1e-3


def test_normalization_forgets_gain_and_offset():
    audio = np.random.default_rng(0).standard_normal((2, 400)).astype(np.float32)
    lengths = jnp.array([400, 400])

    def frames(normalize, audio):
        encoder = make(normalize=normalize)
        run = jax.jit(lambda *a: encoder.apply(*a, lengths, False, method="frontend")[0])
        variables = {"params": params_of(encoder)}
        return run(variables, audio), run(variables, 3 * audio + 1)

    np.testing.assert_allclose(*frames(True, audio), atol=1e-3)
    assert not np.allclose(*frames(False, audio), atol=1e-2)


def test_gradient_factor_reaches_the_convolutions_only():
    def gradients(factor):
        encoder = make(grad_mult=factor)

        def loss(p):
            lengths = jnp.array([400, 400])
            x, _ = encoder.apply({"params": p}, clip(400), lengths, False, method="frontend")
            return x[..., 0].sum()

        return jax.jit(jax.grad(loss))(params_of(encoder))["frontend"]

    full, tenth = gradients(1.0), gradients(0.1)
    for name, leaf in tree.named_leaves(full):
        other = dict(tree.named_leaves(tenth))[name]
        factor = 0.1 if name.startswith("convs/") else 1.0
        scale = np.abs(leaf).max()
        assert scale > 0
        np.testing.assert_allclose(other / scale, factor * leaf / scale, atol=1e-4)


def test_encode_needs_no_front_end_and_bfloat16_runs():
    encoder, half = make(), make(precision="bfloat16")
    params = params_of(encoder)
    x = jnp.asarray(np.random.default_rng(2).standard_normal((2, 30, 8)), jnp.float32)
    valid = jnp.ones((2, 30), bool)
    part = {k: v for k, v in params.items() if k != "frontend"}
    out = jax.jit(lambda p: encoder.apply({"params": p}, x, valid, False, method="encode"))(part)
    assert out.hidden_states.shape == (3, 2, 30, 8) and out.prefix == 0
    lengths = jnp.array([400, 310])
    low = jax.jit(lambda p: half.apply({"params": p}, clip(400), lengths).hidden_states)(params)
    assert low.dtype == jnp.bfloat16 and np.isfinite(low.astype(jnp.float32)).all()


def test_dropout_sits_before_the_first_block():
    encoder = make(embed_dropout=0.5)
    rngs = {"dropout": jax.random.key(0, impl="unsafe_rbg")}
    lengths = jnp.array([400, 400])
    run = jax.jit(lambda p: encoder.apply({"params": p}, clip(400), lengths, True, rngs=rngs))
    assert 0.4 < np.mean(run(params_of(encoder)).hidden_states[0] == 0) < 0.6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"conv_norm": "batch"}, "encoder.conv_norm is 'batch': use 'layer' or 'group'"),
        ({"conv_strides": (5, 2)}, "encoder.conv_kernels has 3 layers and .*conv_strides 2"),
        ({"positions": "none"}, "encoder.positions is 'none': use 'stack' or 'weight_norm'"),
        ({"input_dropout": 1.0}, "encoder.input_dropout is 1.0: use 0.0 or more and below 1.0"),
        ({"position_groups": 3}, "encoder.position_groups 3 does not divide"),
    ],
)
def test_impossible_options_name_their_key(changes, words):
    with pytest.raises(ValueError, match=words):
        make(**changes)


def test_a_batch_without_a_frame_is_refused():
    encoder = make()
    with pytest.raises(ValueError, match=r"config.data.buckets to at least 30 samples"):
        encoder.init(jax.random.key(0), jnp.zeros((1, 20)), jnp.array([20]))


KEEP = jnp.array([[7, 0, 3, 12], [1, 2, 9, 14]])


def scattered(x, keep=KEEP, size=19):
    """Zeros except at positions `keep`."""
    at = np.zeros((2, size, 1), bool)
    at[np.arange(2)[:, None], keep] = True
    return np.where(at, x, 0)


@pytest.mark.parametrize("kind", ["none", "fixed", "learned"])
def test_kept_frames_are_those_of_the_clip_with_zeros_elsewhere(kind):
    """Positions see the other frames as zeros, and attention does not see them at all."""
    encoder = make(alibi=kind)
    params = {k: v for k, v in params_of(encoder).items() if k != "frontend"}
    x = np.random.default_rng(2).standard_normal((2, 19, 8)).astype(np.float32)
    valid = jnp.ones((2, 19), bool)
    run = jax.jit(
        lambda x, valid, keep: encoder.apply(
            {"params": params}, x, valid, False, keep, method="encode"
        )
    )
    kept = run(x, valid, KEEP)
    assert kept.hidden_states.shape == (3, 2, 4, 8)
    # with the others marked as padding, they are zeros and are not attended to
    seen = jnp.asarray(scattered(np.ones_like(x))[..., 0] > 0)
    loose = make(alibi=kind, mask_each=False)
    args = {"params": params}, jnp.asarray(scattered(x)), seen, False
    whole = jax.jit(lambda: loose.apply(*args, method="encode"))()
    for row in range(2):
        np.testing.assert_allclose(
            kept.hidden_states[:, row], whole.hidden_states[:, row, KEEP[row]], atol=2e-5
        )
    # frames that are not kept have no influence, and the order of the kept ones does not matter
    other = run(np.where(scattered(np.ones_like(x)) > 0, x, 99.0), valid, KEEP)
    np.testing.assert_array_equal(other.hidden_states, kept.hidden_states)
    turned = run(x, valid, KEEP[:, ::-1])
    np.testing.assert_allclose(turned.hidden_states[:, :, ::-1], kept.hidden_states, atol=1e-5)


def test_alibi_looks_near_and_its_factors_stay_above_zero():
    learned, valid = make(alibi="learned"), jnp.ones((2, 19), bool)
    params = params_of(learned)
    scale = params.pop("alibi_scale")
    assert scale.shape == (2,)
    x = np.random.default_rng(2).standard_normal((2, 19, 8)).astype(np.float32)

    def last(encoder, more):
        variables = {"params": {**params, **more}}
        return encoder.apply(variables, x, valid, False, method="encode").hidden_states[-1]

    run = jax.jit(lambda factor: last(learned, {"alibi_scale": jnp.full((2,), factor)}))
    none = run(0.0)
    np.testing.assert_array_equal(run(-3.0), none)
    assert np.abs(run(8.0) - none).max() > 1e-3
    plain, fixed = (jax.jit(last, static_argnums=0)(make(alibi=k), {}) for k in ("none", "fixed"))
    np.testing.assert_allclose(plain, none, atol=1e-6)
    np.testing.assert_allclose(fixed, run(1.0), atol=1e-6)
    with pytest.raises(ValueError, match=r"encoder.alibi is 'yes': use 'none', 'fixed' or"):
        make(alibi="yes")
