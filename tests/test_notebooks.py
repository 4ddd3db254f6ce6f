"""The notebooks: the stored files are in order, and all cells run, at small size."""

import ast
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from safetensors.numpy import save_file

from experiments import address
from experiments import notebooks as experiment
from ssl_jax.core import moved

ROOT = Path(__file__).resolve().parents[1]
KILOBYTES = 300
LOG_LINES = 12
# the parameters with which a notebook runs here, and the number of images it shows
TOYS = {
    "audio_tokens": (
        {
            "CLIPS": {"train": 64, "valid": 20, "test": 20},
            "STEPS": 4,
            "TOKENIZER_STEPS": 2,
            "CODES": 8,
        },
        4,
    ),
    "compress": (
        {"CLIPS": {"train": 16, "test": 4}, "STEPS": 4, "STAGE1": 4, "STAGE2": 4, "SUBNETS": 8},
        3,
    ),
    "features": ({"CLIPS": {"train": 12, "valid": 2, "test": 6}, "STEPS": 4, "CLUSTERS": 8}, 3),
    "own_method": ({"CLIPS": {"train": 60, "valid": 20, "test": 20}, "STEPS": 8}, 2),
    "plan": (
        {"CONFIG": "configs/hubert/audio.py:toy", "TOPOLOGY": "v5e:2x2", "BATCHES": (2, 4)},
        1,
    ),
    "quickstart": ({"CLIPS": {"train": 60, "valid": 20, "test": 20}, "STEPS": 8}, 4),
    "sweep": ({"CLIPS": {"train": 40, "valid": 20, "test": 10}, "STEPS": 4, "COUNT": 2}, 1),
}


