"""The figure of the efficiency experiment: accuracy over time, time to accuracy, ablations."""

import pathlib
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from ssl_jax.reports import figures


def draw(path: pathlib.Path, found: Mapping[str, Any]) -> None:
    """Draws results.json of the experiment to `path`."""
    figure, axes = plt.subplots(1, 3, figsize=(16, 5), layout="constrained")
    _accuracy(axes[0], found)
    _time(axes[1], found)
    if found["ablations"]:
        groups = {name: {"data2vec 2.0": values} for name, values in found["ablations"].items()}
        figures.bars(axes[2], groups, "Ablations, short runs", "linear probe accuracy")
        axes[2].tick_params(axis="x", rotation=25)
        lowest = min(v for values in found["ablations"].values() for v in values)
        axes[2].set_ylim(0.9 * lowest, None)
    else:
        axes[2].set_axis_off()
    figure.suptitle("One encoder, three methods: linear probe of frozen features during training")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _accuracy(ax: Axes, found: Mapping[str, Any]) -> None:
    """Accuracy over seconds of training: mean over seeds, with a band from min to max."""
    for colour, (name, runs) in zip(figures.COLOURS, found["curves"].items(), strict=False):
        seconds = found["seconds_per_step"][name] * np.array([0, *runs[0]["step"]])
        start = float(np.mean(found["random"][name]))
        values = np.array([[start, *run["accuracy"]] for run in runs])
        ax.plot(seconds, values.mean(0), ".-", color=colour, label=name)
        ax.fill_between(seconds, values.min(0), values.max(0), color=colour, alpha=0.2, lw=0)
    for style, (name, values) in zip((":", "--", "-."), found["baselines"].items(), strict=False):
        ax.axhline(np.mean(values), color="grey", ls=style, lw=1, label=name)
    ax.set(title="Accuracy against time", xlabel="seconds of training", ylabel="accuracy")
    ax.legend(frameon=False, fontsize="small", ncols=2)


def _time(ax: Axes, found: Mapping[str, Any]) -> None:
    """Seconds of training to each accuracy that all seeds of a method reach, a line per method."""
    for colour, name in zip(figures.COLOURS, found["curves"], strict=False):
        reached = {
            float(accuracy): methods[name]
            for accuracy, methods in found["levels"].items()
            if None not in methods[name]
        }
        means = [np.mean(seconds) for seconds in reached.values()]
        ax.plot(list(reached), means, ".-", color=colour, label=name)
        for accuracy, seconds in reached.items():
            ax.plot([accuracy] * len(seconds), seconds, ".", color="black", ms=4, alpha=0.6)
    ax.set(title="Time to accuracy", xlabel="accuracy", ylabel="seconds of training")
    ax.legend(frameon=False)
