"""The train command: a run folder, resuming, one-line errors, real methods in real processes."""

import concurrent.futures
import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time

import jax
import loudness_method
import numpy as np
import pytest
import train_corpus as corpora

from ssl_jax import train
from ssl_jax.core import config as config_lib
from ssl_jax.core import lock, pulse, stop
from ssl_jax.core.types import Method
from ssl_jax.engine import checkpoint, log, setup, watchdog
from ssl_jax.engine import environment as environment_lib
from ssl_jax.reports import run_report

KWS = str(corpora.CONFIGS / "supervised" / "kws.py") + ":toy"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return corpora.write_corpus(tmp_path_factory.mktemp("corpus") / "tones")


def tiny(config, num_classes: int) -> Method:
    return loudness_method.make(config.method, num_classes=num_classes)


def followed(config, num_classes: int) -> Method:
    """Returns the tiny method with a teacher of decay 0.5."""
    return dataclasses.replace(tiny(config, num_classes), decay=lambda steps: 0.5)


@pytest.fixture
def quick(monkeypatch):
    """Replaces the method by the tiny one, and leaves the user's cache alone."""
    monkeypatch.setattr(train, "make_method", tiny)
    monkeypatch.setattr(setup, "use_compilation_cache", lambda: None)


def load(corpus, **changes):
    return config_lib.load(KWS, corpora.overrides(corpus, **changes))


def test_a_run_leaves_a_folder_that_describes_it(tmp_path, corpus, quick):
    config = load(corpus)
    metrics = train.run(config, tmp_path / "run")
    folder = tmp_path / "run"
    assert json.loads((folder / "classes.json").read_text()) == ["high", "low", "mid"]
    assert config_lib.from_json((folder / "config.json").read_text()) == config
    assert (folder / "signature.txt").read_text().strip() == config_lib.sign(config)
    assert "encoder/kernel" in (folder / "parameters.txt").read_text()
    assert [r["step"] for r in log.read(folder / "metrics.jsonl")] == [1, 2, 3, 4, 4]
    assert metrics["valid/loss"] > 0 and metrics["train/lr"] == pytest.approx(1e-3)
    assert list(checkpoint.restore_params(folder)["encoder"]) == ["kernel"]
    report = (folder / "report.html").read_text()
    assert "step 4 of 4" in report and "The method masks nothing" in report
    assert (folder / "examples.npz").is_file()


def test_a_run_with_a_random_teacher_says_so_and_a_program_refuses_it(
    tmp_path, corpus, quick, monkeypatch, capsys
):
    monkeypatch.setattr(train, "make_method", followed)
    with pytest.raises(
        config_lib.ConfigError, match=r"is 2 in 4 updates.*--allow_low_turnover=True"
    ):
        train.run(load(corpus), tmp_path / "run", low_turnover=False)
    train.run(load(corpus), tmp_path / "run")
    assert "teacher turnover is 2 in 4 updates" in capsys.readouterr().err
    (start, _) = environment_lib.read(tmp_path / "run")
    assert start["low_turnover"].startswith("teacher turnover is 2 in 4 updates: 13.5% of")
    rows = log.read(tmp_path / "run" / "metrics.jsonl")
    assert [r["train/teacher_turnover"] for r in rows[:4]] == [0.5, 1.0, 1.5, 2.0]


def test_the_report_of_a_run_is_of_every_start_and_end(
    tmp_path, corpus, quick, monkeypatch, capsys
):
    def fail(step, state):
        raise RuntimeError("the disk is full\nand more")

    with pytest.raises(RuntimeError, match="the disk is full"):
        train.run(load(corpus), tmp_path, [(fail, 2)])
    assert "RuntimeError: the disk is full<" in (tmp_path / "report.html").read_text()

    def page(*args):
        raise ValueError("no ink")

    monkeypatch.setattr(run_report, "page", page)
    metrics = train.run(load(corpus), tmp_path, source=KWS)
    assert metrics["valid/loss"] > 0
    assert "cannot write report.html: ValueError: no ink" in capsys.readouterr().err
    first, failed, second, done = environment_lib.read(tmp_path)
    assert (first["step"], second["step"], first["total"]) == (0, 0, 4)
    assert failed["how"] == "RuntimeError: the disk is full" and done["how"] == "done"
    assert "changed" not in first and second["source"] == KWS
    assert second["changed"]["data.train.sc.path"] == "'data/speech_commands_v2'"


