"""Attention in one kernel equals the attention written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core import platform
from ssl_jax.nn import attention
from ssl_jax.nn.transformer import Attention, TransformerOptions, unrolled


@pytest.mark.parametrize("tokens", [pytest.param(6, marks=pytest.mark.slow), 7])
def test_one_kernel_gives_the_attention_and_gradients_that_are_written_out(tokens, monkeypatch):
    module = Attention(TransformerOptions(width=16, heads=2))
    x = jax.random.normal(jax.random.key(0), (3, tokens, 16))
    valid = jnp.arange(tokens) < jnp.array([[tokens], [4], [1]])
    init = jax.jit(lambda key: module.init(key, x, valid, None, False))
    params = init(jax.random.key(1))

    def grad(params, x):
        def loss(params, x):  # a new function, so it is traced again
            y = module.apply(params, x, valid, None, False)
            return jnp.sin(jnp.where(valid[..., None], y, 0)).sum(), y

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x)

    want, y = grad(params, x)
    called = []

    def in_one_kernel(*given):  # as XLA computes it without cuDNN
        called.append(1)
        return inner(*given, implementation="xla")

    inner = attention.in_one_kernel
    monkeypatch.setattr(attention, "has_kernel", lambda *_: True)
    monkeypatch.setattr(attention, "in_one_kernel", in_one_kernel)
    got, y_kernel = grad(params, x)
    assert called
    np.testing.assert_allclose(y_kernel, y, atol=1e-5)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_only_a_gpu_in_half_precision_has_the_kernel(monkeypatch):
    assert not attention.has_kernel(64, jnp.bfloat16, None, 0.0)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert attention.has_kernel(64, jnp.bfloat16, None, 0.0)
    assert not attention.has_kernel(64, jnp.float32, None, 0.0)
    assert not attention.has_kernel(64, jnp.bfloat16, jnp.zeros((1, 1, 2, 2)), 0.0)
    assert not attention.has_kernel(64, jnp.bfloat16, None, 0.1)
    assert not attention.has_kernel(60, jnp.bfloat16, None, 0.0)
    assert not attention.has_kernel(160, jnp.bfloat16, None, 0.0)


@pytest.mark.parametrize(
    ("device", "depth", "expected"),
    [("cpu", 48, True), ("gpu", 12, True), ("gpu", 48, False), ("tpu", 12, False)],
)
def test_layers_are_unrolled_where_a_loop_is_slower(device, depth, expected):
    with platform.planned(device):
        assert unrolled(TransformerOptions(depth=depth)) == expected
        assert unrolled(TransformerOptions(depth=depth, unroll=not expected)) != expected


def test_the_products_of_a_cpu_are_those_of_other_platforms():
    keys = jax.random.split(jax.random.key(0), 3)
    query, value = (
        jax.random.normal(key, (2, n, 3, 4)) for key, n in zip(keys[:2], (5, 6), strict=True)
    )
    weights = jax.random.normal(keys[2], (2, 3, 5, 6))
    found = attention.scores(query, value), attention.weighted(weights, value)
    with platform.planned("tpu"):
        other = attention.scores(query, value), attention.weighted(weights, value)
    for got, want, shape in zip(found, other, ((2, 3, 5, 6), (2, 5, 3, 4)), strict=True):
        assert got.shape == shape
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
