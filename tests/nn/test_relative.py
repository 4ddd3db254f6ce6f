"""Relative positions: which row of the table belongs to which pair of tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.nn import relative


def literal(grid):
    """Numbers the pairs by counting: equal offsets get equal rows, in the order of BEiT."""
    rows, columns = grid
    order = [(dr, dc) for dr in range(1 - rows, rows) for dc in range(1 - columns, columns)]
    names = {offset: i for i, offset in enumerate(order)}
    count = len(order)
    cells = [(r, c) for r in range(rows) for c in range(columns)]
    index = np.full((1 + len(cells), 1 + len(cells)), -1)
    for q, (a, b) in enumerate(cells):
        index[0, 1 + q], index[1 + q, 0] = count, count + 1
        for k, (c, d) in enumerate(cells):
            index[1 + q, 1 + k] = names[a - c, b - d]
    index[0, 0] = count + 2
    return index


@pytest.mark.parametrize("grid", [(3, 3), (2, 4)])
def test_equal_offsets_share_a_row_and_the_class_token_has_three(grid):
    np.testing.assert_array_equal(relative.offsets(grid), literal(grid))


def test_the_published_table_has_732_rows():
    assert relative.table_rows((14, 14)) == 732
    assert relative.offsets((14, 14)).max() == 731


@pytest.mark.parametrize("class_token", [True, False])
def test_kept_patches_have_the_bias_they_had_among_all(class_token):
    module = relative.RelativePositions((2, 3), 2, class_token)
    shape = jax.eval_shape(module.init, jax.random.key(0))["params"]["table"].shape
    params = {"table": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    keep = jnp.array([[4, 1], [0, 5]])
    both = jax.jit(lambda p: [module.apply({"params": p}, k) for k in (None, keep)])
    whole, some = map(np.asarray, both(params))
    first = int(class_token)
    assert whole.shape == (1, 2, 6 + first, 6 + first)
    assert some.shape == (2, 2, 2 + first, 2 + first)
    for row, places in enumerate(np.asarray(keep)):
        at = np.concatenate([np.arange(first), places + first])
        np.testing.assert_array_equal(some[row], whole[0][:, at][:, :, at])
    if class_token:
        assert whole[0, 1, 0, 3] == params["table"][-3, 1]
        assert whole[0, 1, 3, 0] == params["table"][-2, 1]