def test_the_same_run_resumes_and_has_nothing_left_to_do(tmp_path, corpus, quick):
    watched = []
    watch = [(lambda step, state: watched.append(step), 2)]
    train.run(load(corpus), tmp_path, watch)
    again = train.run(load(corpus, **{"log.every": "2 steps"}), tmp_path, watch)
    assert watched == [2, 4] and again["valid/loss"] > 0


def test_a_run_that_is_made_longer_is_that_of_the_whole_length(tmp_path, corpus, quick, capsys):
    """With a rate that does not end with the run, to the bit, under the signature that it had."""

    def length(steps):
        return load(corpus, **{"train.duration": steps, "optim.schedule": "constant"})

    train.run(length("4 steps"), tmp_path / "a")
    sign = (tmp_path / "a" / "signature.txt").read_text()
    assert "made longer" not in capsys.readouterr().err
    found = train.run(length("6 steps"), tmp_path / "a")
    told = capsys.readouterr().err
    assert "the run is made longer: 4 steps before, 6 now. The steps done are those of a" in told
    assert (
        (tmp_path / "a" / "signature.txt").read_text()
        == sign
        == config_lib.sign(length("4 steps")) + "\n"
    )
    kept = config_lib.of_file(tmp_path / "a" / "config.json")
    assert kept.train.duration == "6 steps"
    assert found == train.run(length("6 steps"), tmp_path / "b") | {
        k: v for k, v in found.items() if k.endswith("_per_second")
    }
    with pytest.raises(
        ValueError, match=r"'5 steps', 5 steps, and the run in .*a has 6: a run can "
    ):
        train.run(length("5 steps"), tmp_path / "a")


def test_what_becomes_of_a_rate_that_ends_with_the_run_is_said(tmp_path, corpus, quick, capsys):
    cosine = {"optim.schedule": "cosine", "optim.warmup": "0 steps", "optim.lr": 0.5}
    train.run(load(corpus, **cosine), tmp_path)
    train.run(load(corpus, **cosine, **{"train.duration": "8 steps"}), tmp_path)
    told = capsys.readouterr().err
    assert "schedule 'cosine' ends with the run: after step 4 it goes from 0.0732 to 0.25, " in told
    assert "so the result is not that of a run planned with 8" in told


def test_the_watchdog_covers_the_opening_of_the_data(tmp_path, corpus, quick, monkeypatch, capfd):
    stuck, left = threading.Event(), []

    def leave(status):
        left.append(status)
        stuck.set()

    def hangs(*given):
        with pulse.During("the header of far/a.wav"):
            assert stuck.wait(30)
        raise OSError("the mount is gone")

    monkeypatch.setattr(watchdog, "Watchdog", functools.partial(watchdog.Watchdog, leave=leave))
    monkeypatch.setattr(train.splits, "open_split", hangs)
    with pytest.raises(OSError, match="the mount is gone"):
        train.run(load(corpus, **{"guard.stall_seconds": 0.4}), tmp_path)
    assert left == [watchdog.STALLED]
    told = capfd.readouterr().err
    assert "for 0.4 s; waiting for config.data.train to open (the header of far/a.wav)" in told


def test_sigterm_while_the_data_are_opened_ends_with_success(tmp_path, corpus, quick, monkeypatch):
    def asked(*given):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        raise AssertionError("went on")

    monkeypatch.setattr(train.splits, "open_split", asked)
    with pytest.raises(stop.Stopped) as ended:
        train.run(load(corpus), tmp_path)
    assert ended.value.code == 0 and not (tmp_path / "checkpoints").exists()


