"""Convolutional front ends: lengths, norms, gradients, padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.nn import conv
from ssl_jax.nn.transformer import gelu

KERNELS, STRIDES = (4, 3, 2), (2, 2, 1)


def random_params(init, *args):
    """Random values for every parameter of a module."""
    shapes = jax.eval_shape(init, jax.random.key(0), *args)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: 0.5 * rng.standard_normal(a.shape, np.float32), shapes)


def layer_by_layer(n, kernels, strides):
    for kernel, stride in zip(kernels, strides, strict=True):
        n = max(0, (n - kernel) // stride + 1)
    return n


@pytest.mark.parametrize(
    ("samples", "frames"),
    [(399, 0), (400, 1), (16000, 49), (80000, 249), (250000, 781), (320000, 999), (480000, 1499)],
)
def test_published_lengths(samples, frames):
    assert conv.output_lengths(samples) == frames
    assert conv.output_lengths(jnp.array([samples])).tolist() == [frames]


def test_closed_form_equals_the_layers():
    assert conv.receptive_field(conv.KERNELS, conv.STRIDES) == (400, 320)
    rng = np.random.default_rng(0)
    for _ in range(50):
        kernels = tuple(rng.integers(1, 9, 4).tolist())
        strides = tuple(rng.integers(1, 5, 4).tolist())
        for n in rng.integers(0, 400, 20).tolist():
            assert conv.output_lengths(n, kernels, strides) == layer_by_layer(n, kernels, strides)


@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("bias", [False, True])
def test_stack_of_convolutions_equals_the_formula(norm, bias):
    module = conv.ConvStack(3, KERNELS, STRIDES, norm, bias)
    audio = np.random.default_rng(1).standard_normal((2, 31)).astype(np.float32)
    params = random_params(module.init, audio, jnp.array([31, 20]))["params"]
    got, valid = jax.jit(module.apply)({"params": params}, audio, jnp.array([31, 20]))
    assert valid.sum(1).tolist() == [conv.output_lengths(n, KERNELS, STRIDES) for n in (31, 20)]
    assert ("bias" in params["conv0"]) is bias and ("norm1" in params) is (norm == "layer")
    for row, length in enumerate((31, 20)):
        x = audio[row, :length, None]
        for i, (kernel, stride) in enumerate(zip(KERNELS, STRIDES, strict=True)):
            p = params[f"conv{i}"]
            count = (len(x) - kernel) // stride + 1
            windows = np.stack([x[t * stride : t * stride + kernel] for t in range(count)])
            x = np.einsum("tkc,kcd->td", windows, p["kernel"]) + p.get("bias", 0)
            if norm == "layer" or i == 0:
                axis = -1 if norm == "layer" else 0
                x = (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + 1e-5)
                x = x * params[f"norm{i}"]["scale"] + params[f"norm{i}"]["bias"]
            x = np.asarray(gelu(x))
        np.testing.assert_allclose(got[row, : len(x)], x, atol=2e-5)


def test_gelu_is_exact():
    np.testing.assert_allclose(gelu(jnp.array(1.0)), 0.8413447, atol=1e-6)  # tanh form: 0.841192


@pytest.mark.parametrize("factor", [0.0, 0.1, 1.0])
def test_gradient_is_scaled_and_the_value_is_not(factor):
    x = jnp.array([1.5, -2.25])
    np.testing.assert_array_equal(conv.scale_gradient(x, factor), x)
    grad = jax.grad(lambda x: jnp.square(conv.scale_gradient(x, factor)).sum())(x)
    np.testing.assert_allclose(grad, 2 * x * factor)


@pytest.mark.parametrize(("kernel", "mask_each"), [(5, True), (4, True), (5, False)])
def test_positions_of_a_padded_clip(kernel, mask_each):
    module = conv.PositionConvs(3, kernel, 2, mask_each)
    x = np.random.default_rng(1).standard_normal((1, 9, 4)).astype(np.float32)
    valid = jnp.ones((1, 9), bool)
    params = random_params(module.init, x, valid)
    run = jax.jit(module.apply)
    alone = run(params, x, valid)
    longer = np.concatenate([x, np.full((1, 6, 4), 7.0, np.float32)], 1)
    padded = run(params, longer, jnp.arange(15)[None] < 9)
    assert alone.shape == x.shape
    same = np.isclose(padded[0, :9], alone[0], atol=1e-5).all(-1)
    # without masking, each further convolution leaks two frames inwards
    assert same.all() if mask_each else same[:5].all() and not same[5:].any()


def test_groups_of_the_position_convolutions_do_not_mix_in_the_first_layer():
    module = conv.PositionConvs(1, 3, 2)
    x = jnp.ones((1, 4, 4))
    params = random_params(module.init, x, jnp.ones((1, 4), bool))
    assert params["params"]["conv0"]["kernel"].shape == (3, 2, 4)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize(("shape", "stride"), [((9,), (2,)), ((5, 4), (1, 1))])
def test_group_by_group_is_the_grouped_convolution(shape, stride, device, monkeypatch):
    monkeypatch.setattr(conv.platform, "name", lambda: device)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, *shape, 6)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((*[3] * len(shape), 2, 9)), jnp.float32)
    options = {
        "dimension_numbers": ("NHWC", "HWIO", "NHWC") if len(shape) == 2 else ("NWC", "WIO", "NWC"),
        "feature_group_count": 3,
    }

    def gradients(how):
        return jax.jit(
            jax.grad(lambda *a: jnp.sin(how(*a, stride, "SAME", **options)).sum(), (0, 1))
        )

    ours, plain = (gradients(how) for how in (conv.grouped_conv, jax.lax.conv_general_dilated))
    for a, b in zip(ours(x, kernel), plain(x, kernel), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert "feature_group_count=3" not in str(jax.make_jaxpr(ours)(x, kernel))


@pytest.mark.parametrize("blocks", [1, 2, 4, 8])
def test_merged_groups_are_the_same_convolution(blocks):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 9, 16)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((3, 2, 24)), jnp.float32)
    merged = conv.merge_groups(kernel, 8, blocks)
    assert merged.shape == (3, 16 // blocks, 24)
    np.testing.assert_allclose(
        conv._conv(x, merged, blocks), conv._conv(x, kernel, 8), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("channels", "groups", "blocks"), [(768, 16, 4), (384, 16, 2), (96, 16, 1), (512, 1, 1)]
)
def test_blocks_have_enough_channels(channels, groups, blocks):
    assert conv.block_count(channels, groups) == blocks


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_wide_convolution_and_its_gradients_are_those_of_xla(device, monkeypatch):
    monkeypatch.setattr(conv.platform, "name", lambda: device)
    noise = np.random.default_rng(0)
    x, kernel = (jnp.asarray(noise.normal(size=s), jnp.float32) for s in ((2, 11, 12), (6, 4, 12)))

    def xla(x, kernel):
        names = ("NWC", "WIO", "NWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1,), [(3, 3)], dimension_numbers=names, feature_group_count=3
        )

    def ours(x, kernel):
        return conv.wide_conv(x, kernel, 3, 3)

    np.testing.assert_allclose(ours(x, kernel), xla(x, kernel), atol=1e-5)
    weight = jnp.asarray(noise.normal(size=(2, 12, 12)), jnp.float32)
    got, want = (
        jax.grad(lambda *a, f=f: (weight * f(*a)).sum(), (0, 1))(x, kernel) for f in (ours, xla)
    )
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
