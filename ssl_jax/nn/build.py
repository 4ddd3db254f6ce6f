"""Builds the encoder that config.method.encoder describes, or those of config.method.encoders.

A kind of encoder is a module with `Options`, `PRESETS` and `make`: a file of ssl_jax/nn or one of
your own; nothing is registered.
"""

import dataclasses
import difflib
import functools
import importlib
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, Protocol

import jax.numpy as jnp

from ssl_jax import nn
from ssl_jax.core import config_text, modules
from ssl_jax.core.precision import compute_dtype
from ssl_jax.nn.encoder import Encoder, moves
from ssl_jax.nn.transformer import TransformerOptions

PARTS = ("Options", "PRESETS", "make")


class Kind(Protocol):
    """A module with one kind of encoder."""

    @property
    def Options(self) -> type:
        """The options of the kind, except for those of its blocks: a frozen dataclass."""

    @property
    def PRESETS(self) -> Mapping[str, Mapping[str, Any]]:
        """The options of each published size, by name; the first is used where none is named."""

    def make(
        self, options: Any, blocks: TransformerOptions, *, dtype: jnp.dtype, sample_rate: int
    ) -> Encoder:
        """Returns the encoder; raises ValueError, naming the key, on options that clash."""


@functools.cache
def kinds() -> tuple[str, ...]:
    """Returns the kinds of this package, by the names of their files in ssl_jax/nn."""
    found = modules.files(nn.__path__)
    return tuple(name for name in found if _is_kind(importlib.import_module(f"ssl_jax.nn.{name}")))


def find(kind: Any) -> Kind:
    """Returns the module of a kind: a file of ssl_jax/nn, or a module of your own.

    The latter is installed, or has been imported: whoever makes a run folder chooses the names in
    its config, and importing a module runs it. Raises ValueError.
    """
    if kind in kinds():
        return importlib.import_module(f"ssl_jax.nn.{kind}")  # type: ignore
    if not isinstance(kind, str) or not modules.importable(kind.partition(".")[0]):
        raise ValueError(_unknown("kind", kind, kinds()))
    if kind not in sys.modules and not modules.is_installed(kind):
        raise ValueError(
            f"config.method.encoder.kind is {kind!r}, a module that is neither part of ssl_jax nor "
            f"installed: if you trust it, name it: --method {kind}, or import it first"
        )
    module = importlib.import_module(kind)
    if not _is_kind(module):
        raise ValueError(
            f"config.method.encoder.kind is {kind!r}, and {module.__file__} is no kind of encoder: "
            f"it needs {', '.join(PARTS)}, as ssl_jax/nn/vit.py has them"
        )
    return module  # type: ignore


def trust(method: Mapping[str, Any]) -> None:
    """Imports the modules of your own that config.method names as kinds, as the config is yours."""
    for section in sections(method).values():
        kind = section.get("kind")
        if isinstance(kind, str) and kind not in kinds():
            modules.imported(kind)


