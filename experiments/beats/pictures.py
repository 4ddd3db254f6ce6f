"""The figure of the BEATs experiment: probes by iteration, tokens, and codes in use."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments import pictures
from ssl_jax.reports import figures

COLOURS = 20  # codes share colours beyond that
HEIGHT = 0.3  # of a tokenizer's rows, relative to the spectrogram


def draw(path: pathlib.Path, found: Mapping[str, Any]) -> None:
    """Draws results.json of the experiment to `path`."""
    title = "Tokens of sound: random, then distilled from the last model"
    tasks = [task for task in found["probe"] if not task.endswith("in noise")]
    panels = [lambda ax, task=task: _probe(ax, found["probe"], task) for task in tasks]
    panels += [
        lambda ax: _tokens(ax, found["tokens"]),
        (lambda ax: _codes(ax, found["codes"])) if found.get("codes") else None,
        lambda ax: clip(ax, found["clip"]),
    ]
    figures.draw(path, title, panels, size=(6.5, 4.5))


def _probe(ax: Axes, probe: Mapping[str, Mapping[str, list[float]]], task: str) -> None:
    groups = {
        arm: {"in quiet": values, "in noise": probe[f"{task} in noise"][arm]}
        for arm, values in probe[task].items()
    }
    figures.points(ax, groups, f"Frozen features: {task}", "ridge probe, accuracy")


def _tokens(ax: Axes, tokens: Mapping[str, Mapping[str, list[float]]]) -> None:
    for name, information in tokens["information"].items():
        line = ax.plot(tokens["consistency"][name], information, "o", label=name)[0]
        used = np.mean(tokens["perplexity"][name])
        at = np.mean(tokens["consistency"][name]), np.mean(information)
        ax.annotate(
            f"{used:.0f} in use",
            at,
            (6, 6),
            textcoords="offset points",
            fontsize=8,
            color=line.get_color(),
        )
    ax.set(title="Tokens", xlabel="share that noise does not change", ylabel="nats of the class")
    ax.margins(0.15)
    figures.legend(ax, list(tokens["information"]))


def _codes(ax: Axes, codes: Mapping[str, Mapping[str, Any]]) -> None:
    figures.bands(ax, codes, "Codes in use", "codes of a batch")


def clip(ax: Axes, given: Mapping[str, Any]) -> None:
    """Draws a spectrogram, and below it the tokens of each tokenizer, a row for each band."""
    cells = pictures.log_mel(given)
    bands, seconds = cells.shape[1], len(cells) / 100
    figures.spectrogram(ax, cells, seconds, f"Tokens of a clip: {given['name'].replace('_', ' ')}")
    for n, (name, ids) in enumerate(given["tokens"].items()):
        own = np.asarray(ids).T
        high = -bands * (n * (HEIGHT + 0.05) + 0.05)
        extent = (0, own.shape[1] * given["seconds_per_token"], high - bands * HEIGHT, high)
        ax.imshow(
            own % COLOURS,
            aspect="auto",
            origin="lower",
            extent=extent,
            cmap="tab20",
            interpolation="nearest",
            vmin=-0.5,
            vmax=COLOURS - 0.5,
        )
        ax.text(1.01 * seconds, high - bands * HEIGHT / 2, name, va="center", fontsize=8)
    lowest = -bands * len(given["tokens"]) * (HEIGHT + 0.05)
    ax.set(xlim=(0, seconds), ylim=(lowest, bands), yticks=[], ylabel="")


PICTURES = {"results.png": pictures.Kept(draw, ("results.json",))}
"""{picture: how it is drawn}"""
