"""Launching a sweep: a limited number at a time, each once, despite failures; clusters too."""

import json
import os
import signal
import stat
import subprocess
import sys
import time

import pytest

from ssl_jax.core import orphans
from ssl_jax.core.config import ConfigError
from ssl_jax.sweeps import clusters, local, run_folders, sweep

FILE = """
from ml_collections import ConfigDict

def get_config(arg=None):
    return ConfigDict({"seed": 0})

def sweep(s):
    return s.product({"seed": range(5)})
"""
# in place of a run: records its device and the times of its work
WORK = """
import os, pathlib, sys, time
from ssl_jax.sweeps import run_folders
folder, how = pathlib.Path(sys.argv[1]), sys.argv[2]
def work():
    start = time.time()
    (folder / "device").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    if how == "dies":
        print("no memory is left", flush=True)
        os.kill(os.getpid(), 9)
    if how == "fails":
        raise ValueError("a clip is broken")
    time.sleep(0.3)
    with open(folder / "seconds.txt", "a") as file:
        print(start, time.time(), file=file)
run_folders.once(folder, work)
"""


@pytest.fixture
def found(tmp_path):
    """Returns the runs of a sweep of five."""
    (tmp_path / "tiny.py").write_text(FILE)
    found = sweep.read(str(tmp_path / "tiny.py"), [], tmp_path / "root")
    sweep.write(tmp_path / "root", found, {})
    return found


@pytest.fixture
def here(root, monkeypatch):
    """Makes this package importable in the processes."""
    monkeypatch.setenv("PYTHONPATH", str(root))


def command(how=None):
    """Returns the command of a run, which by default succeeds: {index: how it ends}."""
    return lambda run: [
        *(sys.executable, "-c", WORK),
        *(str(run.folder), (how or {}).get(run.index, "works")),
    ]


def times(found):
    """Returns [(start, end)] of every period in which a run worked."""
    texts = [(run.folder / "seconds.txt") for run in found]
    lines = [line.split() for t in texts if t.exists() for line in t.read_text().splitlines()]
    return [(float(start), float(end)) for start, end in lines]


@pytest.mark.slow
def test_a_run_knows_the_process_with_which_it_is_to_end(found):
    note = "import os, pathlib, sys; "
    note += f"pathlib.Path(sys.argv[1], 'parent').write_text(os.environ[{orphans.VARIABLE!r}])"
    local.local(found, lambda run: [sys.executable, "-c", note, str(run.folder)], 5, print)
    assert [(run.folder / "parent").read_text() for run in found] == [str(os.getpid())] * 5


@pytest.mark.slow
def test_the_others_go_on_and_a_second_launch_repeats_only_what_is_not_done(found, here):
    said = []
    local.local(found, command({1: "fails", 3: "dies"}), 2, said.append, ["4", "7"])
    states = [run_folders.state(run.folder) for run in found]
    assert states == ["done", "failed", "done", "failed", "done"]
    assert run_folders.failure(found[1].folder) == "ValueError: a clip is broken"
    assert run_folders.failure(found[3].folder).startswith("ended by SIGKILL (out of memory?")
    assert run_folders.failure(found[3].folder).endswith("no memory is left")
    assert any(f"run 1 ({found[1].label}) failed: ValueError: a clip is" in x for x in said)
    worked = times(found)
    assert len(worked) == 3 and {(r.folder / "device").read_text() for r in found} == {"4", "7"}
    for moment, _ in worked:
        assert sum(start <= moment < end for start, end in worked) <= 2
    local.local(found, command(), 5, said.append)
    assert [run_folders.state(run.folder) for run in found] == ["done"] * 5
    assert len(times(found)) == 5
    assert any("3 of 5 runs are done" in x for x in said) and any("is retried" in x for x in said)
    assert (found[3].folder / "log.txt").read_text().count("$ ") == 2


@pytest.mark.slow
def test_a_run_that_another_process_holds_is_waited_for(found, here):
    held = subprocess.Popen(command()(found[0]))
    while not run_folders.busy(found[0].folder):
        assert held.poll() is None
        time.sleep(0.01)
    said = []
    local.local(found[:2], command(), 2, said.append)
    assert held.wait() == 0 and len(times(found[:1])) == 1
    assert any(f"process {held.pid} on " in line and "waiting" in line for line in said)


