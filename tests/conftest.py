"""Shared by all tests: the CPU backend, a cache of compiled programs, the root as a fixture."""

import os
from pathlib import Path

# before the first import of jax; a caller may name another platform
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# what the train command compiles in a test stays out of the user's own cache
os.environ.setdefault("SSL_JAX_CACHE", str(Path(__file__).resolve().parents[1] / ".cache" / "xla"))

import pytest


@pytest.fixture(scope="session")
def root() -> Path:
    """Returns the folder that holds setup.py."""
    return Path(__file__).resolve().parents[1]
