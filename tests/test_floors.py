"""Every file imports only from lower floors (DESIGN section 1), found by parsing all of them."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {
    "core": 0,
    "ops": 1,
    "data": 1,
    "nn": 2,
    "methods": 3,
    "engine": 3,
    "evals": 3,
    "hub": 3,
    "planning": 4,
    "stages": 4,
    "reports": 4,
    "sweeps": 5,
    "commands": 6,
}
COMMANDS = {
    "__init__",
    "__main__",
    "train",
    "evaluate",
    "plan",
    "sweep",
    "pipeline",
    "convert",
    "report",
}
JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "chex"}


def module_name(path: Path, root: Path) -> str:
    """Returns the dotted name of a file; a package's own file ends in `.__init__`."""
    return ".".join(path.relative_to(root).with_suffix("").parts)


def package(module: str) -> str:
    """Returns the floor's name of a dotted module of ssl_jax.

    Raises ValueError for a package without a floor.
    """
    parts = module.split(".")
    name = parts[1] if len(parts) > 1 else "__init__"
    if name in COMMANDS:
        return "commands"
    if name not in FLOORS:
        raise ValueError(f"{module} stands on no floor: add {name!r} to DESIGN section 1")
    return name


def _from_targets(node: ast.ImportFrom, module: str) -> Iterator[str]:
    base = node.module or ""
    if node.level:
        above = module.split(".")[: -node.level]
        base = ".".join(above + ([node.module] if node.module else []))
    # `from ssl_jax.core import tree` names a module, `from ssl_jax.core.tree import count` doesn't;
    # the longer name is used for both, since only its first parts decide the floor
    for alias in node.names:
        # `from ssl_jax import load` names an object in ssl_jax/__init__.py
        face = base == "ssl_jax" and alias.name not in FLOORS
        yield base if face else f"{base}.{alias.name}"


