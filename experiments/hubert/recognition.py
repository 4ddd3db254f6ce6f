"""Recognition from few labels with CTC: phones of sentences, and digits, for each pre-training."""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from experiments.hubert import steps
from ssl_jax.core import atomic
from ssl_jax.core import config as config_lib
from ssl_jax.data import transcripts
from ssl_jax.data.readers import alignments, audio, sources
from ssl_jax.data.synthetic import read_speech
from ssl_jax.pipeline import Pipe
from ssl_jax.reports import figures
from ssl_jax.stages.graph import Stage

SCRATCH = "no pre-training"
SCRATCH_PRE = "no pre-training, pre-norm"  # learns faster from scratch
WAV2VEC2 = "wav2vec 2.0"
# how an encoder differs from the others
OWN = {SCRATCH_PRE: {"norm": "pre"}, WAV2VEC2: {"conv_norm": "group"}}
# task: (column of the transcript, config.data.spelling, scores; the first is shown)
TASKS = {
    "phones": ("phones", "phones", ("per",)),
    "digits": ("text", "letters", ("wer", "cer")),
}
RATE = 16000
_GAP = 0.15  # maximum seconds between two digits of a sequence


def run(
    pipe: Pipe, data: ConfigDict, runs: Mapping[str, Sequence[Stage]], size: Mapping[str, Any]
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Returns {task: {pre-training: {score: one value per seed}}}.

    runs: name -> the stage of each seed; the last iteration of HuBERT and wav2vec 2.0 are
    fine-tuned. Each seed has its own labels, the same for every pre-training.
    """
    o, found = pipe.options, {}
    last = f"iteration {o['iterations']}"
    starts = {
        SCRATCH: [None] * o["seeds"],
        SCRATCH_PRE: [None] * o["seeds"],
        WAV2VEC2: runs[WAV2VEC2],
        "HuBERT": runs[last],
    }
    tables = {"phones": data, "digits": _digits(pipe, data)}
    for task, (_, _, scores) in TASKS.items():
        found[task] = {name: {score: [] for score in scores} for name in starts}
        for seed in range(o["seeds"]):
            for name, stages in starts.items():
                start = stages[seed]
                own = {**size, **OWN.get(name, {})}
                config = labelled_config(pipe, tables[task], task, seed, own, start is not None)
                tag = f"{task}-{re.sub('[^a-zA-Z0-9.]+', '-', name)}-{seed}"
                stage = pipe.train(tag, config, start=start)
                for score in scores:
                    value = figures.read_metrics(pipe.folder(stage), f"valid/{score}")[1][-1]
                    found[task][name][score].append(float(value))
    return found


def labelled_config(
    pipe: Pipe,
    data: ConfigDict,
    task: str,
    seed: int,
    size: Mapping[str, Any],
    pretrained: bool,
) -> ConfigDict:
    """Returns a CTC config on the labelled utterances of a seed."""
    o, (column, spelling, scores) = pipe.options, TASKS[task]
    config = config_lib.load("configs/ctc/speech.py:mini").copy_and_resolve_references().unlock()
    config.seed, config.data = seed, steps.whole(data, 1.0)
    config.data.spelling = spelling
    # evaluated at the end, never used for selection
    config.data.valid, config.data.test = config.data.test, ConfigDict({})
    for split in (config.data.train, config.data.valid):
        for source in split.values():
            source.transcript = column
    (source,) = config.data.train.values()
    if spelling == "phones":  # all phones of the synthesizer: few labels do not cover them
        known = alignments.read_ctm(pathlib.Path(source.path) / "phones.ctm").names
        config.data.classes = (transcripts.BLANK, *known[1:])
    share = o["labels"] / _count(source)
    source.part = (seed * share, (seed + 1) * share)
    config.method.encoder.preset = "wav2vec2_base"
    config.method.encoder.update(size)
    config.method.mask.update({"prob": 0.3, "length": 5, "channel_prob": 0.0})
    config.optim.update({"lr": 2e-3, "freeze_until": "10%"})
    if not pretrained:
        config.method.frozen, config.optim.frozen, config.optim.frozen_first = "none", (), ()
    updates = o["finetune_steps"]
    config.eval.update({"scores": scores, "every": f"{updates} steps"})
    config.checkpoint.update({"every": f"{updates} steps", "best_metric": ""})
    return config_lib.override(config, [f"train.duration={updates} steps"])


def _count(source: ConfigDict) -> int:
    return len(sources.open_source("train.read", source.to_dict()))


def _digits(pipe: Pipe, data: ConfigDict) -> ConfigDict:
    """Returns config.data of digit sequences, recorded or otherwise synthesized."""
    o = pipe.options
    counts = {"train": o["digits"], "valid": 0, "test": o["test"]}
    if o["fsdd"]:
        about = {"path": o["fsdd"], "counts": counts}
        stage = pipe.stage("data", "digits", about, lambda folder: sequences(folder, **about))
        folder = pipe.folder(stage)
    else:
        folder = steps.synthesized(pipe, "digits", counts)
    data = ConfigDict(data.to_dict())
    data.valid = ConfigDict({})
    for split in ("train", "test"):
        data[split].read.path = str(folder)
    return data


def sequences(folder: pathlib.Path, path: str, counts: Mapping[str, int]) -> None:
    """Joins recordings of single digits into sequences of two to five, each by one speaker.

    path: a folder with index.tsv (columns path, digit, speaker, split). Recordings of one split
    are never used in another. Writes index.tsv and FLAC files.
    """
    rng, rows = np.random.default_rng(0), ["path\tsplit\tspeaker\ttext\tsamples\trate"]
    for split, count in counts.items():
        if not count:
            continue
        table = {"kind": "table", "path": path, "where": {"split": split}}
        source = sources.open_source(f"{split}.digits", table)
        speakers, digits = (np.array([*map(str, source.columns[n])]) for n in ("speaker", "digit"))
        for i in range(count):
            speaker = rng.choice(np.unique(speakers))
            own = np.flatnonzero(speakers == speaker)
            chosen = rng.choice(own, rng.integers(2, 6), replace=False)
            sound = np.concatenate([_with_gap(source, int(row), rng) for row in chosen])
            words = " ".join(read_speech.DIGITS[int(digits[row])] for row in chosen)
            name = f"{split}_{i:05}.flac"
            (folder / name).write_bytes(audio.encode_flac(sound, RATE))
            rows.append("\t".join(map(str, (name, split, speaker, words, len(sound), RATE))))
    atomic.write_text(folder / "index.tsv", "\n".join(rows) + "\n")


def _with_gap(source: Any, row: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a recording at 16 kHz, followed by silence."""
    rate = int(source.rates[row])
    samples = int(source.samples[row]) * RATE // rate
    sound = audio.read_crop(
        lambda first, last: source.read_samples(row, first, min(last, int(source.samples[row]))),
        rate,
        RATE,
        0,
        samples,
    )
    return np.pad(sound, (0, int(RATE * rng.uniform(0.0, _GAP))))
