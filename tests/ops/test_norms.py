import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.ops import norms


def test_layer_norm_equals_the_definition_in_float32():
    x = np.random.default_rng(0).standard_normal((3, 4, 8)) * 2 + 5
    want = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(norms.layer_norm(jnp.asarray(x)), want, atol=1e-5)
    assert norms.layer_norm(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.float32


def test_instance_norm_uses_real_frames_of_each_row_only():
    x = np.random.default_rng(1).standard_normal((2, 9, 4)) * 3 - 2
    mask = np.arange(9) < np.array([[5], [9]])
    got = np.asarray(norms.instance_norm(jnp.asarray(x), jnp.asarray(mask)))
    for row, n in ((0, 5), (1, 9)):
        part = x[row, :n]
        want = (part - part.mean(0)) / np.sqrt(part.var(0) + 1e-5)
        np.testing.assert_allclose(got[row, :n], want, atol=1e-5)
        assert not got[row, n:].any()
    whole = norms.instance_norm(jnp.asarray(x[1:]))
    np.testing.assert_allclose(got[1], whole[0], atol=1e-6)


def test_instance_norm_survives_empty_and_single_frame_rows():
    x = jnp.full((2, 3, 2), jnp.nan).at[1, 0].set(7.0)
    mask = jnp.array([[False] * 3, [True, False, False]])
    assert not np.asarray(norms.instance_norm(x, mask)).any()
    grad = jax.grad(lambda y: norms.instance_norm(y, mask).sum())(x)
    assert np.isfinite(grad).all()
