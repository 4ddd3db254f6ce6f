"""The launch files and docs/pod.md: they parse, and call existing programs with existing flags.

The programs of clouds and clusters are replaced by one that records its calls.
"""

import contextlib
import functools
import importlib
import io
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from ssl_jax.core import config as config_lib

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "experiments" / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
PAGE = ROOT / "docs" / "pod.md"
PROGRAMS = ("gcloud", "xpk", "docker", "git", "srun", "scontrol", "scancel", "python")
SET = {"PROJECT": "my-project", "ZONE": "zone-b", "BUCKET": "my-bucket", "IMAGE": "image"}


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Puts replacements of PROGRAMS first on the path; returns calls() -> their arguments."""
    log = tmp_path / "calls"
    for program in PROGRAMS:
        file = tmp_path / "bin" / program
        file.parent.mkdir(exist_ok=True)
        file.write_text(f'#!/bin/bash\nprintf "%s\\0" {program} "$@" >> {log}\necho >> {log}\n')
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for name, value in SET.items():
        monkeypatch.setenv(name, value)

    def read():
        text = log.read_text() if log.exists() else ""
        log.unlink(missing_ok=True)
        return [call.split("\0") for call in text.split("\0\n")[:-1]]

    return read


def run(script, *arguments):
    """Runs a script to its end; returns (status, output)."""
    command = ["bash", str(LAUNCH / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    return done.returncode, done.stdout + done.stderr


@functools.cache
def flags(module, *sub):
    """Returns the flags of a command, from the output of --help."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as end:
        importlib.import_module(module).main([*sub, "--help"])
    assert end.value.code == 0
    return set(re.findall(r"--[a-z][\w-]*", out.getvalue()))


def check_python(words):
    """Fails unless `python -m ssl_jax.x ...` names an existing module, flags and config."""
    assert words[:2] == ["python", "-m"], words
    module, rest = words[2], words[3:]
    sub = rest[:1] if module == "ssl_jax.convert" else []
    known = flags(module, *sub)
    given = [word.partition("=")[0] for word in rest if word.startswith("--")]
    overrides = [word for word in rest if word.startswith("--config.")]
    unknown = [f for f in given if not f.startswith("--config.") and f not in known]
    assert not unknown, f"{module} has no {unknown}"
    named = [v for k, v in itertools.pairwise(rest) if k == "--config"]
    named += [word.partition("=")[2] for word in rest if word.startswith("--config=")]
    for name in named:
        config_lib.load(str(ROOT / name), overrides)
    assert named or not overrides


def train_of(line):
    """Returns the train command that a line for run.sh runs."""
    words = shlex.split(line)
    at = next(i for i, word in enumerate(words) if word.endswith("run.sh"))
    stop = next((i for i, word in enumerate(words) if word in (">", ";")), len(words))
    return ["python", "-m", "ssl_jax.train", *words[at + 1 : stop]]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_parses_stops_at_errors_and_quotes(script):
    text = script.read_text()
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert text.startswith("#!/usr/bin/env bash\n") and "\nset -euo pipefail\n" in text
    assert os.access(script, os.X_OK) or script.suffix == ".sbatch"
    if shutil.which("shellcheck"):
        found = subprocess.run(
            ["shellcheck", "--severity=warning", str(script)], capture_output=True, text=True
        )
        assert found.returncode == 0, found.stdout
    assert not unquoted(text), "quote these, or a space in them makes two words"


def unquoted(text):
    """Returns the variables of a script that are not quoted."""
    text = re.sub(r"(?m)^\s*#.*$", "", text)
    text = re.sub(r"'[^']*'", "''", text)
    # double quotes, assignments and tests, in which the shell splits no words
    text = re.sub(r'"(?:\\.|[^"\\])*"', '""', text)
    text = re.sub(r"(?m)^\s*(?:local )?\w+=\S*$", "", text)
    return re.findall(r"\$\{?\w+", text)


