"""The transducer: loss and gradient against torchaudio's, and hours of speech decoded per second.

    python experiments/benchmarks/transducer.py [--torch PYTHON] [--out transducer.json]

Both compute joint network, loss and gradients of 8 recordings of 200 frames and 40 tokens out of
1,000, on the same cores. Each runs in a process of its own, whose peak of memory beyond that of its
libraries is reported; ours compiles in a process before that one. PYTHON is the interpreter of an
environment with torchaudio, if it cannot be installed beside the torch of the tests:

    python -m venv torch && torch/bin/pip install torch==2.8.0 torchaudio==2.8.0 numpy

Decoding is that of random emissions of 10 s, without the encoder.
"""

import argparse
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core import atomic
from ssl_jax.core.types import Decoder
from ssl_jax.data import transcripts
from ssl_jax.engine import setup
from ssl_jax.evals import decode, transcribe
from ssl_jax.evals.transducer_search import TransducerSearch
from ssl_jax.ops import transducer

HERE = pathlib.Path(__file__).resolve().parent
SIZES = {"rows": 8, "frames": 200, "tokens": 40, "vocabulary": 1000, "width": 320, "block": 8}
SECONDS, RATE = 10.0, 25  # of a recording, and its frames per second


def measure(about: dict[str, Any]) -> dict[str, Any]:
    """Returns the seconds of each round of joint network, loss and gradients, and peak MiB."""
    draw = np.random.default_rng(0)
    b, t, u, v, e = (about[k] for k in ("rows", "frames", "tokens", "vocabulary", "width"))
    given = (
        {"kernel": draw.normal(0, e**-0.5, (e, v)), "bias": np.zeros(v)},
        draw.normal(0, 1, (b, t, e)),
        draw.normal(0, 1, (b, u + 1, e)),
    )
    inputs = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), given)
    labels = jnp.asarray(draw.integers(1, v, (b, u)), jnp.int32)
    spoken = jnp.full(b, t), labels, jnp.full(b, u)

    def joint(params: Any, frames: jax.Array, said: jax.Array) -> jax.Array:
        return jnp.tanh(frames[:, :, None] + said[:, None]) @ params["kernel"] + params["bias"]

    def loss(inputs: Any) -> jax.Array:
        each, _ = transducer.loss(joint, *inputs, *spoken, block=about["block"], per_frame=4)
        return each.mean()

    before, seconds = _peak(), []
    step = jax.jit(jax.value_and_grad(loss)).lower(inputs).compile()
    for _ in range(about["rounds"] + 1):
        start = time.perf_counter()
        jax.block_until_ready(step(inputs))
        seconds.append(time.perf_counter() - start)
    used = step.memory_analysis()
    temporary = used.temp_size_in_bytes / 2**20 if used is not None else None
    peak = {"mebibytes": _peak() - before, "temporary_mebibytes": temporary}
    return {"seconds": seconds[1:], **peak, "jax": jax.__version__}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare(about: dict[str, Any], torch: str) -> dict[str, Any]:
    """Returns what both measure, each in a process of its own; ours alone without torchaudio."""
    text = json.dumps(about)
    own = [sys.executable, str(HERE / "transducer.py"), "--measure"]
    _run([*own, json.dumps({**about, "rounds": 1})])  # fills the compilation cache
    found = {"ours": _run([*own, text])}
    if torch:
        found["torchaudio"] = _run([torch, str(HERE / "torch_transducer.py"), text])
    row: dict[str, Any] = {**about, "arms": found}
    times = {name: statistics.median(arm["seconds"]) for name, arm in found.items()}
    if torch:
        row["speed_up"] = times["torchaudio"] / times["ours"]
        row["memory_share"] = found["ours"]["mebibytes"] / found["torchaudio"]["mebibytes"]
    return row | {"median_seconds": times}


def _run(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8")
    return json.loads(done.stdout.splitlines()[-1])


def decoding(rows: int, beams: tuple[int, ...], seconds: float = SECONDS) -> dict[str, float]:
    """Returns hours of speech decoded per second, by way: the best path of a batch of `rows`, and
    a search with each beam, of CTC and of a transducer."""
    draw, letters = np.random.default_rng(0), transcripts.LETTERS
    frames = round(seconds * RATE)
    shape = rows, frames, len(letters)
    logits = draw.normal(0, 2, shape) + 8 * (draw.uniform(size=shape) > 0.97)
    log_probs = np.asarray(jax.nn.log_softmax(jnp.asarray(logits, jnp.float32)))
    count = jnp.full(rows, frames)

    def extend(params: Any, state: jax.Array, tokens: jax.Array) -> jax.Array:
        del params
        return jnp.roll(state, 1, -1).at[:, 0].set(tokens)

    def scores(params: Any, emitted: jax.Array, state: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(emitted - params * jax.nn.one_hot(state[:, 0], len(letters)))

    def start(params: Any, size: int) -> jax.Array:
        del params
        return jnp.zeros((size, 2), jnp.int32)

    decoder, found = Decoder(start, extend, scores, 4), dict[str, float]()
    for name, own in (("CTC", None), ("transducer", decoder)):
        best = jax.jit(lambda params, x, own=own: transcribe.greedy(own, params, x, count))
        jax.block_until_ready(best(9.0, log_probs))
        taken = _seconds(lambda best=best: jax.block_until_ready(best(9.0, log_probs)))
        found[f"{name}, best path, batch of {rows}"] = rows * seconds / 3600 / taken
    for beam in beams:
        about = decode.Options(beam=beam, word_score=0.0), letters, "letters"
        search, other = decode.BeamSearch(*about), TransducerSearch(*about, decoder)
        found[f"CTC, beam of {beam}"] = seconds / 3600 / _seconds(lambda s=search: s(log_probs[0]))
        other(9.0, log_probs[0, :2])  # compiles
        taken = _seconds(lambda s=other: s(9.0, log_probs[0]))
        found[f"transducer, beam of {beam}"] = seconds / 3600 / taken
    return found


def _seconds(run: Any) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Runs the comparison and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--torch", default="", help="a python with torchaudio; '': ours alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", default=str(HERE / "transducer.json"))
    parser.add_argument("--measure", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        setup.use_compilation_cache()
        print(json.dumps(measure(json.loads(args.measure))))
        return
    about = {**SIZES, "rounds": args.rounds, "threads": os.cpu_count()}
    row = {"loss": compare(about, args.torch), "hours_per_second": decoding(8, (4, 8, 50))}
    machine = {"cores": os.cpu_count(), "python": platform.python_version()}
    row["machine"] = machine | {"load": os.getloadavg()[0]}
    atomic.write_json(args.out, row)
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
