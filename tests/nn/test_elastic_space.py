"""The spaces of subnets: sizes and counts of the paper, the slices of a layer, texts, errors."""

import dataclasses
import re

import numpy as np
import pytest

from ssl_jax.nn import elastic_space
from ssl_jax.nn.elastic_space import BASE, SMALL, Space, Subnet


def mini(**changes):
    """Returns a space of a supernet of 4 layers of width 64."""
    given = {"embed": (32, 48, 64), "heads": (2, 3, 4), "ratios": (2.0, 3.0, 4.0)}
    given |= {"depths": (2, 3, 4), "layers": 4, "head_width": 16, "width": 64, "heads_full": 4}
    return Space(**(given | {"drop_order": (3, 1)} | changes))


def test_size_of_the_published_spaces():
    assert BASE.size() == 6_530_347_008
    assert SMALL.size() == 951_892_141_473


@pytest.mark.parametrize(
    "space, text, params",
    [
        (BASE, "largest", 94_377_728),
        (BASE, "a_base", 66_897_664),
        (BASE, "smallest", 41_249_536),
        (SMALL, "largest", 44_398_336),
        (SMALL, "a_small", 26_879_744),
        (SMALL, "smallest", 11_449_088),
    ],
)
def test_parameters_of_the_published_subnets(space, text, params):
    assert space.params(space.parse(text)) == params


@pytest.mark.parametrize(
    "depth, dropped",
    [(12, ()), (11, (11,)), (10, (7, 11)), (9, (3, 7, 11)), (8, (3, 7, 10, 11))]
    + [(7, (3, 6, 7, 10, 11)), (6, (2, 3, 6, 7, 10, 11))],
)
def test_layers_that_a_depth_keeps(depth, dropped):
    space = dataclasses.replace(SMALL, depths=(6, 12))
    assert space.kept(depth) == tuple(i for i in range(12) if i not in dropped)


def test_another_number_of_layers_has_a_table_of_its_own():
    assert mini().kept(2) == (0, 2) and mini().kept(3) == (0, 1, 2)
    assert mini(drop_order=()).kept(2) == (0, 1)  # the published rule on one group of four
    assert mini(drop_order=(), layers=5, depths=(1, 2)).kept(2) == (0, 4)  # and beyond its tables
    np.testing.assert_array_equal(mini().keep_table(), [[1, 0, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]])


def test_hidden_units_are_slices_of_blocks():
    expected = np.r_[0:512, 768:1280, 1536:2048, 2304:2560]
    np.testing.assert_array_equal(BASE.hidden_units(512, 3.5), expected)
    np.testing.assert_array_equal(BASE.hidden_units(768, 4.0), np.arange(3072))


def test_samples_are_uniform_over_each_axis_and_inside():
    rng, space = np.random.default_rng(0), mini()
    found = [space.sample(rng) for _ in range(1500)]
    for subnet in found:
        space.check(subnet)
    for values, allowed in (
        ([s.depth for s in found], space.depths),
        ([s.embed for s in found], space.embed),
        ([h for s in found for h in s.heads], space.heads),
        ([r for s in found for r in s.ratios], space.ratios),
    ):
        shares = [np.mean(np.equal(values, a)) for a in allowed]
        np.testing.assert_allclose(shares, 1 / 3, atol=0.05)


@pytest.mark.parametrize("space", [BASE, SMALL, mini()])
def test_text_of_a_subnet_is_read_back(space):
    subnet = space.sample(np.random.default_rng(3))
    assert space.parse(str(subnet)) == subnet
    assert str(SMALL.parse("a_small")) == "384/6x12/4x12"


def test_arrays_place_the_values_on_kept_layers():
    subnet = Subnet(48, (2, 4), (3.0, 2.0))
    found = mini().stack([subnet, mini().largest()])
    np.testing.assert_array_equal(found["keep"], [[1, 0, 1, 0], [1, 1, 1, 1]])
    np.testing.assert_array_equal(found["heads"], [[2, 0, 4, 0], [4, 4, 4, 4]])
    np.testing.assert_array_equal(found["ratios"][0], [3, 0, 2, 0])
    np.testing.assert_array_equal(found["embed"], [48, 64])


def test_flops_are_two_for_each_product():
    frontend = elastic_space.FrontEnd(params=0, channels=3, products=5)
    space = mini(frontend=frontend, position_kernel=8)
    subnet = Subnet(32, (2, 3), (2.0, 4.0))
    layer = lambda inner, hidden: 4 * 32 * inner + 2 * 32 * hidden + 2 * inner * 10  # noqa: E731
    products = 5 + 3 * 32 + 32 * 2 * 8 + layer(32, 64) + layer(48, 128)
    assert space.flops(subnet, frames=10) == 2 * 10 * products


@pytest.mark.parametrize(
    "text, message",
    [
        ("400/6x12/4x12", "width 400 is not in the space: use one of 256, 384, 512"),
        ("384/5,6x11/4x12", "number of heads 5 is not in the space: use one of 4, 6, 8"),
        ("384/6x12/2x12", "feed-forward ratio 2 is not in the space: use one of 3, 3.5, 4"),
        ("384/6x9/4x9", "depth 9 is not in the space: use one of 10, 11, 12"),
        ("384/6x12", "use largest, smallest, a_small, or embed/heads/ratios"),
        ("384/6x12/4x11", "use largest, smallest, a_small, or embed/heads/ratios"),
        ("a_base", "use largest, smallest, a_small"),
    ],
)
def test_a_subnet_outside_the_space_is_one_clear_error(text, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        SMALL.parse(text, "--subnet")
    assert str(error.value).startswith(f"--subnet is '{text}'")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"embed": (48, 32)}, "config.method.space.embed is (48, 32): use ascending"),
        ({"heads": (2, 5)}, "config.method.space.heads is (2, 5): use ascending numbers above 0"),
        ({"embed": (40, 64)}, "config.method.space.embed has 40"),
        ({"drop_order": (3,)}, "config.method.space.drop_order is (3,): name at least 2 layers"),
    ],
)
def test_a_space_that_the_supernet_does_not_hold_is_one_clear_error(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        mini(**changes)
