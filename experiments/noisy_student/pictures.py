"""The figure of the noisy student experiment: word errors and pseudo-labels by generation."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments import pictures
from ssl_jax.reports import figures


def draw(path: pathlib.Path, found: Mapping[str, Any]) -> None:
    """Draws results.json of the experiment to `path`."""
    title = "Noisy students: word errors by generation"
    panels = [
        lambda ax: _lines(ax, found["wer"], 0, "Test in the domain", "word error rate"),
        lambda ax: _lines(ax, found["wer"], 1, "Test of another domain", "word error rate"),
        lambda ax: _lines(ax, found["labels"], 1, "Pseudo-labels kept", "their word error rate"),
        lambda ax: _lines(ax, found["labels"], 2, "Pseudo-labels kept", "share of the recordings"),
    ]
    if len({name.partition(", ")[0] for name in found["sizes"]}) > 1:
        panels.append(lambda ax: _sizes(ax, found["sizes"]))
    figures.draw(path, title, panels)


def _lines(ax: Axes, arms: Mapping[str, Any], row: int, title: str, label: str) -> None:
    """Draws a value of every arm by generation: means, and ranges over seeds."""
    names = []
    for (name, arm), colour in zip(arms.items(), figures.COLOURS * 2, strict=False):
        numbers = sorted(map(int, arm))
        values = [arm[str(number)][row] for number in numbers]
        means = np.array([np.mean(v) for v in values])
        ends = [means - [min(v) for v in values], [max(v) for v in values] - means]
        bars = np.maximum(0, ends)
        ax.errorbar(numbers, means, bars, fmt="o-", ms=4, lw=1, color=colour, label=name)
        names.append(name)
    ax.set(title=title, xlabel="generation", ylabel=label)
    ax.set_xticks(sorted({int(number) for arm in arms.values() for number in arm}))
    ax.set_ylim(0)
    figures.legend(ax, names)


def _sizes(ax: Axes, found: Mapping[str, Any]) -> None:
    groups: dict[str, dict[str, list[float]]] = {}
    for name, (inside, _) in found.items():
        size, _, start = name.partition(", ")
        groups.setdefault(size, {})[start] = inside
    figures.points(ax, groups, "Generation 0, by size", "word error rate")


PICTURES = {
    "results.png": pictures.Kept(draw, ("results.json",)),
    "results_grid.png": pictures.Kept(draw, ("results_grid.json",)),
}
"""{picture: how it is drawn}"""