def test_a_count_that_cannot_be_is_refused_before_any_work(tmp_path, corpus, quick):
    for key in ("train.accumulate", "log.every", "checkpoint.keep_last"):
        with pytest.raises(config_lib.ConfigError, match=f"config.{key} is '?0'?: use 1"):
            train.run(load(corpus, **{key: 0}), tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_a_collapse_and_a_missing_folder_are_one_line_each(tmp_path, corpus, quick):
    config = load(corpus)
    with config.unlocked():
        config.guard.after, config.guard.floors = 0, {"target_std": 0.1}
    with pytest.raises(RuntimeError, match=r"the targets collapsed: target_std is 0.05 at step 1"):
        train.run(config, tmp_path / "a")
    arguments = ["--config", KWS, "--workdir", str(tmp_path / "b")]
    with pytest.raises(SystemExit, match=r"^error: .*config\.data\.train\.sc\.path"):
        train.main([*arguments, *corpora.overrides(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match=r"^error: config\.optim\.lrr does not exist"):
        train.main([*arguments, "--config.optim.lrr=1"])


def test_wrong_config_is_named(tmp_path, corpus, quick):
    cases = {
        "train.duration": ("0 steps", "config.train.duration is 0"),
        "mesh.data": (3, "config.mesh"),
        "train.accumulate": (3, r"config.data.batch_size is 4: use a multiple of"),
        "checkpoint.best_mode": ("high", "config.checkpoint.best_mode"),
    }
    for key, (value, expected) in cases.items():
        with pytest.raises(ValueError, match=expected):
            train.run(load(corpus, **{key: value}), tmp_path / key)
    without = {"eval.valid": False, "checkpoint.best_metric": "valid/accuracy"}
    with pytest.raises(ValueError, match="best_metric need an evaluation"):
        train.run(load(corpus, **without), tmp_path / "best")


def test_an_unknown_method_is_named(corpus):
    config = load(corpus)
    config.method.name = "data2vek"
    with pytest.raises(ValueError, match=r"config.method.name is 'data2vek': did you mean 'data2"):
        train.make_method(config, 3)


def test_skipped_files_are_listed(tmp_path, quick):
    folder = corpora.write_corpus(tmp_path / "tones")
    broken = next(p for p in sorted((folder / "low").iterdir()) if "00000005" in p.name)
    broken.write_bytes(b"no sound")
    bad = {"data.on_bad": "skip", "data.max_bad_share": 0.5, "train.duration": "2 epochs"}
    train.run(load(folder, **bad), tmp_path / "run")
    (row,) = [json.loads(x) for x in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert "00000005" in row["where"]


def test_files_that_vanish_in_mid_run_are_named_and_no_state_is_lost(tmp_path, quick):
    folder = corpora.write_corpus(tmp_path / "tones")
    durations = {"train.duration": "8 steps", "eval.every": "8 steps", "checkpoint.every": 4}
    config = load(folder, **durations)
    whole = train.run(config, tmp_path / "whole")

    def vanish(step, state):
        if step == 6:
            (folder / "low").rename(tmp_path / "low")

    with pytest.raises(ValueError, match=r"low/\w+\.wav, row \d+: No such file"):
        train.run(config, tmp_path / "run", [(vanish, 1)])
    assert checkpoint.restore_params(tmp_path / "run")
    (tmp_path / "low").rename(folder / "low")
    assert train.run(config, tmp_path / "run")["valid/loss"] == whole["valid/loss"]


def test_the_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("SSL_JAX_CACHE", str(tmp_path / "xla"))
    try:
        setup.use_compilation_cache()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "xla")
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://bucket/xla")
        setup.use_compilation_cache()
        assert jax.config.jax_compilation_cache_dir == "gs://bucket/xla"
        # a time set in the environment is kept; conftest.py sets one
        assert jax.config.jax_persistent_cache_min_compile_time_secs == before[1] != 0.5
        monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
        setup.use_compilation_cache()
        assert jax.config.jax_persistent_cache_min_compile_time_secs == 0.5
    finally:
        for name, value in zip(names, before, strict=True):
            jax.config.update(name, value)


def arguments(folder, corpus, config, **changes) -> list[str]:
    texts = corpora.overrides(corpus, **changes)
    return ["--config", config, "--workdir", str(folder), *texts]


def command(*given, **changes) -> list[str]:
    return [sys.executable, "-m", "ssl_jax.train", *arguments(*given, **changes)]


@pytest.mark.slow
def test_the_command_pretrains_resumes_and_fine_tunes(tmp_path, corpus, capsys):
    pretrain = str(corpora.CONFIGS / "data2vec" / "kws.py") + ":toy"
    env, root = os.environ | {"JAX_PLATFORMS": "cpu"}, corpora.CONFIGS.parent
    changes = {"train.duration": "150 steps", "checkpoint.every": "5 steps"}
    first = command(tmp_path / "pre", corpus, pretrain, **changes)
    process = subprocess.Popen(first, env=env, cwd=root, stderr=subprocess.PIPE, text=True)
    saves = tmp_path / "pre" / "checkpoints"
    deadline = time.monotonic() + 100
    while not (saves.is_dir() and any(p.name.isdigit() for p in saves.iterdir())):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 0 and "SIGTERM: saved step" in text, text
    workers = command(tmp_path / "pre", corpus, pretrain, **changes, **{"data.workers": 1})
    subprocess.run(workers, env=env, cwd=root, check=True, timeout=200)
    train.main(arguments(tmp_path / "whole", corpus, pretrain, **changes))
    a, b = (checkpoint.restore_params(tmp_path / name, 150) for name in ("pre", "whole"))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
    train.main(arguments(tmp_path / "tune", corpus, KWS, init_from=tmp_path / "pre"))
    assert "fresh ones: head/" in capsys.readouterr().err


def test_the_flag_profile_traces_steps(tmp_path, corpus, quick):
    folder = tmp_path / "run"
    where = ["--config", KWS, "--workdir", str(folder), "--profile", "2:3"]
    train.main([*where, *corpora.overrides(corpus)])
    assert list((folder / "profile").rglob("*.xplane.pb"))
    assert json.loads((folder / "scopes.json").read_text())["steps"] == 2


def test_every_value_of_a_config_can_be_printed(root, capsys):
    config = str(root / "configs/hubert/audio.py:base")
    train.main(["--config", config, "--config.optim.lr=0.5", "--print"])
    shown = capsys.readouterr().out
    assert "  lr = 0.5\n" in shown and "    width = 768  # " in shown
    with pytest.raises(SystemExit):
        train.main(["--config", config])
    assert "one of the arguments --workdir --print is required" in capsys.readouterr().err


def test_a_refused_command_leaves_no_folder(tmp_path, corpus, quick):
    run = tmp_path / "runs" / "a"
    for change in (
        {"data.train.sc.path": str(tmp_path / "nowhere")},
        {"init_from": str(tmp_path / "nowhere")},
        {"train.accumulate": 0},
        {"eval.valid": False, "checkpoint.best_metric": "valid/accuracy"},
    ):
        with pytest.raises((ValueError, OSError)):
            train.run(load(corpus, **change), run)
        assert not (tmp_path / "runs").exists()


def test_what_an_error_names_stays_in_a_folder_that_is_refused(tmp_path):
    (tmp_path / "code.txt").write_text("of somebody else")
    before = setup._traces(tmp_path)
    for name in ("config.json", "data-train.npz", "skipped.jsonl"):
        (tmp_path / name).write_text("")
    setup._forget(tmp_path, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code.txt", "skipped.jsonl"]
    for name in ("config.json", environment_lib.FILE):  # a run that began
        (tmp_path / name).write_text("")
    setup._forget(tmp_path, before)
    assert (tmp_path / "config.json").exists()


def test_a_folder_that_is_in_use_is_refused_with_the_holder(tmp_path, corpus, quick, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.1)
    with lock.hold(tmp_path / "run"):
        before = sorted(path.name for path in (tmp_path / "run").iterdir())
        holder = rf"process {os.getpid()} on \S+ is using \S+run: wait for it, or end it"
        another = concurrent.futures.ThreadPoolExecutor(1)  # a thread is kept out as a process is
        with another as pool, pytest.raises(lock.Busy, match=holder):
            pool.submit(train.run, load(corpus), tmp_path / "run").result()
        assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


def test_the_parameters_are_shown_once_per_command(tmp_path, corpus, quick, capsys, monkeypatch):
    monkeypatch.setattr(setup, "_shown", set())
    for name in "ab":
        train.run(load(corpus), tmp_path / name)
    assert capsys.readouterr().err.count("encoder/kernel") == 1
