"""HuBERT as one program: clusters of MFCC, labels, a model; clusters of it, labels, a model.

    python -m ssl_jax.pipeline experiments/hubert/pipeline.py [--option=value ...]

Synthesizes read speech with exact phone times, pre-trains on it without labels (and on the
recordings of --speech and --fsdd, folders with index.tsv, if given), for any number of iterations
and seeds, and measures after each how closely units match phones. Then learns phones and digits
from few labels, compared with no pre-training and with wav2vec 2.0 for as many updates. Writes
results.json, curves.json, utterance.json and results.png next to this file; python -m
experiments.tables fills the README.
"""

import dataclasses
import pathlib
from typing import Any

from ml_collections import ConfigDict

from experiments import curves
from experiments.hubert import claims, pictures, recognition, steps
from ssl_jax.core import config as config_lib
from ssl_jax.pipeline import Pipe
from ssl_jax.reports import figures
from ssl_jax.stages import clustering, kmeans
from ssl_jax.stages.graph import Stage

OPTIONS = {
    # synthesized utterances of about 3 s, and those of digits
    "train": 3000,
    "test": 100,
    "digits": 300,
    "speech": "",  # more speech to pre-train on: a folder with index.tsv
    "fsdd": "",  # spoken digits, in place of synthesized ones: a folder with index.tsv
    "iterations": 2,
    "seeds": 3,
    # updates of the first iteration; wav2vec 2.0 has as many as all iterations together
    "steps": 6000,
    "later": 1.6,  # times as many updates for each later iteration, as in the paper
    "batch": 4,  # crops of 2 s
    "lr": 2e-3,
    "clusters": 100,  # of MFCC, and of all features that are evaluated
    "later_clusters": 500,  # of features, the targets of later iterations
    "layer": 3,  # to cluster, counted from 1; 0: the best of the iteration by PNMI
    "labels": 60,  # transcribed utterances
    "finetune_steps": 500,  # 0: skip wav2vec 2.0 and recognition
    "out": "",
}
DATA = {"speech": "speechocean762", "fsdd": "fsdd"}  # option: its layout in `convert index`
HERE = pathlib.Path(__file__).resolve().parent
CROP = 2.0  # seconds
# for all encoders: one frame every 20 ms, as in the paper. A first convolution of stride 20, not 5,
# halves the time of a step, and normalized clips need fewer steps.
SIZE = {"depth": 3, "width": 96, "heads": 4, "mlp_width": 384, "conv_channels": 64}
SIZE |= {"conv_kernels": (80, 8, 4), "conv_strides": (20, 4, 4), "position_kernel": 32}
SIZE |= {"norm": "post", "conv_norm": "layer", "normalize": True, "grad_mult": 1.0}
DROPOUTS = ("dropout", "attention_dropout", "embed_dropout", "input_dropout", "layerdrop")
# with masked frames alone, so few updates learn little more than the frequency of each unit
LOSS = {"unmasked": 1.0, "penalty": 0.1}
MASK = {"prob": 0.5, "length": 5}
SHARES = (0.1, 0.2)  # of the training utterances, for clusters of MFCC and of a model's features
MONITORED = ("masked_loss", "masked_accuracy", "unmasked_accuracy", "prediction_entropy")
CONTRAST = ("contrastive_loss", "contrastive_accuracy", "code_perplexity", "distinct_negatives")
SCORES = ("phone_purity", "cluster_purity", "pnmi", "segment")


@dataclasses.dataclass
class Found:
    """The results so far, each a list over seeds.

    units: {features: {layer: {score: values}}}. chosen: {iteration: the layer that is clustered}.
    runs: {pre-training: stages}. labels: {iteration: the stage of its labels, of the first seed}.
    """

    units: dict[str, Any] = dataclasses.field(default_factory=dict)
    chosen: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    recognition: dict[str, Any] = dataclasses.field(default_factory=dict)
    runs: dict[str, list[Stage]] = dataclasses.field(default_factory=dict)
    labels: dict[str, Stage] = dataclasses.field(default_factory=dict)


