"""Reads a section of the config into a frozen dataclass; errors name the wrong key or value."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

from ssl_jax.core.config import ConfigError, suggest

T = TypeVar("T")


def read(cls: type[T], section: Mapping[str, Any] | ConfigDict, key: str = "config.method") -> T:
    """Returns `cls`, a dataclass, filled from a config section; missing keys take its defaults.

    Fields that are dataclasses are read from the subsection of their name, lists become tuples
    and whole numbers floats. Raises ConfigError, naming `key.<field>`, on a key that does not
    exist, one that has no default and is missing, and a value of the wrong type.
    """
    if isinstance(section, ConfigDict):
        section = section.to_dict()
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for name in section:
        if name not in fields:
            raise ConfigError(f"{key}.{name} does not exist: {suggest(name, list(fields))}")
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and name not in section:
            raise ConfigError(f"{key}.{name} is missing: add it, as configs/common.py does")
    return cls(**{name: _value(hints[name], section[name], f"{key}.{name}") for name in section})


def _value(hint: Any, value: Any, key: str) -> Any:
    """Returns `value` as the type `hint`; raises ConfigError when it is of another type."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kinds = tuple(typing.get_origin(kind) or kind for kind in kinds)
    if isinstance(value, Mapping) and dataclasses.is_dataclass(kinds[0]):
        return read(typing.cast(type, kinds[0]), value, key)
    if isinstance(value, list | tuple) and tuple in kinds:
        return _tuples(value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole and float in kinds and int not in kinds:
        return float(value)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
        raise ConfigError(f"{key} is {value!r}: use a value of type {wanted}")
    return value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value


def choose(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ConfigError, naming the config key, unless `value` is one of `choices`."""
    if value not in choices:
        raise ConfigError(f"{key} is {value!r}: use one of {', '.join(choices)}")
