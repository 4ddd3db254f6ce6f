"""BEATs in miniature: are tokens of the last model better targets than random ones?

    python -m ssl_jax.pipeline experiments/beats/program.py --esc10=PATH [--option=value ...]

Cuts the recordings of up to four folders with index.tsv into pieces with gain, room and noise, and
pre-trains on them without labels: a model on random tokens, a tokenizer taught by it, a model on
its tokens, and so on for any number of iterations. Beside them stand a masked autoencoder, and the
first iteration for twice the updates. Probes frozen features in quiet and in noise, measures the
tokens, and writes results.json and results.png next to this file.
"""

import json
import pathlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments import pictures as clips
from experiments.beats import claims, measure, models, pictures, sound
from ssl_jax.core import config as config_lib
from ssl_jax.engine import checkpoint
from ssl_jax.pipeline import Pipe
from ssl_jax.reports import figures
from ssl_jax.stages.graph import Stage

OPTIONS = {
    "esc10": "data/esc10",  # columns path, label, fold
    "digits": "",  # columns path, digit, speaker, split; '' = none, as for the next two
    "speech": "",
    "music": "",
    "most": 500,  # recordings of a folder to train on, spread over it
    "copies": 2,  # of each piece, altered in different ways
    "iterations": 2,
    "seeds": 3,
    "steps": 800,  # of a model
    "tokenizer_steps": 300,
    "batch": 64,
    "codes": 256,
    "finetune_steps": 0,  # above 0: tokenizers are taught by a model fine-tuned on ESC-10
    "out": "",
}
DATA = {"digits": "fsdd", "speech": "speechocean762", "music": "librosa"}
RECONSTRUCTION, LONGER = "MAE", "iteration 1, twice as long"
HERE = pathlib.Path(__file__).resolve().parent


def main(pipe: Pipe) -> None:
    """Runs every part; complete stages are skipped."""
    o = pipe.options
    if o["iterations"] < 1:
        raise config_lib.ConfigError(f"iterations is {o['iterations']}: use 1 or more")
    data, found = _sounds(pipe), _Found()
    for seed in range(o["seeds"]):
        _seed(pipe, data, seed, found)
        if len(found.first) == 1:
            found.clip = _clip(pipe, found.first[0], found.tokenizers[seed])
    _write(pipe, found)


class _Found:
    """The results so far: values of every seed, by task or score and by arm; and stages."""

    def __init__(self) -> None:
        self.probe: dict[str, dict[str, list[float]]] = {}
        self.tokens: dict[str, dict[str, list[float]]] = {}
        self.first: list[Stage] = []
        self.tokenizers: list[dict[str, Stage]] = []
        self.clip: dict[str, Any] = {}

    def add(self, where: str, arm: str, values: dict[str, float]) -> None:
        for name, value in values.items():
            getattr(self, where).setdefault(name, {}).setdefault(arm, []).append(value)


def _sounds(pipe: Pipe) -> ConfigDict:
    """Returns config.data of the altered pieces of all folders."""
    o = pipe.options
    folders = {o[name]: o["most"] for name in ("esc10", "digits", "speech", "music") if o[name]}

    def work(out: pathlib.Path) -> None:
        sound.write(out, folders, o["copies"], 0)

    about = {"folders": folders, "copies": o["copies"], "seconds": sound.SECONDS}
    stage = pipe.stage("data", "pieces", about, work)
    data = config_lib.load("configs/beats/audio.py:mini").copy_and_resolve_references().data
    with data.unlocked():
        source = {"kind": "table", "path": str(pipe.folder(stage))}
        data.train, data.valid = ConfigDict({"pieces": source}), ConfigDict({})
        data.update({"buckets": (sound.SECONDS,), "batch_size": o["batch"], "min_seconds": 0.5})
    return data


def _seed(pipe: Pipe, data: ConfigDict, seed: int, found: _Found) -> None:
    """Trains and measures all arms of a seed."""
    o = pipe.options
    made = pipe.train(f"mae-{seed}", models.reconstruction(data, o["steps"], seed))
    found.add("probe", RECONSTRUCTION, _probe(pipe, made, seed, "this run"))
    model, tokenizers = None, {}
    for n in range(1, o["iterations"] + 1):
        config = models.model(data, o["steps"], o["codes"], seed)
        taught = {}
        if model is not None:
            taught["tokenizer"] = _tokenizer(pipe, data, n, model, seed)
            tokenizers[f"tokenizer {n}"] = taught["tokenizer"]
            config.method.labels = "tokenizer"
            found.add("tokens", f"tokenizer {n}", _quality(pipe, taught["tokenizer"], seed)[""])
        model = pipe.train(f"beats-{n}-{seed}", config, teachers=taught)
        found.add("probe", f"iteration {n}", _probe(pipe, model, seed, "this run"))
        if n > 1:
            continue
        found.first.append(model)
        found.add("probe", "untrained", _probe(pipe, model, seed, "untrained"))
        found.add("probe", "log-mel", _probe(pipe, model, 0, "log-mel"))
        for name, values in _quality(pipe, model, seed).items():
            found.add("tokens", name, values)
    found.tokenizers.append(tokenizers)
    longer = pipe.train(f"longer-{seed}", models.model(data, 2 * o["steps"], o["codes"], seed))
    found.add("probe", LONGER, _probe(pipe, longer, seed, "this run"))


