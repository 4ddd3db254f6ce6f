"""The pipeline command: options, stages that are skipped, and the quickstart at toy size."""

import json
from pathlib import Path

import pytest

from ssl_jax import pipeline
from ssl_jax.core.config import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
OPTIONS = {"count": 2, "name": "a"}

def main(pipe):
    pipe.expect({"first": 1.0, "second": 1.0})
    first = pipe.stage("data", "first", {"count": pipe.options["count"]}, write(pipe, "first"))
    pipe.stage("eval", "second", {}, write(pipe, "second"), (first,))

def write(pipe, name):
    def work(folder):
        with open(pipe.root / "log", "a") as f:
            f.write(name + "\\n")
    return work
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(PROGRAM)
    return str(path)


def _log(root):
    return (root / "log").read_text().split()


def test_a_second_run_skips_what_is_complete_and_redoes_what_changed(program, tmp_path):
    root = str(tmp_path / "run")
    pipeline.run(program, root)
    assert _log(pipeline.run(program, root)) == ["first", "second"]
    assert _log(pipeline.run(program, root, ["--count=3"])) == ["first", "second"] * 2


def test_the_time_left_is_told(program, tmp_path, capsys):
    pipeline.run(program, str(tmp_path / "run"))
    assert "2 stages to go, about 2s" in capsys.readouterr().err


def test_an_unknown_option_and_a_wrong_type_are_named(program, tmp_path):
    with pytest.raises(ConfigError, match=r"cuont.*count"):
        pipeline.run(program, str(tmp_path), ["--cuont=3"])
    with pytest.raises(ConfigError, match="count"):
        pipeline.run(program, str(tmp_path), ["--count=many"])


def test_a_missing_program_is_named():
    with pytest.raises(SystemExit, match=r"no program nothing\.py.*quickstart"):
        pipeline.main(["nothing.py"])


@pytest.mark.slow
def test_the_quickstart_runs_and_reports_every_seed(tmp_path, monkeypatch):
    pytest.importorskip("espeakng_loader")
    monkeypatch.chdir(ROOT)
    options = {"clips": 160, "valid_clips": 40, "test_clips": 40, "labels_per_class": 3}
    options |= {"pretrain_steps": 4, "finetune_steps": 4, "seeds": 2}
    overrides = [f"--{k}={v}" for k, v in options.items()]
    root = pipeline.run("experiments/quickstart.py", str(tmp_path / "q"), overrides)
    results = json.loads((root / "results.json").read_text())
    for arm in ("scratch", "pretrained"):
        assert len(results[arm]) == 2 and all(0 <= x <= 1 for x in results[arm])
    assert (root / "report.png").stat().st_size > 20_000
    page = (root / "report.html").read_text()
    assert "data:image/png;base64," in page and "scratch" in page and "http" not in page
