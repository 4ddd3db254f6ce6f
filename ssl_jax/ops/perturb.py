"""Chains of augmentations as config sections name them: of audio, and of log-mel."""

import inspect
import types
from collections.abc import Mapping
from typing import Any

import jax

from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import Array
from ssl_jax.ops import augment, spectral

# These move samples in time, so that frames no longer line up with those of the clean clip.
MOVING = ("speed", "time_shift", "roll")
# Applied in this order, whatever the order of the config. A step draws by its place, so a new one
# comes last.
STEPS = ("speed", "time_shift", "random_filter", "mix", "add_noise", "gain", "roll", "magnitude")
# The same for log-mel (ops.spectral); only the first moves frames.
SPECTRAL_STEPS = ("shift", "warp", "equalize", "mix", "add_floor")


def check(
    section: Mapping[str, Any],
    key: str,
    allowed: tuple[str, ...] = STEPS,
    module: types.ModuleType = augment,
) -> None:
    """Raises ConfigError, naming the key, on a step outside `allowed` or an option it lacks."""
    for name, options in section.items():
        if name not in allowed:
            raise ConfigError(f"{key}.{name} does not work here: use any of {', '.join(allowed)}")
        parameters = inspect.signature(getattr(module, name)).parameters.values()
        known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        for option in options:
            if option not in known:
                raise ConfigError(f"{key}.{name}.{option} does not exist: use {', '.join(known)}")


def chain(
    keys: Array, audio: Array, audio_len: Array, section: Mapping[str, Any]
) -> tuple[Array, Array]:
    """Augments audio (B, N), audio_len (B,) by {name: options of ops.augment.<name>}.

    An empty section changes nothing. Each step draws from keys of its own.
    """
    for i, name in enumerate(STEPS):
        if name not in section:
            continue
        own = jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys)
        if name == "speed":
            audio, audio_len = augment.speed(own, audio, audio_len, **section[name])
        elif name in ("gain", "magnitude"):
            audio = getattr(augment, name)(own, audio, **section[name])
        else:
            audio = getattr(augment, name)(own, audio, audio_len, **section[name])
    return audio, audio_len


def spectral_chain(
    keys: Array, log_mel: Array, lengths: Array, section: Mapping[str, Any]
) -> Array:
    """Augments log_mel (B, T, M) in dB, lengths (B,), by {name: options of ops.spectral.<name>}."""
    for i, name in enumerate(SPECTRAL_STEPS):
        if name in section:
            own = jax.vmap(lambda key, i=i: jax.random.fold_in(key, 100 + i))(keys)
            log_mel = getattr(spectral, name)(own, log_mel, lengths, **section[name])
    return log_mel