def _tokenizer(pipe: Pipe, data: ConfigDict, n: int, model: Stage, seed: int) -> Stage:
    """Trains the tokenizer of iteration n, taught by the model before it, or by that fine-tuned."""
    o = pipe.options
    config = models.tokenizer(data, o["tokenizer_steps"], o["codes"], seed)
    if o["finetune_steps"]:
        model = _finetuned(pipe, n, model, seed)
        config.method.target = "logits"
    return pipe.train(f"tokenizer-{n}-{seed}", config, teachers={"teacher": model})


def _finetuned(pipe: Pipe, n: int, model: Stage, seed: int) -> Stage:
    """Fine-tunes a model on the classes of ESC-10."""
    o = pipe.options
    config = models.classifier(o["esc10"], o["finetune_steps"], o["batch"], seed)
    return pipe.train(f"finetuned-{n}-{seed}", config, start=model)


def _probed(pipe: Pipe) -> dict[str, tuple[str, str, float]]:
    """Returns what is probed: {task: (folder, column, seconds)}."""
    o = pipe.options
    tasks = {"class": (o["esc10"], "label", 5.0)}
    if o["digits"]:
        tasks |= {name: (o["digits"], name, 1.0) for name in ("digit", "speaker")}
    return tasks


def _probe(pipe: Pipe, run: Stage, seed: int, features: str) -> dict[str, float]:
    """Returns the accuracies of ridge probes of a run, of its encoder untrained, or of log-mel."""

    def work(out: pathlib.Path) -> None:
        given = measure.encoders(pipe.load(run), seed)[features]
        figures.write_results(out / "scores.json", measure.probe(*given, _probed(pipe), seed))

    about = {"probe": "ridge", "features": features, "seed": seed, "tasks": _probed(pipe)}
    return _kept(pipe, f"probe-{features.replace(' ', '-')}-{run.name}", about, work, run)


def _quality(pipe: Pipe, run: Stage, seed: int) -> dict[str, dict[str, float]]:
    """Returns {"": how good the tokens of a tokenizer are}, or for a model those of the random
    projection and of k-means, by name."""
    codes = pipe.options["codes"]

    def work(out: pathlib.Path) -> None:
        model = pipe.load(run)
        esc10 = pipe.options["esc10"]
        rows, labels = sound.clips(esc10, 5.0)[0], sound.labels(sound.recordings(esc10)[1]["label"])
        given = {"": _tokens(pipe, run)} if model.method.tokens else {}
        given = given or measure.tokenizers(model, codes, rows, seed)
        found = {n: measure.quality(*each, codes, rows, labels) for n, each in given.items()}
        figures.write_results(out / "scores.json", found)

    about = {"tokens": pipe.options["esc10"], "codes": codes, "seed": seed}
    return _kept(pipe, f"tokens-{run.name}", about, work, run)


def _tokens(pipe: Pipe, run: Stage) -> tuple[measure.Apply, Any]:
    """Returns (tokens (B, S), parameters) of a tokenizer."""
    model = pipe.load(run)
    extra = checkpoint.restore_extra(pipe.folder(run))

    def apply(given: Any, batch: Any) -> Any:
        return model.method.tokens(*given, batch).hidden_states[0, ..., 0]

    return apply, (model.params, extra)


def _kept(pipe: Pipe, name: str, about: dict[str, Any], work: Any, run: Stage) -> Any:
    stage = pipe.stage("eval", name, about, work, (run,))
    return json.loads((pipe.folder(stage) / "scores.json").read_text(encoding="utf-8"))


def _clip(pipe: Pipe, model: Stage, tokenizers: dict[str, Stage]) -> dict[str, Any]:
    """Returns a clip of ESC-10 and its tokens by each tokenizer, to be drawn."""
    loaded = pipe.load(model)
    rows, lengths = sound.clips(pipe.options["esc10"], 5.0)
    name = str(sound.recordings(pipe.options["esc10"])[1]["label"][0])
    given = measure.tokenizers(loaded, pipe.options["codes"], rows, 0)
    given |= {name: _tokens(pipe, stage) for name, stage in tokenizers.items()}
    one, size = rows[:1], lengths[:1]
    frames, bands = measure.patch_of(loaded)
    columns = int(loaded.config.method.encoder.num_mels) // bands
    log_mel, none = measure.encoders(loaded, 0)["log-mel"]
    cells = measure.in_batches(lambda *a: log_mel(*a).hidden_states[0], none, one, size)[0]
    kept = clips.clip(cells, [], frames / 100)
    for tokenizer, (apply, params) in given.items():
        ids = measure.in_batches(jax.jit(apply), params, one, size)[0].astype(int)
        kept.setdefault("tokens", {})[tokenizer] = ids.reshape(-1, columns).tolist()
    return kept | {"name": name}


def _write(pipe: Pipe, found: _Found) -> None:
    """Writes results.json and results.png."""
    out = pathlib.Path(pipe.options["out"]) if pipe.options["out"] else HERE
    given = {"esc10", "digits", "speech", "music", "out"}
    options = {k: v for k, v in pipe.options.items() if k not in given}
    results: dict[str, Any] = {"probe": found.probe, "tokens": found.tokens, "clip": found.clip}
    for name in found.tokenizers[0]:
        runs = [pipe.folder(stages[name]) for stages in found.tokenizers]
        band = figures.band(runs, "train/codes_used")
        kept = {key: np.asarray(value).round(3).tolist() for key, value in band.items()}
        results.setdefault("codes", {})[name] = kept
    results |= {"options": options, "machine": pipe.machine()}
    results["claims"] = claims.tokens(results)
    figures.write_results(out / "results.json", results)
    pictures.draw(out / "results.png", results)