def test_the_check_of_quotes_can_fail():
    assert unquoted('rm $1 "$2" ${x}\na=$b\n# $c\n') == ["$1", "${x"]


def test_tpu_does_each_step_with_gcloud(calls):
    status, said = run("tpu.sh", "create")
    (create,) = calls()
    assert status == 0, said
    assert create[:6] == ["gcloud", "compute", "tpus", "queued-resources", "create", "ssl-jax"]
    assert "--spot" in create and create[create.index("--accelerator-type") + 1] == "v5litepod-16"
    assert run("tpu.sh", "install")[0] == 0
    archive, copy, install = calls()
    assert archive[0] == "git" and archive[archive.index("-o") + 1] in copy
    assert copy[3:5] == ["tpu-vm", "scp"] and "--worker=all" in copy
    assert "ssl_jax[gcs]" in install[-1] and "jax[tpu]" in install[-1]
    assert run("tpu.sh", "launch", "--config.optim.lr=1e-4", "--profile", "2:3")[0] == 0
    (launch,) = calls()
    command = launch[-1].removeprefix("--command=")
    check_python(train_of(command))
    assert "gs://my-bucket/runs/d2v2_base" in command and "--profile 2:3" in command
    assert subprocess.run(["bash", "-n", "-c", command]).returncode == 0
    for step, word in (("watch", "describe"), ("stop", "ssh"), ("delete", "delete")):
        assert run("tpu.sh", step)[0] == 0
        assert word in calls()[0]


def test_xpk_makes_a_workload_that_is_started_again(calls):
    for step, word in (("create", "cluster"), ("watch", "list"), ("stop", "delete")):
        assert run("xpk.sh", step)[0] == 0
        assert word in calls()[0]
    assert run("xpk.sh", "image")[0] == 0
    build, push = calls()
    assert build[1] == "build" and push == ["docker", "push", "image"]
    assert run("xpk.sh", "launch", "--config.seed=1")[0] == 0
    (launch,) = calls()
    check_python(train_of(launch[launch.index("--command") + 1]))
    assert launch[launch.index("--restart-on-exit-codes") + 1] == "75"
    # names of workloads have no underscore
    assert re.fullmatch("[a-z0-9-]+", launch[launch.index("--workload") + 1])


@pytest.mark.parametrize("script", ["tpu.sh", "xpk.sh"])
def test_what_is_not_set_is_named(calls, monkeypatch, script):
    assert run(script, "crate")[0] == 2 and "usage" in run(script)[1]
    monkeypatch.delenv("ZONE")
    status, said = run(script, "create")
    assert status != 0 and "set ZONE, such as europe-west4-b" in said and not calls()


@pytest.mark.parametrize(("asked", "status"), [(False, 0), (True, 75)])
def test_a_host_that_was_asked_to_stop_says_so_once_it_has_saved(calls, tmp_path, asked, status):
    saved = tmp_path / "saved"
    program = tmp_path / "bin" / "python"
    program.write_text(
        f"#!/bin/bash\ntrap 'sleep 0.2; touch {saved}; exit 0' TERM\ntouch {tmp_path}/on\n"
        + ("while :; do sleep 0.05; done\n" if asked else "exit 0\n")
    )
    process = subprocess.Popen(["bash", str(LAUNCH / "run.sh"), "--config", "x"])
    while asked and not (tmp_path / "on").exists():
        time.sleep(0.02)
    if asked:
        process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == status and saved.exists() == asked


