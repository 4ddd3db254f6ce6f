"""What do features of data2vec 2.0, trained on unlabelled text, know about the origin of a text?

    python -m ssl_jax.pipeline experiments/data2vec2/text.py [--option=value ...]

Collects documentation and docstrings of the installed packages (or of those in --site) in one
table, pre-trains on the bytes of the training files, and probes which package a block of another
file comes from. Writes results_text.json and results_text.png next to this file.
"""

import json
import pathlib
import sysconfig
from collections.abc import Mapping, Sequence
from typing import Any

import frozen_probe
import text_blocks
from ml_collections import ConfigDict

from experiments import curves
from experiments.data2vec2 import claims, pictures
from ssl_jax.core import config as config_lib
from ssl_jax.evals import table
from ssl_jax.pipeline import Pipe
from ssl_jax.reports import figures
from ssl_jax.stages.graph import Stage

OPTIONS = {
    "site": "",  # '' = the packages of the running interpreter
    "packages": 12,
    "blocks": 400,  # per package, for training
    "steps": 200,
    "seeds": 3,
    "batch": 16,
    "clones": 4,
    "lr": 5e-4,
    "mask": "block",  # random: single bytes, as published for word pieces
    "mask_ratio": 0.5,
    "target_layers": 4,
    "ema_start": 0.9995,
    "allow_low_turnover": True,  # see the README
    "out": "",
}
SIZE = {"width": 96, "mlp_width": 384}
HERE = pathlib.Path(__file__).resolve().parent


def main(pipe: Pipe) -> None:
    """Runs every part; complete stages are skipped."""
    o = pipe.options
    corpus, names = _corpus(pipe)
    config = _config(pipe, corpus)
    runs = [
        pipe.train(f"text-{seed}", config_lib.override(config, [f"seed={seed}"]))
        for seed in range(o["seeds"])
    ]
    rows = [_probe(pipe, run, corpus) for run in runs]
    found = {name: {t: [r[name][t] for r in rows] for t in rows[0][name]} for name in rows[0]}
    # features without an encoder have no seed
    found["token counts"] = {t: values[:1] for t, values in found["token counts"].items()}
    _write(pipe, {"probes": found, "packages": names}, [pipe.folder(run) for run in runs])


def _corpus(pipe: Pipe) -> tuple[pathlib.Path, list[str]]:
    """Returns the table of blocks, collected once, and the names of the packages."""
    o = pipe.options
    site = pathlib.Path(o["site"] or sysconfig.get_paths()["purelib"])

    def work(out: pathlib.Path) -> None:
        names = text_blocks.write(site, out / "blocks.tsv", o["packages"], o["blocks"])
        figures.write_results(out / "packages.json", {"names": names})

    asked = {"site": str(site), "packages": o["packages"], "blocks": o["blocks"]}
    folder = pipe.folder(pipe.stage("data", "corpus", asked, work))
    return folder / "blocks.tsv", json.loads(
        (folder / "packages.json").read_text(encoding="utf-8")
    )["names"]


def _source(corpus: pathlib.Path, split: str) -> dict[str, Any]:
    return {"kind": "text_table", "path": str(corpus), "where": {"split": split}}


def _config(pipe: Pipe, corpus: pathlib.Path) -> ConfigDict:
    """Returns the mini config at a smaller size, on the training blocks."""
    o = pipe.options
    config = config_lib.load("configs/data2vec2/text.py:mini")
    config = config.copy_and_resolve_references().unlock()
    config.data.train = ConfigDict({"blocks": _source(corpus, "train")})
    config.data.valid = config.data.test = ConfigDict({})
    config.data.batch_size = o["batch"]
    method, steps = config.method, o["steps"]
    method.encoder.update(SIZE)
    method.clones = o["clones"]
    method.mask.update({"kind": o["mask"], "ratio": o["mask_ratio"]})
    method.decoder.dim = SIZE["width"]
    method.targets.layers = o["target_layers"]
    method.ema.update({"start": o["ema_start"], "anneal": steps})
    config.optim.lr = o["lr"]
    # learned positions outgrow the byte embeddings until the targets encode little but the position
    # (see the metric `instance_variance_ratio`)
    config.optim.frozen = ("^encoder/positions",)
    config.eval.valid = False
    config.log.every = f"{max(1, steps // 40)} steps"
    config.train.duration = config.checkpoint.every = config.eval.every = f"{steps} steps"
    return config


def _probe(pipe: Pipe, run: Stage, corpus: pathlib.Path) -> frozen_probe.Scores:
    """Probes the package of a block; validation files choose layer and penalty."""
    sources = {split: _source(corpus, split) for split in ("train", "valid", "test")}

    def work(out: pathlib.Path) -> None:
        scores = frozen_probe.evaluate(pipe.folder(run), sources, ("package",))
        figures.write_results(out / "scores.json", scores)

    stage = pipe.stage("eval", f"probe-{run.name}", {"task": "package"}, work, (run,))
    return json.loads((pipe.folder(stage) / "scores.json").read_text(encoding="utf-8"))


def _write(pipe: Pipe, found: Mapping[str, Any], runs: Sequence[pathlib.Path]) -> None:
    """Writes results_text.json, curves and results_text.png, and prints the scores."""
    out = pathlib.Path(pipe.options["out"]) if pipe.options["out"] else HERE
    options = {k: v for k, v in pipe.options.items() if k not in ("site", "out")}
    results = {**found, "options": options, "machine": pipe.machine()}
    results["claims"] = claims.text(results)
    figures.write_results(out / "results_text.json", results)
    pictures.text(out / "results_text.png", found, curves.keep(out / "curves.json", "text", runs))
    rows = {name: table.cell(tasks["package"]) for name, tasks in found["probes"].items()}
    print(table.text_table([{"features": n, "accuracy": cell} for n, cell in rows.items()]))