def _module(path):
    """Returns a file as a module that import would not find."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


install = _module(ROOT / "notebooks" / "install.py")
PATHS = experiment.names()


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def notebook(request):
    """Every notebook as stored."""
    return nbformat.read(request.param, as_version=4)


def outputs(notebook):
    """Yields every output of a notebook."""
    for cell in notebook.cells:
        yield from cell.get("outputs", ())


def test_every_notebook_is_run_by_the_tests():
    assert [path.stem for path in PATHS] == sorted(TOYS)


def test_a_notebook_is_valid_small_and_without_errors(notebook, request):
    nbformat.validate(notebook)
    path = request.node.callspec.params["notebook"]
    assert path.stat().st_size < KILOBYTES * 1000
    assert not [o for o in outputs(notebook) if o.output_type == "error"]
    streams = [o for o in outputs(notebook) if o.output_type == "stream"]
    long = [o.text for o in streams if len(o.text.splitlines()) > LOG_LINES and o.name == "stderr"]
    assert not long


def imported(source):
    """Yields (module, name) for everything that a cell imports from this repository."""
    plain = "\n".join(line for line in source.splitlines() if not line.startswith("%"))
    for node in ast.walk(ast.parse(plain)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in (
            "ssl_jax",
            "experiments",
        ):
            yield from ((node.module, alias.name) for alias in node.names)


def exists(module, name):
    """Returns whether a module has an attribute or a submodule of that name, not an old one."""
    found = importlib.import_module(module)
    own = f"{module}.{name}".removeprefix(moved.PACKAGE)
    if own in moved.MODULES or module.removeprefix(moved.PACKAGE) in moved.MODULES:
        return False
    return hasattr(found, name) or importlib.util.find_spec(f"{module}.{name}") is not None


def test_what_a_notebook_imports_exists(notebook):
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    named = [found for source in sources for found in imported(source)]
    assert named and not [found for found in named if not exists(*found)]


def test_an_import_of_what_is_gone_is_found():
    old, kept, none = imported(
        "%matplotlib inline\nfrom ssl_jax.data import synth, corpus, nothing\nimport os\n"
    )
    assert exists(*kept) and not exists(*old) and not exists(*none)


def test_a_notebook_names_no_place_of_one_machine(notebook):
    text = nbformat.writes(notebook)
    places = (str(ROOT), str(Path.home()), "/tmp/", "/content/", "/usr/")
    assert not [place for place in places if place in text]
    assert not re.search(r"https?://(localhost|127|10\.|192\.168)", text)


def test_a_notebook_says_what_it_is_and_installs_first(notebook):
    title, first, *rest = notebook.cells
    assert title.cell_type == "markdown" and title.source.startswith("# ")
    assert "Colab" in title.source
    assert first.cell_type == "code" and "install.ready()" in first.source
    assert experiment.assigned(experiment.parameter_cell(notebook).source)
    assert len(rest) > 3


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_has_the_address_of_setup(path):
    text = path.read_text(encoding="utf-8")
    assert text == address.with_address(path.stem, address.constant("ADDRESS"))


def test_the_address_reaches_the_notebooks_and_the_citation_and_none_says_so():
    there, none = (address.with_address("plan", a) for a in ("https://github.com/a/b.git", ""))
    assert r"REPO = \"https://github.com/a/b.git\"" in there and r"REPO = \"\"" in none
    assert "/github/a/b/blob/main/notebooks/plan.ipynb)" in there
    assert "colab.research" not in none and "It does not know the" in none
    for elsewhere in ("", "https://example.org/a/b"):
        assert not address.badge(elsewhere, "plan")
    assert "repository-code: https://example.org/a/b\n" in address.citation(
        "https://example.org/a/b"
    )
    assert (ROOT / "CITATION.cff").read_text() == address.citation(address.constant("ADDRESS"))


def cell(folder, repo):
    """Returns what the first cell does in a folder: its process, ended."""
    file = folder / "first_cell.py"
    file.write_text(address.first_cell(repo))
    return subprocess.run([sys.executable, file], cwd=folder, capture_output=True, text=True)


def test_outside_a_clone_the_first_cell_says_what_is_missing_in_one_line(tmp_path):
    done = cell(tmp_path, "")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "Write the address into REPO" in done.stderr
    done = cell(tmp_path, str(tmp_path / "gone"))
    assert "check the address in REPO" in done.stderr and "Traceback" not in done.stderr


def test_the_first_cell_clones_once_and_installs_each_time(tmp_path):
    origin, here = tmp_path / "origin", tmp_path / "here"
    for file in (origin / "configs" / "common.py", origin / "notebooks" / "install.py"):
        file.parent.mkdir(parents=True)
        file.write_text("def ready():\n    open('ready', 'a').write('1')\n")
    git = ["git", "-C", str(origin), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run(git + command, check=True)
    here.mkdir()
    for _ in range(2):  # after a restart of the session the clone is there
        done = cell(here, str(origin))
        assert not done.returncode, done.stderr
    assert (here / "ssl_jax" / "ready").read_text() == "11"


def test_outputs_are_made_fit_to_be_kept():
    log = "a parameter\n" * 30 + "step 1\rstep 2\rstep 3   \nWARNING:absl: x\nlast\n"
    stream = nbformat.v4.new_output("stream", name="stderr", text=log)
    more = nbformat.v4.new_output("stream", name="stderr", text=f"in {ROOT}/runs\n\n")
    shown = nbformat.v4.new_output("stream", name="stdout", text="table\n" * 30)
    cell = nbformat.v4.new_code_cell("1", outputs=[stream, more, shown])
    found = nbformat.v4.new_notebook(cells=[cell])
    experiment.tidy(found)
    logged, table = found.cells[0].outputs
    assert logged.text.splitlines() == ["...", "a parameter", "step 3", "last", "in ./runs"]
    assert table.text == "table\n" * 30


@pytest.mark.parametrize(
    ("here", "wanted", "kept"),
    [
        ({}, [], []),
        ({"jax": "0.10.2", "jaxlib": "0.10.2"}, [], ["jax==0.10.2", "jaxlib==0.10.2"]),
        ({"jax": "0.12.0.1", "libtpu": "0.0.50"}, [], ["jax==0.12.0.1"]),
        ({"jax": "0.7.2", "jax-cuda12-plugin": "0.7.2"}, ["jax[cuda12]>=0.10.2"], []),
        ({"jax": "0.7.2", "libtpu": "0.0.17"}, ["jax[tpu]>=0.10.2"], []),
        ({"jax": "0.7.2"}, ["jax>=0.10.2"], []),
    ],
)
def test_a_jax_that_will_do_stays(here, wanted, kept):
    assert install.plan(here, "0.10.2") == (wanted, kept)


def test_the_oldest_jax_is_that_of_setup():
    assert re.fullmatch(r"\d+\.\d+\.\d+", install.lowest((ROOT / "setup.py").read_text()))


@pytest.mark.parametrize("missing", ["ssl_jax", "espeakng-loader", None])
def test_pip_is_called_only_for_what_is_missing(monkeypatch, missing):
    here = {name: "1.0" for name in install.NEEDED if name != missing} | {"jax": "99.0"}
    calls = []

    def pip(command, check):
        calls.append((command, Path(command[command.index("--constraint") + 1]).read_text()))

    monkeypatch.setattr(install, "versions", lambda: here)
    monkeypatch.setattr(install.subprocess, "run", pip)
    install.ready()
    assert len(calls) == (missing is not None)
    for command, constraints in calls:
        assert command[:3] == [sys.executable, "-m", "pip"]
        assert f"{ROOT}[synth]" in command and constraints == "jax==99.0\n"


@pytest.mark.slow
def test_what_was_imported_before_it_was_renewed_asks_for_a_restart(monkeypatch):
    monkeypatch.setattr(install, "NEEDED", ("no-such-distribution",))
    monkeypatch.setattr(install.subprocess, "run", lambda command, check: None)
    install.ready()  # nothing changed
    monkeypatch.setattr(install, "imported", lambda: {"numpy": "1.0"})
    with pytest.raises(RuntimeError, match=r"numpy was upgraded .* restart the session"):
        install.ready()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TOYS))
def test_a_notebook_runs_from_its_first_cell_to_its_last(name, tmp_path):
    parameters, pictures = TOYS[name]
    path = ROOT / "notebooks" / f"{name}.ipynb"
    writes = name != "plan"  # it trains nothing
    place = {"RUNS": str(tmp_path)} if writes else {}
    found = experiment.run(path, parameters | place, timeout=600)
    shown = [o for o in outputs(found) if "image/png" in o.get("data", {})]
    assert len(shown) == pictures
    assert bool(list(tmp_path.iterdir())) == writes


@pytest.mark.slow
def test_the_features_of_weights_of_transformers(tmp_path):
    cases = _module(ROOT / "tests" / "hub" / "hub_cases.py")
    theirs = tmp_path / "hubert-tiny"
    theirs.mkdir()
    (theirs / "config.json").write_text(json.dumps(cases.config_json("hubert")))
    noise = np.random.default_rng(0)
    arrays = {
        name: noise.normal(0, 0.1, shape).astype(np.float32)
        for name, shape in cases.golden("hubert").items()
    }
    save_file(arrays, theirs / "model.safetensors")
    parameters = TOYS["features"][0] | {"MODEL": str(theirs), "RUNS": str(tmp_path / "runs")}
    found = experiment.run(ROOT / "notebooks" / "features.ipynb", parameters, timeout=600)
    said = "".join(o.text for o in outputs(found) if o.output_type == "stream")
    assert re.search(r"Model\(hubert.*, step 0\) - 3 layers of", said)
    assert (tmp_path / "runs" / "imported" / "hubert-tiny" / "config.json").is_file()


def test_an_unknown_parameter_is_an_error():
    with pytest.raises(KeyError, match=r"no parameter .*STAPS"):
        experiment.run(PATHS[0], {"STAPS": 3})
