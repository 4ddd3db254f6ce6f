"""The house rules that a linter does not check: sizes, docstrings, dependencies, tables."""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE = ("ssl_jax", "configs", "experiments", "tests")
PUBLISHED = ("ssl_jax", "configs", "experiments")
TEXT = {".py", ".md", ".sh", ".yml", ".yaml", ".toml", ".ini", ".cfg", ".json", ".ipynb", ".tsv"}
# sizes to aim for are 400 and 40; these are the limits
FILE_LINES, FUNCTION_LINES = 500, 60
# folders that only some machines have; the names are joined so that this file passes too
MACHINE_PATH = re.compile(
    "(?<![.\\w])/(" + "|".join(("work", "root", "home", "Users", "mnt")) + ")/\\w"
)


def code_files(folders: tuple[str, ...] = CODE) -> list[Path]:
    """Returns the Python files of the given folders and, with all of them, setup.py."""
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [*found, ROOT / "setup.py"] if folders == CODE else found


def name(path: Path) -> str:
    """Returns a path relative to the root of the repository."""
    return path.relative_to(ROOT).as_posix()


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yields every function and method of a file, nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


class Facts(NamedTuple):
    """What the tests ask of a file, which is parsed once for all of them."""

    lines: int
    functions: list[tuple[str, int]]  # name, lines
    swallowed: list[int]
    undocumented: list[str]
    imported: list[str]  # dotted names


@functools.cache
def facts(path: Path) -> Facts:
    """Returns the facts of a Python file; raises SyntaxError for one that does not compile."""
    source = path.read_text()
    tree = compile(source, str(path), "exec", ast.PyCF_ONLY_AST)
    sizes = [(f.name, (f.end_lineno or 0) - f.lineno + 1) for f in functions(tree)]
    given = swallowed(tree), undocumented(tree), imported(tree)
    return Facts(len(source.splitlines()), sizes, *given)


def undocumented(tree: ast.Module) -> list[str]:
    """Returns the public functions, classes and methods (and the file) without a docstring."""
    if not tree.body:
        return []
    missing = [] if ast.get_docstring(tree) else ["the file"]

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            if node.name.startswith("_"):
                continue
            # linen calls `setup` and `__call__`; the docstring of the class describes them
            if not ast.get_docstring(node) and node.name != "setup":
                missing.append(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{prefix}{node.name}.")

    visit(tree.body, "")
    return missing


def swallowed(tree: ast.Module) -> list[int]:
    """Returns the lines of handlers that hide an error: an empty body, or a bare `except:`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            empty = all(
                isinstance(b, ast.Pass) or (isinstance(b, ast.Expr) and _is_ellipsis(b.value))
                for b in node.body
            )
            if empty or node.type is None:
                found.append(node.lineno)
    return found


def imported(tree: ast.Module) -> list[str]:
    """Returns the names of the modules that a file imports anywhere, relative ones left out."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.append(node.module)
    return found


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...


def block(text: str, table: str) -> str:
    """Returns the text between the markers of a generated table.

    The markers are `<!-- table:NAME -->` and `<!-- end:NAME -->`, each on a line of its own.
    Raises ValueError when there is not exactly one such pair.
    """
    found = re.findall(f"<!-- table:{table} -->\n(.*?)<!-- end:{table} -->", text, re.DOTALL)
    if len(found) != 1:
        raise ValueError(f"{len(found)} blocks between table:{table} and end:{table}, not 1")
    return found[0].strip("\n")


def check_table(path: Path, table: str, generate: Callable[[], str]) -> None:
    """Fails unless the table in a text file equals the output of its generator."""
    here, made = block(path.read_text(), table), generate().strip("\n")
    assert here == made, f"{path.name}: table:{table} is stale; it should read\n{made}"


def required() -> dict[str, set[str]]:
    """Returns the distributions of setup.py, lower case, by extra; '' is the base."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    values = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    lists = {"": values["BASE"], **values["EXTRAS"]}
    return {extra: {_distribution(r) for r in rows} for extra, rows in lists.items()}


def _distribution(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found, requirement
    return found[0].lower().replace("_", "-")


@functools.cache
def third_party(folder: str) -> dict[str, str]:
    """Returns top-level imported name -> first file that imports it, the library's own left out."""
    found: dict[str, str] = {}
    own = {"ssl_jax", "configs", "experiments"}
    # scripts import files of their folder by name
    own |= {p.stem for top in ("tests", "experiments") for p in (ROOT / top).rglob("*.py")}
    own |= {p.parent.name for p in (ROOT / "experiments").rglob("*.py")}
    for path in sorted((ROOT / folder).rglob("*.py")):
        tops = {module.split(".")[0] for module in facts(path).imported}
        for top in tops - own - set(sys.stdlib_module_names):
            found.setdefault(top, name(path))
    return found


@pytest.mark.parametrize("path", code_files(), ids=name)
def test_file_compiles_is_short_and_hides_no_error(path):
    found = facts(path)
    assert found.lines <= FILE_LINES
    long = [f"{f} ({lines} lines)" for f, lines in found.functions if lines > FUNCTION_LINES]
    assert not long, f"aim for 40 lines: {long}"
    assert not found.swallowed, "an error is hidden in these lines"


@pytest.mark.parametrize("path", code_files(PUBLISHED), ids=name)
def test_everything_public_has_a_docstring(path):
    assert not facts(path).undocumented


def test_no_path_of_one_machine():
    folders = [ROOT / folder for folder in (*CODE, "notebooks", "docs", ".ci", ".github")]
    paths = [
        p for folder in folders for p in folder.rglob("*") if p.suffix in TEXT or p.name == "run"
    ]
    paths += [
        p for p in ROOT.iterdir() if p.is_file() and (p.suffix in TEXT or p.name == "setup.py")
    ]
    bad = [
        f"{name(path)}:{number}"
        for path in paths
        if path.is_file()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert len(paths) > 20
    assert not bad


def test_test_files_have_different_names():
    # also helpers: pytest imports both by their base name alone
    stems = [p.stem for p in (ROOT / "tests").rglob("*.py") if p.stem != "conftest"]
    assert len(stems) == len(set(stems))
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_top_level_is_what_the_design_says():
    allowed = {"setup.py", "README.md", "LICENSE", "ssl_jax", "configs", "experiments", "tests"}
    allowed |= {"docs", "CITATION.cff"}
    made_by_runs = {"runs", "build", "dist", "ssl_jax.egg-info"}
    here = {p.name for p in ROOT.iterdir() if not p.name.startswith((".", "__"))}
    assert here - allowed - made_by_runs <= {"notebooks"}


def test_no_registries_and_no_utils():
    assert not [name(p) for p in code_files() if p.stem in ("utils", "util", "helpers", "misc")]


# imports that differ from the name of their distribution and may not be installed
UNLIKE = {"faiss": "faiss-cpu"}


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        (
            "ssl_jax",
            ("", "synth", "audio", "music", "text", "eval", "interop", "log", "slurm"),
        ),
        ("configs", ("",)),
        ("experiments", ("", "synth", "audio", "eval", "interop", "test")),
        ("tests", ("", "test", "synth", "interop", "log", "browser", "slurm")),
    ],
)
def test_every_import_is_declared_in_setup(folder, extras):
    allowed = set().union(*(required()[extra] for extra in extras))
    distributions = metadata.packages_distributions()
    bad = {}
    for top, path in third_party(folder).items():
        # an import that is not installed here is known by its own name or by the one given above
        found = distributions.get(top, [UNLIKE.get(top, top)])
        owners = {d.lower().replace("_", "-") for d in found}
        if not owners & allowed:
            bad[top] = path
    assert not bad, f"imported, but in no extra of setup.py among {extras}: {bad}"


