"""What do features of data2vec 2.0, trained on unlabelled waveforms, know about speech and sounds?

    python -m ssl_jax.pipeline experiments/data2vec2/audio.py --fsdd=PATH [--option=value ...]

Pre-trains on the training takes of spoken digits and on read English, then probes digits and
speakers on the official test takes, and the sounds of ESC-10 with its five folds. A second arm
pre-trains on four folds of ESC-10 and is probed on the fifth. Writes results_audio.json and
results_audio.png next to this file.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import frozen_probe
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import curves as curves_lib
from experiments import pictures as clips
from experiments.data2vec2 import claims, pictures
from ssl_jax.core import config as config_lib
from ssl_jax.data import corpus
from ssl_jax.evals import table
from ssl_jax.ops import dsp, masks
from ssl_jax.pipeline import Pipe
from ssl_jax.reports import figures
from ssl_jax.stages.graph import Stage

OPTIONS = {
    "fsdd": "data/fsdd",
    "speech": "data/speechocean762_train",  # a folder with index.tsv; '' = digits alone
    "esc10": "data/esc10",
    "steps": 400,
    "sound_steps": 120,  # per fold; 0: skip this arm
    "seeds": 3,
    "batch": 16,
    "clones": 8,
    "lr": 1e-3,
    "mask_ratio": 0.5,
    "target_layers": 3,
    "ema_start": 0.999,
    "allow_low_turnover": True,  # see the README
    "out": "",
}
# option: its layout in `convert index`
DATA = {"fsdd": "fsdd", "speech": "speechocean762", "esc10": "esc10"}
RATE = 8000
CROP = 1.0  # seconds
# smaller than `mini`, for minutes on one core: frames of 20 ms at 8 kHz
SIZE = {"width": 96, "mlp_width": 384, "conv_channels": 32}
SIZE |= {"conv_kernels": (10, 8, 8), "conv_strides": (5, 4, 8)}
# with five position convolutions and a teacher decay of 0.99, the targets soon encode only the
# position in the crop, and the metric `instance_variance_ratio` falls towards 0
SIZE |= {"position_depth": 1}
FOLDS = ("1", "2", "3", "4", "5")
HERE = pathlib.Path(__file__).resolve().parent


def main(pipe: Pipe) -> None:
    """Runs every part; complete stages are skipped."""
    o = pipe.options
    digits = {s: _table(o["fsdd"], {"split": s}) for s in ("train", "test")}
    speech = {"digits": digits["train"]}
    if o["speech"]:
        speech["read"] = _table(o["speech"])
    config = _config(pipe, speech, o["steps"])
    runs = [_train(pipe, "speech", config, seed) for seed in range(o["seeds"])]
    rows = [_digits(pipe, run, digits) for run in runs]
    sounds = [_sounds(pipe, run) for run in runs]
    found = {name: {t: [r[name][t] for r in rows] for t in rows[0][name]} for name in rows[0]}
    for name, scores in found.items():
        scores["sounds"] = [sum(s[name].values()) / len(FOLDS) for s in sounds]
    # features without an encoder have no seed
    found["log-mel"] = {task: values[:1] for task, values in found["log-mel"].items()}
    folders = [pipe.folder(run) for run in runs]
    _write(pipe, {"probes": found, "folds": {}}, folders)  # available while the rest runs
    folds = _folds(pipe, sounds) if o["sound_steps"] else {}
    _write(pipe, {"probes": found, "folds": folds}, folders)


def _table(path: str, where: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"kind": "table", "path": path, "where": dict(where or {})}


def _config(pipe: Pipe, sources: Mapping[str, Mapping[str, Any]], steps: int) -> ConfigDict:
    """Returns the mini config at a smaller size, on these sources."""
    o = pipe.options
    config = config_lib.load("configs/data2vec2/audio.py:mini")
    config = config.copy_and_resolve_references().unlock()
    config.data.train = ConfigDict(dict(sources))
    config.data.valid = config.data.test = ConfigDict({})
    config.data.update({"buckets": (CROP,), "batch_size": o["batch"], "min_seconds": 0.1})
    config.data.sample_rate = RATE
    method = config.method
    method.encoder.update(SIZE)
    method.clones, method.mask.ratio = o["clones"], o["mask_ratio"]
    method.decoder.update({"dim": 96, "layers": 3})
    method.targets.layers = o["target_layers"]
    method.ema.update({"start": o["ema_start"], "end": 0.9999, "anneal": steps})
    config.optim.lr = o["lr"]
    config.eval.valid = False
    config.log.every = f"{max(1, steps // 40)} steps"
    config.train.duration = config.checkpoint.every = config.eval.every = f"{steps} steps"
    return config


def _train(pipe: Pipe, name: str, config: ConfigDict, seed: int) -> Stage:
    return pipe.train(f"{name}-{seed}", config_lib.override(config, [f"seed={seed}"]))


def _digits(pipe: Pipe, run: Stage, digits: frozen_probe.Sources) -> frozen_probe.Scores:
    """Probes digits and speakers: fitted on the training takes, scored on the test takes."""

    def work(out: pathlib.Path) -> None:
        scores = frozen_probe.evaluate(pipe.folder(run), digits, ("digit", "speaker"), CROP)
        figures.write_results(out / "scores.json", scores)

    stage = pipe.stage("eval", f"digits-{run.name}", {"tasks": "digit, speaker"}, work, (run,))
    return json.loads((pipe.folder(stage) / "scores.json").read_text(encoding="utf-8"))


def _sounds(pipe: Pipe, run: Stage, only: str = "") -> dict[str, dict[str, float]]:
    """Probes ESC-10 on all folds, or on `only` one -> {features: {fold: accuracy}}."""
    source = _table(pipe.options["esc10"])

    def work(out: pathlib.Path) -> None:
        scores = frozen_probe.evaluate_folds(pipe.folder(run), source, "label", 5.0, CROP, only)
        figures.write_results(out / "scores.json", scores)

    stage = pipe.stage("eval", f"sounds-{run.name}", {"fold": only}, work, (run,))
    return json.loads((pipe.folder(stage) / "scores.json").read_text(encoding="utf-8"))


def _folds(pipe: Pipe, speech: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """Pre-trains on four folds of ESC-10, probes the fifth -> {features: [accuracy of each fold]}.

    Includes encoders trained on speech: the mean over their seeds.
    """
    o, found = pipe.options, {"pre-trained on sounds": [], "random encoder": [], "log-mel": []}
    for seed, fold in enumerate(FOLDS):
        others = [f for f in FOLDS if f != fold]
        config = _config(pipe, {"sounds": _table(o["esc10"], {"fold": others})}, o["sound_steps"])
        scores = _sounds(pipe, _train(pipe, f"sounds-without-{fold}", config, seed), fold)
        for name, key in zip(found, ("this run", "random encoder", "log-mel"), strict=True):
            found[name].append(scores[key][fold])
    found["pre-trained on speech"] = [
        sum(s["this run"][fold] for s in speech) / len(speech) for fold in FOLDS
    ]
    return found


def _write(pipe: Pipe, found: Mapping[str, Any], runs: Sequence[pathlib.Path]) -> None:
    """Writes results_audio.json, curves, a clip and results_audio.png, and prints the scores."""
    out = pathlib.Path(pipe.options["out"]) if pipe.options["out"] else HERE
    options = {k: v for k, v in pipe.options.items() if k not in ("fsdd", "esc10", "out")}
    options["speech"] = bool(options["speech"])
    results = {**found, "options": options, "machine": pipe.machine()}
    results["claims"] = claims.audio(results)
    figures.write_results(out / "results_audio.json", results)
    curves, clip = curves_lib.keep(out / "curves.json", "speech", runs), kept_clip(runs[0])
    figures.write_results(out / "clip.json", clip)
    pictures.audio(out / "results_audio.png", found, curves, clip)
    rows = [
        {"features": name} | {task: table.cell(values) for task, values in tasks.items()}
        for name, tasks in found["probes"].items()
    ]
    rows += [{"features": k, "one fold held out": table.cell(v)} for k, v in found["folds"].items()]
    print(table.text_table(rows))


def kept_clip(run: pathlib.Path) -> dict[str, Any]:
    """Returns one second of read speech and the mask of one view, to be drawn."""
    config = config_lib.from_json((run / "config.json").read_text(encoding="utf-8"))
    rate, o = config.data.sample_rate, config.method.mask
    samples = round(config.data.buckets[-1] * rate)
    split = corpus.open_split(config.data, "train")
    audio = split.read(int(np.argmax(split.lengths)), 0, samples)
    hop = int(np.prod(config.method.encoder.conv_strides))
    options = {"n_fft": 256, "hop": hop // 4, "n_mels": 64}
    log_mel = dsp.log_mel(audio[None], sample_rate=rate, fmax=rate / 2, **options)[0]
    tokens = len(log_mel) // 4
    keys = jax.random.split(jax.random.key(0), 1)
    mask = masks.block_mask(
        keys, (tokens,), o.ratio, o.adjust, o.block, o.inverse, jnp.array([tokens])
    )[0]
    return clips.clip(log_mel[: 4 * tokens], mask, hop / rate)
