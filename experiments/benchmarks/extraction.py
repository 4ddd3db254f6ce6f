"""Hours of audio per second through a frozen HuBERT Base, all layers, against transformers.

    python -m experiments.benchmarks.extraction [--clips 4] [--seconds 10] [--rounds 5]

One batch of noise clips goes through `method.features` under jit, and through transformers'
`HubertModel` with output_hidden_states in torch, eager and with torch.compile; each runs in its own
process, and they take turns. Weights are random, which does not affect the time. float32.
"""

import argparse
import functools
import importlib
import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import step_vs_torch, stepping
from ssl_jax.core import atomic
from ssl_jax.evals.extract import audio_batch

RATE = step_vs_torch.RATE


def noise(clips: int, seconds: float) -> np.ndarray:
    """Returns int16 clips (B, N)."""
    shape = (clips, round(seconds * RATE))
    return np.random.default_rng(0).integers(-3000, 3000, shape).astype(np.int16)


def ours(clips: int, seconds: float, depth: int) -> Callable[[], float]:
    """Returns a function that computes all hidden states and returns the mean of the last."""
    config = step_vs_torch.base_config("hubert_audio", depth, 1)
    method = importlib.import_module("ssl_jax.methods.hubert").make(
        config.method, precision=config.precision, sample_rate=RATE, num_classes=0
    )
    audio = noise(clips, seconds)
    batch: Any = audio_batch(audio, np.full(clips, audio.shape[1], np.int32))
    shapes = step_vs_torch.make_batch("hubert_audio", clips)
    shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in shapes.items()}
    params, _ = jax.jit(functools.partial(method.init, batch=shapes))(jax.random.key(0))
    apply = jax.jit(lambda params, batch: method.features(params, batch).hidden_states)
    return lambda: float(np.asarray(apply(params, batch))[-1].mean())


def theirs(clips: int, seconds: float, depth: int, compiled: bool) -> Callable[[], float]:
    """Returns the equivalent function with transformers."""
    import torch
    from transformers import HubertConfig, HubertModel

    torch.set_num_threads(os.cpu_count() or 1)
    model = HubertModel(HubertConfig(num_hidden_layers=depth, apply_spec_augment=False)).eval()
    run = torch.compile(model) if compiled else model
    audio = torch.from_numpy(noise(clips, seconds).astype(np.float32) / 32768)

    def extract() -> float:
        with torch.inference_mode():
            found = run(audio, output_hidden_states=True).hidden_states
            return float(np.stack([x.numpy() for x in found])[-1].mean())

    return extract


def measure(clips: int, seconds: float, depth: int, rounds: int, compiled: bool) -> dict[str, Any]:
    """Returns hours of audio per second of every arm, and our speed-up over the better torch."""
    size = (clips, seconds, depth)
    makers: dict[str, Any] = {"ours": functools.partial(ours, *size)}
    makers["eager"] = functools.partial(theirs, *size, False)
    if compiled:
        makers["compiled"] = functools.partial(theirs, *size, True)
    with stepping.processes(makers) as runs:
        stepping.warm(runs)
        times, _ = stepping.in_turns(runs, rounds)
    hours = clips * seconds / 3600
    rate = {name: hours / statistics.median(s) for name, s in times.items()}
    best = max(r for name, r in rate.items() if name != "ours")
    return {
        "clips": clips,
        "seconds": seconds,
        "depth": depth,
        "hours_per_second": {name: float(f"{r:.4g}") for name, r in rate.items()},
        "ratio": round(rate["ours"] / best, 3),
        "load": round(os.getloadavg()[0], 1),
        "machine": step_vs_torch.machine(),
    }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--depth", type=int, default=12, help="blocks of the encoder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    o = parser.parse_args()
    if jax.default_backend() != "cpu":
        raise SystemExit("this comparison runs on CPU only: set JAX_PLATFORMS=cpu")
    report = measure(o.clips, o.seconds, o.depth, o.rounds, step_vs_torch.can_compile())
    print(json.dumps(report))
    atomic.write_json(o.out, report)


if __name__ == "__main__":
    main()