# packages loaded by other packages or commands but imported by no file here
LOADED = {
    "importlib-resources": "tensorflow-datasets reads its metadata with it",
    "ipykernel": "nbclient runs notebooks in it",
    "mypy": "a command",
    "ruff": "a command",
}


def distributions_in(folders: tuple[str, ...]) -> set[str]:
    """Returns the distributions that files of the folders import, by a statement or by name."""
    owners = metadata.packages_distributions()
    calls = re.compile(r'(?:import_module|importorskip)\(\s*"(\w+)')
    names = {top for folder in folders for top in third_party(folder)}
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            names |= set(calls.findall(path.read_text()))
    found = {d for top in names for d in owners.get(top, [UNLIKE.get(top, top)])}
    return {d.lower().replace("_", "-") for d in found}


def test_every_requirement_is_imported():
    imported = distributions_in(CODE)
    for extra, rows in required().items():
        unused = rows - imported - LOADED.keys()
        assert not unused, f"no file imports these of extra {extra!r}: {unused}"
    assert not LOADED.keys() & imported, "these are imported after all"
    assert set(LOADED) <= set().union(*required().values())


@pytest.mark.slow
def test_base_install_needs_no_extra_and_no_other_framework():
    """Imports every module with the optional packages absent."""
    absent = ["tensorflow", "torch", "torchaudio", "transformers", "espeakng_loader"]
    absent += ["av", "jiwer", "tensorboardX", "wandb", "pytest"]
    absent += ["midirenderer", "pretty_midi", "submitit", "tokenizers"]
    program = f"""
import importlib, pkgutil, sys
class Absent:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent)
import ssl_jax
count = 0
for module in pkgutil.walk_packages(ssl_jax.__path__, "ssl_jax."):
    importlib.import_module(module.name)
    count += 1
slow = ["scipy.special", "scipy.stats"]  # take a second, and few commands need them
loaded = [m for m in slow + {absent} if sys.modules.get(m) is not None]
assert not loaded, loaded
print(count)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 20


def test_every_folder_is_a_package():
    """Setup finds a folder only by its `__init__.py`; without one it would not be installed."""
    folders = {p.parent for p in (ROOT / "ssl_jax").rglob("*.py")}
    assert not [name(f) for f in folders if not (f / "__init__.py").exists()]


def test_the_checks_can_fail(tmp_path):
    handlers = {" ValueError:\n    pass": [3], ":\n    g()": [3], " ValueError:\n    g()": []}
    for handler, lines in handlers.items():
        assert swallowed(ast.parse(f"try:\n    f()\nexcept{handler}\n")) == lines
    assert undocumented(ast.parse("def f():\n    pass\n")) == ["the file", "f"]
    within = '"""A."""\nclass C:\n    """B."""\n    def g(self):\n        pass\n'
    assert undocumented(ast.parse(within)) == ["C.g"]
    assert MACHINE_PATH.search("x = '" + "/wo" + "rk/data'")
    assert not MACHINE_PATH.search("see https://example.org/ho" + "me/x")
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- table:t -->\n| 1 |\n<!-- end:t -->\n")
    check_table(readme, "t", lambda: "| 1 |\n")
    with pytest.raises(AssertionError, match="stale"):
        check_table(readme, "t", lambda: "| 2 |")
    with pytest.raises(ValueError, match="0 blocks"):
        block("nothing", "t")
