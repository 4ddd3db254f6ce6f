"""Conformer blocks: offsets and rotations against loops, padding, and what is refused.

Complete encoders are compared with transformers in tests/hub.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.nn import batch_norm, build, conformer
from ssl_jax.nn import encoder as encoder_lib
from ssl_jax.nn.transformer import LAST

TINY = {
    "kind": "waveform",
    "preset": "conformer_base",
    "depth": 2,
    "width": 8,
    "heads": 2,
    "mlp_width": 16,
    "conv_channels": 4,
    "conv_kernels": (10, 8),
    "conv_strides": (5, 8),
    "depthwise_kernel": 3,
}


def encoder(**options):
    return build.encoder(TINY | options, precision="float32", sample_rate=16000)


def test_presets_have_the_front_end_and_the_norm_of_the_published_sizes():
    base, large = (
        build.settings({"kind": "waveform", "preset": f"conformer_{size}"})
        for size in ("base", "large")
    )
    keys = ("norm", "conv_norm", "conv_bias", "normalize", "grad_mult")
    assert [base[key] for key in keys] == ["post", "group", False, False, 0.1]
    assert [large[key] for key in keys] == ["pre", "layer", True, True, 1.0]
    # except for the blocks and their positions, Base is that of wav2vec 2.0
    plain = build.settings({"kind": "waveform", "preset": "wav2vec2_base"})
    other = {key for key in plain if plain[key] != base[key]}
    assert other == {"blocks", "positions", "position_kernel"}


def test_scores_by_offset_land_at_query_minus_key():
    size = 4
    offsets = np.arange(size - 1, -size, -1.0)
    by_offset = np.broadcast_to(offsets, (2, size, 2 * size - 1))
    want = np.arange(size)[:, None] - np.arange(size)
    np.testing.assert_array_equal(conformer.skew(jnp.asarray(by_offset))[1], want)


def test_table_holds_sines_and_cosines_of_offsets():
    table = conformer.relative_table(3, 6)
    for row, offset in enumerate((2, 1, 0, -1, -2)):
        for column in range(6):
            angle = offset / 10000 ** (2 * (column // 2) / 6)
            want = np.cos(angle) if column % 2 else np.sin(angle)
            np.testing.assert_allclose(table[row, column], want, atol=1e-6)


def test_rotation_turns_pairs_and_keeps_products_of_equal_distance():
    x = np.random.default_rng(0).standard_normal((1, 5, 8)).astype(np.float32)
    got = np.asarray(conformer.rotated(jnp.asarray(x), 2)).reshape(5, 2, 4)
    for t in range(5):
        for k in range(2):
            angle = t / 10000 ** (k / 2)
            a, b = x[0, t, 4 + k], x[0, t, 6 + k]  # of the second head
            np.testing.assert_allclose(
                (got[t, 1, k], got[t, 1, 2 + k]),
                (a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)),
                atol=1e-5,
            )
    same = np.asarray(conformer.rotated(jnp.ones((1, 5, 8)), 2))[0]
    np.testing.assert_allclose(same[1] @ same[3], same[2] @ same[4], rtol=1e-5)


@pytest.mark.parametrize("taps", [3, 4])
def test_depthwise_taps_are_a_convolution(taps):
    options = conformer.ConformerOptions(depthwise_kernel=taps)
    blocks = build.TransformerOptions(width=4, heads=1)
    module = conformer.ConvModule(blocks, options)
    x, valid = np.random.default_rng(0).standard_normal((1, 6, 4)), jnp.ones((1, 6), bool)
    init = jax.jit(lambda key: module.init(key, jnp.asarray(x), valid, False)["params"])
    params = init(jax.random.key(0))
    bound = module.bind({"params": params})
    seen = []

    def spy(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if context.module.name == "depthwise_norm":
            seen.append((args[0], out))
        return out

    with nn.intercept_methods(spy):
        bound(jnp.asarray(x), valid, False)
    h = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    a, b = np.split(h @ np.asarray(params["widen"]["kernel"]), 2, -1)
    h = np.pad((a / (1 + np.exp(-b)))[0], ((1, taps // 2), (0, 0)))
    kernel = np.asarray(params["depthwise"])
    want = sum(kernel[k] * h[k : k + 6] for k in range(taps))
    np.testing.assert_allclose(seen[0][0][0], want, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("masked", [True, False])
def test_padding_changes_nothing_where_it_is_masked(masked):
    module = encoder(mask_depthwise=masked, normalize=False)
    audio = np.random.default_rng(0).standard_normal((1, 600)).astype(np.float32)
    length = np.array([600])
    params = jax.jit(module.init)(jax.random.key(0), audio, length)
    apply = jax.jit(module.apply)
    longer = np.pad(audio, ((0, 0), (0, 400)))
    alone, padded = (jax.device_get(apply(params, x, length)) for x in (audio, longer))
    real = int(padded.valid.sum())
    assert real == alone.valid.sum() > 2
    off = np.abs(padded.hidden_states[:, :, :real] - alone.hidden_states).max()
    assert bool(off < 1e-4) is masked
    assert set(params["params"]) == {"frontend", "blocks", "norm"}


@pytest.mark.slow
def test_running_statistics_are_used_and_get_no_gradient():
    module = encoder(depthwise_norm="batch", depth=1)
    audio, length = np.arange(600, dtype=np.float32)[None] % 7, np.array([600])
    params = jax.jit(module.init)(jax.random.key(0), audio, length)["params"]
    norm = params["blocks"]["conv"]["running_norm"]
    moved = jax.tree.map(lambda x: x, params)
    moved["blocks"]["conv"]["running_norm"] = norm | {"mean": norm["mean"] + 1}

    def last(params):
        return jnp.square(
            module.apply({"params": params}, audio, length).hidden_states[-1][..., 0]
        ).sum()

    value, gradients = jax.jit(jax.value_and_grad(last))(params)
    assert abs(value - jax.jit(last)(moved)) > 1e-6
    found = gradients["blocks"]["conv"]["running_norm"]
    assert not found["mean"].any() and not found["var"].any() and found["scale"].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": "rnn"}, "blocks is 'rnn': use 'transformer' or 'conformer'"),
        ({"depthwise_norm": "none"}, "depthwise_norm is 'none': use one of batch, layer, group"),
        ({"batch_momentum": 2.0}, "batch_momentum is 2.0: use 0.0 to 1.0, such as 0.01"),
        ({"batch_momentum": 0.1}, "but config.method.encoder.depthwise_norm is 'layer'"),
        ({"depthwise_norm": "group", "norm_groups": 3}, "norm_groups 3 does not divide"),
        ({"attention_positions": "abs"}, "attention_positions is 'abs'"),
        ({"depthwise_kernel": 0}, "depthwise_kernel is 0: use 1 or more, such as 31"),
        ({"layer_scale": 0.1}, "layer_scale is 0.1, which a Conformer does not have"),
        ({"alibi": "fixed"}, "alibi 'fixed'"),
        ({"attention_positions": "rotary", "width": 6}, "use an even width per head"),
    ],
)
def test_options_that_clash_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        encoder(**options)


def test_a_method_that_shows_some_frames_only_is_refused():
    module = encoder()
    audio, length = jnp.zeros((1, 600)), jnp.array([600])
    params = jax.jit(module.init)(jax.random.key(0), audio, length)
    x, valid, keep = jnp.zeros((1, 4, 8)), jnp.ones((1, 4), bool), jnp.zeros((1, 2), int)
    with pytest.raises(ValueError, match="whose convolutions need all frames"):
        module.apply(params, x, valid, False, keep, method="encode")


def test_a_batch_norm_that_learns_has_the_statistics_of_all_real_frames():
    draw = np.random.default_rng(0)
    x = draw.normal(2, 3, (3, 5, 4)).astype(np.float32)
    valid = jnp.asarray(np.arange(5) < np.array([5, 2, 0])[:, None])
    params = {"scale": jnp.arange(1.0, 5), "bias": jnp.ones(4)}
    running = {"mean": jnp.full(4, 0.5), "var": jnp.full(4, 2.0)}
    found, moved = conformer.RunningNorm(0.25).apply(
        {"params": params | running}, x, valid, True, mutable=["moved"]
    )
    given = {"params": params, batch_norm.STATISTICS: running}
    want, kept = batch_norm.BatchNorm(momentum=0.25).apply(
        given, x, valid, True, mutable=[batch_norm.STATISTICS]
    )
    np.testing.assert_allclose(found, want, rtol=1e-6)
    assert moved["moved"].keys() == {"mean", "var"}
    jax.tree.map(np.testing.assert_array_equal, moved["moved"], kept[batch_norm.STATISTICS])
    # an evaluation uses the running ones, as they are
    still = conformer.RunningNorm(0.25).apply({"params": params | running}, x, valid, False)
    np.testing.assert_allclose(still, (x - 0.5) * (2 + 1e-5) ** -0.5 * params["scale"] + 1)

    def total(given):
        norm = conformer.RunningNorm(0.25)
        y, _ = norm.apply({"params": given}, x, valid, True, mutable=["moved"])
        return jnp.where(valid[..., None], y**3, 0).sum()

    slope = jax.grad(total)(params | running)
    assert not slope["mean"].any() and not slope["var"].any() and slope["scale"].all()


def test_an_encoder_gives_its_moved_statistics_by_layer():
    options = {"depthwise_norm": "batch", "batch_momentum": 0.5, "attention_positions": "none"}
    module = build.moving(TINY | options, precision="float32", sample_rate=16000)
    x = np.random.default_rng(0).normal(0, 1, (2, 6, 8)).astype(np.float32)
    valid = jnp.asarray(np.arange(6) < np.array([6, 4])[:, None])
    shapes = jax.eval_shape(
        lambda: module.init(jax.random.key(0), x, valid, False, method="encode")
    )["params"]
    draw = np.random.default_rng(1)
    params = jax.tree.map(lambda s: draw.normal(0, 0.5, s.shape).astype(np.float32), shapes)

    @jax.jit
    def run(x):
        key = jax.random.key(0)
        return encoder_lib.encode(module, params, x, valid, key, layers=LAST).moved

    moved = run(x)["blocks"]["conv"]["running_norm"]
    assert moved["mean"].shape == moved["var"].shape == (2, 8)
    padded = run(np.where(valid[..., None], x, 9.0))["blocks"]["conv"]["running_norm"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), moved, padded)
    assert list(encoder_lib.coupled(module)) and not encoder_lib.coupled(encoder())
    with pytest.raises(ValueError, match="batch_momentum is above 0, but this method does not"):
        encoder(**options)
