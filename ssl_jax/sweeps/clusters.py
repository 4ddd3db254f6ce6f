"""Launches the runs of a sweep on a cluster: Slurm with submitit, TPU pods on GKE with xpk."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_jax.core import atomic, orphans, paths
from ssl_jax.core.config import ConfigError
from ssl_jax.sweeps import run_folders
from ssl_jax.sweeps.local import Command, Notify
from ssl_jax.sweeps.sweep import Run

XPK_NEEDS = {"cluster": "my-cluster", "tpu-type": "v5litepod-16"}


def parsed(texts: Sequence[str]) -> dict[str, str]:
    """Returns the options in texts of the form "name=value"; raises ConfigError for any other."""
    pairs = [text.partition("=") for text in texts]
    for name, equals, _ in pairs:
        if not equals:
            raise ConfigError(f"--option {name}: write --option name=value")
    return {name: value for name, _, value in pairs}


class Job:
    """A Slurm job that runs one process; if preempted, it saves and is queued again."""

    def __init__(self, command: Sequence[str]):
        self.command = list(command)
        self.process: subprocess.Popen | None = None

    def __call__(self) -> None:
        """Runs the process to its end; raises RuntimeError if it fails."""
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, env=orphans.child_of_this(os.environ)
        )
        status = self.process.wait()
        if status != 0:
            raise RuntimeError(f"{shlex.join(self.command)} ended with status {status}")

    def checkpoint(self) -> Any:
        """Called by submitit before the job's time is up: makes the run save, and requeues it."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            self.process.terminate()
            self.process.wait()
        return DelayedSubmission(Job(self.command))


def slurm(
    found: Sequence[Run],
    command: Command,
    parallel: int,
    notify: Notify,
    root: Path,
    options: Mapping[str, str],
) -> list[Any]:
    """Submits one job for each run that is neither done nor running, and returns the jobs.

    options: those of submitit's executor, such as timeout_min=600, gpus_per_node=1,
    slurm_partition=gpu; cluster=local runs the jobs on this machine, without Slurm. `parallel`
    bounds the number of jobs that run at once. Raises ImportError if submitit is missing,
    ConfigError for a wrong option.
    """
    try:
        import submitit
    except ImportError as error:
        raise ImportError(
            "--launch slurm needs the package submitit, which is not installed: "
            "pip install 'ssl_jax[slurm]'"
        ) from error
    given = {name: _number(text) for name, text in options.items() if name != "cluster"}
    executor = submitit.AutoExecutor(root / "jobs", cluster=options.get("cluster", "slurm"))
    if executor.cluster == "slurm":
        given.setdefault("slurm_array_parallelism", parallel)
    try:
        executor.update_parameters(name=root.name, **given)
    except (NameError, TypeError, AssertionError) as error:
        raise ConfigError(f"--option: {error}; see submitit's AutoExecutor") from error
    open_ = [run for run in found if run_folders.state(run.folder) not in ("done", "running")]
    jobs = []
    with executor.batch():  # one array
        jobs = [executor.submit(Job(command(run))) for run in open_]
    for run, job in zip(open_, jobs, strict=True):
        notify(f"run {run.index} ({run.label}) is job {job.job_id}")
    return jobs


def _number(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdigit() else text


def xpk(
    found: Sequence[Run],
    command: Command,
    notify: Notify,
    root: Path,
    options: Mapping[str, str],
) -> Path:
    """Writes xpk.sh, with one workload per run that is not done; submits them if xpk is installed.

    options: flags of `xpk workload create`, such as cluster, tpu-type, num-slices and
    docker-image. Returns the path of xpk.sh: below `root`, or in the current folder if `root` is
    in an object store. Raises ConfigError if a flag that xpk needs is missing, and
    CalledProcessError if xpk fails.
    """
    for name, example in XPK_NEEDS.items():
        if name not in options:
            raise ConfigError(f"--launch xpk needs --option {name}=..., such as {name}={example}")
    flags = [f"--{name}={value}" for name, value in options.items()]
    open_ = [run for run in found if run_folders.state(run.folder) not in ("done", "running")]
    commands = []
    for run in open_:
        # workload names: at most 40 lower-case letters, digits and dashes
        name = f"--workload=ssl-{run.index}-{run.label}"
        line = ["xpk", "workload", "create", name, *flags, f"--command={shlex.join(command(run))}"]
        commands.append(line)
    path = Path("xpk.sh") if paths.is_remote(root) else root / "xpk.sh"
    text = "".join(shlex.join(line) + "\n" for line in commands)
    atomic.write_text(path, "#!/bin/sh\nset -e\n" + text)
    path.chmod(0o755)
    if shutil.which("xpk") is None:
        notify(f"xpk is not installed; {path} holds the {len(commands)} commands that submit")
        return path
    for run, line in zip(open_, commands, strict=True):
        notify(f"run {run.index} ({run.label}): submitting")
        subprocess.run(line, check=True)
    return path