def _text_target(node: ast.Call) -> str | None:
    """Returns the start of the text handed to import_module, as in f"ssl_jax.methods.{name}"."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name not in ("import_module", "__import__") or not node.args:
        return None
    first = node.args[0]
    if isinstance(first, ast.JoinedStr) and first.values:
        first = first.values[0]
    if isinstance(first, ast.Constant) and isinstance(first.value, str):
        return first.value.rstrip(".")
    return None


@functools.cache
def imports(source: str, module: str, top_only: bool = False) -> tuple[tuple[int, str], ...]:
    """Returns (line, dotted name) of every import in a file, those inside functions too."""
    return tuple(_imports(source, module, top_only))


def _imports(source: str, module: str, top_only: bool) -> Iterator[tuple[int, str]]:
    tree = ast.parse(source)
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, target) for target in _from_targets(node, module))
        elif isinstance(node, ast.Call) and (target := _text_target(node)):
            yield node.lineno, target


def bad_edges(source: str, module: str) -> list[str]:
    """Returns a line per import of `module` that goes up, sideways, or to a forbidden package."""
    found = []
    outside = not module.startswith("ssl_jax.")
    for line, target in imports(source, module):
        inside = target.split(".")[0] == "ssl_jax"
        if outside:
            if inside:
                found.append(f"{module}:{line} a config imports {target}")
            continue
        here = package(module)
        if here == "data" and target.split(".")[0] in JAX:
            found.append(f"{module}:{line} data is numpy only and imports {target}")
        if not inside:
            continue
        there = package(target)
        if here != there and FLOORS[there] >= FLOORS[here]:
            way = "up" if FLOORS[there] > FLOORS[here] else "sideways"
            found.append(f"{module}:{line} imports {way}: {target}")
    return found


def files(root: Path, folder: str) -> list[Path]:
    """Returns the Python files below a folder, in order."""
    return sorted((root / folder).rglob("*.py"))


def graph(root: Path) -> dict[str, set[str]]:
    """Returns module -> imported ssl_jax modules, at the top of the file only."""
    paths = {module_name(p, root): p for p in files(root, "ssl_jax")}
    edges: dict[str, set[str]] = {}
    for name, path in paths.items():
        edges[name] = set()
        for _, target in imports(path.read_text(), name, top_only=True):
            for full in (target, target.rpartition(".")[0]):
                if full in paths and full != name:
                    edges[name].add(full)
                    break
    return edges


def find_cycle(edges: dict[str, set[str]]) -> list[str]:
    """Returns the modules of one import cycle, or an empty list."""
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        for target in sorted(edges.get(name, ())):
            if cycle := visit(target, [*trail, name]):
                return cycle
        done.add(name)
        return []

    return next((c for name in sorted(edges) if (c := visit(name, []))), [])


def reaches_jax(root: Path, edges: dict[str, set[str]], start: str) -> list[str]:
    """Returns the chain of top-level imports from `start` to jax, or an empty list."""
    stack, seen = [[start]], {start}
    while stack:
        trail = stack.pop()
        path = root / (trail[-1].replace(".", "/") + ".py")
        for _, target in imports(path.read_text(), trail[-1], top_only=True):
            if target.split(".")[0] in JAX:
                return [*trail, target]
        for target in edges[trail[-1]] - seen:
            seen.add(target)
            stack.append([*trail, target])
    return []


def test_every_import_goes_down():
    bad = [
        edge
        for folder in ("ssl_jax", "configs")
        for path in files(ROOT, folder)
        for edge in bad_edges(path.read_text(), module_name(path, ROOT))
    ]
    assert not bad, "\n" + "\n".join(bad)


def test_every_file_stands_on_a_floor():
    assert {package(module_name(p, ROOT)) for p in files(ROOT, "ssl_jax")} <= set(FLOORS)


def test_the_parser_sees_the_package():
    assert len(files(ROOT, "ssl_jax")) > 8
    assert sum(len(edges) for edges in graph(ROOT).values()) > 4


def test_no_cycle():
    assert not find_cycle(graph(ROOT))


def test_data_never_reaches_jax_through_another_module():
    edges = graph(ROOT)
    chains = [
        " -> ".join(chain)
        for name in edges
        if name.startswith("ssl_jax.data.") and (chain := reaches_jax(ROOT, edges, name))
    ]
    assert not chains, "\n" + "\n".join(chains)


@pytest.mark.parametrize(
    ("module", "source", "word"),
    [
        ("ssl_jax.core.types", "from ssl_jax.ops import masks", "up"),
        ("ssl_jax.ops.masks", "import ssl_jax.data.batch_schedule", "sideways"),
        ("ssl_jax.engine.loop", "def f():\n    from ssl_jax.methods import data2vec", "sideways"),
        ("ssl_jax.engine.loop", "import_module(f'ssl_jax.methods.{name}')", "sideways"),
        ("ssl_jax.engine.loop", "importlib.import_module('ssl_jax.train')", "up"),
        ("ssl_jax.nn.vit", "from ..methods import data2vec", "up"),
        ("ssl_jax.nn.vit", "from ssl_jax import load", "up"),
        ("ssl_jax.nn.vit", "import ssl_jax", "up"),
        ("ssl_jax.evals.knn", "from ssl_jax.engine.loop import fit", "sideways"),
        ("ssl_jax.stages.kmeans", "from ssl_jax import train", "up"),
        ("ssl_jax.engine.loop", "from ssl_jax.planning import roofline", "up"),
        ("ssl_jax.stages.kmeans", "from ssl_jax.reports import html", "sideways"),
        ("ssl_jax.reports.html", "from ssl_jax.sweeps import status", "up"),
        ("ssl_jax.data.batch_schedule", "import jax.numpy as jnp", "numpy only"),
        ("ssl_jax.data.batch_schedule", "def f():\n    from flax import linen", "numpy only"),
        ("configs.data2vec.kws", "from ssl_jax.core import config", "a config imports"),
    ],
)
def test_a_planted_bad_edge_is_found(module, source, word):
    assert [edge for edge in bad_edges(source, module) if word in edge]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ssl_jax.methods.data2vec", "from ssl_jax.nn import heads\nfrom ssl_jax.ops import ema"),
        ("ssl_jax.nn.vit", "from . import heads\nfrom .transformer import Block"),
        ("ssl_jax.train", "from ssl_jax.engine import loop\nfrom ssl_jax import evaluate"),
        (
            "ssl_jax.sweeps.report",
            "from ssl_jax.reports import html\nfrom ssl_jax.stages import embed",
        ),
        ("ssl_jax.data.batch_schedule", "import numpy as np\nfrom ssl_jax.core import config"),
        ("configs.data2vec.kws", "from configs import common"),
    ],
)
def test_a_good_edge_is_let_through(module, source):
    assert bad_edges(source, module) == []


def test_a_package_on_no_floor_is_an_error():
    with pytest.raises(ValueError, match="stands on no floor"):
        bad_edges("from ssl_jax.utils import x", "ssl_jax.nn.vit")
    with pytest.raises(ValueError, match="stands on no floor"):
        package("ssl_jax.utils")


def test_a_planted_cycle_is_found():
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_a_planted_way_to_jax_is_found(tmp_path):
    for folder in ("core", "data"):
        (tmp_path / "ssl_jax" / folder).mkdir(parents=True)
    (tmp_path / "ssl_jax/core/types.py").write_text("import jax\n")
    (tmp_path / "ssl_jax/data/batch_schedule.py").write_text("from ssl_jax.core import types\n")
    edges = graph(tmp_path)
    chain = reaches_jax(tmp_path, edges, "ssl_jax.data.batch_schedule")
    assert chain == ["ssl_jax.data.batch_schedule", "ssl_jax.core.types", "jax"]