def test_slurm_starts_a_process_a_gpu_and_is_queued_again(calls, tmp_path, monkeypatch):
    text = (LAUNCH / "slurm.sbatch").read_text()
    asked = dict(re.findall(r"(?m)^#SBATCH --([\w-]+)=?(\S*)$", text))
    assert asked["ntasks-per-node"] == asked["gpus-per-node"] and asked["signal"] == "B:TERM@300"
    assert {"requeue", "time", "nodes"} <= asked.keys()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert run("slurm.sbatch", "--config.seed=1")[0] == 0
    (start,) = calls()
    check_python(start[2:])
    srun = tmp_path / "bin" / "srun"
    # the step ends when scancel reaches it
    wait = f"while [ ! -s {tmp_path}/calls ]; do sleep 0.05; done"
    srun.write_text(f"#!/bin/bash\ntouch {tmp_path}/on\n{wait}\n")
    process = subprocess.Popen(["bash", str(LAUNCH / "slurm.sbatch")])
    while not (tmp_path / "on").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    assert calls() == [["scancel", "--signal=TERM", "7"], ["scontrol", "requeue", "7"]]


def test_the_manifest_starts_every_host_of_a_slice_again():
    text = (LAUNCH / "gke.yaml").read_text()
    left = set(re.findall(r"\$\{(\w+)\}", text))
    assert left == {"IMAGE", "BUCKET"}
    for name in left:
        text = text.replace(f"${{{name}}}", SET[name])
    found = yaml.safe_load(text)
    assert (found["apiVersion"], found["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert found["spec"]["failurePolicy"]["maxRestarts"] > 10
    (job,) = found["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert chips == container["resources"]["requests"]["google.com/tpu"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert spec["parallelism"] == spec["completions"] == rows * columns / chips
    assert spec["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] >= 60
    mounted = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    assert "ENV SSL_JAX_CACHE=" + mounted["cache"] in (LAUNCH / "Dockerfile").read_text()
    assert {volume["name"] for volume in pod["volumes"]} == set(mounted)
    check_python(train_of(shlex.join(container["command"])))


def test_a_config_takes_its_data_from_shards():
    path = f"{LAUNCH / 'bucket.py'}:ctc/speech:base_10h"
    config = config_lib.load(path, ["data.train.shards.path=gs://b/train"])
    plain = config_lib.load(f"{ROOT / 'configs/ctc/speech.py'}:base_10h")
    assert config.data.train.shards.path == "gs://b/train"
    changed = {key.split(".")[:2][1] for key in config_lib.diff(plain, config)}
    assert changed == {"train", "valid", "test"}
    source = next(iter(plain.data.train.values()))
    assert config.data.train.shards.transcript == source.transcript


def lines_of_the_page():
    """Returns the commands of docs/pod.md, each as words, without pipes and conjunctions."""
    rows = re.findall(r"(?m)^    (\S.*)$", PAGE.read_text())
    found = []
    for row in rows:
        words = shlex.split(os.path.expandvars(row))
        while words:
            stop = next((i for i, w in enumerate(words) if w in ("&&", "|", "<")), len(words))
            found.append(words[:stop])
            words = words[stop + 1 :]
    return found


def test_the_page_calls_what_there_is(monkeypatch):
    for name, value in SET.items():
        monkeypatch.setenv(name, value)
    count = 0
    for words in lines_of_the_page():
        while "=" in words[0]:  # variables set for one command
            name, _, value = words.pop(0).partition("=")
            if name == "CONFIG":
                config_lib.load(str(ROOT / value))
            if not words:
                break
        if words[:1] == ["python"]:
            check_python(words)
            count += 1
        elif words and words[0].startswith("experiments/"):
            script = ROOT / words[0]
            if script.suffix == ".sh":
                assert re.search(rf"^{words[1]}\(\)", script.read_text(), re.MULTILINE), words
            assert script.exists()
            count += 1
    assert count > 20
    links = re.findall(r"\]\((\.\.?/[^)]+)\)", PAGE.read_text())
    assert links and all((PAGE.parent / link).exists() for link in links)


def test_the_steps_of_the_page_are_all_there():
    headings = re.findall(r"(?m)^## (.*)$", PAGE.read_text())
    wanted = ("Create", "Data", "Plan", "install", "Launch", "Resume", "Tear down", "GKE", "Slurm")
    assert [w for w in wanted if not any(w in heading for heading in headings)] == []
