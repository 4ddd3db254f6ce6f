"""Fixtures of the engine tests: one device, and the toy before its first step."""

import jax
import pytest
import toy_method as toy

from ssl_jax.core.mesh import make_mesh


@pytest.fixture(scope="module")
def mesh():
    """A mesh of one device."""
    return make_mesh({"data": -1}, jax.devices()[:1])


@pytest.fixture(scope="module")
def started(mesh):
    """State on the host, shardings and the compiled step of the toy."""
    state, shardings, compiled, _ = toy.start(mesh)
    return jax.device_get(state), shardings, compiled
