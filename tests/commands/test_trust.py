"""Opening another person's run folder runs none of its code, whatever its config names."""

import json
import sys

import pytest

import ssl_jax
from ssl_jax import convert, evaluate, plan, report, sweep, train
from ssl_jax.core import config as config_lib
from ssl_jax.core.config import ConfigError

NAMED = "--method evil_method"


@pytest.fixture
def run(tmp_path, monkeypatch, root):
    """A run folder whose config names a module next to it, which writes a file when imported."""
    folder = tmp_path / "run"
    (folder / "checkpoints" / "3").mkdir(parents=True)
    config = config_lib.load(f"{root}/configs/supervised/kws.py:toy").unlock()
    config.method.name = "evil_method"
    (folder / "config.json").write_text(config_lib.to_json(config))
    sign = config_lib.sign(config)
    inner = tmp_path / "sweep" / sign[:8]
    inner.mkdir(parents=True)
    (inner / "config.json").write_text(config_lib.to_json(config))
    about = {"runs": [{"signature": sign, "values": {}}]}
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(about))
    (tmp_path / "evil_method.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    return folder


def test_load_imports_no_module_that_a_folder_names(run, tmp_path):
    with pytest.raises(ConfigError, match=NAMED):
        ssl_jax.load(run)
    assert not (tmp_path / "was_run").exists() and "evil_method" not in sys.modules
    with pytest.raises(ConfigError, match="has no function make"):
        ssl_jax.load(run, method="evil_method")
    assert (tmp_path / "was_run").exists()
    del sys.modules["evil_method"]


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (evaluate.main, ["--run", "run"]),
        (plan.main, ["--config", "run/config.json", "--topology", "cpu:1"]),
        (train.main, ["--config", "run/config.json", "--workdir", "other"]),
        (sweep.main, ["--workdir", "sweep", "--run", "0"]),
        (sweep.main, ["--workdir", "sweep", "--launch", "local"]),
        (sweep.main, ["--workdir", "sweep"]),
    ],
)
def test_no_command_imports_it_either(command, line, run, tmp_path):
    with pytest.raises(SystemExit, match=f"error: .*{NAMED}"):
        command(line)
    assert not (tmp_path / "was_run").exists()


def test_what_needs_no_method_imports_none(run, tmp_path):
    report.main(["--run", "run"])
    assert "evil_method" in (run / "report.html").read_text()
    evaluate.main(["--runs", "run,sweep/*"])
    export = ["export", "--from", "run", "--to", str(tmp_path / "out"), "--step", "3"]
    assert convert.main(export) == 1  # there are no weights
    sweep.main(["--workdir", "sweep", "--status"])
    assert not (tmp_path / "was_run").exists()


def test_a_named_module_is_imported_by_the_commands(run, tmp_path):
    with pytest.raises(SystemExit, match=r"evil_method\.py has no function make"):
        train.main(["--config", "run/config.json", "--workdir", "other", *NAMED.split()])
    assert (tmp_path / "was_run").exists()
    del sys.modules["evil_method"]
