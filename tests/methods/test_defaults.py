"""The defaults of a method's keys are in one place: configs/common.py."""

import dataclasses
import importlib
import pkgutil
import typing

import pytest

from configs import common
from ssl_jax import methods
from ssl_jax.core import options as options_lib
from ssl_jax.core.config import ConfigError

NAMES = [m.name for m in pkgutil.iter_modules(methods.__path__)]


def keys(cls, section, prefix=""):
    """Yields (dotted key, its field, the config's section that should state it)."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        yield prefix + field.name, field, section
        if dataclasses.is_dataclass(hints[field.name]):
            yield from keys(hints[field.name], section[field.name], f"{prefix}{field.name}.")


@pytest.mark.parametrize("name", NAMES)
def test_every_key_is_stated_by_the_config_and_has_no_other_default(name):
    module = importlib.import_module(f"ssl_jax.methods.{name}")
    for key, field, section in keys(module.Options, getattr(common, name)()):
        assert field.default is dataclasses.MISSING, key
        assert field.default_factory is dataclasses.MISSING, key
        assert field.name in section, key


def test_a_missing_key_is_named_with_where_it_stands():
    section = common.mae().to_dict()
    del section["mask_ratio"]
    module = importlib.import_module("ssl_jax.methods.mae")
    with pytest.raises(ConfigError, match=r"config\.method\.mask_ratio is missing.*common\.py"):
        options_lib.read(module.Options, section)


def test_a_method_of_ones_own_may_have_defaults():
    @dataclasses.dataclass(frozen=True)
    class Options:
        name: str
        width: int = 4

    assert options_lib.read(Options, {"name": "own"}).width == 4