def sections(method: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Returns the sections of config.method that describe encoders, by their keys in it, such as
    "encoder", or "encoders.audio"."""
    one, several = method.get("encoder"), method.get("encoders") or {}
    found = {"encoder": one} if one else {}
    return found | {f"encoders.{stream}": several[stream] for stream in several}


def moving(config: Mapping[str, Any], *, precision: str, sample_rate: int) -> Encoder:
    """Returns the encoder of a method that keeps the running statistics which training moves."""
    return _made(config, precision, sample_rate, "encoder")


def encoder(
    config: Mapping[str, Any], *, precision: str, sample_rate: int, key: str = "encoder"
) -> Encoder:
    """Returns the encoder, a linen module, that config.method.encoder describes.

    `kind` names a module, see `find`, `preset` (optional) a published size; every other key is a
    field of the kind's options or of TransformerOptions and overrides the preset. key: where in
    config.method the section lies. Raises ValueError, naming the key, on an unknown kind, preset,
    key or value.
    """
    found = _made(config, precision, sample_rate, key)
    if moves(found):
        raise ValueError(
            f"config.method.{key}.batch_momentum is above 0, but this method does not keep the "
            f"statistics that training would move: set it to 0.0, or depthwise_norm to 'group'"
        )
    return found


def _made(config: Mapping[str, Any], precision: str, sample_rate: int, key: str) -> Encoder:
    try:
        module, options, blocks = _read(config)
        dtype = compute_dtype(precision)
        return module.make(options, blocks, dtype=dtype, sample_rate=sample_rate)
    except ValueError as error:
        named = str(error).replace("config.method.encoder.", f"config.method.{key}.")
        raise type(error)(named) from error


def encoders(
    config: Mapping[str, Mapping[str, Any]], *, precision: str, sample_rate: int
) -> dict[str, Encoder]:
    """Returns the encoders of config.method.encoders, by stream; see `encoder`."""
    return {
        stream: encoder(
            config[stream],
            precision=precision,
            sample_rate=sample_rate,
            key=f"encoders.{stream}",
        )
        for stream in config
    }


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all options of an encoder, including those from its preset and the defaults."""
    _, options, blocks = _read(config)
    return {**vars(blocks), **vars(options)}


def origins(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns where the value of each option of `settings` that the config does not set comes from:
    "preset base", for example, or "default of waveform"."""
    presets = find(config.get("kind")).PRESETS
    preset = config.get("preset", next(iter(presets)))
    return {
        key: f"preset {preset}" if key in presets[preset] else f"default of {config['kind']}"
        for key in settings(config)
        if key not in config
    }


def listing(config: Mapping[str, Any]) -> str:
    """Returns every value of a config as text, marking those that come from the preset or the
    defaults of an encoder."""
    method, notes = dict(config["method"].items()), dict[str, str]()
    for place, given in sections(config["method"]).items():
        notes |= {f"method.{place}.{key}": name for key, name in origins(given).items()}
        whole = {**settings(given), **given}
        if place == "encoder":
            method["encoder"] = whole
        else:
            stream = place.removeprefix("encoders.")
            method["encoders"] = {**method["encoders"], stream: whole}
    return config_text.listing({**config, "method": method}, notes)


def _is_kind(module: ModuleType) -> bool:
    return all(hasattr(module, name) for name in PARTS)


def _read(config: Mapping[str, Any]) -> tuple[Kind, Any, TransformerOptions]:
    """Returns (the module of its kind, the kind's options, the blocks' options)."""
    given = dict(config)
    module = find(given.pop("kind", None))
    preset = given.pop("preset", next(iter(module.PRESETS)))
    if preset not in module.PRESETS:
        raise ValueError(_unknown("preset", preset, module.PRESETS))
    fields = _names(module.Options) | _names(TransformerOptions)
    for key in given:
        if key not in fields:
            raise ValueError(_unknown_key(key, sorted(fields | {"kind", "preset"})))
    merged = {k: to_tuple(v) for k, v in {**module.PRESETS[preset], **given}.items()}
    options = module.Options(**_subset(merged, module.Options))
    return module, options, TransformerOptions(**_subset(merged, TransformerOptions))


def _names(options_type: type) -> set[str]:
    return {f.name for f in dataclasses.fields(options_type)}


def _subset(values: Mapping[str, Any], options_type: type) -> dict[str, Any]:
    names = _names(options_type)
    return {k: v for k, v in values.items() if k in names}


def to_tuple(value: Any) -> Any:
    """Turns lists, as JSON has them, into tuples: options must be hashable."""
    return tuple(to_tuple(v) for v in value) if isinstance(value, list | tuple) else value


def _unknown(key: str, value: Any, choices: Iterable[str]) -> str:
    return f"config.method.encoder.{key} is {value!r}: use one of {', '.join(sorted(choices))}"


def _unknown_key(key: str, names: list[str]) -> str:
    near = difflib.get_close_matches(key, names, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(names)}"
    return f"config.method.encoder.{key} does not exist: {hint}"
