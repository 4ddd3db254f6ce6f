"""The sweep command: one run, all runs, its messages, and its report after a kill."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import jax
import pytest
import train_corpus as corpora

from ssl_jax import plan, sweep, train
from ssl_jax.core import code, lock, paths, terminal
from ssl_jax.core import config as config_lib
from ssl_jax.core import sweep as algebra
from ssl_jax.core.config import ConfigError
from ssl_jax.sweeps import clusters, local, run_folders
from ssl_jax.sweeps import sweep as sweep_lib

# seven runs, one of which (in the middle) cannot start
SWEEP = """
import json
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(json.loads(CONFIG))

def sweep(s):
    rates = s.product({"optim.lr": (1e-3, 1e-2), "seed": range(2)})
    broken = {"checkpoint.best_mode": ("high",)}
    return s.chain(rates, broken, {"seed": (2, 3, 4)})
"""
KWS = str(corpora.CONFIGS / "data2vec" / "kws.py") + ":toy"


@pytest.fixture
def trained(monkeypatch):
    """Replaces training; the config and folder of every run are appended to the list."""
    calls = []
    monkeypatch.setattr(train, "run", lambda config, folder: calls.append((config, folder)))
    return calls


def table(capsys) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_a_sweep_of_a_config_of_this_repository(tmp_path, trained, capsys):
    line = ["--config", KWS, "--workdir", str(tmp_path), "--config.seed=9"]
    sweep.main([*line, "--status"])
    printed = table(capsys)
    assert printed[0].split() == ["run", "signature", "optim.lr", "ema.start", "seed", "state"]
    assert printed[-1] == "8 runs: 8 waiting"
    assert not any(tmp_path.iterdir())  # listing changes nothing
    found = sweep_lib.read(KWS, [], tmp_path)
    sweep.main([*line, "--run", "3"])
    sweep.main(["--workdir", str(tmp_path), "--run", found[3].label])  # is done
    sweep.main(["--workdir", str(tmp_path), "--run", found[5].signature])
    assert trained == [(found[i].config, found[i].folder) for i in (3, 5)]
    assert trained[1][0].seed == 1 and trained[1][0].optim.lr == 3e-3
    sweep.main(["--workdir", str(tmp_path), "--status"])
    assert table(capsys)[-1] == "8 runs: 2 done, 6 waiting"


@pytest.mark.slow
def test_the_table_of_runs_shows_their_costs(tmp_path, capsys):
    line = ["--config", KWS, "--workdir", str(tmp_path), "--topology", "h100:8"]
    sweep.main([*line, "--config.train.duration=500 steps"])
    printed = table(capsys)
    assert printed[0].split()[5:] == ["state", "steps", "FLOPs", "h100", "hours"]
    *_, state, steps, flops, hours = printed[2].split()
    assert (state, steps) == ("waiting", "500")
    one = config_lib.change(config_lib.load(KWS), {"mesh.data": 1})
    step = plan.step(one, "h100:1")
    assert float(flops) == pytest.approx(500 * step.flops, rel=0.01)
    assert float(hours) == pytest.approx(500 * step.times.total / 3600, rel=0.05)
    sweep.main([*line, "--config.train.duration=3 epochs"])
    printed = table(capsys)
    assert "not planned" in printed[2]
    assert [x for x in printed if "config.train.duration is '3 epochs'" in x] == printed[-1:]
    sweep.main([*line, "--config.train.duration=3 epochs", "--examples", "1000"])
    assert table(capsys)[2].split()[6] == "750"


def test_a_launcher_leaves_the_devices_to_its_runs(tmp_path, monkeypatch, capsys):
    def backend(*given):
        raise AssertionError("a device was asked for")

    for name in ("process_index", "devices", "device_count", "local_devices"):
        monkeypatch.setattr(jax, name, backend)
    monkeypatch.setattr(local, "local", lambda found, command, parallel, say, *_: say("begun"))
    line = ["--config", KWS, "--workdir", str(tmp_path)]
    sweep.main([*line, "--launch", "local"])
    assert capsys.readouterr().err == f"{terminal.on_cpu()}\nbegun\n"
    sweep.main([*line, "--status"])
    sweep.main([*line, "--report"])


def test_other_code_goes_on_only_when_allowed(tmp_path, trained):
    run = sweep_lib.read(KWS, [], tmp_path)[0]
    run.folder.mkdir()
    (run.folder / "code.txt").write_text("0123456789ab 0\n")
    (run.folder / "lock").touch()
    with pytest.raises(
        ConfigError, match=f"begun by code 0123456789ab, and this is {code.version()}"
    ):
        sweep.execute(run)
    assert run_folders.state(run.folder) == "stopped" and not trained
    assert sweep.execute(run, any_code=True) and len(trained) == 1
    assert not sweep.execute(run)  # done, whatever created it


def test_a_failed_run_is_reported_and_kept(tmp_path, monkeypatch, capsys):
    def breaks(config, folder):
        raise ConfigError("config.optim.lr is 0: use 1e-3")

    monkeypatch.setattr(train, "run", breaks)
    line = ["--config", KWS, "--workdir", str(tmp_path)]
    with pytest.raises(SystemExit, match=r"^error: config\.optim\.lr is 0"):
        sweep.main([*line, "--run", "2"])
    sweep.main([*line, "--report"])
    label = sweep_lib.read(KWS, [], tmp_path)[2].label
    printed = capsys.readouterr().out
    assert f"run 2 ({label}) failed: ConfigError: config.optim.lr is 0: use 1e-3" in printed
    assert (tmp_path / "report.html").is_file() and (tmp_path / "metrics.csv").is_file()


def test_a_run_at_work_elsewhere_has_a_status_of_its_own(tmp_path, trained, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.02)
    run = sweep_lib.read(KWS, [], tmp_path)[0]
    with lock.hold(run.folder), pytest.raises(SystemExit) as left:
        sweep.main(["--config", KWS, "--workdir", str(tmp_path), "--run", "0"])
    assert left.value.code == local.BUSY and not trained


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ([], "name a sweep: --config"),
        (["--workdir", "nowhere"], "nowhere holds no sweep"),
        (["--workdir", "x", "--config.seed=1"], "--config.seed=1: give --config too"),
        (["--config", KWS, "--config.sede=1"], "config.sede does not exist: did you mean 'seed'"),
        (["--config", KWS, "--run", "8"], "--run 8: the sweep has runs 0 to 7"),
        (["--config", KWS, "--launch", "local", "--parallel", "0"], "--parallel 0: use 1"),
        (["--config", KWS, "--launch", "xpk"], "needs --option cluster="),
        (["--config", KWS, "--launch", "xpk", "--option", "a"], "--option a: write --option"),
        (["--config", KWS, "--report"], "no run of the sweep was begun in runs/data2vec-kws-toy"),
    ],
)
def test_a_wrong_command_is_one_line(tmp_path, monkeypatch, line, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        sweep.main(line)


def slow_sweep(tmp_path) -> str:
    """Returns a config file whose runs start quickly and save every second step."""
    corpus = corpora.write_corpus(tmp_path / "tones")
    supervised = str(corpora.CONFIGS / "supervised" / "kws.py") + ":toy"
    changes = {"train.duration": "24 steps", "checkpoint.every": "2 steps", "eval.every": "8 steps"}
    config = config_lib.load(supervised, corpora.overrides(corpus, **changes))
    with config.unlocked():
        config.method = {"name": "loudness_method"}
    path = tmp_path / "loud.py"
    path.write_text(SWEEP.replace("CONFIG", repr(config_lib.to_json(config))))
    return str(path)


def numbers(root) -> list[dict]:
    """Returns the rows of metrics.csv, without the columns of times."""
    with (root / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in r.items() if k != "time" and "per_second" not in k} for r in rows]


def saved(run) -> list[int]:
    return [int(p.name) for p in (run.folder / "checkpoints").glob("*") if p.name.isdigit()]


@pytest.mark.slow
def test_a_killed_sweep_ends_with_the_report_of_an_undisturbed_one(tmp_path, monkeypatch, capsys):
    path, killed, whole = slow_sweep(tmp_path), tmp_path / "killed", tmp_path / "whole"
    for run in sweep_lib.read(path, [], whole):
        if run.config.checkpoint.best_mode == "high":
            with pytest.raises(ValueError, match="best_mode"):
                sweep.execute(run)
        else:
            sweep.execute(run)
    monkeypatch.setenv(
        "PYTHONPATH", f"{corpora.CONFIGS.parent}{os.pathsep}{os.path.dirname(__file__)}"
    )
    line = ["--config", path, "--workdir", str(killed)]
    launcher = [
        sys.executable,
        "-m",
        "ssl_jax.sweep",
        *line,
        "--launch",
        "local",
        "--parallel",
        "2",
    ]
    process = subprocess.Popen(launcher, stderr=subprocess.PIPE, text=True)
    found = sweep_lib.read(path, [], killed)
    while True:  # until one is done and another is half-way
        assert process.poll() is None
        working = [run for run in found if run_folders.busy(run.folder)]
        halfway = [run for run in working if 2 <= max(saved(run), default=0) <= 16]
        done = [run for run in found if run_folders.state(run.folder) == "done"]
        if done and halfway:
            break
        time.sleep(0.01)
    process.kill()
    for run in working:
        os.kill(int(run_folders.holder(run.folder).split()[1]), signal.SIGKILL)
    process.wait()
    while any(run_folders.busy(run.folder) for run in working):
        time.sleep(0.01)  # a killed process releases its folder once the system has ended it
    assert run_folders.state(halfway[0].folder) == "stopped"
    again = subprocess.run(launcher, stderr=subprocess.PIPE, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert "resuming" in (halfway[0].folder / "log.txt").read_text()
    assert all((run.folder / "log.txt").read_text().count("$ ") == 1 for run in done)
    capsys.readouterr()
    printed = []
    for root in (killed, whole):
        sweep.main(["--config", path, "--workdir", str(root), "--report", "--metric", "valid/loss"])
        printed.append(capsys.readouterr().out.partition("\nranked")[0])
    assert printed[0] == printed[1]
    assert "run 4 " in printed[0] and "config.checkpoint.best_mode is 'high'" in printed[0]
    assert numbers(killed) == numbers(whole) and len(numbers(whole)) > 7 * 24


def test_a_sweep_in_an_object_store(bucket, trained, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    line = ["--config", KWS, "--workdir", "gs://bucket/sweep"]
    sweep.main([*line, "--run", "1"])
    assert str(trained[0][1]).startswith("gs://bucket/sweep/")
    sweep.main(["--workdir", "gs://bucket/sweep", "--status"])
    assert table(capsys)[-1] == "8 runs: 1 done, 7 waiting"
    found = sweep_lib.reopen(paths.of("gs://bucket/sweep"))
    (found[0].folder / "lock").write_text("process 1 on pod")  # running, or stopped
    rows = [{"step": i, "time": 1.0 * i, "train/loss": 1.0} for i in (1, 2)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    for run in found[:2]:
        (run.folder / "metrics.jsonl").write_text(text)
    sweep.main(["--workdir", "gs://bucket/sweep", "--report"])
    printed = capsys.readouterr().out
    assert "1 of 2, 1 stopped" in printed and "another version" not in printed
    assert {"sweep/report.html", "sweep/metrics.csv"} <= {n[7:] for n in bucket.objects}
    options = ["--option", "cluster=c", "--option", "tpu-type=v5litepod-16"]
    monkeypatch.setenv("PATH", "")
    sweep.main([*line, "--launch", "xpk", *options])
    assert (tmp_path / "xpk.sh").read_text().count("--workdir gs://bucket/sweep") == 7
    monkeypatch.setenv("SSL_JAX_RUNS", f"nowhere:gs://bucket:{tmp_path}")
    assert run_folders.find(found[3].signature[:8]) == found[3].folder
    with pytest.raises(SystemExit, match=r"--workdir is gs://bucket/sweep, but it must be a local"):
        sweep.main([*line, "--launch", "local"])


PAGE = corpora.CONFIGS.parent / "docs" / "sweeps.md"


def commands(page: str) -> list[list[str]]:
    """Returns the arguments of every `python -m ssl_jax.sweep` command on the page."""
    joined = page.replace("\\\n", " ")
    found = re.findall(r"^ {4}python -m ssl_jax\.sweep (.*)$", joined, re.MULTILINE)
    return [shlex.split(line) for line in found]


@pytest.mark.slow
def test_every_command_of_the_page_runs(bucket, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    launched = []
    monkeypatch.setattr(
        local, "local", lambda found, command, parallel, *_: launched.append(parallel)
    )
    for name in ("slurm", "xpk"):
        monkeypatch.setattr(clusters, name, lambda *given: launched.append(given[-1]))
    for words in commands(PAGE.read_text()):
        sweep.main([re.sub(r"(kws.py:|kws-)mini$", r"\1toy", word) for word in words])
    assert len(trained) == 1 and launched[0] == 2
    assert launched[1] == {
        "slurm_partition": "gpu",
        "gpus_per_node": "1",
        "timeout_min": "600",
    }
    assert launched[2]["tpu-type"] == "v5litepod-16" and len(launched) == 3
    assert "8 runs: 1 done, 7 waiting" in capsys.readouterr().out


def test_every_expression_of_the_page_is_a_sweep():
    page = PAGE.read_text()
    (shown,) = re.findall(r"^```python\n(def sweep.*?)^```", page, re.DOTALL | re.MULTILINE)
    space = {}
    exec(shown, space)
    assert space["sweep"](algebra) == config_lib.call(KWS, "sweep", algebra)
    rows = re.findall(r"^\| `(s\..*?)` \|", page, re.MULTILINE)
    names = config_lib.flatten(config_lib.load(KWS))
    for row in rows:
        if "..." not in row:
            points = eval(row, {"s": algebra})
            assert all(name in names for point in points for name in point), row
    assert len(rows) == 5
