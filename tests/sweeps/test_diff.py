"""Comparing runs: differences are shown, equal keys are counted."""

import json

import pytest

from ssl_jax import evaluate
from ssl_jax.core import config as config_lib
from ssl_jax.core.config import ABSENT, ConfigError
from ssl_jax.sweeps import diff


def make(folder, lr, accuracy, **more):
    """Writes and returns a run folder."""
    folder.mkdir(parents=True)
    config = {"seed": 0, "optim": {"lr": lr, "betas": [0.9, 0.99]}, **more}
    (folder / "config.json").write_text(json.dumps(config))
    rows = [{"step": 1, "train/loss": 2.0, "train/lr": lr, "valid/accuracy": 0.1}]
    rows += [{"step": 2, "train/loss": 1.0, "train/lr": lr, "valid/accuracy": accuracy}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


@pytest.fixture
def two(tmp_path, monkeypatch):
    """Returns two runs below the folder in which runs are looked for."""
    monkeypatch.setenv("SSL_JAX_RUNS", str(tmp_path / "all"))
    monkeypatch.chdir(tmp_path)
    a = make(tmp_path / "all/kws/a", 1e-3, 0.5)
    b = make(tmp_path / "all/kws/b", 3e-3, 0.75, extra=True)
    (tmp_path / "all/kws/no_run").mkdir()
    return a, b


def test_what_differs_is_beside_each_other_and_the_rest_is_counted(two):
    (two[1] / "code.txt").write_text("aaaa00001111 0\n")
    rows = [
        {"features": "this run", "probe": "ridge", "layer": 2, "test": [0.25, 0.75], "layers": {}}
    ]
    (two[0] / "evaluation.json").write_text(json.dumps({"results": rows}))
    configs, found, agreed = diff.compare(two)
    assert configs == {
        "optim.lr": [1e-3, 3e-3],
        "extra": [ABSENT, True],
        "code": [ABSENT, "aaaa00001111"],
    }
    assert found == {"valid/accuracy": [0.5, 0.75], "this run ridge test": [0.5, ABSENT]}
    assert agreed == 2


def test_rows_of_an_evaluation_are_distinguished(two):
    rows = [
        {"features": "MFCC", "layer": 0, "pnmi": 0.3, "used": 7},
        {"features": "MFCC", "layer": 1, "pnmi": 0.4, "used": 8},
        {"split": "test", "wer": 0.1, "worst": [{"id": 1}], "about": []},
    ]
    (two[0] / "evaluation.json").write_text(json.dumps({"results": rows}))
    found = diff.results(two[0])
    assert found["MFCC 0 pnmi"] == 0.3 and found["MFCC 1 pnmi"] == 0.4
    assert found["test wer"] == 0.1
    assert {k for k in found if k.startswith("test")} == {"test wer"}
    # a probe says itself which layer it chose
    rows = [{"features": "this run", "probe": "knn", "layer": 4, "test": [1.0]}]
    (two[0] / "evaluation.json").write_text(json.dumps({"results": rows}))
    assert diff.results(two[0])["this run knn test"] == 1.0


def test_runs_are_named_by_pattern_folder_or_signature(two, tmp_path):
    assert diff.expand("kws/*") == list(two)
    shown = [folder.relative_to(tmp_path) for folder in two]
    assert diff.expand(f"{two[1]},all/kws/*") == [two[1], shown[0]]
    sign = config_lib.sign(config_lib.from_json((two[1] / "config.json").read_text()))
    assert diff.expand(f"all/kws/b, {sign[:6]}") == [shown[1]]
    with pytest.raises(FileNotFoundError, match=r"(?s)'nothing/\*' is neither a folder.*kws/a"):
        diff.expand("nothing/*")
    with pytest.raises(ConfigError, match=r"matches 1 runs \(.*kws/a\): name two or more"):
        diff.compare(two[:1])


def test_the_command_prints_few_runs_in_columns_and_many_in_rows(two, tmp_path, capsys):
    evaluate.main(["--runs", "kws/*"])
    lines = capsys.readouterr().out.splitlines()
    (lr,) = [line.split() for line in lines if line.startswith("config.optim.lr")]
    assert lr == ["config.optim.lr", "0.001", "0.003"]
    (accuracy,) = [line.split() for line in lines if line.startswith("valid/accuracy")]
    assert accuracy == ["valid/accuracy", "0.5", "0.75"]
    assert lines[-1] == "2 config keys are the same in all runs"
    for i in range(6):
        make(tmp_path / f"all/kws/c{i}", 1e-3, 0.1 * i)
    evaluate.main(["--runs", "kws/*"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["run", "signature", "config.optim.lr"]
    assert len(lines) == 2 + 8 + 2
    with pytest.raises(SystemExit, match=r"^error: --runs matches 1 runs"):
        evaluate.main(["--runs", "kws/a"])
    with pytest.raises(SystemExit):
        evaluate.main(["--runs", "kws/a", "--run", "kws/a"])


def test_null_is_none_and_not_the_value_before(two):
    with (two[0] / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 3, "valid/accuracy": None}) + "\n")
    rows = [{"features": "this run", "probe": "knn", "layer": 4, "test": [None]}]
    (two[0] / "evaluation.json").write_text(json.dumps({"results": rows}))
    lines = {line.split("  ")[0]: line.split()[-2:] for line in diff.text(two).splitlines()}
    assert lines["valid/accuracy"] == ["none", "0.75"]
    assert lines["this run knn test"] == ["none", "-"]
