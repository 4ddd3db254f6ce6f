"""What labels cost: a tokenizer of BEATs in every step of training, or tokens that are stored.

    python -m experiments.benchmarks.tokens [--rows 8] [--rounds 5] [--depth 12]

Times the tokenizer alone on a batch of clips of 5 s, and the steps of BEATs at Base width with
labels from a random projection, from the tokenizer in the step, and from a store, each in its own
process, in turns. Reports tokens per second and after how many passes over the recordings a store,
which the tokenizer fills once, has paid. Weights are random, which does not affect the time.
"""

import argparse
import functools
import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments import results
from experiments.benchmarks import step_vs_torch, stepping
from ssl_jax.core import atomic
from ssl_jax.core import config as config_lib
from ssl_jax.engine import teachers
from ssl_jax.methods import beats, beats_tokenizer

LABELS = ("random", "tokenizer", "stored")
TOKENIZER = "configs/beats/tokenizer.py:iter2"
BYTES = 2  # of a stored token


def config_of(labels: str, depth: int) -> ConfigDict:
    """Returns BEATs at Base width with labels of one of LABELS; the tokenizer has 12 blocks."""
    config = step_vs_torch.base_config("beats", depth, 1)
    changes: dict[str, Any] = {"method.labels": labels}
    changes |= {"method.teachers.tokenizer": TOKENIZER} if labels == "tokenizer" else {}
    return config_lib.change(config, changes)


def batch_of(labels: str, rows: int) -> dict[str, np.ndarray]:
    """Returns a host batch of noise, with the labels that a store would give."""
    batch = step_vs_torch.make_batch("beats", rows)
    if labels == "stored":
        units = np.random.default_rng(1).integers(0, 1024, (rows, 1, step_vs_torch.SECONDS * 50))
        batch["units"] = units.astype(np.int32)
    return batch


def step(labels: str, rows: int, depth: int) -> Callable[[], float]:
    """Returns a function that makes one update and returns its loss."""
    return stepping.engine_step(config_of(labels, depth), batch_of(labels, rows))


def labeller(rows: int) -> Callable[[], float]:
    """Returns a function that labels a batch with the tokenizer and returns the mean of its ids."""
    config = config_of("tokenizer", 1)
    kind: dict[str, Any] = {"precision": config.precision, "sample_rate": config.data.sample_rate}
    method = beats.make(config.method, **kind, num_classes=0)
    given = teachers.fresh(method)["tokenizer"]
    encoder = method.loss.__self__.tokenizer().encoder(config.precision)
    vectors, batch = given["extra"]["codebook"]["vectors"], batch_of("tokenizer", rows)

    @jax.jit
    def label(given: Any, batch: Any) -> Any:
        return beats_tokenizer.codes_of(encoder, given, vectors, batch)[0]

    return lambda: float(np.asarray(label(given, batch)).mean())


def measure(rows: int, depth: int, rounds: int) -> dict[str, Any]:
    """Returns seconds of a step by its labels, and of the tokenizer alone, and what follows."""
    makers: dict[str, Any] = {"labels alone": functools.partial(labeller, rows)}
    makers |= {labels: functools.partial(step, labels, rows, depth) for labels in LABELS}
    with stepping.processes(makers) as runs:
        stepping.warm(runs)
        times, _ = stepping.in_turns(runs, rounds)
    seconds = {name: statistics.median(each) for name, each in times.items()}
    tokens = rows * ((step_vs_torch.SECONDS * 100 - 2) // 16 * 8)
    return {
        "rows": rows,
        "depth": depth,
        "seconds": {name: round(s, 4) for name, s in seconds.items()},
        **worth(seconds, tokens),
        "load": round(os.getloadavg()[0], 1),
        "machine": step_vs_torch.machine(),
    }


def worth(seconds: dict[str, float], tokens: int) -> dict[str, Any]:
    """Returns tokens per second of each arm, the share of a step that the tokenizer takes, and the
    passes over the data from which a store is cheaper (None: never)."""
    extra = seconds["tokenizer"] - seconds["stored"]
    return {
        "tokens_per_second": {name: round(tokens / s, 1) for name, s in seconds.items()},
        "share": round(extra / seconds["tokenizer"], 3),
        "passes": round(seconds["labels alone"] / extra, 2) if extra > 0 else None,
        "megabytes_per_hour": round(BYTES * 50 * 3600 / 1e6, 2),
    }


def rows() -> list[dict[str, str]]:
    """Returns the rows of the table of the results file."""
    report = results.read("benchmarks/tokens.json")
    passes = report["passes"]
    paid = "never pays here" if passes is None else f"pays after {passes:.1f} passes over the data"
    size = f"{report['rows']} clips of 5 s, {report['depth']} blocks, {report['machine']}"
    about = {
        "labels alone": ("the tokenizer alone", size),
        "random": ("a step, random projection", ""),
        "tokenizer": ("a step with the tokenizer", f"which takes {report['share']:.0%} of it"),
        "stored": (
            "a step with stored tokens",
            f"{report['megabytes_per_hour']:g} MB per hour of sound; {paid}",
        ),
    }
    return [
        {
            "BEATs": what,
            "seconds": f"{report['seconds'][name]:.2f}",
            "tokens per second": f"{report['tokens_per_second'][name]:.0f}",
            "remark": remark,
        }
        for name, (what, remark) in about.items()
    ]


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--depth", type=int, default=12, help="blocks of the encoder in training")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    o = parser.parse_args()
    report = measure(o.rows, o.depth, o.rounds)
    print(json.dumps(report))
    atomic.write_json(o.out, report)


if __name__ == "__main__":
    main()
