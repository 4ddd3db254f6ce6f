"""Pre-trains without labels, once per seed, then fine-tunes with few, with and without it."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import claims, curves, pictures
from experiments.claims import Claim
from ssl_jax.core import config as config_lib
from ssl_jax.data import corpus
from ssl_jax.evals import table
from ssl_jax.ops import dsp, masks
from ssl_jax.pipeline import Pipe
from ssl_jax.reports import figures
from ssl_jax.stages.graph import Stage

ARMS = ("scratch", "pretrained")


def pretrain(pipe: Pipe, config: ConfigDict, seeds: int, tag: str = "") -> list[Stage]:
    """Returns one pre-training stage per seed."""
    return [
        pipe.train(f"pretrain{tag}-{seed}", config_lib.override(config, [f"seed={seed}"]))
        for seed in range(seeds)
    ]


def finetune(
    pipe: Pipe,
    config: ConfigDict,
    starts: Sequence[Stage],
    seeds: int,
    tag: str = "",
) -> dict[str, Any]:
    """Fine-tunes both arms over seeds -> {"scratch": [accuracy], "pretrained": [...], "runs"}.

    The seed draws the labelled clips, their order and the weights; both arms of a seed have the
    same labels and recipe. Seed i starts from pre-training i (the last, if there are fewer).
    Accuracy is measured on the test split after the last step, and never used for selection.
    """
    results: dict[str, Any] = {arm: [] for arm in ARMS} | {"runs": {arm: [] for arm in ARMS}}
    stages = []
    for seed in range(seeds):
        own = config_lib.override(config, [f"seed={seed}", f"data.label_seed={seed}"])
        for arm in ARMS:
            start = starts[min(seed, len(starts) - 1)] if arm == "pretrained" else None
            stages.append((arm, seed, pipe.train(f"{arm}{tag}-{seed}", own, start=start)))
    for arm, seed, stage in stages:
        folder = pipe.folder(stage)
        accuracy = float(figures.read_metrics(folder, "test/accuracy")[1][-1])
        results[arm].append(accuracy)
        results["runs"][arm].append(folder)
        pipe.notify(f"{arm}{tag}, seed {seed}: test accuracy {accuracy:.3f}")
    return results


def summary(groups: Mapping[str, Mapping[str, Any]], first: str) -> str:
    """Returns the table of {group: {arm: accuracies}}; `first` heads the column of groups."""
    rows: list[dict[str, object]] = []
    for name, arms in groups.items():
        gain = [b - a for a, b in zip(arms["scratch"], arms["pretrained"], strict=True)]
        row = {first: name} | {arm: table.cell(arms[arm]) for arm in ARMS}
        rows.append(row | {"gain": table.cell(gain)})
    return table.text_table(rows)


def conclusion(made: Claim, labels: int, pretrainings: int) -> str:
    """Returns what the claim of the quickstart says, in a sentence, and in another how surely."""
    (name, own), (other, base) = ((made[arm]["name"], made[arm]["values"]) for arm in "ab")
    learned = (
        f"With {labels} labels per word, the {name} model reaches a test accuracy of "
        f"{table.cell(own)} on voices that it has never heard, and the same model from {other} "
        f"{table.cell(base)}."
    )
    gain, half = table.interval(claims.gains(made))
    seeds = f"the gain is {gain:+.3f}"
    if np.isnan(half):
        return f"{learned} One seed shows no spread, so nothing is known about chance: {seeds}."
    sure = "chance alone does not explain it" if abs(gain) > half else "it may be chance"
    ahead = f"in {claims.ahead(made)} of {len(own)} seeds"
    once = ", and all seeds share one pre-training" if pretrainings == 1 else ""
    return (
        f"{learned} Pre-training is ahead {ahead}, and {seeds} ± {half:.3f} (95 % interval, paired "
        f"by seed): {sure}{once}."
    )


def kept_curves(
    pretrained: Sequence[pathlib.Path], runs: Mapping[str, Sequence[pathlib.Path]]
) -> dict[str, curves.Curves]:
    """Returns the learning curves of pre-training and of fine-tuning by arm, to be drawn."""
    found = {"pre-training": curves.of_runs(pretrained, ["train/loss"])}
    return found | {arm: curves.of_runs(own, ["valid/accuracy"]) for arm, own in runs.items()}


def kept_clip(run: pathlib.Path) -> dict[str, Any]:
    """Returns the first validation clip and the mask of the student of `run`, to be drawn."""
    config = config_lib.from_json((run / "config.json").read_text(encoding="utf-8"))
    encoder, o = config.method.encoder, config.method.mask
    rate = config.data.sample_rate
    audio = corpus.open_split(config.data, "valid").read(0)
    window, hop = (round(ms * rate / 1000) for ms in (encoder.window_ms, encoder.hop_ms))
    options = {"n_fft": window, "hop": hop, "n_mels": encoder.n_mels}
    options["fmax"] = encoder.get("fmax", 7600.0)
    log_mel = dsp.log_mel(audio[None], sample_rate=rate, **options)[0]
    tokens = len(log_mel) // encoder.frames_per_token
    keys = jax.random.split(jax.random.key(0), 1)
    mask = masks.span_mask(keys, jnp.array([tokens]), tokens, o.prob, o.length)[0]
    step = hop * encoder.frames_per_token / rate
    return pictures.clip(log_mel[: tokens * encoder.frames_per_token], mask, step)
