"""Stages in worker processes: what runs at the same time, what waits, what a failure leaves."""

import os
import signal
import subprocess
import sys
import time

import pytest

from ssl_jax import pipeline
from ssl_jax.core.config import ConfigError
from ssl_jax.stages import side_by_side
from ssl_jax.stages.graph import Graph, Stage
from ssl_jax.stages.time_left import TimeLeft

PROGRAM = '''
import os, pathlib, time
import jax, jax.numpy as jnp

OPTIONS = {"last": "sound"}

def main(pipe):
    pair = [pipe.stage("eval", name, {}, meet(pipe, name)) for name in ("a", "b")]
    last = pipe.stage("eval", "last", {}, end(pipe), pair)
    values = [(pipe.folder(stage) / "value").read_text() for stage in pair]
    (pipe.root / "results").write_text(values[0] + values[1] + str(pipe.machine()["seconds"] > 0))

def meet(pipe, name):
    """Ends only when the other one runs too, which it can in no single process."""
    def work(folder):
        (pipe.root / f"{name}.begun").write_text(str(sorted(os.sched_getaffinity(0))))
        while len(list(pipe.root.glob("*.begun"))) < 2:
            time.sleep(0.05)
        (folder / "value").write_text(name)
        print("said by", name)
    return work

def end(pipe):
    def work(folder):
        if pipe.options["last"] == "broken":
            raise ValueError("no such thing")
        if pipe.options["last"] == "long":
            (pipe.root / "waits").write_text(str(os.getpid()))
            time.sleep(600)
        time.sleep(1)
    return work
'''


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "meeting.py"
    path.write_text(PROGRAM)
    return str(path)


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two jobs need two cores")
def test_stages_run_side_by_side_and_a_failed_one_is_named_and_done_again(
    program, tmp_path, capsys
):
    root = tmp_path / "run"
    with pytest.raises(side_by_side.StageFailed, match=r"stage 'last' failed: .*no such thing"):
        pipeline.run(program, str(root), ["--last=broken"], jobs=2)
    cores = [(root / f"{name}.begun").read_text() for name in "ab"]
    assert cores[0] != cores[1]  # each has its own share
    assert "[a] said by a" in capsys.readouterr().err
    pipeline.run(program, str(root), jobs=2)
    assert (root / "results").read_text() == "abTrue"
    assert "[a] complete, skipped" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two jobs need two cores")
def test_a_program_that_is_told_to_end_ends_its_workers(program, tmp_path):
    root = tmp_path / "run"
    command = [sys.executable, "-m", "ssl_jax.pipeline", program, "--workdir", str(root)]
    command += ["--jobs", "2", "--last=long"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not (root / "waits").exists():
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        error = process.communicate()[1]
    assert "stopping the stages, which save first" in error and "Traceback" not in error
    with pytest.raises(ProcessLookupError):
        os.kill(int((root / "waits").read_text()), 0)


def test_a_worker_does_its_own_stage_and_reads_only_what_is_complete(tmp_path):
    graph, done = Graph(tmp_path), []
    first, second = (Stage("eval", name, {}) for name in ("first", "second"))
    runner = side_by_side.Only(graph, graph.folder(second).name)
    runner.run(first, done.append)
    with pytest.raises(RuntimeError, match=r"reads stage 'first', which is not complete: add it"):
        runner.wait(first)
    with pytest.raises(side_by_side.StageEnded):
        runner.run(second, done.append)
    assert done == [graph.folder(second)] and graph.done(second) and not graph.done(first)


def test_jobs_beyond_the_cores_are_refused():
    cores = len(os.sched_getaffinity(0))
    with pytest.raises(ConfigError, match=f"--jobs is {cores + 1}, .* use 1 to {cores}"):
        side_by_side.check(cores + 1)


def test_the_time_left_goes_by_the_pace_and_the_jobs():
    left = TimeLeft({"a": 10.0, "b": 10.0, "c": 30.0})
    left.count("a", 20.0)
    assert left.text() == "2 stages to go, about 1m20s"
    left.jobs = 2
    assert left.text() == "2 stages to go, about 40s"
