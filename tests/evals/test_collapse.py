import numpy as np
import pytest

from ssl_jax.evals import collapse

ROWS, WIDTH = 400, 8


def inputs():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(ROWS, WIDTH))
    orthonormal, _ = np.linalg.qr(normal)
    return {
        "collapsed": np.full((ROWS, WIDTH), 3.0),
        "rank one": np.outer(normal[:, 0], np.ones(WIDTH)),
        "isotropic": normal,
        "whitened": orthonormal * np.sqrt(ROWS),
    }


def test_rank_of_known_inputs():
    features = np.stack(list(inputs().values()), 1).astype(np.float32)
    rank = collapse.layer_rank(features)
    np.testing.assert_allclose(rank[:2], 1, atol=1e-3)
    assert 0.97 * WIDTH < rank[2] < WIDTH
    np.testing.assert_allclose(rank[3], WIDTH, rtol=1e-4)


def test_rank_equals_the_definition_on_uneven_spectra():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50, WIDTH)) * np.logspace(0, -3, WIDTH)
    sigma = np.linalg.svd(x, compute_uv=False)
    p = sigma / sigma.sum() + 1e-7
    want = np.exp(-(p * np.log(p)).sum())
    np.testing.assert_allclose(collapse.layer_rank(x[:, None].astype(np.float32)), want, rtol=1e-4)
    wide = x[:5, None].astype(np.float32)
    assert 1 < collapse.layer_rank(wide)[0] <= 5


def test_std_of_known_inputs():
    features = np.stack(list(inputs().values()), 1).astype(np.float32)
    std = collapse.layer_std(features)
    np.testing.assert_allclose(std[0], 1e-3, rtol=1e-3)
    np.testing.assert_allclose(std[2:], 1, atol=0.05)


def test_cosine_of_equal_opposite_and_orthogonal_layers():
    x = np.tile(np.array([[3.0, 0.0]], np.float32), (5, 1))
    y = np.tile(np.array([[0.0, 2.0]], np.float32), (5, 1))
    got = collapse.layer_cosine(np.stack([x, x, x], 1), np.stack([2 * x, -x, y], 1))
    np.testing.assert_allclose(got, [1, -1, 0], atol=1e-6)
    with pytest.raises(ValueError, match="different clips"):
        collapse.layer_cosine(x[:, None], x[:3, None])


def test_report_names_every_layer():
    features = np.random.default_rng(0).normal(size=(30, 2, 4)).astype(np.float32)
    names = {f"{k}/layer{i}" for k in ("std", "rankme", "teacher_cosine") for i in (0, 1)}
    assert set(collapse.report(features, features)) == names
    assert set(collapse.report(features)) == {n for n in names if "cosine" not in n}


def test_no_clip_is_no_collapse():
    nothing = np.zeros((0, 2, WIDTH), np.float32)
    found = collapse.report(nothing, nothing)
    assert len(found) == 6 and all(np.isnan(value) for value in found.values())
