"""What `pipeline --jobs N` gains: the quickstart, shortened, with one job and with N.

    python -m experiments.benchmarks.side_by_side [--jobs 2] [--rounds 2]

The two take turns, each in a folder of its own with a copy of one corpus, after a run that compiles
everything. Reports the median seconds of each, their ratio and the load of the machine, and fails
unless all results are equal. On a busy machine two processes also get a larger share of the cores
than one, so measure on a quiet one.
"""

import argparse
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

PROGRAM = Path(__file__).resolve().parents[1] / "quickstart.py"
SIZE = {"clips": 1500, "valid_clips": 100, "test_clips": 200, "labels_per_class": 20}
SIZE |= {"pretrain_steps": 150, "finetune_steps": 60, "seeds": 4, "pretrain_seeds": 2}
SIZE |= {"allow_low_turnover": True}
FIRST = {"pretrain_steps": 2, "finetune_steps": 2, "seeds": 1, "pretrain_seeds": 1}
ARMS = ("scratch", "pretrained")


def run(folder: Path, jobs: int, size: dict[str, Any]) -> dict[str, Any]:
    """Runs the program -> {seconds, results: {arm: values}}."""
    command = [sys.executable, "-m", "ssl_jax.pipeline", str(PROGRAM), "--workdir", str(folder)]
    command += [f"--{name}={value}" for name, value in size.items()]
    start = time.monotonic()
    subprocess.run([*command, "--jobs", str(jobs)], check=True, capture_output=True)
    seconds = time.monotonic() - start
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {"seconds": seconds, "results": {arm: found[arm] for arm in ARMS}}


def measure(root: Path, jobs: int, rounds: int, size: dict[str, Any] = SIZE) -> dict[str, Any]:
    """Returns the report of `rounds` runs of each; raises ValueError where results differ."""
    run(root / "first", 1, size | FIRST)
    loads = [os.getloadavg()[0]]
    runs: dict[int, list[dict[str, Any]]] = {1: [], jobs: []}
    for turn in range(rounds):
        for n in (1, jobs) if turn % 2 == 0 else (jobs, 1):
            folder = root / f"{turn}-{n}"
            shutil.copytree(root / "first" / "corpus", folder / "corpus")
            runs[n].append(run(folder, n, size))
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
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure(Path(folder), options.jobs, options.rounds)
    print(json.dumps(report, indent=1))
    atomic.write_json(options.out, report)


if __name__ == "__main__":
    main()
