r"""Judges the frozen features of a run by probes, beside the baselines it must beat.

    python -m ssl_jax.evaluate --run runs/d2v [--probe ridge,knn,linear] [--step 1000] \
        [--config.data.test.sc.path=...]

Features of every split are taken once per model and cached in RUN/features; clips longer than
the last of config.data.buckets count with their beginning. Probes fit on the training split,
choose layer and options on validation (a held-out fifth of training where there is none) and
report test (validation where there is no test). Prints a table and writes RUN/evaluation.json.
"""

import argparse
import dataclasses
import functools
import json
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

import ssl_jax
from ssl_jax.core import config as config_lib
from ssl_jax.core.mesh import make_mesh
from ssl_jax.core.types import Array, Batch, Tree
from ssl_jax.data.corpus import SPLITS
from ssl_jax.engine import splits as splits_lib
from ssl_jax.engine import start as start_lib
from ssl_jax.evals import baselines, compare, health
from ssl_jax.evals.extract import audio_batch
from ssl_jax.evals.pool import FeaturesFn, Pooled, cached, pool, pooler, signature
from ssl_jax.ops import dsp

READ = ("id", "weight", "audio", "audio_len", "label")


@dataclasses.dataclass(frozen=True)
class Encoder:
    """One kind of features to be probed: the run's, or a baseline's. `key` names it in a cache."""

    name: str
    features: FeaturesFn
    params: Tree
    key: str


def run(
    folder: str | Path,
    probes: Sequence[str] = compare.PROBES,
    step: int | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Evaluates a run folder and returns what it writes to evaluation.json.

    overrides: texts such as "data.test.sc.path=...". Raises ValueError on an unknown probe, and
    on data without labels, of fewer than two classes, or without validation and test.
    """
    unknown = [name for name in probes if name not in compare.PROBES]
    if unknown:
        raise ValueError(f"--probe has {unknown}: use some of {','.join(compare.PROBES)}")
    start = time.monotonic()
    start_lib.use_compilation_cache()
    folder, model = Path(folder), ssl_jax.load(folder, step)
    config = config_lib.override(model.config, overrides)
    mesh = make_mesh({"data": -1})
    corpora = _open(config, folder, mesh)
    classes = corpora["train"].corpus.classes
    rows, alive = [], {}
    for encoder in _encoders(model, mesh):
        pooled = _pool_all(encoder, corpora, mesh, folder)
        rows += [compare.row(encoder.name, name, pooled, len(classes)) for name in probes]
        if encoder.params:
            alive[encoder.name] = health.report(pooled.get("valid", pooled["train"]).features)
    result = {
        "step": model.step,
        "signature": config_lib.sign(config),
        "classes": list(classes),
        "clips": {name: len(split.corpus) for name, split in corpora.items()},
        "results": rows,
        "health": alive,
        "seconds": round(time.monotonic() - start, 1),
    }
    if jax.process_index() == 0:
        (folder / "evaluation.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def _open(config: ConfigDict, folder: Path, mesh: Mesh) -> dict[str, splits_lib.Split]:
    """Opens the splits that config.data names, all with the classes of the training split."""
    if not len(config.data.valid) and not len(config.data.test):
        raise ValueError("config.data.test names no source, nor does config.data.valid: name one")
    config = config.copy_and_resolve_references()
    with config.unlocked():
        # any machine may judge a run: the batch grows to what its devices divide
        config.data.batch_size = -(-config.data.batch_size // mesh.size) * mesh.size
        config.data.constant_seconds = False
    found: dict[str, splits_lib.Split] = {}
    for name in SPLITS:
        if len(config.data[name]):
            classes = found["train"].corpus.classes if found else None
            found[name] = splits_lib.open_split(config, folder / "features", name, classes)
    classes = found["train"].corpus.classes
    if len(classes) < 2:
        raise ValueError(
            f"config.data.train has {len(classes)} classes and a probe needs two or more: set "
            f"config.data.train.<name>.label to the column of the classes"
        )
    return found


def _encoders(model: ssl_jax.Model, mesh: Mesh) -> list[Encoder]:
    """Returns the run's encoder, the same untrained, and mean and deviation of the log-mel."""
    rate, everywhere = model.sample_rate, NamedSharding(mesh, P())
    samples = round(model.config.data.buckets[-1] * rate)
    example = audio_batch(np.zeros((1, samples), np.int16), np.array([samples], np.int32))
    untrained = baselines.random_encoder(model.method, model.config.seed, example)
    features, of_run = model.method.features, config_lib.sign(model.config)
    trained, untrained = jax.device_put((model.params, untrained), everywhere)
    return [
        Encoder("this run", features, trained, f"{of_run} step {model.step}"),
        Encoder("random encoder", features, untrained, of_run),
        Encoder("log-mel", baselines.raw_features(lambda b: _log_mel(b, rate)), {}, str(rate)),
    ]


def _log_mel(batch: Batch, rate: int) -> tuple[Array, Array]:
    """audio (B, N) -> log-mel (B, T, 80) of 30 ms windows every 10 ms, and their mask (B, T)."""
    window, hop = round(0.03 * rate), round(0.01 * rate)
    frames = dsp.log_mel(
        batch["audio"],
        batch["audio_len"],
        sample_rate=rate,
        n_fft=window,
        hop=hop,
        fmax=min(7600.0, rate / 2),
    )
    count = dsp.frames(batch["audio_len"], window, hop)
    return frames, jnp.arange(frames.shape[1]) < count[:, None]


def _pool_all(
    encoder: Encoder, corpora: dict[str, splits_lib.Split], mesh: Mesh, folder: Path
) -> dict[str, Pooled]:
    """Returns the labelled pooled features of every split, from the cache where they are."""
    apply = pooler(encoder.features, mesh)

    def compute(name: str, split: splits_lib.Split) -> Pooled:
        rows = split.in_order(mesh.size, READ)()
        total = -(-len(split.corpus) // split.config.data.batch_size)
        label = f"{encoder.name}, {name}: batch"
        return pool(apply, encoder.params, rows, mesh=mesh, total=total, name=label)

    found = {}
    for name, split in corpora.items():
        arrays = (split.corpus.lengths, split.corpus.labels)
        contents = [zlib.crc32(array.tobytes()) for array in arrays]
        data = config_lib.sign(split.config.data)
        key = signature(encoder.name, encoder.key, name, data, contents)
        work = functools.partial(compute, name, split)
        found[name] = cached(folder / "features", key, work).labelled()
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line, evaluates, prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m ssl_jax.evaluate", description=__doc__)
    parser.add_argument("--run", required=True, help="the --workdir of a train command")
    parser.add_argument("--probe", default=",".join(compare.PROBES), help="some of the default")
    parser.add_argument("--step", type=int, help="a saved step (default: the newest)")
    args, overrides = parser.parse_known_args(argv)
    try:
        result = run(args.run, args.probe.split(","), args.step, overrides)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    print(compare.report(result))
    print(f"\nwritten to {Path(args.run) / 'evaluation.json'}")


if __name__ == "__main__":
    main()
