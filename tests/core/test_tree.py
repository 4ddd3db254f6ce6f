"""Path names of trees."""

import flax.struct
import jax
import numpy as np
import pytest

from ssl_jax.core import tree


@flax.struct.dataclass
class Pair:
    """A struct, as TrainState is one."""

    left: np.ndarray
    right: dict


def sample() -> dict:
    return {
        "encoder": {"blocks": {"query": {"kernel": np.zeros((2, 3))}}},
        "parts": (np.ones(4), [np.ones(())]),
        "pair": Pair(np.zeros(1), {"x": np.zeros(5)}),
    }


def test_names_of_dicts_tuples_lists_and_structs():
    assert [name for name, _ in tree.named_leaves(sample())] == [
        "encoder/blocks/query/kernel",
        "pair/left",
        "pair/right/x",
        "parts/0",
        "parts/1/0",
    ]


def test_leaves_come_in_tree_order():
    leaves = [x for _, x in tree.named_leaves(sample())]
    for a, b in zip(leaves, jax.tree.leaves(sample()), strict=True):
        np.testing.assert_array_equal(a, b)


def test_map_named_gives_name_and_matching_leaves():
    a = {"x": 1, "y": {"z": 2}}
    b = {"x": 10, "y": {"z": 20}}
    out = tree.map_named(lambda name, p, q: f"{name}:{p + q}", a, b)
    assert out == {"x": "x:11", "y": {"z": "y/z:22"}}


def test_map_named_refuses_another_structure():
    with pytest.raises(ValueError, match=r"structure|keys|mismatch"):
        tree.map_named(lambda name, p, q: p, {"x": 1}, {"y": 1})


def test_count_of_arrays_and_of_shapes():
    assert tree.count(sample()) == 6 + 4 + 1 + 1 + 5
    shapes = jax.eval_shape(lambda: jax.tree.map(jax.numpy.asarray, sample()))
    assert tree.count(shapes) == 17
    assert tree.count({}) == 0


def test_a_tree_is_that_of_its_names():
    nest = {"encoder": {"blocks": {"kernel": 1}, "cls": 2}, "head": 3}
    assert tree.nested(dict(tree.named_leaves(nest))) == nest
