"""The convolutional decoder: formula on sequences and grids, padding, even kernels, options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from configs import common
from ssl_jax.nn.convdecoder import ConvDecoder, DecoderOptions

WIDTH = 4


def options_of(**changes):
    """The decoder of configs/common.py with some of its keys changed."""
    return DecoderOptions(**(common.data2vec2().decoder.to_dict() | changes))


def make(places, valid=None, **changes):
    """A decoder of width 4, its random parameters and inputs of two examples."""
    options = options_of(**{"dim": 6, "groups": 2, "kernel": 3, "layers": 2, **changes})
    module = ConvDecoder(options, WIDTH)
    draw = np.random.default_rng(0)
    x, noise = draw.standard_normal((2, 2, *places, WIDTH)).astype(np.float32)
    hidden = draw.random((2, *places)) < 0.5
    valid = np.ones((2, *places), bool) if valid is None else valid
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, noise, hidden, valid)["params"]
    params = jax.tree.map(lambda a: draw.standard_normal(a.shape).astype(np.float32) / 2, shapes)
    return module, params, (x, noise, hidden, valid)


def conv_at(x, kernel, at, pad):
    """The sum over the taps around one position, one at a time; zeros outside."""
    groups = 2
    size_in, size_out = kernel.shape[-2], kernel.shape[-1] // groups
    out = np.zeros(kernel.shape[-1])
    for tap in np.ndindex(*kernel.shape[:-2]):
        cell = tuple(a + t - pad for a, t in zip(at, tap, strict=True))
        if all(0 <= c < n for c, n in zip(cell, x.shape[:-1], strict=True)):
            for g in range(groups):
                part = x[cell][g * size_in : (g + 1) * size_in]
                where = slice(g * size_out, (g + 1) * size_out)
                out[where] += part @ kernel[tap][:, where]
    return out


def by_hand(p, x, noise, hidden, *, layers, kernel, residual):
    """One example, float64."""
    x = np.where(hidden[..., None], noise, x).astype(np.float64)
    for i in range(layers):
        weights = p[f"conv{i}"]
        y = np.stack(
            [conv_at(x, weights["kernel"], at, kernel // 2) for at in np.ndindex(*x.shape[:-1])]
        ).reshape(*x.shape[:-1], -1)
        y = y + weights["bias"]
        y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5)
        y = y * (1 + scipy.special.erf(y / np.sqrt(2))) / 2
        x = x + y if residual and x.shape == y.shape else y
    if "up" in p:
        x = x @ p["up"]["kernel"] + p["up"]["bias"]
        x = x * (1 + scipy.special.erf(x / np.sqrt(2))) / 2
    return x @ p["projection"]["kernel"] + p["projection"]["bias"]


@pytest.mark.parametrize(
    ("places", "changes"),
    [
        ((7,), {"layers": 3}),
        ((5,), {"kernel": 4}),
        ((3, 4), {"dim": WIDTH}),
        ((3, 4), {"kernel": 2, "residual": False, "layers": 1}),
        ((6,), {"projection_layers": 2, "ratio": 1.5, "residual": False}),
    ],
)
def test_decoder_equals_the_formula(places, changes):
    module, params, (x, noise, hidden, valid) = make(places, **changes)
    got = jax.jit(module.apply)({"params": params}, x, noise, hidden, valid)
    assert got.shape == (2, *places, WIDTH) and got.dtype == jnp.float32
    o = module.options
    for row in range(2):
        want = by_hand(
            params,
            x[row],
            noise[row],
            hidden[row],
            layers=o.layers,
            kernel=o.kernel,
            residual=o.residual,
        )
        np.testing.assert_allclose(got[row], want, atol=2e-5)


def test_what_stands_under_noise_and_behind_the_end_changes_nothing():
    valid = np.arange(9) < np.array([[9], [6]])
    module, params, (x, noise, hidden, _) = make((9,), valid)
    run = jax.jit(lambda *a: module.apply({"params": params}, *a))
    clean = run(x, noise, hidden, valid)
    loud = np.where((hidden | ~valid)[..., None], 50, x)
    np.testing.assert_array_equal(run(loud, noise, hidden, valid)[valid], clean[valid])
    alone = run(*(a[1:, :6] for a in (x, noise, hidden, valid)))
    np.testing.assert_allclose(alone[0], clean[1, :6], atol=1e-6)


def test_dropout_falls_on_visible_tokens_only():
    module, params, inputs = make((400,), layers=0, input_dropout=0.5)
    eye = {"projection": {"kernel": np.eye(WIDTH, dtype=np.float32), "bias": np.zeros(WIDTH)}}
    assert set(params) == {"projection"}
    rngs = {"dropout": jax.random.key(1)}
    out = np.asarray(
        jax.jit(lambda *a: module.apply({"params": eye}, *a, True, rngs=rngs))(*inputs)
    )
    hidden = inputs[2]
    assert 0.45 < np.mean(out[~hidden] == 0) < 0.55
    np.testing.assert_array_equal(out[hidden], inputs[1][hidden])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": -1}, "config.method.decoder.layers is -1: use 0 or more"),
        ({"kernel": 0}, "config.method.decoder.kernel is 0: use 1 or more"),
        ({"projection_layers": 3}, "config.method.decoder.projection_layers is 3: use 1 or 2"),
        ({"input_dropout": 1.0}, "config.method.decoder.input_dropout is 1.0"),
        ({"noise_std": -1.0}, "config.method.decoder.noise_std is -1.0"),
        ({"init": "zeros"}, "config.method.decoder.init is 'zeros': use one of bert"),
    ],
)
def test_impossible_options_name_their_key(changes, words):
    with pytest.raises(ValueError, match=words):
        options_of(**changes)


def test_groups_must_divide_the_channels():
    with pytest.raises(ValueError, match=r"decoder.groups 5 does not divide .*encoder.width 16"):
        options_of(groups=5, dim=10).check_width(16)
    with pytest.raises(ValueError, match=r"decoder.groups 4 does not divide .*decoder.dim 10"):
        options_of(groups=4, dim=10).check_width(16)
    options_of(groups=4, dim=8).check_width(16)
    options_of(layers=0, groups=7).check_width(16)
