"""The picture of the HuBERT experiment: units over a spectrogram, layers, curves, errors."""

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
    """Draws the results to `path`. labels: name -> store of units of the validation split."""
    figure, axes = plt.subplots(2, 2, figsize=(14, 9), layout="constrained")
    units(axes[0, 0], labels, data)
    layers(axes[0, 1], results["units"])
    predicted = {name: m["train/masked_accuracy"] for name, m in kept.items() if name in labels}
    for colour, (name, band) in zip(figures.COLOURS, predicted.items(), strict=False):
        curves.bands(axes[1, 0], band, name, colour)
    axes[1, 0].set(title="Pre-training: units of masked frames", xlabel="step", ylabel="accuracy")
    axes[1, 0].legend(frameon=False)
    if results["recognition"]:
        errors(axes[1, 1], results["recognition"])
    else:
        axes[1, 1].set_axis_off()
    figure.suptitle("HuBERT in miniature: mean and spread over seeds")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def layers(ax: Axes, found: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> None:
    """Draws PNMI by layer: the mean over seeds, with a band from least to most; MFCC as a line."""
    for colour, (name, rows) in zip(figures.COLOURS, found.items(), strict=False):
        values = np.array([row["pnmi"] for row in rows.values()])
        if len(rows) == 1:
            ax.axhline(values.mean(), color=colour, ls="--", label=name)
            continue
        x = [int(layer) for layer in rows]
        ax.plot(x, values.mean(1), "o-", color=colour, label=name)
        ax.fill_between(x, values.min(1), values.max(1), color=colour, alpha=0.2, lw=0)
    ax.set(title="Are units phones?", xlabel="layer (0: input of the first block)", ylabel="PNMI")
    ax.legend(frameon=False)


def units(ax: Axes, labels: Mapping[str, pathlib.Path], data: Any) -> None:
    """Draws log-mel of an utterance, its phones above, and below a row of units for each store."""
    found = corpus.open_split(data, "valid")
    rate = found.sample_rate
    level = np.asarray(dsp.log_mel(found.read(0)[None], sample_rate=rate)[0])
    shown = min(_SHOWN, len(level) / 100)
    ax.imshow(
        level.T[:, : round(100 * shown)], origin="lower", aspect="auto", extent=(0, shown, 0, 80)
    )
    (source,) = data.valid.values()
    phones = alignments.read_ctm(pathlib.Path(source.path) / "phones.ctm")
    start, end, place = phones.rows[alignments.name_of(found.key(0))]
    for a, b, p in zip(start, end, place, strict=True):
        if b < shown:
            ax.text((a + b) / 2, 84, phones.names[p], ha="center", fontsize=8)
            ax.axvline(a, color="white", lw=0.5, alpha=0.6)
    for n, (name, path) in enumerate(labels.items()):
        store = frame_label_store.open_store(path)
        own = store.row(found.key(0))[: round(shown * store.rate)]
        # neighbouring units get colours far from each other
        colour = (own * 0.618034) % 1
        low = -14 * (n + 1)
        ax.imshow(
            colour[None],
            aspect="auto",
            cmap="hsv",
            extent=(0, shown, low, low + 12),
            vmin=0,
            vmax=1,
        )
        ax.text(shown * 1.01, low + 6, name, va="center", fontsize=8)
    ax.set(ylim=(-14 * len(labels) - 2, 92), xlim=(0, shown), xlabel="seconds", yticks=[])
    ax.set_title("An utterance, its phones and its units")


def errors(ax: Axes, found: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> None:
    """Draws the first score of each task by pre-training."""
    groups = {}
    for task, arms in found.items():
        first = next(iter(next(iter(arms.values()))))
        groups[f"{task} ({first.upper()})"] = {name: arm[first] for name, arm in arms.items()}
    figures.bars(ax, groups, "Recognition from few labels", "errors")
    ax.set_ylim(top=1.25 * ax.get_ylim()[1])  # room for the legend, whose names are long
    ax.legend(frameon=False, ncols=2, loc="upper center")
