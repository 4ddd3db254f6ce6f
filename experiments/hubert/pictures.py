"""The figure of the HuBERT experiment: units of an utterance, layers, curves, error rates."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments import pictures
from ssl_jax.data import corpus, frame_label_store
from ssl_jax.data.readers import alignments
from ssl_jax.ops import dsp
from ssl_jax.reports import figures

_SHOWN = 2.5  # seconds of the utterance


def draw(
    path: pathlib.Path, results: Mapping[str, Any], curves: Any = None, utterance: Any = None
) -> None:
    """Draws results.json; curves, utterance: what was kept of the runs, if any."""
    pnmi = {
        name: {layer: row["pnmi"] for layer, row in rows.items()}
        for name, rows in results["units"].items()
    }
    predicted = {
        name: kept["train/masked_accuracy"]
        for name, kept in (curves or {}).items()
        if "train/masked_accuracy" in kept
    }
    title = "Pre-training: prediction of masked units"
    panels = [
        (lambda ax: _utterance(ax, utterance)) if utterance else None,
        lambda ax: figures.layers(ax, pnmi, "Units against phones", "PNMI"),
        (lambda ax: figures.bands(ax, predicted, title, "accuracy")) if predicted else None,
        (lambda ax: errors(ax, results["recognition"])) if results["recognition"] else None,
    ]
    figures.draw(path, "HuBERT in miniature: mean and spread over seeds", panels)


def kept_utterance(labels: Mapping[str, pathlib.Path], data: Any) -> dict[str, Any]:
    """Returns the start of an utterance, its phones, and its units by name, to be drawn.

    labels: name -> unit store of the validation split.
    """
    found = corpus.open_split(data, "valid")
    log_mel = np.asarray(dsp.log_mel(found.read(0)[None], sample_rate=found.sample_rate)[0])
    log_mel = log_mel[: round(100 * _SHOWN)]
    (source,) = data.valid.values()
    phones = alignments.read_ctm(pathlib.Path(source.path) / "phones.ctm")
    start, end, place = phones.rows[alignments.name_of(found.key(0))]
    stores = {name: frame_label_store.open_store(path) for name, path in labels.items()}
    seconds = len(log_mel) / 100
    return pictures.clip(log_mel, (), 0.0) | {
        "seconds": seconds,
        "phones": [
            [float(a), float(b), phones.names[p]] for a, b, p in zip(start, end, place, strict=True)
        ],
        "units": {
            name: {
                "rate": store.rate,
                "row": store.row(found.key(0))[: round(seconds * store.rate)].tolist(),
            }
            for name, store in stores.items()
        },
    }


def _utterance(ax: Axes, kept: Mapping[str, Any]) -> None:
    """Draws log-mel, phones above it, and the units of every iteration below."""
    log_mel = pictures.log_mel(kept)
    bands = log_mel.shape[1]
    figures.spectrogram(ax, log_mel, kept["seconds"], "An utterance, its phones and its units")
    figures.phones(ax, kept["phones"], bands)
    rows = {name: (np.array(own["row"]), own["rate"]) for name, own in kept["units"].items()}
    figures.units(ax, rows, bands)


def errors(ax: Axes, found: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> None:
    """Draws the first score of each task, with a point per kind of pre-training."""
    groups = {}
    for task, arms in found.items():
        first = next(iter(next(iter(arms.values()))))
        groups[f"{task} ({first.upper()})"] = {name: arm[first] for name, arm in arms.items()}
    figures.points(ax, groups, "Recognition from few labels", "error rate")


PICTURES = {
    f"results{end}.png": pictures.Kept(
        draw, (f"results{end}.json", f"curves{end}.json", f"utterance{end}.json")
    )
    for end in ("", "_synthesized")
}
"""{picture: how it is drawn}"""