def main(pipe: Pipe) -> None:
    """Runs every part; complete stages are skipped."""
    o = pipe.options
    if o["iterations"] < 1:
        raise config_lib.ConfigError(f"iterations is {o['iterations']}: use 1 or more")
    utterances = min(o["train"], o["digits"])
    if o["finetune_steps"] and o["labels"] * o["seeds"] > utterances:
        raise config_lib.ConfigError(
            f"labels is {o['labels']}, and {o['seeds']} seeds have labels of their own among "
            f"{utterances} utterances: use at most {utterances // o['seeds']}"
        )
    data, found = read_data(pipe), Found()
    for seed in range(o["seeds"]):
        iterate(pipe, data, seed, found)
    _write(pipe, data, found)  # the first part is available while the rest runs
    for seed in range(o["seeds"] if o["finetune_steps"] else 0):
        run = _wav2vec2(pipe, data, seed)
        found.runs.setdefault(recognition.WAV2VEC2, []).append(run)
        _evaluate(pipe, recognition.WAV2VEC2, data, run, seed, found)
    if o["finetune_steps"]:
        size = SIZE | dict.fromkeys(DROPOUTS, 0.0)
        found.recognition = recognition.run(pipe, data, found.runs, size)
        _write(pipe, data, found)


def read_data(pipe: Pipe) -> ConfigDict:
    """Returns config.data of the synthesized sentences: training, validation and test."""
    o = pipe.options
    counts = {"train": o["train"], "valid": 24, "test": o["test"]}
    folder = steps.synthesized(pipe, "sentences", counts)
    data = config_lib.load("configs/hubert/audio.py:mini").copy_and_resolve_references().data
    data.unlock()
    for split in counts:
        source = {"kind": "table", "path": str(folder), "where": {"split": split}}
        data[split] = ConfigDict({"read": ConfigDict(source | {"part": (0.0, 1.0)})})
    data.units = ConfigDict({"train": (), "valid": (), "test": ()})
    data.update({"buckets": (CROP,), "batch_size": o["batch"], "min_seconds": 0.1, "workers": 0})
    return data


def iterate(pipe: Pipe, data: ConfigDict, seed: int, found: Found) -> None:
    """Runs all iterations of a seed: clusters of the latest features, labels, a new model."""
    o, before, layer = pipe.options, None, 0
    _evaluate(pipe, steps.MFCC, data, None, seed, found)
    for n in range(1, o["iterations"] + 1):
        name = f"iteration {n}"
        unlabelled = pretraining_data(pipe, data)
        count, share = o["later_clusters" if before else "clusters"], SHARES[bool(before)]
        options = kmeans_options(count, seed)
        to_fit = steps.whole(unlabelled, share)
        codebook = clustering.clusters(pipe, f"kmeans-{n}-{seed}", to_fit, options, layer, before)
        to_label = steps.whole(unlabelled, 1.0)
        units = clustering.labels(pipe, f"labels-{n}-{seed}", to_label, layer, codebook, before)
        found.labels.setdefault(name, units)
        config = pretraining_config(
            pipe, data, "configs/hubert/audio.py:mini", _updates(pipe)[n - 1], seed
        )
        rate = 50.0 if before else 100.0
        config.method.units.update({"classes": (count,), "rate": rate})
        config.method.loss.update(LOSS)
        before = pipe.train(f"hubert-{n}-{seed}", _locked(config), labels=(units,))
        found.runs.setdefault(name, []).append(before)
        if n == 1:
            _evaluate(pipe, "untrained", data, before, seed, found)
        rows = _evaluate(pipe, name, data, before, seed, found)
        layer = o["layer"] or steps.best(rows)
        found.chosen.setdefault(name, []).append(layer)


def _updates(pipe: Pipe) -> list[int]:
    """Returns the updates of each iteration."""
    o = pipe.options
    return [o["steps"], *[round(o["later"] * o["steps"])] * (o["iterations"] - 1)]


def pretraining_data(pipe: Pipe, data: ConfigDict) -> ConfigDict:
    """Returns config.data for pre-training: the sentences, and real recordings if given."""
    data = ConfigDict(data.to_dict())
    data.test = ConfigDict({})
    everything = {"kind": "table", "part": (0.0, 1.0)}
    if pipe.options["speech"]:
        data.train.speech = ConfigDict(everything | {"path": pipe.options["speech"]})
    if pipe.options["fsdd"]:
        where = {"path": pipe.options["fsdd"], "where": {"split": "train"}}
        data.train.fsdd = ConfigDict(everything | where)
    return data


