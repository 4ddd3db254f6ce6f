"""The decoder with shifted windows: a literal float64 computation over all pairs, and its parts."""

import math

import jax
import numpy as np
import pytest
import scipy.special

from ssl_jax.core import tree as tree_lib
from ssl_jax.nn import local_decoder
from ssl_jax.nn.local_decoder import LocalDecoder, LocalOptions
from ssl_jax.nn.transformer import TransformerOptions

LOCAL = LocalOptions((4, 2), (2, 0), 6, 0.1)
OPTIONS = TransformerOptions(depth=3, width=8, heads=2, mlp_width=12, eps=1e-6, init="xavier")
ROWS, COLUMNS = 10, 4  # a window of 4 rows does not divide 10, so that two are filled up
SIZE, OUTPUTS = ROWS * COLUMNS, 5


def norm(x, p, name, i=None):
    scale, bias = (np.asarray(p[f"{name}/{part}"], np.float64) for part in ("scale", "bias"))
    scale, bias = (scale, bias) if i is None else (scale[i], bias[i])
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * scale + bias


def position(k, width, rows, swapped):
    """The vector of patch k: column then row; `swapped` counts both in a grid of `rows` columns."""
    row, column = divmod(k, rows if swapped else COLUMNS)
    quarter = width // 4
    omega = [10000 ** (-i / quarter) for i in range(quarter)]
    return [f(at * w) for at in (column, row) for f in (math.sin, math.cos) for w in omega]


def window_of(place, shift):
    """(the window of a place after the grid moved up by `shift` rows, whether it went around)."""
    row, column = place
    full = -(-ROWS // 4) * 4
    moved = (row - shift) % full
    return (moved // 4, column // 2), row < shift


def attention(p, i, x, real, heads=2):
    """x (S, D) -> (S, D): every pair of places, one by one."""
    weight = {n: p[f"blocks/attention/{n}/kernel"][i] for n in ("query", "key", "value", "out")}
    offset = {n: p[f"blocks/attention/{n}/bias"][i] for n in weight}
    q, k, v = (x @ weight[n] + offset[n] for n in ("query", "key", "value"))
    size, shift, out = x.shape[1] // heads, 2 * (i % 2), np.zeros_like(x)
    places = [divmod(n, COLUMNS) for n in range(SIZE)]
    for a in range(SIZE):
        near = [
            b
            for b in range(SIZE)
            if real[b] and window_of(places[a], shift) == window_of(places[b], shift)
        ]
        for h in range(heads):
            own = slice(h * size, (h + 1) * size)
            scores = []
            for b in near:
                length = np.linalg.norm(q[a, own]) * np.linalg.norm(k[b, own])
                score = q[a, own] @ k[b, own] / max(length, 1e-6)
                d = np.subtract(places[a], places[b])
                d = np.sign(d) * np.log(1 + np.abs(d))
                hidden = d @ p["blocks/attention/offset0/kernel"][i]
                hidden = np.maximum(hidden + p["blocks/attention/offset0/bias"][i], 0)
                bias = hidden @ p["blocks/attention/offset1/kernel"][i]
                bias = bias + p["blocks/attention/offset1/bias"][i]
                scores.append(score / max(p["blocks/attention/tau"][i][h], 0.01) + bias[h])
            if near:
                shares = np.exp(np.array(scores) - max(scores))
                out[a, own] = shares @ v[near][:, own] / shares.sum()
    return out @ weight["out"] + offset["out"]


def literal(p, x, visible, real, swapped):
    """x (1 + V, E) encoded, the ids of the visible ones in order -> (S, outputs)."""
    x = x @ p["embed/kernel"] + p["embed/bias"]
    rows = [x[1 + visible.index(k)] if k in visible else p["mask"] for k in range(SIZE)]
    y = np.stack(rows) + [position(k, 8, ROWS, swapped) for k in range(SIZE)]
    for i in range(3):
        y = y + norm(attention(p, i, y, real), p, "blocks/norm1", i)
        z = y @ p["blocks/mlp/up/kernel"][i] + p["blocks/mlp/up/bias"][i]
        z = z * (1 + scipy.special.erf(z / math.sqrt(2))) / 2
        z = z @ p["blocks/mlp/down/kernel"][i] + p["blocks/mlp/down/bias"][i]
        y = y + norm(z, p, "blocks/norm2", i)
    return norm(y, p, "final_norm") @ p["predict/kernel"] + p["predict/bias"]


@pytest.fixture(scope="module")
def case():
    """(parameters, encoded tokens, ids_shuffle, visible, valid); the second clip has 7 rows."""
    draw = np.random.default_rng(0)
    valid = np.arange(SIZE) < np.array([SIZE, 7 * COLUMNS])[:, None]
    order = np.stack([draw.permutation(SIZE), np.r_[draw.permutation(28), 28:40]])
    visible = np.zeros((2, SIZE), bool)
    for row in range(2):
        visible[row, order[row, :6]] = True
    x = draw.standard_normal((2, 7, 3)).astype(np.float32)
    given = (x, order, visible, valid, (ROWS, COLUMNS), 1)
    module = LocalDecoder(OUTPUTS, OPTIONS, LOCAL)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *given))["params"]

    def one(name, a):
        values = draw.standard_normal(a.shape).astype(np.float32)
        return 0.5 + np.abs(values) if name.endswith("tau") else values / 2

    return tree_lib.map_named(one, shapes), given


