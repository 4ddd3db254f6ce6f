"""The figures of the experiments on images, audio and text."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments import pictures
from ssl_jax.reports import figures, style

NAMES = {"this run": "data2vec 2.0"}


def draw(path: pathlib.Path, found: Mapping[str, Any]) -> None:
    """Draws results.json: accuracy over time, time to accuracy, ablations."""
    shown = {"data2vec 2.0": found["ablations"]}
    panels = [
        lambda ax: _accuracy(ax, found),
        lambda ax: _time(ax, found),
        (lambda ax: figures.points(ax, shown, "Ablations, short runs", "linear probe accuracy"))
        if found["ablations"]
        else None,
    ]
    title = "One encoder, three methods: linear probe of frozen features during training"
    figures.draw(path, title, panels)


def audio(
    path: pathlib.Path, found: Mapping[str, Any], curves: Any = None, clip: Any = None
) -> None:
    """Draws results_audio.json, the curves of pre-training, and a clip with its mask."""
    folds = {"ESC-10": found["folds"]}
    panels = [
        lambda ax: _probes(ax, found["probes"], "Frozen features after speech, linear probes"),
        (lambda ax: figures.points(ax, folds, "A fold of ESC-10 held out", "accuracy of each fold"))
        if found["folds"]
        else None,
        _loss(curves, "speech", "Pre-training on speech"),
        pictures.masked(clip, "A second of speech and the mask of one view"),
    ]
    figures.draw(path, "data2vec 2.0 of waveforms in miniature: mean and 95 % interval", panels)


def text(path: pathlib.Path, found: Mapping[str, Any], curves: Any = None) -> None:
    """Draws results_text.json and the curves of pre-training."""
    panels = [
        lambda ax: _probes(ax, found["probes"], "Which package a block of 126 bytes is from"),
        _loss(curves, "text", "Pre-training on text"),
    ]
    title = "data2vec 2.0 of text in miniature: mean and 95 % interval over seeds"
    figures.draw(path, title, panels)


def _loss(curves: Any, name: str, title: str) -> figures.Panel | None:
    if not curves or name not in curves:
        return None
    losses = {"masked tokens": curves[name]["train/loss"]}
    return lambda ax: figures.bands(ax, losses, title, "loss")


def _probes(ax: Axes, rows: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> None:
    """Draws {features: {task: accuracies}} as a group of points per task."""
    tasks = next(iter(rows.values()))
    groups = {
        task: {NAMES.get(name, name): scores[task] for name, scores in rows.items()}
        for task in tasks
    }
    figures.points(ax, groups, title, "test accuracy")


def _accuracy(ax: Axes, found: Mapping[str, Any]) -> None:
    """Accuracy over seconds of training: mean over seeds, with a band from min to max."""
    names = []
    for colour, (name, runs) in zip(figures.COLOURS, found["curves"].items(), strict=False):
        seconds = found["seconds_per_step"][name] * np.array([0, *runs[0]["step"]])
        start = float(np.mean(found["random"][name]))
        values = np.array([[start, *run["accuracy"]] for run in runs])
        ax.plot(seconds, values.mean(0), ".-", color=colour, label=name)
        ax.fill_between(seconds, values.min(0), values.max(0), color=colour, alpha=0.2, lw=0)
        names.append(name)
    for line, (name, values) in zip((":", "--", "-."), found["baselines"].items(), strict=False):
        ax.axhline(np.mean(values), color=style.SOFT, ls=line, lw=1, label=name)
        names.append(name)
    ax.set(title="Accuracy against time", xlabel="seconds of training", ylabel="accuracy")
    figures.legend(ax, names)


def _time(ax: Axes, found: Mapping[str, Any]) -> None:
    """Seconds of training to each accuracy that all seeds of a method reach, a line per method."""
    names = []
    for colour, name in zip(figures.COLOURS, found["curves"], strict=False):
        reached = {
            float(accuracy): methods[name]
            for accuracy, methods in found["levels"].items()
            if None not in methods[name]
        }
        if not reached:
            continue
        names.append(name)
        means = [np.mean(seconds) for seconds in reached.values()]
        ax.plot(list(reached), means, ".-", color=colour, label=name)
        for accuracy, seconds in reached.items():
            dots = [accuracy] * len(seconds)
            ax.plot(dots, seconds, ".", color=colour, ms=5, alpha=0.55, mew=0)
    left_out = [name for name in found["curves"] if name not in names]
    title = "Time to accuracy" + (f" ({', '.join(left_out)} reaches none)" if left_out else "")
    ax.set(title=title, xlabel="accuracy that every seed reaches", ylabel="seconds of training")
    if names:
        figures.legend(ax, names)


PICTURES = {
    "results.png": pictures.Kept(draw, ("results.json",)),
    "results_audio.png": pictures.Kept(audio, ("results_audio.json", "curves.json", "clip.json")),
    "results_text.png": pictures.Kept(text, ("results_text.json", "curves.json")),
}
"""{picture: how it is drawn}"""
