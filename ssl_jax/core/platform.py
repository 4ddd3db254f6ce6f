"""The platform that a program is traced for: that of the devices, or a planned one."""

import contextlib

import jax

# part of the key of every cache of jax, so that a program traced for one platform is never
# taken for that of another
_PLANNED = jax.make_user_context(default_value=None)


def name() -> str:
    """Returns cpu, gpu or tpu, for code that depends on the platform."""
    return _PLANNED.value or jax.default_backend()


def planned(platform: str) -> contextlib.AbstractContextManager:
    """Makes `name` return `platform` inside a `with` block, whatever devices there are."""
    return _PLANNED(platform)
