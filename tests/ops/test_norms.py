import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.ops import norms

layer_norm = jax.jit(norms.layer_norm)
instance_norm = jax.jit(norms.instance_norm)


def test_layer_norm_equals_the_definition_in_float32():
    x = np.random.default_rng(0).standard_normal((3, 4, 8)) * 2 + 5
    want = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(layer_norm(x), want, atol=1e-5)
    assert layer_norm(x.astype(jnp.bfloat16)).dtype == jnp.float32


def test_instance_norm_uses_real_frames_of_each_row_only():
    x = np.random.default_rng(1).standard_normal((2, 9, 4)) * 3 - 2
    mask = np.arange(9) < np.array([[5], [9]])
    got = np.asarray(instance_norm(x, mask))
    for row, n in ((0, 5), (1, 9)):
        part = x[row, :n]
        want = (part - part.mean(0)) / np.sqrt(part.var(0) + 1e-5)
        np.testing.assert_allclose(got[row, :n], want, atol=1e-5)
        assert not got[row, n:].any()
    whole = np.asarray(instance_norm(x[1:]))
    np.testing.assert_allclose(got[1], whole[0], atol=1e-6)


def test_instance_norm_survives_empty_and_single_frame_rows():
    x = np.full((2, 3, 2), np.nan, np.float32)
    x[1, 0] = 7
    mask = np.array([[False] * 3, [True, False, False]])
    assert not np.asarray(instance_norm(x, mask)).any()
    grad = jax.jit(jax.grad(lambda y: norms.instance_norm(y, mask).sum()))(x)
    assert np.isfinite(grad).all()
