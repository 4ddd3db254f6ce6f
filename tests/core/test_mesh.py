"""Meshes and sharding rules; the devices are fakes, since nothing is computed."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from ssl_jax.core import mesh as mesh_lib

MESH = AbstractMesh((1, 4, 2, 2), mesh_lib.AXES)


@dataclasses.dataclass(frozen=True)
class Chip:
    """The attributes of a device that jax reads to build a mesh."""

    id: int
    platform: str = "cpu"
    process_index: int = 0
    device_kind: str = "cpu"


def chips(count: int) -> list:
    return [Chip(i) for i in range(count)]


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({"data": -1}, (1, 8, 1, 1)),
        ({"data": -1, "fsdp": 2}, (1, 4, 2, 1)),
        ({"slice": 2, "data": 2, "fsdp": -1, "model": 2}, (2, 2, 1, 2)),
        ({"slice": 1, "data": 2, "fsdp": 2, "model": 2}, (1, 2, 2, 2)),
    ],
)
def test_make_mesh_fills_the_free_axis(sizes, shape):
    mesh = mesh_lib.make_mesh(sizes, chips(8))
    assert tuple(mesh.shape.values()) == shape
    assert mesh.axis_names == mesh_lib.AXES
    assert [d.id for d in mesh.devices.flat] == list(range(8))


def test_make_mesh_takes_the_devices_of_the_process():
    assert mesh_lib.make_mesh({"data": -1}).size == jax.device_count()


@pytest.mark.parametrize(
    "sizes",
    [
        {"data": 3},
        {"data": -1, "fsdp": 3},
        {"data": 4},
        {"data": 16},
        {"data": -1, "fsdp": -1},
        {"data": 0},
        {"data": -2, "fsdp": -2, "model": 2},
        {"data": -1, "fsdp": -4},
    ],
)
def test_a_mesh_that_does_not_divide_the_devices_is_an_error(sizes):
    with pytest.raises(ValueError, match=r"does not divide 8 devices: set config\.mesh\.data=-1"):
        mesh_lib.make_mesh(sizes, chips(8))


def test_an_unknown_axis_is_an_error():
    with pytest.raises(ValueError, match=r"no axis \['tensor'\]: use slice, data, fsdp, model"):
        mesh_lib.make_mesh({"tensor": 2}, chips(8))


def test_batches_are_split_over_all_axes_but_model():
    assert mesh_lib.batch_sharding(MESH).spec == P(("slice", "data", "fsdp"))
    mesh_lib.check_batch(MESH, 16)
    with pytest.raises(ValueError, match=r"config\.data\.batch_size 15 .* such as 8"):
        mesh_lib.check_batch(MESH, 15)
    with pytest.raises(ValueError, match="multiple of 8, such as 8"):
        mesh_lib.check_batch(MESH, 3)


RULES = (
    (r"query/kernel", ("fsdp", "model")),
    (r"kernel", ("fsdp",)),
    (r"bias$", ()),
)


@pytest.mark.parametrize(
    ("name", "shape", "spec"),
    [
        ("blocks/query/kernel", (8, 8), P("fsdp", "model")),
        ("blocks/query/kernel", (3, 8, 8), P(None, "fsdp", "model")),  # layer axis unsharded
        ("blocks/up/kernel", (8, 8), P(None, "fsdp")),  # the second rule
        ("query/kernel", (7, 8), P(None, "model")),  # fsdp does not divide 7
        ("query/kernel", (8,), P("model")),
        ("query/kernel", (), P()),
        ("up/bias", (8,), P(None)),
    ],
)
def test_the_first_rule_found_in_the_name_wins(name, shape, spec):
    assert mesh_lib.spec_for(name, shape, RULES, MESH) == spec


def test_no_rule_is_an_error_that_names_the_parameter():
    with pytest.raises(ValueError, match=r"no sharding rule matches 'norm/scale' \(8,\)"):
        mesh_lib.spec_for("norm/scale", (8,), RULES, MESH)
    assert mesh_lib.spec_for("norm/scale", (), RULES, MESH) == P()


def test_tree_sharding_of_arrays_and_shapes():
    tree = {"query": {"kernel": jnp.zeros((2, 4))}, "bias": jax.ShapeDtypeStruct((4,), "float32")}
    got = mesh_lib.tree_sharding(tree, RULES, MESH)
    assert got["query"]["kernel"].spec == P("fsdp", "model")
    assert got["bias"].spec == P(None)
    with pytest.raises(ValueError, match="'other'"):
        mesh_lib.tree_sharding({"other": jnp.zeros(3)}, RULES, MESH)


@dataclasses.dataclass(frozen=True)
class SliceChip(Chip):
    """A chip of one of several TPU slices."""

    slice_index: int = 0


def test_slices_lie_on_the_axis_of_their_name():
    mixed = [SliceChip(i, slice_index=i % 2) for i in range(8)]
    mesh = mesh_lib.make_mesh({"slice": 2, "data": -1, "fsdp": 2}, mixed)
    for i, one in enumerate(mesh.devices):
        assert {chip.slice_index for chip in one.flat} == {i}
    with pytest.raises(ValueError, match=r"config\.mesh\.slice is 1.*in 2 slices.*slice=2"):
        mesh_lib.make_mesh({"data": -1}, mixed)


@pytest.mark.parametrize("dead", ["no_such_layer", "up/kernel$"])
def test_a_rule_that_is_never_the_first_match_is_named(dead):
    names = ["encoder/up/kernel", "encoder/up/bias"]
    rules = (("kernel", ("fsdp",)), (".*", ()))
    mesh_lib.check_rules(names, rules)
    with pytest.raises(
        ValueError, match=rf"'{re.escape(dead)}'.*never the first match.*encoder/up/kernel"
    ):
        mesh_lib.check_rules(names, (*rules[:1], (dead, ("model",)), *rules[1:]))
