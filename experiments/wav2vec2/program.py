"""Do the codes of wav2vec 2.0 stay in use, and what do two mistakes of known ports do to them?

    python -m ssl_jax.pipeline experiments/wav2vec2/program.py --data=PATH [--option=value ...]

PATH is a folder with index.tsv (a column path) of recordings of speech, as of speechocean762.
Pre-trains tiny models on it as published, with negatives from all frames of a clip in place of
the masked ones, with the diversity term added to the sum of the contrastive losses, not their mean,
and with both. Writes results.json, curves.json and results.png next to this file.
"""

import pathlib
from collections.abc import Sequence

from ml_collections import ConfigDict

from experiments import curves
from experiments.wav2vec2 import claims, pictures
from experiments.wav2vec2.pictures import METRICS
from ssl_jax.core import config as config_lib
from ssl_jax.evals import table
from ssl_jax.pipeline import Pipe
from ssl_jax.reports import figures

OPTIONS = {
    "data": "data/speechocean762_train",
    "steps": 500,
    "seeds": 3,
    "batch": 12,
    "crop": 1.5,  # seconds
    "lr": 2e-3,
    "span": 5,  # frames; with 10 nothing is learned in so few steps
    "out": "",
}
DATA = {"data": "speechocean762"}  # option: its layout in `convert index`
RATE = 8000
# smaller than `mini`: frames of 20 ms at 8 kHz
SIZE = {"depth": 3, "width": 96, "heads": 3, "mlp_width": 384, "conv_channels": 32}
SIZE |= {"conv_kernels": (20, 4, 4), "conv_strides": (10, 4, 4), "position_kernel": 32}
# only without dropout does the loss leave chance, the logarithm of 1 + 50, within 200 steps
DROPOUTS = ("dropout", "attention_dropout", "embed_dropout", "input_dropout")
QUANTIZER = {"codes": 40, "width": 48, "dropout": 0.0}
NEGATIVES = 50
ARMS = {
    "as published": (),
    "negatives of all frames": ("method.negatives.source=all",),
    "diversity beside the sum": ("method.loss.diversity_scale=sum",),
    "both": ("method.negatives.source=all", "method.loss.diversity_scale=sum"),
}
HERE = pathlib.Path(__file__).resolve().parent


def main(pipe: Pipe) -> None:
    """Trains every arm over the seeds; complete stages are skipped."""
    o, runs = pipe.options, {}
    for name, changes in ARMS.items():
        config = config_lib.override(_config(pipe), changes)
        tag = name.replace(" ", "-")
        runs[name] = [
            pipe.folder(pipe.train(f"{tag}-{s}", config_lib.override(config, [f"seed={s}"])))
            for s in range(o["seeds"])
        ]
    found = {name: _last(folders) for name, folders in runs.items()}
    out = pathlib.Path(o["out"]) if o["out"] else HERE
    used = {k: v for k, v in o.items() if k not in ("data", "out")}
    codes = 2 * QUANTIZER["codes"]
    results = {"arms": found, "codes": codes, "options": used, "machine": pipe.machine()}
    results["claims"] = claims.codes(results)
    figures.write_results(out / "results.json", results)
    metrics = [f"train/{name}" for name in METRICS]
    kept = {name: curves.of_runs(folders, metrics) for name, folders in runs.items()}
    figures.write_results(out / "curves.json", kept)
    pictures.draw(out / "results.png", results, kept)
    rows = [
        {"wav2vec 2.0": name} | {metric: table.cell(values) for metric, values in row.items()}
        for name, row in found.items()
    ]
    print(table.text_table(rows))


def _config(pipe: Pipe) -> ConfigDict:
    """Returns the mini config at a smaller size on the recordings; no guard stops a collapse."""
    o = pipe.options
    config = config_lib.load("configs/wav2vec2/audio.py:mini")
    config = config.copy_and_resolve_references().unlock()
    source = {"kind": "table", "path": o["data"]}
    config.data.train = ConfigDict({"speech": source})
    config.data.valid = config.data.test = ConfigDict({})
    config.data.update({"buckets": (o["crop"],), "batch_size": o["batch"], "min_seconds": 1.0})
    config.data.sample_rate = RATE
    config.method.encoder.update(SIZE | dict.fromkeys(DROPOUTS, 0.0))
    config.method.quantizer.update(QUANTIZER)
    # the temperature reaches its floor after two thirds of the run, as in the paper
    config.method.quantizer.decay = 0.25 ** (1 / (o["steps"] * 2 / 3))
    config.method.negatives.count = NEGATIVES
    config.method.mask.length = o["span"]
    config.optim.lr = o["lr"]
    config.guard.floors = ConfigDict({})
    config.eval.valid = False
    config.log.every = f"{max(1, o['steps'] // 30)} steps"
    steps = f"{o['steps']} steps"
    config.train.duration = config.checkpoint.every = config.eval.every = steps
    return config


def _last(folders: Sequence[pathlib.Path]) -> dict[str, list[float]]:
    """Returns {metric: [mean over the last quarter of each run]}."""
    found: dict[str, list[float]] = {name: [] for name in METRICS}
    for name, values in found.items():
        for folder in folders:
            steps, logged = figures.read_metrics(folder, f"train/{name}")
            values.append(float(logged[steps > 0.75 * steps[-1]].mean()))
    return found
