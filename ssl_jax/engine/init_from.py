"""How a run starts from the parameters of others: config.init_from, a run or a map of runs.

As a map, it has for each prefix of parameter names here the run that they come from, such as
{"encoder/audio": a run of audio, "encoder/video": a run of video}. Where that run has no parameters
of this prefix, its own encoder is meant: "encoder/..." there is "encoder/audio/..." here.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from ssl_jax.core import config as config_lib
from ssl_jax.core import paths
from ssl_jax.core import tree as tree_lib
from ssl_jax.core.types import Tree
from ssl_jax.engine import checkpoint
from ssl_jax.nn import build

# encoder options that change the computation but no parameter shape
SAME = (
    *("normalize", "feature", "feature_norm", "feature_mean", "feature_std"),
    *("norm", "heads", "conv_strides"),
)
Given = str | Path | Mapping[str, str]
Arrays = dict[str, np.ndarray]
ENCODER = "encoder"


def text(given: Given) -> str:
    """Returns the runs that config.init_from names, for messages."""
    return ", ".join(f"{run} ({prefix})" if prefix else str(run) for prefix, run in _runs(given))


def load(given: Given, params: Tree, extra: Tree, inherit: bool = False) -> tuple:
    """Starts new parameters from those of other runs, by equal path and shape.

    A teacher in `extra`, whose path ends in that of its student, starts from the same values, or
    with `inherit` from the teacher of that run. Returns (params, extra, names loaded, names left
    fresh). Raises ValueError when nothing matches, and for an array of the encoder that has another
    shape there.
    """
    found, others = _read(given, params, inherit)
    loaded: list[str] = []
    fresh: list[str] = []

    def student(name: str, x: jax.Array) -> jax.Array:
        match = found.get(name)
        if match is None or match.array.shape != x.shape:
            if match is not None and name.startswith(f"{ENCODER}/"):
                raise ValueError(
                    f"{match.source}: {name} has the shape {match.array.shape} there and {x.shape} "
                    f"here: give config.method.encoder the options of that run"
                )
            fresh.append(name)
            return x
        loaded.append(name)
        return _like(match.array, x)

    def teacher(name: str, x: jax.Array) -> jax.Array:
        if name in others and others[name].shape == x.shape:
            return _like(others[name], x)
        owner = max((n for n in loaded if name.endswith("/" + n)), key=len, default=None)
        if owner is None or found[owner].array.shape != x.shape:
            return x
        return _like(found[owner].array, x)

    params = tree_lib.map_named(student, params)
    if not loaded:
        raise ValueError(
            f"config.init_from {text(given)} has no parameter of this model: there "
            f"{sorted(found)[:3]} ..., here {fresh[:3]} ...; use a run with the same encoder "
            f"options in config.method"
        )
    if inherit and not others.keys() & dict(tree_lib.named_leaves(extra)).keys():
        raise ValueError(
            f"config.init_extra is True, but {text(given)} has no teacher of this model: there "
            f"{sorted(others)[:3]}; use config.init_extra=False, and it starts from the student"
        )
    return params, tree_lib.map_named(teacher, extra), loaded, fresh


class _Found(NamedTuple):
    """An array of another run; `source`: the key and the run, for messages."""

    array: np.ndarray
    source: str


def _runs(given: Given) -> list[tuple[str, str]]:
    """Returns (prefix, run), the longest prefix last; "" is the prefix of a single run."""
    if isinstance(given, str | Path):
        return [("", str(given))]
    return sorted(given.items(), key=lambda pair: len(pair[0]))


def _read(given: Given, params: Tree, inherit: bool) -> tuple[dict[str, _Found], Arrays]:
    """Returns the parameters of all runs, and what their `extra` holds, by the names here.

    Raises ValueError for a prefix that no parameter has, here or there.
    """
    here = [name for name, _ in tree_lib.named_leaves(params)]
    found: dict[str, _Found] = {}
    others: Arrays = {}
    for prefix, run in _runs(given):
        key = f"config.init_from.{prefix}" if prefix else "config.init_from"
        arrays = dict(tree_lib.named_leaves(checkpoint.restore_params(run)))
        extra = dict(tree_lib.named_leaves(checkpoint.restore_extra(run))) if inherit else {}
        if not prefix:
            found |= {name: _Found(x, f"{key} {run}") for name, x in arrays.items()}
            others |= extra
            continue
        if not any(name.startswith(f"{prefix}/") for name in here):
            heads = sorted({"/".join(name.split("/")[:2]) for name in here})
            raise ValueError(
                f"{key}: no parameter here lies under {prefix!r}: "
                f"{config_lib.suggest(prefix, heads)}"
            )
        there = prefix if _under(prefix, arrays) else prefix.split("/")[0]
        if not _under(there, arrays):
            raise ValueError(
                f"{key} {run} has no parameter under {prefix!r} nor {there!r}: it has "
                f"{', '.join(sorted(arrays)[:3])}, ...; use a run that has them"
            )
        moved = {prefix + n.removeprefix(there): x for n, x in _under(there, arrays).items()}
        found |= {name: _Found(x, f"{key} {run}") for name, x in moved.items()}
        inner = ((n.partition(f"/{there}/"), x) for n, x in extra.items())
        others |= {f"{a}/{prefix}/{b}": x for (a, cut, b), x in inner if cut}
    return found, others


def _under(prefix: str, arrays: Arrays) -> Arrays:
    return {name: x for name, x in arrays.items() if name.startswith(f"{prefix}/")}


def _like(value: np.ndarray, x: jax.Array) -> jax.Array:
    """Lays out a value like the array that it replaces; works on any number of hosts."""
    value = np.array(value, x.dtype)  # a copy: the state is donated, the teacher is not
    return jax.make_array_from_callback(x.shape, x.sharding, lambda index: value[index])


def check_encoders(config: ConfigDict) -> None:
    """Raises ConfigError if an encoder of config.init_from computes another function.

    Shapes are compared when parameters are read; this checks what shapes do not show, such as
    whether clips are normalized.
    """
    for prefix, run in _runs(config.init_from):
        path = paths.of(run) / "config.json"
        if path.is_file():
            for key, here, there in _pairs(config, config_lib.of_file(path), prefix):
                _check(key, here, there, run)


def _pairs(here: ConfigDict, there: ConfigDict, prefix: str) -> Iterator[tuple[str, Any, Any]]:
    """Yields (key, section here, section there) of the encoders that a prefix covers."""
    own, other = build.sections(here.method), build.sections(there.method)
    for key, section in own.items():
        name = key.replace("encoders.", f"{ENCODER}/")
        if not prefix or name == prefix or name.startswith(f"{prefix}/"):
            source = other.get(key) or (other.get(ENCODER) if prefix else None)
            if source:
                yield key, section, source


def _check(key: str, here: Any, there: Any, run: str) -> None:
    if here.get("kind") != there.get("kind"):
        return
    own, other = build.settings(here), build.settings(there)
    # a norm of each channel over time, without a bias before it, cancels gain and offset
    forgets = own.get("conv_norm") == "group" and not own["conv_bias"]
    for option in SAME:
        if own.get(option) != other.get(option) and not (forgets and option == "normalize"):
            raise config_lib.ConfigError(
                f"config.method.{key}.{option} is {own.get(option)!r}, but config.init_from {run} "
                f"was trained with {other.get(option)!r}: set it to that"
            )
