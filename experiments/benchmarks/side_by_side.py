"""What `pipeline --jobs N` gains: shortened programs with one job and with N.

    python -m experiments.benchmarks.side_by_side [--jobs 2] [--rounds 2] [--images PATH]

The quickstart, and with --images (a folder with train.tar and test.tar, for example CIFAR-10) the
miniature of DMAE. The two take turns, each in a folder of its own with a copy of one corpus, after
a run that compiles everything. Reports the median seconds of each, their ratio and the load of the
machine, and fails unless all results are equal. On a busy machine two processes also get a larger
share of the cores than one, so measure on a quiet one.
"""

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ssl_jax.core import atomic

EXPERIMENTS = Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Program:
    """A shortened program: its file, its options, those of the run that compiles everything, and
    which parts of its results are compared."""

    file: Path
    size: dict[str, Any]
    first: dict[str, Any]
    parts: tuple[str, ...]
    out: bool = False  # whether it takes the folder of its results as an option


QUICKSTART = Program(
    EXPERIMENTS / "quickstart.py",
    {"clips": 1500, "valid_clips": 100, "test_clips": 200, "labels_per_class": 20}
    | {"pretrain_steps": 150, "finetune_steps": 60, "seeds": 4, "pretrain_seeds": 2}
    | {"allow_low_turnover": True},
    {"pretrain_steps": 2, "finetune_steps": 2, "seeds": 1, "pretrain_seeds": 1},
    ("scratch", "pretrained"),
)
DMAE = Program(
    EXPERIMENTS / "dmae" / "program.py",
    {"seeds": 1, "teacher_steps": 60, "steps": 60, "longer": 2},
    {"teacher_steps": 2, "steps": 2},
    ("probe",),
    out=True,
)


def run(folder: Path, jobs: int, program: Program, size: dict[str, Any]) -> dict[str, Any]:
    """Runs the program -> {seconds, results: {part: values}}."""
    command = [sys.executable, "-m", "ssl_jax.pipeline", str(program.file)]
    command += ["--workdir", str(folder)]
    command += [f"--{name}={value}" for name, value in size.items()]
    command += [f"--out={folder}"] if program.out else []
    start = time.monotonic()
    subprocess.run([*command, "--jobs", str(jobs)], check=True, capture_output=True)
    seconds = time.monotonic() - start
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {"seconds": seconds, "results": {part: found[part] for part in program.parts}}


def measure(root: Path, jobs: int, rounds: int, program: Program) -> dict[str, Any]:
    """Returns the report of `rounds` runs of each; raises ValueError where results differ."""
    run(root / "first", 1, program, program.size | program.first)
    loads = [os.getloadavg()[0]]
    runs: dict[int, list[dict[str, Any]]] = {1: [], jobs: []}
    for turn in range(rounds):
        for n in (1, jobs) if turn % 2 == 0 else (jobs, 1):
            folder = root / f"{turn}-{n}"
            if (root / "first" / "corpus").exists():
                shutil.copytree(root / "first" / "corpus", folder / "corpus")
            runs[n].append(run(folder, n, program, program.size))
            loads.append(os.getloadavg()[0])
    found = [one["results"] for each in runs.values() for one in each]
    if any(results != found[0] for results in found):
        raise ValueError(f"the results differ between 1 and {jobs} jobs: {found}")
    seconds = {
        str(n): round(statistics.median(one["seconds"] for one in each), 1)
        for n, each in runs.items()
    }
    ratio = round(seconds["1"] / seconds[str(jobs)], 2)
    load = [round(min(loads), 1), round(max(loads), 1)]
    about = {"jobs": jobs, "rounds": rounds, "cores": os.cpu_count(), "load": load}
    return {"seconds": seconds, "ratio": ratio, **about}


def main() -> None:
    """Measures, prints and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--images", default="", help="also measures the miniature of DMAE on these")
    options = parser.parse_args()
    programs = {"quickstart": QUICKSTART}
    if options.images:
        images = str(Path(options.images).resolve())
        programs["dmae"] = dataclasses.replace(DMAE, size={"data": images} | DMAE.size)
    report = {}
    for name, program in programs.items():
        with tempfile.TemporaryDirectory() as folder:
            report[name] = measure(Path(folder), options.jobs, options.rounds, program)
    print(json.dumps(report, indent=1))
    atomic.write_json(options.out, report)


if __name__ == "__main__":
    main()
