"""The figure of the MimCo experiment: probes of frozen features, and fine-tuning."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments import pictures
from ssl_jax.reports import figures, style

LINES = {"random encoder": "--", "pixels": ":"}
PARTS = {
    "ridge": ("Frozen features", "ridge probe, accuracy"),
    "knn": ("Frozen features", "nearest neighbours, accuracy"),
    "fine-tuned": ("Fine-tuned with few labels", "accuracy"),
}


def draw(path: pathlib.Path, found: Mapping[str, Any]) -> None:
    """Draws results.json of the experiment to `path`."""
    title = "MoCo v3, a MimCo-style student of it, and MAE, of one size"
    panels = [
        functools.partial(_panel, scores=found[key], title=about, label=label)
        for key, (about, label) in PARTS.items()
    ]
    figures.draw(path, title, panels)


def _panel(ax: Axes, scores: Mapping[str, Sequence[float]], title: str, label: str) -> None:
    arms = {name: {"": values} for name, values in scores.items() if name not in LINES}
    figures.points(ax, arms, title, label)
    for name in (line for line in LINES if line in scores):
        mean = np.mean(scores[name])
        ax.axhline(mean, color=style.SOFT, ls=LINES[name], lw=1)
        ax.text(len(arms) - 0.45, mean, name, ha="right", va="bottom", fontsize=8)


PICTURES = {"results.png": pictures.Kept(draw, ("results.json",))}
"""{picture: how it is drawn}"""
