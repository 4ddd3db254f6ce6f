"""Start-up time from the command to the first step, by depth, with a cold and a warm cache.

    python experiments/benchmarks/startup.py [--out experiments/benchmarks/startup.json]

Each measurement is a new process that trains a Keyword Transformer for two steps on a few generated
clips, with its blocks under one scan as on an accelerator. The second run of each depth finds the
compiled programs of the first in the persistent cache.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ssl_jax.core import atomic

DEPTHS = (2, 4, 8, 16)
ROOT = Path(__file__).resolve().parents[2]


def child(depth: int, folder: Path, workdir: Path) -> dict[str, float]:
    """Trains two steps in this process; returns the Unix times of its milestones."""
    import jax

    sys.path.insert(0, str(ROOT))
    from experiments.benchmarks import loop
    from ssl_jax import train

    compiling = 0.0

    def listen(event: str, seconds: float, **_: Any) -> None:
        nonlocal compiling
        # includes reading a program from the cache
        if event.endswith("/backend_compile_duration"):
            compiling += seconds

    jax.monitoring.register_event_duration_secs_listener(listen)
    imported = time.time()
    config = loop.small_config(depth).copy_and_resolve_references().unlock()
    config.method.encoder.unroll = False
    clips = {"kind": "folder", "path": str(folder)}
    for split in ("train", "valid", "test"):
        config.data[split] = {"clips": clips} if split == "train" else {}
    config.data.update({"batch_size": 8, "workers": 0})
    config.train.duration = "2 steps"
    config.log.every = "1 steps"
    config.checkpoint.every = "100 steps"
    marks: list[float] = []
    hook = (lambda done, state: marks.append(_settled(state)), 1)
    train.run(config.lock(), workdir, [hook])
    return {"imported": imported, "first_step": marks[0], "compiling": compiling}


def _settled(state: Any) -> float:
    state.step.block_until_ready()
    return time.time()


def run(depth: int, folder: Path, cache: Path) -> dict[str, float]:
    """Runs one process; returns seconds to the imports, to the first step, and of compilation."""
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, __file__, "--child", str(depth), str(folder), workdir]
        start = time.time()
        env = {**os.environ, "SSL_JAX_CACHE": str(cache)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(f"depth {depth} failed:\n{done.stderr[-2000:]}")
    marks = json.loads(done.stdout.splitlines()[-1])
    return {
        "import": round(marks["imported"] - start, 2),
        "compile": round(marks["compiling"], 2),
        "first_step": round(marks["first_step"] - start, 2),
    }


def make_clips(folder: Path) -> None:
    """Writes sixteen one-second clips of noise."""
    import numpy as np
    import soundfile

    rng = np.random.default_rng(0)
    for i in range(16):
        soundfile.write(folder / f"{i}.wav", rng.normal(0, 0.1, 16_000), 16_000)


def measure(depths: tuple[int, ...] = DEPTHS) -> dict[str, Any]:
    """Returns the seconds of every depth, cold and warm, and the growth with depth."""
    rows = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "clips"
        folder.mkdir()
        make_clips(folder)
        for depth in depths:
            cache = Path(made) / f"cache{depth}"
            rows[str(depth)] = {
                "cold": run(depth, folder, cache),
                "warm": run(depth, folder, cache),
            }
            print(f"depth {depth}: {rows[str(depth)]}", flush=True)
    first, last = rows[str(depths[0])]["cold"], rows[str(depths[-1])]["cold"]
    return {
        "seconds": rows,
        "compile_ratio_deepest_to_shallowest": round(last["compile"] / first["compile"], 2),
        "machine": f"{os.cpu_count()} x {platform.machine()}",
    }


def table(report: dict[str, Any]) -> str:
    """Returns the report as a Markdown table."""
    head = "| depth | cold: compile | cold: first step | warm: compile | warm: first step |\n"
    rows = [
        f"| {depth} | {s['cold']['compile']} s | {s['cold']['first_step']} s "
        f"| {s['warm']['compile']} s | {s['warm']['first_step']} s |"
        for depth, s in report["seconds"].items()
    ]
    return head + "| --- | --- | --- | --- | --- |\n" + "\n".join(rows)


def main() -> None:
    """Measures, prints the table and the ratio, and writes both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        depth, folder, workdir = options.child
        print(json.dumps(child(int(depth), Path(folder), Path(workdir))))
        return
    report = measure(tuple(options.depths))
    atomic.write_json(options.out, report, indent=2)
    print(table(report))
    print(f"compile time, deepest / shallowest: {report['compile_ratio_deepest_to_shallowest']}")


if __name__ == "__main__":
    main()