@pytest.mark.slow
def test_sigterm_is_handed_on(found, here, root):
    program = f"""
import sys
sys.path.insert(0, {str(root / "tests" / "sweeps")!r})
import pathlib
from ssl_jax.sweeps import local, sweep
found = sweep.reopen(pathlib.Path({str(found[0].folder.parent)!r}))
def command(run):
    text = "import signal, sys, time; signal.signal(15, lambda *a: sys.exit(0))"
    text += f"; open({{str(run.folder / 'began')!r}}, 'w').close(); time.sleep(60)"
    return [sys.executable, "-c", text]
local.local(found, command, 2, print)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    while sum((run.folder / "began").exists() for run in found) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    start = time.monotonic()
    assert "KeyboardInterrupt" in process.communicate(timeout=30)[1]
    assert time.monotonic() - start < 20
    assert not any(run_folders.failure(run.folder) for run in found)


@pytest.mark.slow
def test_slurm_through_submitit(found, here, tmp_path):
    pytest.importorskip("submitit")
    said = []
    (found[0].folder / "DONE").write_text("{}")
    options = {"cluster": "local", "timeout_min": "5"}
    jobs = clusters.slurm(
        found[:3], command({2: "fails"}), 2, said.append, tmp_path / "root", options
    )
    assert len(jobs) == 2 and len(said) == 2
    jobs[0].result()
    with pytest.raises(Exception, match="ended with status 1"):
        jobs[1].result()
    assert [run_folders.state(run.folder) for run in found[:3]] == ["done", "done", "failed"]
    with pytest.raises(ConfigError, match=r"--option: .*gpus"):
        clusters.slurm(
            found, command(), 2, said.append, tmp_path / "root", {"cluster": "local", "gpus": "1"}
        )


@pytest.mark.slow
def test_a_preempted_job_asks_its_run_to_save_and_comes_again(tmp_path):
    pytest.importorskip("submitit")
    saved = tmp_path / "saved"
    text = f"import signal, sys, time; signal.signal(15, lambda *a: (open({str(saved)!r}, 'w')"
    text += ".close(), sys.exit(0))); print('ready', flush=True); time.sleep(60)"
    job = clusters.Job([sys.executable, "-c", text])
    job.process = subprocess.Popen(job.command, stdout=subprocess.PIPE, text=True)
    assert job.process.stdout.readline() == "ready\n"
    again = job.checkpoint()
    assert saved.exists() and again.function.command == job.command


def test_slurm_without_submitit_names_the_extra(found, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ImportError, match=r"pip install 'ssl_jax\[slurm\]'"):
        clusters.slurm(found, command(), 1, print, tmp_path, {})


def test_xpk_writes_a_workload_for_each_run_to_do_and_submits_where_it_can(
    found, tmp_path, monkeypatch
):
    (found[1].folder / "DONE").write_text("{}")
    options = {"cluster": "my-pods", "tpu-type": "v5litepod-16", "docker-image": "gcr.io/p/i"}
    for name in ("cluster", "tpu-type"):
        rest = {k: v for k, v in options.items() if k != name}
        with pytest.raises(ConfigError, match=f"needs --option {name}=.*, such as {name}="):
            clusters.xpk(found, command(), print, tmp_path / "root", rest)
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    said = []

    def one(run):
        return ["python", "-m", "ssl_jax.sweep", "--run", run.signature, "--config.a=(1, 2)"]

    path = clusters.xpk(found, one, said.append, tmp_path / "root", options)
    assert said == [f"xpk is not installed; {path} holds the 4 commands that submit"]
    assert path.stat().st_mode & stat.S_IXUSR
    xpk = tools / "xpk"
    xpk.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"open({str(tmp_path / 'asked')!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\n"
    )
    xpk.chmod(0o755)
    clusters.xpk(found, one, said.append, tmp_path / "root", options)
    subprocess.run(["/bin/sh", str(path)], check=True, env=os.environ)
    asked = [json.loads(line) for line in (tmp_path / "asked").read_text().splitlines()]
    # submitting by this package and by its script has the same effect
    assert asked[:4] == asked[4:]
    assert asked[1] == [
        *("workload", "create", f"--workload=ssl-2-{found[2].label}", "--cluster=my-pods"),
        *("--tpu-type=v5litepod-16", "--docker-image=gcr.io/p/i"),
        f"--command=python -m ssl_jax.sweep --run {found[2].signature} '--config.a=(1, 2)'",
    ]
