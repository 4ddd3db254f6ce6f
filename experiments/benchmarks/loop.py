"""Loop overhead: steps per second of the engine against a bare loop over the same jitted step.

    python experiments/benchmarks/loop.py [--out experiments/benchmarks/loop.json]

Both run the same data2vec step at the size of the quickstart on the same batches. The bare loop has
its batches on the device and only calls the step; the engine also transfers batches from the host,
accumulates and writes metrics, shows progress and checks every loss. Rounds alternate, and the
median of their ratios is reported; it should be at least 0.95.
"""

import argparse
import io
import itertools
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ssl_jax.core import atomic
from ssl_jax.core import config as config_lib
from ssl_jax.core import mesh as mesh_lib
from ssl_jax.engine import checkpoint, log, loop, optim, step
from ssl_jax.methods import data2vec

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "data2vec" / "kws.py"
# the size of the quickstart: a Keyword Transformer on tokens of four frames
ENCODER = {"depth": 4, "width": 64, "heads": 2, "mlp_width": 256, "frames_per_token": 4}
FLOOR = 0.95


def small_config(depth: int = ENCODER["depth"]) -> ConfigDict:
    """Returns the keyword-spotting config at the quickstart's size."""
    config = config_lib.load(str(CONFIG)).copy_and_resolve_references().unlock()
    config.method.encoder.update({**ENCODER, "depth": depth, "out_proj": True})
    config.method.targets.layers = depth
    config.optim.update({"schedule": "constant", "lr": 1e-3, "warmup": "0 steps", "end_lr": 0.0})
    config.guard.floors = ConfigDict({})
    config.precision = "float32"
    return config.lock()


def make_batches(count: int, rows: int, samples: int) -> list[dict[str, np.ndarray]]:
    """Returns a few host batches of noise, as the loader would yield them."""
    rng = np.random.default_rng(0)
    return [
        {
            "id": np.arange(rows, dtype=np.uint32) + i * rows,
            "weight": np.ones(rows, np.float32),
            "audio": rng.integers(-3000, 3000, (rows, samples)).astype(np.int16),
            "audio_len": np.full(rows, samples, np.int32),
        }
        for i in range(count)
    ]


class Bench:
    """One model and its batches, run by either loop; each round continues from the same state."""

    def __init__(self, rows: int, steps: int):
        self.config, self.steps = small_config(), steps
        config = self.config
        rate = config.data.sample_rate
        samples = round(config.data.buckets[-1] * rate)
        self.batches = make_batches(8, rows, samples)
        self.mesh = mesh_lib.make_mesh({"data": 1}, jax.devices()[:1])
        method = data2vec.make(
            config.method, precision=config.precision, sample_rate=rate, num_classes=0
        )
        shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in self.batches[0].items()}
        params, _ = jax.eval_shape(method.init, jax.random.key(0), shapes)
        tx, schedule = optim.make(
            config.optim, params, total_steps=1_000, to_steps=int_steps, depth=ENCODER["depth"]
        )
        self.state, shardings = step.init_state(method, tx, 0, self.mesh, shapes)
        self.zero = self.state.step
        update = step.make_step(method, tx, schedule, self.mesh)
        sharding = mesh_lib.batch_sharding(self.mesh)
        self.bare_step = jax.jit(
            update,
            donate_argnums=0,
            in_shardings=(shardings, sharding),
            out_shardings=(shardings, None),
        )
        self.engine_step = step.compile_step(update, self.mesh, shardings, (self.state, shapes))
        self.placed = [jax.device_put(b, sharding) for b in self.batches]

    def bare(self) -> float:
        """Returns steps per second of a loop that only calls the step."""
        state = self.state
        state, metrics = self.bare_step(state, self.placed[0])
        jax.block_until_ready(state)
        start = time.perf_counter()
        for i in range(self.steps):
            state, metrics = self.bare_step(state, self.placed[i % len(self.placed)])
        jax.block_until_ready((state, metrics))
        seconds = time.perf_counter() - start
        self.state = state
        return self.steps / seconds

    def engine(self) -> float:
        """Returns steps per second of the engine, between two marks within one `fit`."""
        marks: list[float] = []

        def mark(done: int, state: Any) -> None:
            jax.block_until_ready(state)
            marks.append(time.perf_counter())

        done = int(self.state.step)
        # the mark at the first step that divides by `steps`, and the one a round later
        total = (done // self.steps + 2) * self.steps
        with tempfile.TemporaryDirectory() as folder:
            options = loop.Options(
                total=total + 1, log_every=50, save_every=10**9, sample_rate=16_000
            )
            logger = log.Logger(folder, self.config.log, done)
            finished = loop.fit(
                self.state,
                self.engine_step,
                itertools.cycle(self.batches),
                self.mesh,
                options,
                checkpoint.Checkpoints(folder, self.config),
                logger,
                [(mark, self.steps)],
                io.StringIO(),
            )
            logger.close()
        self.state = finished.state
        return self.steps / (marks[1] - marks[0])


def int_steps(duration: int | str, key: str = "") -> int:
    """Returns a duration of the small config, whose durations are all in steps."""
    return config_lib.steps(
        duration, batch_size=1, examples=1, seconds_per_step=1.0, total=1_000, key=key or "duration"
    )


def measure(rows: int = 64, steps: int = 100, rounds: int = 3) -> dict[str, Any]:
    """Returns the rates of both loops, the median of their ratios, and the machine."""
    bench = Bench(rows, steps)
    bench.bare()  # compiles
    pairs = [(bench.bare(), bench.engine()) for _ in range(rounds)]
    return {
        "bare_steps_per_second": round(statistics.median(b for b, _ in pairs), 2),
        "engine_steps_per_second": round(statistics.median(e for _, e in pairs), 2),
        "ratio": round(statistics.median(e / b for b, e in pairs), 3),
        "rows": rows,
        "steps": steps,
        "rounds": rounds,
        "machine": f"{os.cpu_count()} x {platform.machine()}, {jax.default_backend()}",
        "jax": jax.__version__,
    }


def table(report: dict[str, Any]) -> str:
    """Returns the report as a Markdown table."""
    return (
        "| loop | steps per second |\n| --- | --- |\n"
        f"| bare jitted step | {report['bare_steps_per_second']} |\n"
        f"| engine | {report['engine_steps_per_second']} |\n"
        f"| ratio | {report['ratio']} |"
    )


def main() -> None:
    """Measures, prints the ratio and writes it; exits with 1 below the floor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    report = measure(rounds=options.rounds)
    atomic.write_json(options.out, report, indent=2)
    print(table(report))
    print(f"ratio {report['ratio']} (at least {FLOOR})")
    raise SystemExit(report["ratio"] < FLOOR)


if __name__ == "__main__":
    main()
