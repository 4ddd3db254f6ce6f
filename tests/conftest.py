"""Shared by all tests: the CPU backend, a cache of compiled programs, the root as a fixture."""

import os
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

# before the first import of jax; the caller may choose another platform
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# programs that a test compiles stay out of the user's own cache
os.environ.setdefault("SSL_JAX_CACHE", str(Path(__file__).resolve().parents[1] / ".cache" / "xla"))
# also for tiny models, which the processes and stages of a test would compile repeatedly
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
# tests compile a lot and compute little; the workers of pytest fill the cores, so no compilation
# is split over threads
FLAGS = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if tuple(map(int, metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    # the newer fusion emitters take twice as long to compile; later versions of XLA have only those
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))

LONG = (
    "tests/commands/test_pipeline.py",
    "tests/commands/test_train_hosts.py",
    "tests/hub",
    "tests/test_benchmarks.py",
    "tests/test_notebooks.py",
)


@pytest.fixture(scope="session")
def root() -> Path:
    """Returns the folder that holds setup.py."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def compiled_programs() -> None:
    """Keeps and reads compiled programs from the first test on: otherwise a process would begin
    with the first run that it trains, and compile what others have compiled until then."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", os.environ["SSL_JAX_CACHE"])


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Returns the objects of an in-memory object store, which serves gs:// until the test ends."""
    import object_store

    monkeypatch.setenv("SSL_JAX_CACHE", str(tmp_path / "cache"))
    return object_store.install(monkeypatch)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the longest tests first, the rest by name, so that no core is idle at the end."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


def group_of(nodeid: str) -> str:
    """Returns the group of a test that runs in one process: its file, or its conformance config.

    A notebook has its own process anyway.
    """
    path, _, test = nodeid.partition("::")
    if "[" in test and path.endswith("test_notebooks.py"):
        return nodeid
    config = re.search(r"configs/\w+/\w+\.py", test)
    return config[0] if config and "conformance/" in path else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keeps tests that share fixtures and compiled programs in one process, for `--dist loadgroup`.

    The groups of xdist 3.8 are lost: it writes them where pytest 9.2 no longer looks for names.
    """
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return Groups(config, log)
