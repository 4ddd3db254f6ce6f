"""Shared by all tests: the CPU backend, a cache of compiled programs, the root as a fixture."""

import os
from importlib import metadata
from pathlib import Path

import pytest

# before the first import of jax; a caller may name another platform
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# what the train command compiles in a test stays out of the user's own cache
os.environ.setdefault("SSL_JAX_CACHE", str(Path(__file__).resolve().parents[1] / ".cache" / "xla"))
# tests compile much and run little
FLAGS = ["--xla_backend_optimization_level=0"]
if tuple(map(int, metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    # the newer emitters of fusions take twice as long to compile; later XLA has no others
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))


@pytest.fixture(scope="session")
def root() -> Path:
    """Returns the folder that holds setup.py."""
    return Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the tests of a file in one process, as they share fixtures and compiled programs.

    Conformance tests share them per config instead, and mark themselves.
    """
    for item in items:
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(str(item.path)))
