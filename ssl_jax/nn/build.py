"""Builds the encoder that config.method.encoder describes."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, Protocol

import jax.numpy as jnp

from ssl_jax.core import config_text
from ssl_jax.core.precision import compute_dtype
from ssl_jax.nn import kwt, spectrogram, text, vit, waveform
from ssl_jax.nn.encoder import Encoder
from ssl_jax.nn.transformer import TransformerOptions


class Kind(Protocol):
    """A module with one kind of encoder; mypy checks each of KINDS against it."""

    @property
    def PRESETS(self) -> Mapping[str, Mapping[str, Any]]:
        """The options of each published size, by its name."""

    def make(
        self, options: Any, blocks: TransformerOptions, *, dtype: jnp.dtype, sample_rate: int
    ) -> Encoder:
        """Returns the encoder; raises ValueError, naming the key, on options that clash."""


# kind: (module, its options, the preset that is used when none is named)
KINDS: dict[str, tuple[Kind, type, str]] = {
    "keyword_transformer": (kwt, kwt.KeywordOptions, "kwt1"),
    "waveform": (waveform, waveform.WaveformOptions, "base"),
    "vit": (vit, vit.VisionOptions, "base"),
    "spectrogram": (spectrogram, spectrogram.SpectrogramOptions, "base"),
    "text": (text, text.TextOptions, "base"),
}


def encoder(config: Mapping[str, Any], *, precision: str, sample_rate: int) -> Encoder:
    """Returns the encoder, a linen module, that config.method.encoder describes.

    `kind` is one of KINDS, `preset` (optional) a published size; every other
    key is a field of the kind's options or of TransformerOptions and overrides the preset.
    Raises ValueError, naming the key, on an unknown kind, preset, key or value.
    """
    module, options, blocks = _read(config)
    dtype = compute_dtype(precision)
    return module.make(options, blocks, dtype=dtype, sample_rate=sample_rate)


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all options of an encoder, including those from its preset and the defaults."""
    _, options, blocks = _read(config)
    return {**vars(blocks), **vars(options)}


def origins(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns where the value of each option of `settings` that the config does not set comes from:
    "preset base", for example, or "default of waveform"."""
    module, default = KINDS[config["kind"]][0], KINDS[config["kind"]][2]
    preset = config.get("preset", default)
    return {
        key: f"preset {preset}" if key in module.PRESETS[preset] else f"default of {config['kind']}"
        for key in settings(config)
        if key not in config
    }


def listing(config: Mapping[str, Any]) -> str:
    """Returns every value of a config as text, marking those that come from the preset or the
    defaults of its encoder."""
    method = config["method"]
    given = method.get("encoder")
    if not given:
        return config_text.listing(config, {})
    notes = {f"method.encoder.{key}": name for key, name in origins(given).items()}
    method = {**method, "encoder": {**settings(given), **given}}
    return config_text.listing({**config, "method": method}, notes)


def _read(config: Mapping[str, Any]) -> tuple[Kind, Any, TransformerOptions]:
    """Returns (the module of its kind, the kind's options, the blocks' options)."""
    given = dict(config)
    kind = given.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(_unknown("kind", kind, KINDS))
    module, options_type, default = KINDS[kind]
    preset = given.pop("preset", default)
    if preset not in module.PRESETS:
        raise ValueError(_unknown("preset", preset, module.PRESETS))
    fields = _names(options_type) | _names(TransformerOptions)
    for key in given:
        if key not in fields:
            raise ValueError(_unknown_key(key, sorted(fields | {"kind", "preset"})))
    merged = {k: to_tuple(v) for k, v in {**module.PRESETS[preset], **given}.items()}
    options = options_type(**_subset(merged, options_type))
    return module, options, TransformerOptions(**_subset(merged, TransformerOptions))


def _names(options_type: type) -> set[str]:
    return {f.name for f in dataclasses.fields(options_type)}


def _subset(values: Mapping[str, Any], options_type: type) -> dict[str, Any]:
    names = _names(options_type)
    return {k: v for k, v in values.items() if k in names}


def to_tuple(value: Any) -> Any:
    """Turns lists, as JSON has them, into tuples: options must be hashable."""
    return tuple(to_tuple(v) for v in value) if isinstance(value, list | tuple) else value


def _unknown(key: str, value: Any, choices: Mapping[str, Any]) -> str:
    return f"config.method.encoder.{key} is {value!r}: use one of {', '.join(sorted(choices))}"


def _unknown_key(key: str, names: list[str]) -> str:
    near = difflib.get_close_matches(key, names, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(names)}"
    return f"config.method.encoder.{key} does not exist: {hint}"
