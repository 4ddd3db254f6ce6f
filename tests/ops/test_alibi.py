import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.ops import alibi


@pytest.mark.parametrize(
    ("heads", "exponents"),
    [
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (12, [1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5]),
        (16, [i / 2 for i in range(1, 17)]),
        (2, [4, 8]),
        (3, [4, 8, 2]),
        (1, [8]),
    ],
)
def test_published_slopes(heads, exponents):
    np.testing.assert_allclose(alibi.slopes(heads), [2.0**-e for e in exponents], rtol=1e-12)


def test_bias_of_some_places_is_that_of_all_gathered_on_both_axes():
    whole = np.asarray(jax.jit(alibi.distance_bias, static_argnums=1)(jnp.arange(7)[None], 3))[0]
    np.testing.assert_allclose(whole[1, 2], -(2.0**-8) * np.array([2, 1, 0, 1, 2, 3, 4]))
    ids = np.array([[5, 0, 3], [6, 1, 2]])
    some = alibi.distance_bias(jnp.asarray(ids), 3)
    assert some.shape == (2, 3, 3, 3) and some.dtype == jnp.float32
    for row, keep in zip(np.asarray(some), ids, strict=True):
        np.testing.assert_array_equal(row, whole[:, keep][:, :, keep])