@pytest.mark.parametrize("swapped", [False, True])
def test_predictions_are_the_literal_ones(case, swapped):
    params, given = case
    module = LocalDecoder(OUTPUTS, OPTIONS, LOCAL, swapped=swapped)
    run = jax.jit(lambda p: module.apply({"params": p}, *given))
    got = np.asarray(run(params))
    flat = {n: np.asarray(a, np.float64) for n, a in tree_lib.named_leaves(params)}
    x, order, _, valid, _, _ = given
    for row in range(2):
        ids = order[row, :6].tolist()
        want = literal(flat, x[row].astype(np.float64), ids, valid[row], swapped)
        np.testing.assert_allclose(got[row][valid[row]], want[valid[row]], atol=2e-5)


def test_the_offset_bias_has_dropout_in_training_only(case):
    params, given = case
    module = LocalDecoder(OUTPUTS, OPTIONS, LOCAL)

    @jax.jit
    def run(key):
        return module.apply({"params": params}, *given, True, rngs={"dropout": key})

    first, again, other = (np.asarray(run(jax.random.key(i))) for i in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4


def test_the_shift_separates_rows_from_both_ends_and_no_columns():
    """The published 64 x 8 grid in windows of 4 x 4, shifted by two rows."""
    rows, columns = np.arange(64), np.arange(8)
    part = ((rows >= 64 - 2)[:, None] * 2 + (columns >= 8 - 0))[None]
    part = np.asarray(local_decoder.windows(part, (4, 4)))[0]
    apart = part[:, :, None] != part[:, None]
    assert apart.shape == (32, 16, 16) and not apart[:30].any()
    for window in apart[30:]:  # the last two, side by side
        halves = np.arange(16) // 8
        np.testing.assert_array_equal(window, halves[:, None] != halves)


def test_windows_are_undone():
    x = np.arange(2 * 8 * 4 * 3).reshape(2, 8, 4, 3)
    cut = local_decoder.windows(x, (4, 2))
    assert cut.shape == (2, 4, 8, 3)
    np.testing.assert_array_equal(cut[0, 1, :, 0] // 3, [2, 3, 6, 7, 10, 11, 14, 15])
    np.testing.assert_array_equal(local_decoder.unwindowed(cut, (4, 2), 4), x)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": (4,)}, r"local\.window is \(4,\): use \(time, mel\), such as \(4, 4\)"),
        ({"shift": (4, 0)}, r"local\.shift is \(4, 0\): .*less than .*\(4, 2\), such as \(2, 0\)"),
        ({"bias_width": 0}, r"local\.bias_width is 0: use 1 or more"),
        ({"bias_dropout": 1.0}, r"local\.bias_dropout is 1\.0: use 0\.0 or more and below 1"),
    ],
)
def test_a_wrong_option_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        LocalOptions(**{**vars(LOCAL), **changes})


def test_windows_that_do_not_divide_the_bands_are_named():
    with pytest.raises(ValueError, match=r"window is \(4, 2\), .* the 7 columns .* such as 7"):
        LOCAL.check((0, 7))
    LOCAL.check((0, 8))
