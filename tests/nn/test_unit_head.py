"""The logits over units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.nn.unit_head import UnitHead

X = np.random.default_rng(0).standard_normal((2, 4, 6)).astype(np.float32)


@pytest.mark.parametrize("tied", [False, True])
def test_units_are_scored_by_cosine_over_temperature(tied):
    head = UnitHead((3, 2), width=4, tied=tied, temperature=0.1)
    params = jax.jit(head.init)(jax.random.key(0), X)
    units, kernel = (params["params"][k] for k in ("units", "projection"))
    assert kernel["kernel"].shape == (6, 4 if tied else 8) and units.shape == (5, 4)
    projected, logits = jax.jit(head.apply)(params, X)
    for k, (scores, own) in enumerate(zip(logits, (units[:3], units[3:]), strict=True)):
        part = slice(0, 4) if tied else slice(4 * k, 4 * k + 4)
        x = np.asarray(projected)[..., part]
        size = np.linalg.norm(x, axis=-1)[..., None] * np.linalg.norm(own, axis=-1)
        np.testing.assert_allclose(scores, x @ own.T / size / 0.1, rtol=1e-4, atol=1e-4)


def test_a_projection_of_zeros_has_finite_scores_and_gradients():
    head = UnitHead((3,), width=4)
    params = jax.jit(head.init)(jax.random.key(0), X)
    params = jax.tree.map(jnp.zeros_like, params)
    score = jax.jit(jax.value_and_grad(lambda p: head.apply(p, X)[1][0].sum()))
    found, gradient = score(params)
    assert found == 0 and all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
