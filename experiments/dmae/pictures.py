"""The figure of the DMAE experiment: accuracy of the probes of students, teacher and baselines."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments import pictures
from ssl_jax.reports import figures, style

# name: (style of its line, side of the line that its name is on)
LINES = {"teacher": ("-", "bottom"), "random encoder": ("--", "top"), "pixels": (":", "bottom")}


def draw(path: pathlib.Path, found: Mapping[str, Any]) -> None:
    """Draws results.json of the experiment to `path`."""
    title = "Students of one size: MAE alone, and aligned with a frozen, larger MAE"
    panels = [
        lambda ax: _students(ax, found),
        (lambda ax: _other(ax, found)) if found["other"] else None,
        (lambda ax: _few(ax, found)) if found.get("few labels") else None,
    ]
    figures.draw(path, title, panels)


def _students(ax: Axes, found: Mapping[str, Any]) -> None:
    probe, longer = found["probe"], found["options"]["longer"]
    shares = [name.removeprefix("MAE ") for name in probe if re.fullmatch(r"MAE \d+ %", name)]
    groups = {share: {n: probe[f"{n} {share}"] for n in ("MAE", "DMAE")} for share in shares}
    groups[f"75 %, {longer} times the steps"] = {"MAE": probe["MAE 75 %, longer"]}
    figures.points(
        ax, groups, "The images of the training, by masked share", "ridge probe, accuracy"
    )
    for name, (line, side) in LINES.items():
        ax.axhline(np.mean(probe[name]), color=style.SOFT, ls=line, lw=1)
        ax.text(len(groups) - 0.45, np.mean(probe[name]), name, ha="right", va=side, fontsize=8)


def _other(ax: Axes, found: Mapping[str, Any]) -> None:
    groups = {"students": found["other"]}
    figures.points(ax, groups, "Images never trained on", "ridge probe, accuracy")


def _few(ax: Axes, found: Mapping[str, Any]) -> None:
    groups = {
        f"{share} of the labels": {n: v for n, v in arms.items() if n != "teacher"}
        for share, arms in found["few labels"].items()
    }
    figures.points(ax, groups, "Fine-tuned with few labels", "accuracy on the test images")


PICTURES = {"results.png": pictures.Kept(draw, ("results.json",))}
"""{picture: how it is drawn}"""
