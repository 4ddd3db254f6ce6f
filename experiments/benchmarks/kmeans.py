"""Frames per second of mini-batch k-means: this library, scikit-learn, and faiss if installed.

    python experiments/benchmarks/kmeans.py [--updates 20] [--out kmeans.json]

All cluster the same random frames in mini-batches of 10,000, from the same initial centres, at the
sizes of HuBERT: 39 MFCC into 100 clusters, 768 features into 500. An update assigns the frames and
moves the centres. faiss has no mini-batches: its Lloyd iterations over one mini-batch do the same
work per frame. Rounds alternate, and the median is reported.
"""

import argparse
import importlib.util
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import sklearn
from sklearn.cluster import MiniBatchKMeans

from ssl_jax.core import atomic
from ssl_jax.ops import kmeans

FRAMES = 10_000
SIZES = {"39 MFCC, 100 clusters": (39, 100), "768 features, 500 clusters": (768, 500)}


def make_frames(size: int, clusters: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns frames (N, D) in overlapping groups, and initial centres (K, D), float32."""
    rng = np.random.default_rng(0)
    middles = rng.standard_normal((clusters, size))
    x = middles[rng.integers(clusters, size=frames)] + rng.standard_normal((frames, size))
    return x.astype(np.float32), x[:clusters].astype(np.float32)


def ours(x: np.ndarray, start: np.ndarray, updates: int) -> float:
    """Returns frames per second of our updates."""

    @jax.jit
    def step(state: kmeans.State, rows: jax.Array) -> kmeans.State:
        found = kmeans.sums(rows, jnp.ones(len(rows)), state.centres)
        return kmeans.update(state, found, share=0.1, patience=1_000_000)

    state, rows = kmeans.init(jnp.asarray(start)), jnp.asarray(x)
    state = jax.block_until_ready(step(state, rows))  # compiles
    begin = time.perf_counter()
    for _ in range(updates):
        state = step(state, rows)
    jax.block_until_ready(state)
    return updates * len(x) / (time.perf_counter() - begin)


def sklearn_updates(x: np.ndarray, start: np.ndarray, updates: int) -> float:
    """Returns frames per second of `MiniBatchKMeans.partial_fit`."""
    model = MiniBatchKMeans(
        len(start), init=start, n_init=1, batch_size=len(x), reassignment_ratio=0
    ).partial_fit(x)
    begin = time.perf_counter()
    for _ in range(updates):
        model.partial_fit(x)
    return updates * len(x) / (time.perf_counter() - begin)


def faiss_iterations(x: np.ndarray, start: np.ndarray, updates: int) -> float:
    """Returns frames per second of faiss's iterations over all frames."""
    import faiss

    model = faiss.Kmeans(
        x.shape[1], len(start), niter=updates, max_points_per_centroid=len(x), seed=1
    )
    begin = time.perf_counter()
    model.train(x, init_centroids=start)
    return updates * len(x) / (time.perf_counter() - begin)


def libraries() -> dict[str, Callable[[np.ndarray, np.ndarray, int], float]]:
    """Returns what is installed of: ours, scikit-learn, faiss."""
    found = {"ours": ours, "scikit-learn": sklearn_updates}
    if importlib.util.find_spec("faiss"):
        found["faiss"] = faiss_iterations
    return found


def compare(updates: int, rounds: int, frames: int = FRAMES) -> dict[str, Any]:
    """Measures all libraries at every size -> {size: {library: frames per second, ratio}}."""
    results = {}
    for name, (size, clusters) in SIZES.items():
        x, start = make_frames(size, clusters, frames)
        runs: dict[str, list[float]] = {library: [] for library in libraries()}
        for _ in range(rounds):
            for library, measure in libraries().items():
                runs[library].append(measure(x, start, updates))
        row: dict[str, Any] = {n: statistics.median(speeds) for n, speeds in runs.items()}
        row["ratio"] = row["ours"] / row["scikit-learn"]
        results[name] = row | {"runs": runs}
        shown = ", ".join(f"{n} {row[n]:,.0f}" for n in runs)
        print(f"{name}: {shown} frames/s, ratio {row['ratio']:.2f}")
    return results


def main() -> None:
    """Runs the comparison and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", default=str(pathlib.Path(__file__).with_suffix(".json")))
    args = parser.parse_args()
    machine = {"cores": os.cpu_count(), "python": platform.python_version()}
    machine |= {"jax": jax.__version__, "scikit-learn": sklearn.__version__}
    machine["load"] = os.getloadavg()[0]
    row = {"frames_per_second": compare(args.updates, args.rounds), "machine": machine}
    atomic.write_json(args.out, row)


if __name__ == "__main__":
    main()
