"""BEATs in miniature: are tokens of the last model better targets than random ones?

    python -m ssl_jax.pipeline experiments/beats/program.py --esc10=PATH [--option=value ...]

Cuts the recordings of up to four folders with index.tsv into pieces with gain, room and noise, and
pre-trains on them without labels: a model on random tokens, a tokenizer taught by it, a model on
its tokens, and so on for any number of iterations. Beside them stand a masked autoencoder, the
first iteration for twice the updates, and a second model whose tokens are k-means clusters of the
first one's features, as in HuBERT. Probes frozen features in quiet and in noise, measures the
tokens, and writes results.json and results.png next to this file.
"""

import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from experiments import pictures as clips
from experiments.beats import claims, measure, models, pictures, sound
from ssl_jax.core import config as config_lib
from ssl_jax.pipeline import Pipe
from ssl_jax.reports import figures
from ssl_jax.stages import clustering, kmeans
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
CLUSTERED, CLUSTERS = "iteration 2, k-means tokens", "k-means of features"
KMEANS = {"batch_frames": 10_000, "tries": 3, "epochs": 5}
Coders = Callable[[], dict[str, measure.Coder]]
HERE = pathlib.Path(__file__).resolve().parent


def main(pipe: Pipe) -> None:
    """Runs every part; complete stages are skipped."""
    o = pipe.options
    if o["iterations"] < 1:
        raise config_lib.ConfigError(f"iterations is {o['iterations']}: use 1 or more")
    data, found = _sounds(pipe), _Found()
    for seed in range(o["seeds"]):
        _seed(pipe, data, seed, found)
        if seed == 0:
            found.clip = _clip(pipe, found)
    _write(pipe, found)


class _Found:
    """The results so far: values of every seed, by task or score and by arm; and stages."""

    def __init__(self) -> None:
        self.probe: dict[str, dict[str, list[float]]] = {}
        self.tokens: dict[str, dict[str, list[float]]] = {}
        self.first: Stage | None = None  # model of the first seed
        self.tokenizers: list[dict[str, Stage]] = []
        self.coders: list[Coders] = []  # of the first seed
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
    model = pipe.train(f"beats-1-{seed}", models.model(data, o["steps"], o["codes"], seed))
    found.first = found.first or model
    for arm, features in (("iteration 1", "this run"), ("untrained",) * 2, ("log-mel",) * 2):
        own = 0 if features == "log-mel" else seed  # it has no seed
        found.add("probe", arm, _probe(pipe, model, own, features))
    _quality(pipe, found, seed, model, functools.partial(_fixed, pipe, model, seed))
    if o["iterations"] > 1:
        _clustered(pipe, data, model, seed, found)
    found.tokenizers.append({})
    for n in range(2, o["iterations"] + 1):
        name, tokenizer = f"tokenizer {n}", _tokenizer(pipe, data, n, model, seed)
        found.tokenizers[-1][name] = tokenizer
        _quality(pipe, found, seed, tokenizer, functools.partial(_learned, pipe, name, tokenizer))
        config = models.model(data, o["steps"], o["codes"], seed)
        config.method.labels = "tokenizer"
        model = pipe.train(f"beats-{n}-{seed}", config, teachers={"tokenizer": tokenizer})
        found.add("probe", f"iteration {n}", _probe(pipe, model, seed, "this run"))
    longer = pipe.train(f"longer-{seed}", models.model(data, 2 * o["steps"], o["codes"], seed))
    found.add("probe", LONGER, _probe(pipe, longer, seed, "this run"))


def _clustered(pipe: Pipe, data: ConfigDict, model: Stage, seed: int, found: _Found) -> None:
    """Trains and measures a second model on clusters of the last features of the first."""
    o, layer = pipe.options, int(models.SIZE["depth"])
    options = kmeans.Options(clusters=o["codes"], seed=seed, **KMEANS)
    codebook = clustering.clusters(pipe, f"kmeans-{seed}", data, options, layer, model)
    units = clustering.labels(pipe, f"labels-{seed}", data, layer, codebook, model)
    _quality(pipe, found, seed, codebook, functools.partial(_of_clusters, pipe, model, codebook))
    config = models.model(data, o["steps"], o["codes"], seed)
    config.method.labels = "stored"
    run = pipe.train(f"clustered-{seed}", config, labels=[units])
    found.add("probe", CLUSTERED, _probe(pipe, run, seed, "this run"))


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
        given = measure.encoder(pipe.load(run), features, seed)
        figures.write_results(out / "scores.json", measure.probe(*given, _probed(pipe), seed))

    about = {"probe": "ridge", "features": features, "seed": seed, "tasks": _probed(pipe)}
    return _kept(pipe, f"probe-{features.replace(' ', '-')}-{run.name}", about, work, run)


def _quality(pipe: Pipe, found: _Found, seed: int, of: Stage, make: Coders) -> None:
    """Measures the tokens that `make` gives, which depend on the stage `of`."""
    codes, tested = pipe.options["codes"], (pipe.options["esc10"], 5.0)

    def work(out: pathlib.Path) -> None:
        each = {name: measure.quality(coder, codes, *tested) for name, coder in make().items()}
        figures.write_results(out / "scores.json", each)

    about = {"tokens": tested[0], "codes": codes, "seed": seed}
    for name, values in _kept(pipe, f"tokens-{of.name}", about, work, of).items():
        found.add("tokens", name, values)
    if seed == 0:
        found.coders.append(make)


def _fixed(pipe: Pipe, run: Stage, seed: int) -> dict[str, measure.Coder]:
    """Returns the random projection of a model, and k-means of the patches that it reads."""
    given = sound.clips(pipe.options["esc10"], 5.0)
    return measure.tokenizers(pipe.load(run), pipe.options["codes"], *given, seed)


def _of_clusters(pipe: Pipe, run: Stage, codebook: Stage) -> dict[str, measure.Coder]:
    """Returns the clusters of a model's features."""
    fitted = kmeans.load(pipe.folder(codebook) / "codebook.npz")
    coder = fitted.quantizer(clustering.encoder(pipe, run, sound.RATE))
    return {CLUSTERS: (coder.features, coder.params)}


def _learned(pipe: Pipe, name: str, run: Stage) -> dict[str, measure.Coder]:
    """Returns the tokens of a tokenizer."""
    coder = clustering.tokenizer(pipe, run)
    return {name: (coder.features, coder.params)}


def _kept(pipe: Pipe, name: str, about: dict[str, Any], work: Any, run: Stage) -> Any:
    stage = pipe.stage("eval", name, about, work, (run,))
    return json.loads((pipe.folder(stage) / "scores.json").read_text(encoding="utf-8"))


def _clip(pipe: Pipe, found: _Found) -> dict[str, Any]:
    """Returns a clip of ESC-10 and its tokens by each tokenizer, to be drawn."""
    assert found.first is not None
    loaded, folder = pipe.load(found.first), pipe.options["esc10"]
    rows, lengths = sound.clips(folder, sound.SECONDS)
    one = rows[:1], lengths[:1]
    frames, bands = measure.patch_of(loaded)
    columns = int(loaded.config.method.encoder.num_mels) // bands
    log_mel = measure.log_mel(columns * bands)
    cells = measure.in_batches(lambda *a: log_mel(*a).hidden_states[0], {}, *one)[0]
    kept = clips.clip(cells, [], frames / 100)
    for name, coder in (pair for make in found.coders for pair in make().items()):
        ids = measure.tokens(coder, *one)[0]
        kept.setdefault("tokens", {})[name] = ids.reshape(-1, columns).tolist()
    return kept | {"name": str(sound.recordings(folder)[1]["label"][0])}


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
