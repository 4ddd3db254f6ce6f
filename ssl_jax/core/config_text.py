"""A config as readable text: one line for each key, under the name of its section."""

from collections.abc import Mapping
from typing import Any

from ssl_jax.core.config import SECTION


def listing(config: Mapping[str, Any], notes: Mapping[str, str]) -> str:
    """Returns the sections of `config`, indented, with a line `key = value` for each key.

    notes: dotted key -> a remark printed after the value, such as where it comes from.
    """
    return "\n".join(_lines(config, notes, ""))


def _lines(section: Mapping[str, Any], notes: Mapping[str, str], prefix: str) -> list[str]:
    """Returns the lines of one section, its values before its subsections."""
    indent = "  " * prefix.count(".")
    values = {key: value for key, value in section.items() if not isinstance(value, SECTION)}
    lines = []
    for key, value in sorted(values.items()):
        note = notes.get(prefix + key)
        lines.append(f"{indent}{key} = {value!r}" + (f"  # {note}" if note else ""))
    for key in sorted(section.keys() - values.keys()):
        lines.append(f"{indent}{key}" + ("" if section[key] else " = {}"))
        lines += _lines(section[key], notes, f"{prefix}{key}.")
    return lines
