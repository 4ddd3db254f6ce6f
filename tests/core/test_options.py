"""Options: a section of the config becomes a dataclass, or an error that names the key."""

import dataclasses
from collections.abc import Mapping

import pytest
from ml_collections import ConfigDict

from ssl_jax.core import options


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    scale: float | None = None


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = Inner()
    rules: tuple[tuple[str, str], ...] = ()
    on: bool = False
    count: int = 3
    more: Mapping = dataclasses.field(default_factory=dict)


def test_sections_numbers_and_lists_become_what_the_fields_say():
    section = ConfigDict({"name": "x", "inner": {"rate": 1}, "more": {"a": {"b": 2}}})
    section.rules = [["a", "b"]]
    made = options.read(Outer, section)
    assert made == Outer("x", Inner(1.0), (("a", "b"),), more={"a": {"b": 2}})
    assert isinstance(made.inner.rate, float)
    assert options.read(Inner, {"scale": None}) == Inner()
    assert options.read(Inner, {"scale": 2}).scale == 2.0


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "c.name is missing"),
        ({"name": "x", "cuont": 1}, "c.cuont does not exist: did you mean 'count'"),
        ({"name": "x", "inner": {"rat": 1.0}}, "c.inner.rat does not exist: did you mean 'rate'"),
        ({"name": "x", "count": 1.5}, "c.count is 1.5: use a value of type int"),
        ({"name": "x", "count": True}, "c.count is True: use a value of type int"),
        ({"name": "x", "on": 1}, "c.on is 1: use a value of type bool"),
        ({"name": "x", "rules": "a"}, "c.rules is 'a': use a value of type tuple"),
        ({"name": "x", "inner": {"rate": "a"}}, "c.inner.rate is 'a': use a value of type float"),
        ({"name": "x", "inner": 3}, "c.inner is 3: use a value of type Inner"),
        ({"name": 3}, "c.name is 3: use a value of type str"),
    ],
)
def test_a_wrong_key_or_value_is_named(section, message):
    with pytest.raises(ValueError, match=message):
        options.read(Outer, section, "c")
