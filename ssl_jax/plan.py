"""Plans a run before it is paid for: python -m ssl_jax.plan --config C --topology v5e:16x16."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from ssl_jax import train
from ssl_jax.core import chips
from ssl_jax.engine import aot, shapes


def program(config: ConfigDict, topology: str, devices: Sequence[Any] | None = None) -> aot.Program:
    """Returns the train step of `config` for a topology such as v5e:16x16, h100:8 or cpu:8.

    A TPU needs the package libtpu and no TPU; otherwise as many devices of this process stand
    for the chips (XLA_FLAGS=--xla_force_host_platform_device_count=8), or `devices`. Raises
    ConfigError for a topology that does not exist, a mesh that does not cover it and a batch
    that does not divide over it.
    """
    asked = chips.topology(topology)
    classes = shapes.classes_of(config) or shapes.CLASSES
    found = aot.devices_of(asked) if devices is None else devices
    return aot.build(config, lambda: train.make_method(config, classes), found, asked.chip.platform)
