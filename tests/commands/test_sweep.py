"""The sweep command: one run, all of them, what it says, and its report after it was killed."""

import pytest
import train_corpus as corpora

from ssl_jax import sweep, train
from ssl_jax.core import code
from ssl_jax.core.config import ConfigError
from ssl_jax.stages import launch, runs
from ssl_jax.stages import sweep as sweep_lib

KWS = str(corpora.CONFIGS / "data2vec" / "kws.py") + ":toy"


@pytest.fixture
def trained(monkeypatch):
    """Replaces training; the list gets the config and the folder of every run."""
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
    assert not any(tmp_path.iterdir())  # looking changes nothing
    found = sweep_lib.read(KWS, [], tmp_path)
    sweep.main([*line, "--run", "3"])
    sweep.main(["--workdir", str(tmp_path), "--run", found[3].label])  # is done
    sweep.main(["--workdir", str(tmp_path), "--run", found[5].signature])
    assert trained == [(found[i].config, found[i].folder) for i in (3, 5)]
    assert trained[1][0].seed == 1 and trained[1][0].optim.lr == 3e-3
    sweep.main(["--workdir", str(tmp_path), "--status"])
    assert table(capsys)[-1] == "8 runs: 2 done, 6 waiting"


def test_other_code_goes_on_only_when_it_is_told_to(tmp_path, trained):
    run = sweep_lib.read(KWS, [], tmp_path)[0]
    run.folder.mkdir()
    (run.folder / "code.txt").write_text("0123456789ab 0\n")
    (run.folder / "lock").touch()
    with pytest.raises(
        ConfigError, match=f"begun by code 0123456789ab, and this is {code.version()}"
    ):
        sweep.execute(run)
    assert runs.state(run.folder) == "stopped" and not trained
    assert sweep.execute(run, any_code=True) and len(trained) == 1
    assert not sweep.execute(run)  # done, whatever made it


def test_a_failed_run_is_told_and_kept(tmp_path, monkeypatch, capsys):
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
    monkeypatch.setattr(runs, "PATIENCE", 0.02)
    run = sweep_lib.read(KWS, [], tmp_path)[0]
    with runs.hold(run.folder), pytest.raises(SystemExit) as left:
        sweep.main(["--config", KWS, "--workdir", str(tmp_path), "--run", "0"])
    assert left.value.code == launch.BUSY and not trained


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
