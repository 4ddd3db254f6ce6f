"""Does a student of pseudo-labels beat its teacher, and does pre-training add to that?

    python -m ssl_jax.pipeline experiments/noisy_student/program.py [--option=value ...]

Synthesizes read speech, of which a few sentences are labelled, and pre-trains a Conformer on all of
it without labels. Generation 0 learns from the labels alone, from scratch and pre-trained. Each
next generation learns from the labels and from what the one before it says of the unlabelled
recordings, and starts anew from scratch or from the pre-trained weights, not from its teacher. One
arm has a language model for its labels and one has none; recordings of another domain are labelled
without a filter and with one. Writes results.json and results.png next to this file; python -m
experiments.tables fills its README.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments.noisy_student import arms, claims, pictures, speech
from ssl_jax.core import config as config_lib
from ssl_jax.data import pseudo_labels as stores
from ssl_jax.pipeline import Pipe
from ssl_jax.reports import figures
from ssl_jax.stages import pseudo_labels
from ssl_jax.stages.graph import Stage

OPTIONS = {
    "kind": "sentences",  # or digits
    "grid": "",  # recorded sentences in place of synthesized ones: GRID, a folder with index.tsv
    "others": (),  # then the recordings of the other domain: folders with index.tsv
    "more": "",  # more speech for pre-training: a folder with index.tsv
    "labels": 120,  # labelled recordings, other ones for each seed
    "unlabelled": 800,
    "other": 400,  # unlabelled recordings of another domain
    "test": 150,  # of each domain
    "texts": 20_000,  # sentences that the language model is estimated from
    "method": "ctc",  # or transducer
    "pretraining": "best_rq",  # or wav2vec2, the contrast without codes
    "generations": 3,
    "sizes": ("small",),  # ("small", "large"): whether size pays only with pre-training
    "seeds": 3,
    "pretrain_steps": 600,
    "steps": 400,  # of each generation
    "batch": 16,
    "pseudo_share": 0.8,  # of every batch; the paper has 0.9
    "beam": 8,
    "lm_weight": 1.0,
    "word_score": 0.0,
    "out": "",
}
HERE = pathlib.Path(__file__).resolve().parent
Found = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Line:
    """What all generations of one size, start and seed have in common.

    first: the run that each of them starts from; None: from scratch.
    """

    folder: pathlib.Path
    lm: pathlib.Path
    size: str
    start: str
    first: Stage | None
    seed: int

    def slug(self, name: str) -> str:
        """Returns the end of the name of a stage."""
        plain = name.replace(", ", "-").replace(" ", "-")
        return "-".join(filter(None, [plain, self.size, self.start, str(self.seed)]))


def main(pipe: Pipe) -> None:
    """Runs every part; complete stages are skipped."""
    o, found = pipe.options, {"wer": {}, "labels": {}, "sizes": {}}
    folder = speech.corpus(pipe)
    lm = speech.language_model(pipe, folder)
    for seed in range(o["seeds"]):
        for size in o["sizes"]:
            config = _pretraining(pipe, folder, size, seed)
            pretrained = pipe.train(f"pretrained-{size}-{seed}", config)
            for start, first in zip(arms.STARTS, (None, pretrained), strict=True):
                _generations(pipe, Line(folder, lm, size, start, first, seed), found)
    _write(pipe, found)


def _generations(pipe: Pipe, line: Line, found: Found) -> None:
    """Trains generation 0 and, with the first size, those that follow."""
    config = _labelled(pipe, line.folder, line.size, line.seed)
    zero = pipe.train(f"generation-0-{line.slug('')}", config, start=line.first)
    _keep(found["sizes"], f"{line.size}, {line.start}", arms.errors(pipe, zero))
    if line.size != pipe.options["sizes"][0]:
        return
    for arm in (arm for arm in arms.ARMS if line.start in arm.starts):
        name, teacher = f"{line.start}, {arm.name}", zero
        errors, about = (found[key].setdefault(name, {}) for key in ("wer", "labels"))
        _keep(errors, "0", arms.errors(pipe, zero))
        most = pipe.options["generations"]
        for number in range(1, min(arm.generations or most, most) + 1):
            labels = _labels(pipe, line, arm, teacher, number)
            _keep(about, str(number), _about(pipe, labels))
            config = _mixed(pipe, line, arm.pool)
            student = f"generation-{number}-{line.slug(arm.name)}"
            given = {"start": line.first, "pseudo_labels": {"pool": labels}}
            teacher = pipe.train(student, config, **given)
            _keep(errors, str(number), arms.errors(pipe, teacher))


def _labels(pipe: Pipe, line: Line, arm: arms.Arm, teacher: Stage, number: int) -> Stage:
    """Transcribes the recordings of an arm with its teacher, and keeps what passes the filter."""
    o = pipe.options
    data = _data(pipe, speech.buckets(line.folder, _labelled_part(pipe, line.seed)))
    pool = speech.source(line.folder, arm.pool, **_part(pipe, arm.pool))
    data.train = ConfigDict({"pool": pool})
    search = {"beam": o["beam"], "word_score": 0.0}
    if arm.lm:
        search |= {"lm": str(line.lm), "lm_weight": o["lm_weight"], "word_score": o["word_score"]}
    # arms of one teacher that differ in the filter share the transcripts
    shared = f"{arm.pool} {'lm' if arm.lm else 'plain'}" if number == 1 else arm.name
    name = f"decoded-{number}-{line.slug(shared)}"
    # what is said is known, so that the errors of the labels can be told; nothing is trained on it
    decoded = pseudo_labels.decode(pipe, name, teacher, data, search, "text")
    stage = f"labels-{number}-{line.slug(arm.name)}"
    return pseudo_labels.select(pipe, stage, decoded, arm.filters)


def _part(pipe: Pipe, split: str) -> dict[str, Any]:
    """Returns the unlabelled part of a split: of the training split, what no seed has labelled."""
    if split != "train":
        return {}
    o = pipe.options
    labelled = o["labels"] * o["seeds"]
    return {"part": (labelled / (labelled + o["unlabelled"]), 1.0)}


def _labelled_part(pipe: Pipe, seed: int) -> tuple[float, float]:
    """Returns the part of the training split that is labelled for a seed."""
    o = pipe.options
    every = o["labels"] * o["seeds"] + o["unlabelled"]
    return seed * o["labels"] / every, (seed + 1) * o["labels"] / every


def _data(pipe: Pipe, buckets: tuple[float, ...]) -> ConfigDict:
    """Returns config.data without sources."""
    data = config_lib.load("configs/ctc/speech.py:mini").copy_and_resolve_references().data
    data.unlock()
    data.train, data.valid, data.test = ConfigDict({}), ConfigDict({}), ConfigDict({})
    data.update({"buckets": buckets, "batch_size": pipe.options["batch"]})
    data.update({"min_seconds": 0.1, "workers": 0})
    return data


def _pretraining(pipe: Pipe, folder: pathlib.Path, size: str, seed: int) -> ConfigDict:
    """Returns the pre-training on all recordings of the training split and of the other domain."""
    o = pipe.options
    name = {"best_rq": "best_rq/speech", "wav2vec2": "wav2vec2/log_mel"}[o["pretraining"]]
    config = config_lib.load(f"configs/{name}.py:mini").copy_and_resolve_references()
    config.unlock()
    config.seed, config.data = seed, _data(pipe, (arms.CROP,))
    config.data.train = ConfigDict(
        {name: speech.source(folder, name) for name in ("train", "other")}
    )
    if o["more"]:
        config.data.train.more = ConfigDict({"kind": "table", "path": o["more"]})
    config.method.encoder.update(arms.ENCODER | arms.SIZES[size])
    config.method.mask.update({"length": 5})
    if o["pretraining"] == "best_rq":
        config.method.labels.update({"codes": 256, "num_mels": arms.ENCODER["num_mels"]})
    return _timed(config, o["pretrain_steps"])


def _labelled(pipe: Pipe, folder: pathlib.Path, size: str, seed: int) -> ConfigDict:
    """Returns the config of generation 0: the labelled recordings of a seed."""
    o = pipe.options
    name = {"ctc": "ctc/speech", "transducer": "transducer/speech"}[o["method"]]
    config = config_lib.load(f"configs/{name}.py:mini").copy_and_resolve_references()
    config.unlock()
    part = _labelled_part(pipe, seed)
    # of both sources of a student, there are recordings in both buckets
    config.seed, config.data = seed, _data(pipe, speech.buckets(folder, part))
    config.data.train.labelled = ConfigDict(
        speech.source(folder, "train", transcript="text", part=part)
    )
    config.data.valid.clean = ConfigDict(speech.source(folder, "test", transcript="text"))
    config.data.test.other = ConfigDict(speech.source(folder, "test_other", transcript="text"))
    encoder = {"kind": "mel_conformer", "preset": "l", **arms.ENCODER, **arms.SIZES[size]}
    config.method.encoder = ConfigDict(encoder)
    config.method.frozen = "none"
    config.method.mask.update({"prob": 0.3, "length": 5, "channel_prob": 0.1})
    config.method.mask.channel_length = 8
    if o["method"] == "ctc":
        config.method.head.update({"blank_bias": -2.0, "dropout": 0.1})
    config.optim.update({"frozen": (), "frozen_first": (), "freeze_until": "0 steps"})
    config.eval.update({"test": True, "scores": ("wer",)})
    return _timed(config, o["steps"])


def _mixed(pipe: Pipe, line: Line, pool: str) -> ConfigDict:
    """Returns the config of a student: labels and pseudo-labels at a fixed ratio in every batch."""
    config = _labelled(pipe, line.folder, line.size, line.seed)
    share = pipe.options["pseudo_share"]
    with config.unlocked():
        config.data.train.labelled.batch_share = 1 - share
        about = {"transcript": "text", "batch_share": share, "pseudo_labels": ""}
        config.data.train.pool = ConfigDict(
            speech.source(line.folder, pool, **_part(pipe, pool), **about)
        )
    return config


def _timed(config: ConfigDict, steps: int) -> ConfigDict:
    """Returns a config for so many updates, evaluated and saved at their end."""
    config.optim.update({"lr": 2e-3, "schedule": "cosine", "warmup": "10%"})
    config.optim.lr_rules = ()
    changes = [f"train.duration={steps} steps", f"eval.every={steps} steps"]
    changes += [f"checkpoint.every={steps} steps", f"guard.after={steps}"]
    config.checkpoint.best_metric = ""
    return config_lib.override(config, changes)


def _about(pipe: Pipe, labels: Stage) -> tuple[float, float, float]:
    """Returns the word error rate of pseudo-labels, that of those kept, and the share kept."""
    header = stores.read(pipe.folder(labels)).header
    return header["wer"], header["kept_wer"], header["kept_share"]


def _keep(found: dict[str, Any], name: str, values: tuple[float, ...]) -> None:
    """Appends the values of a seed to the lists of a name."""
    lists = found.setdefault(name, [[] for _ in values])
    for kept, value in zip(lists, values, strict=True):
        kept.append(value)


def _write(pipe: Pipe, found: Mapping[str, Any]) -> None:
    """Writes results.json and results.png."""
    out = pathlib.Path(pipe.options["out"]) if pipe.options["out"] else HERE
    options = {k: v for k, v in pipe.options.items() if k != "out"}
    options |= {k: pathlib.Path(options[k]).name for k in ("grid", "more")}
    options["others"] = [pathlib.Path(path).name for path in options["others"]]
    end = "_grid" if options["grid"] else ""
    results = json.loads(json.dumps({**found, "options": options}))
    results["machine"] = pipe.machine()
    results["claims"] = claims.generations(results)
    figures.write_results(out / f"results{end}.json", results)
    pictures.draw(out / f"results{end}.png", results)
