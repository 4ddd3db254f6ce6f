"""The search for subnets, on a loss that is a formula: no model."""

import dataclasses
import re

import numpy as np
import pytest

from ssl_jax.nn.elastic_space import FrontEnd, Space, Subnet
from ssl_jax.stages import search
from ssl_jax.stages.search import Options

SPACE = Space(
    embed=(32, 48, 64),
    heads=(2, 3, 4),
    ratios=(2.0, 3.0, 4.0),
    depths=(2, 3, 4),
    layers=4,
    head_width=16,
    width=64,
    heads_full=4,
    position_kernel=8,
    frontend=FrontEnd(params=1000, channels=8, products=500),
)
LEAST, MOST = SPACE.params(SPACE.smallest()), SPACE.params(SPACE.largest())
BUDGET = (LEAST + MOST) // 2
OPTIONS = Options(max_params=BUDGET, population=12, generations=6, block=5)


def loss(subnet):
    """Each gene helps, those of each layer as much as its place says: no two are alike."""
    heads = sum((i + 1) * h for i, h in enumerate(subnet.heads))
    ratios = sum((4 - i) * r for i, r in enumerate(subnet.ratios))
    return 5.0 - 0.1 * heads - 0.03 * ratios - 0.01 * subnet.embed


def scores(subnets):
    assert len(subnets) <= OPTIONS.block
    return [loss(subnet) for subnet in subnets]


@pytest.mark.parametrize("kind", search.KINDS)
@pytest.mark.parametrize("budget", [LEAST, BUDGET, MOST])
def test_nothing_over_budget_is_ever_scored(kind, budget, tmp_path):
    options = dataclasses.replace(OPTIONS, kind=kind, max_params=budget, generations=3)
    found = search.search(SPACE, scores, options, tmp_path)
    assert max(map(SPACE.params, found.losses)) <= budget
    for subnet, value in found.losses.items():
        SPACE.check(subnet)
        assert value == loss(subnet)
    if budget == LEAST:
        assert list(found.losses) == [SPACE.smallest()]
    else:
        assert len(found.losses) == 3 * 12  # no subnet twice


def test_a_budget_of_operations_holds_too(tmp_path):
    limit = (SPACE.flops(SPACE.smallest(), 50) + SPACE.flops(SPACE.largest(), 50)) // 2
    options = dataclasses.replace(OPTIONS, max_params=0, max_flops=limit, frames=50)
    found = search.search(SPACE, scores, options, tmp_path)
    assert max(SPACE.flops(subnet, 50) for subnet in found.losses) <= limit


def test_evolution_beats_random_search_and_the_heuristic(tmp_path):
    best = {}
    for kind in search.KINDS:
        options = dataclasses.replace(OPTIONS, kind=kind)
        found = search.search(SPACE, scores, options, tmp_path / kind)
        best[kind] = loss(found.best)
    assert best["evolution"] < best["random"]
    assert best["evolution"] < loss(search.largest_alike(SPACE, OPTIONS))


def test_a_killed_search_continues_to_the_same_bits(tmp_path):
    whole = search.search(SPACE, scores, OPTIONS, tmp_path / "whole")
    calls = []

    def dying(subnets):
        calls.append(subnets)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return scores(subnets)

    with pytest.raises(KeyboardInterrupt):
        search.search(SPACE, dying, OPTIONS, tmp_path / "killed")
    again = search.search(SPACE, scores, OPTIONS, tmp_path / "killed")
    assert list(again.losses.items()) == list(whole.losses.items())
    more = search.search(
        SPACE, scores, dataclasses.replace(OPTIONS, generations=7), tmp_path / "whole"
    )
    assert list(more.losses.items())[: len(whole.losses)] == list(whole.losses.items())
    assert len(more.losses) > len(whole.losses)


def test_another_search_is_not_continued(tmp_path):
    search.search(SPACE, scores, dataclasses.replace(OPTIONS, generations=1), tmp_path)
    with pytest.raises(ValueError, match="is of a search with seed=1, and this one has 2"):
        search.search(SPACE, scores, dataclasses.replace(OPTIONS, seed=2), tmp_path)


def test_a_small_space_runs_out(tmp_path):
    space = dataclasses.replace(SPACE, heads=(4,), ratios=(4.0,))
    found = search.search(space, scores, dataclasses.replace(OPTIONS, max_params=0), tmp_path)
    assert len(found.losses) == space.size() == 9


@pytest.mark.parametrize("key", ["max_params", "max_flops"])
def test_a_budget_below_the_smallest_subnet_is_one_clear_error(key, tmp_path):
    size = LEAST if key == "max_params" else SPACE.flops(SPACE.smallest())
    options = dataclasses.replace(OPTIONS, **({"max_params": 0} | {key: size - 1}))
    message = f"{key} of the search is {size - 1:,}, but the smallest subnet, '32/2x2/2x2', has"
    with pytest.raises(ValueError, match=re.escape(message) + f".*: use {size} or more"):
        search.search(SPACE, scores, options, tmp_path)


def test_the_front_has_no_subnet_that_a_smaller_one_beats():
    small, same, large, worse = (
        Subnet(32, (2, 2), (2.0, 2.0)),
        Subnet(32, (3, 2), (2.0, 2.0)),
        Subnet(64, (2, 2), (2.0, 2.0)),
        Subnet(64, (4, 4), (2.0, 2.0)),
    )
    losses = {worse: 0.5, large: 0.4, same: 0.9, small: 0.9}
    found = search.Found(SPACE, OPTIONS, losses)
    assert found.front() == [small, large] and found.best == large


def test_fixed_subnets_are_scored_by_name():
    found = search.fixed(SPACE, scores, ["largest", "48/2,4/3x2"], block=1)
    assert found == {
        "largest": loss(SPACE.largest()),
        "48/2,4/3x2": loss(SPACE.parse("48/2,4/3x2")),
    }


def test_random_subnets_are_spread_over_the_space(tmp_path):
    options = dataclasses.replace(OPTIONS, kind="random", population=60, generations=2)
    found = search.search(SPACE, lambda s: np.zeros(len(s)), options, tmp_path)
    assert {s.embed for s in found.losses} == {32, 48, 64}
    assert {s.depth for s in found.losses} == {2, 3, 4}
