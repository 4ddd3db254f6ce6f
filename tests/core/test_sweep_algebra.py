"""Sweeps: what each function of the algebra returns, and its errors."""

import numpy as np
import pytest

from ssl_jax.core import sweep as s
from ssl_jax.core.config import ConfigError

LR = {"optim.lr": (1.0, 2.0)}


def test_product_combines_all_and_the_last_varies_fastest():
    assert s.product(LR, {"seed": range(2)}) == [
        {"optim.lr": 1.0, "seed": 0},
        {"optim.lr": 1.0, "seed": 1},
        {"optim.lr": 2.0, "seed": 0},
        {"optim.lr": 2.0, "seed": 1},
    ]
    assert s.product({"a": (1, 2), "b": (3,)}) == [{"a": 1, "b": 3}, {"a": 2, "b": 3}]
    assert s.product() == [{}]


def test_zip_pairs_and_chain_follows():
    pairs = s.zip({"a": (1, 2), "b": (3, 4)})
    assert pairs == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]
    # of a mapping, one key at a time: an ablation
    assert s.chain({"a": (1, 2), "b": (3,)}) == [{"a": 1}, {"a": 2}, {"b": 3}]
    assert s.product(s.chain(pairs, LR), {"seed": (0,)}) == [
        {"a": 1, "b": 3, "seed": 0},
        {"a": 2, "b": 4, "seed": 0},
        {"optim.lr": 1.0, "seed": 0},
        {"optim.lr": 2.0, "seed": 0},
    ]


def test_numbers_of_numpy_are_plain_ones():
    points = s.product({"optim.lr": np.logspace(-3, -2, 2), "optim.betas": np.full((1, 2), 0.5)})
    assert points == [{"optim.lr": x, "optim.betas": (0.5, 0.5)} for x in (1e-3, 1e-2)]
    assert all(type(point["optim.lr"]) is float for point in points)
    assert s.sample(2, {"seed": np.arange(3)}, seed=0) == s.sample(2, {"seed": range(3)}, seed=0)


def test_sample_is_fixed_by_its_seed_and_grows_in_place():
    space = {"lr": s.log_uniform(1e-4, 1e-2), "std": s.uniform(0, 1), "size": (1, 2)}
    drawn = s.sample(200, space | {"depth": s.integers(1, 3)}, seed=1)
    # fixed values: another machine or Python version must draw the same
    assert drawn[0] == {"lr": 0.0004945, "std": 0.9333, "size": 2, "depth": 3}
    assert s.sample(3, space, seed=1) == s.sample(5, space, seed=1)[:3]
    assert s.sample(3, space, seed=1) != s.sample(3, space, seed=2)
    assert {p["depth"] for p in drawn} == {1, 2, 3} and {p["size"] for p in drawn} == {1, 2}
    rates = sorted(p["lr"] for p in drawn)
    assert 1e-4 <= rates[0] < 2e-4 and 5e-3 < rates[-1] <= 1e-2
    assert 0.0007 < rates[100] < 0.0014  # the midpoint of the logarithms
    assert 0.4 < sum(p["std"] for p in drawn) / 200 < 0.6


def test_sample_of_a_finite_part_draws_no_point_twice():
    points = s.product({"a": range(4), "b": range(4)})
    drawn = s.sample(10, points, seed=3)
    assert len({tuple(p.items()) for p in drawn}) == 10 and all(p in points for p in drawn)
    assert s.sample(4, points, seed=3) == drawn[:4]
    assert sorted(map(str, s.sample(16, points))) == sorted(map(str, points))
    assert s.sample(2, {"a": (1, 2)}) in ([{"a": 1}, {"a": 2}], [{"a": 2}, {"a": 1}])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: s.zip({"a": (1, 2), "b": (3,)}), "a has 2, b has 1"),
        (lambda: s.product(LR, LR), "optim.lr is in two parts of a product"),
        (lambda: s.zip(LR, s.product(LR)), "optim.lr is in two parts of a zip"),
        (lambda: s.product({"name": "sgd"}), "name has 'sgd' in the sweep: give .* as a tuple"),
        (lambda: s.product({"name": 3}), "name has 3"),
        (lambda: s.product({"name": ()}), "name has no value"),
        (lambda: s.product({"lr": s.uniform(0, 1)}), "lr has a range, which only sample"),
        (lambda: s.product([1, 2]), "a part of a sweep is"),
        (lambda: s.sample(5, {"a": (1, 2)}), "of 2 points: draw at most that many"),
        (lambda: s.sample(0, LR), "at least 1"),
        (lambda: s.log_uniform(0, 1), "above 0"),
        (lambda: s.uniform(1, 1), "is empty"),
    ],
)
def test_what_makes_no_sense_is_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
