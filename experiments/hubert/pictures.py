"""The figure of the HuBERT experiment: units of an utterance, layers, curves, error rates."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from experiments import curves
from ssl_jax.data import corpus, frame_label_store
from ssl_jax.data.readers import alignments
from ssl_jax.ops import dsp
from ssl_jax.reports import figures

_SHOWN = 2.5  # seconds of the utterance


def draw(
    path: pathlib.Path,
    results: Mapping[str, Any],
    kept: Mapping[str, curves.Curves],
    labels: Mapping[str, pathlib.Path],
    data: Any,
) -> None:
    """Draws the results to `path`. labels: name -> unit store of the validation split."""
    figure, axes = plt.subplots(2, 2, figsize=(14, 9), layout="constrained")
    units(axes[0, 0], labels, data)
    pnmi = {
        name: {layer: row["pnmi"] for layer, row in rows.items()}
        for name, rows in results["units"].items()
    }
    figures.layers(axes[0, 1], pnmi, "Units against phones", "PNMI")
    predicted = {name: m["train/masked_accuracy"] for name, m in kept.items() if name in labels}
    for colour, (name, band) in zip(figures.COLOURS, predicted.items(), strict=False):
        curves.bands(axes[1, 0], band, name, colour)
    axes[1, 0].set(
        title="Pre-training: prediction of masked units", xlabel="step", ylabel="accuracy"
    )
    axes[1, 0].legend(frameon=False)
    if results["recognition"]:
        errors(axes[1, 1], results["recognition"])
    else:
        axes[1, 1].set_axis_off()
    figure.suptitle("HuBERT in miniature: mean and spread over seeds")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def units(ax: Axes, labels: Mapping[str, pathlib.Path], data: Any) -> None:
    """Draws the start of an utterance: log-mel, phones above it, and the units per store below."""
    found = corpus.open_split(data, "valid")
    log_mel = np.asarray(dsp.log_mel(found.read(0)[None], sample_rate=found.sample_rate)[0])
    log_mel = log_mel[: round(100 * _SHOWN)]
    bands = log_mel.shape[1]
    figures.spectrogram(ax, log_mel, len(log_mel) / 100, "An utterance, its phones and its units")
    (source,) = data.valid.values()
    phones = alignments.read_ctm(pathlib.Path(source.path) / "phones.ctm")
    start, end, place = phones.rows[alignments.name_of(found.key(0))]
    names = (phones.names[p] for p in place)
    figures.phones(ax, list(zip(start, end, names, strict=True)), bands)
    stores = {name: frame_label_store.open_store(path) for name, path in labels.items()}
    rows = {name: (store.row(found.key(0)), store.rate) for name, store in stores.items()}
    figures.units(ax, rows, bands)


def errors(ax: Axes, found: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> None:
    """Draws the first score of each task, with a bar per kind of pre-training."""
    groups = {}
    for task, arms in found.items():
        first = next(iter(next(iter(arms.values()))))
        groups[f"{task} ({first.upper()})"] = {name: arm[first] for name, arm in arms.items()}
    figures.bars(ax, groups, "Recognition from few labels", "error rate")
    ax.set_ylim(top=1.25 * ax.get_ylim()[1])  # room for the legend, whose names are long
    ax.legend(frameon=False, ncols=2, loc="upper center")