def kmeans_options(clusters: int, seed: int) -> kmeans.Options:
    """Returns the k-means options of HuBERT, with smaller mini-batches."""
    return kmeans.Options(clusters=clusters, batch_frames=4000, tries=3, epochs=3, seed=seed)


def _evaluate(
    pipe: Pipe, name: str, data: ConfigDict, of: Stage | None, seed: int, found: Found
) -> list[dict[str, Any]]:
    """Evaluates the units of every layer of a run and adds them to the results."""
    evaluated = steps.whole(data, SHARES[bool(of)])
    evaluated.valid = ConfigDict({})
    tag = f"units-{name.replace(' ', '-')}-{seed}"
    options, untrained = kmeans_options(pipe.options["clusters"], seed), name == "untrained"
    rows = steps.quality(pipe, tag, evaluated, options, of, untrained)
    own = found.units.setdefault(name, {})
    for row in rows:
        layer = own.setdefault(str(row["layer"]), {})
        for score in SCORES:
            layer.setdefault(score, []).append(row[score])
    return rows


def pretraining_config(
    pipe: Pipe, data: ConfigDict, path: str, updates: int, seed: int
) -> ConfigDict:
    """Returns a pre-training config at the size of this experiment, unlocked."""
    config = config_lib.load(path).copy_and_resolve_references().unlock()
    config.seed, config.data = seed, pretraining_data(pipe, data)
    config.method.encoder.update(SIZE | dict.fromkeys(DROPOUTS, 0.0))
    config.method.mask.update(MASK)
    config.optim.update({"lr": pipe.options["lr"], "warmup": "8%"})
    config.train.duration = f"{updates} steps"
    every = max(1, updates // 10)
    config.eval.every = f"{every} steps"
    config.log.every = f"{max(1, updates // 30)} steps"
    config.checkpoint.update({"every": f"{max(1, updates // 4)} steps", "best_metric": ""})
    config.guard.after = updates
    return config


def _wav2vec2(pipe: Pipe, data: ConfigDict, seed: int) -> Stage:
    """Trains wav2vec 2.0 for as many updates as all iterations of HuBERT have together."""
    updates = sum(_updates(pipe))
    config = pretraining_config(pipe, data, "configs/wav2vec2/audio.py:mini", updates, seed)
    config.method.quantizer.update({"codes": 40, "width": 48, "dropout": 0.0})
    # soft sampling and a small learning rate for hundreds of updates lead to a context that is the
    # same for all frames, at the loss of chance, which the run never leaves again
    config.method.quantizer.decay = 0.25 ** (1 / 333)
    config.optim.warmup = f"{min(40, updates // 4)} steps"
    config.method.negatives.count = 50
    config.method.encoder.update(recognition.OWN[recognition.WAV2VEC2])
    config.method.loss.penalty = 0.0
    return pipe.train(f"wav2vec2-{seed}", _locked(config))


def _locked(config: ConfigDict) -> ConfigDict:
    return config_lib.override(config, [])


def _write(pipe: Pipe, data: ConfigDict, found: Found) -> None:
    """Writes results, curves and a figure; runs without real recordings have their own names."""
    out = pathlib.Path(pipe.options["out"]) if pipe.options["out"] else HERE
    used = {k: v for k, v in pipe.options.items() if k != "out"}
    used |= {k: pathlib.Path(used[k]).name for k in ("speech", "fsdd")}
    end = "" if used["speech"] or used["fsdd"] else "_synthesized"
    results = {"units": found.units, "chosen": found.chosen, "recognition": found.recognition}
    results |= {"options": used, "machine": pipe.machine()}
    results["claims"] = claims.chain(results)
    figures.write_results(out / f"results{end}.json", results)
    kept = {}
    for name, stages in found.runs.items():
        metrics = CONTRAST if name == recognition.WAV2VEC2 else MONITORED
        folders = [pipe.folder(stage) for stage in stages]
        kept[name] = curves.of_runs(folders, [f"train/{m}" for m in metrics])
    figures.write_results(out / f"curves{end}.json", kept)
    stores = {name: pipe.folder(stage) / "valid" for name, stage in found.labels.items()}
    utterance = pictures.kept_utterance(stores, data)
    figures.write_results(out / f"utterance{end}.json", utterance)
    pictures.draw(out / f"results{end}.png", results, kept, utterance)
