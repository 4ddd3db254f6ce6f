"""The figure of the LightHuBERT experiment: error, units and latency against the parameters."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments import pictures
from ssl_jax.reports import figures, style

SHOWN = (
    "searched",
    "separate, same steps",
    "separate, third of the steps",
    "pruned and tuned",
    "pruned",
    "two layers",
)
REFERENCES = {"teacher": "--", "untrained": ":"}  # lines at the height of their scores
SCORES = {
    "loss": "absolute error, held-out audio",
    "pnmi": "PNMI of the best layer",
    "per": "phone errors, 60 labels",
}


def draw(path: pathlib.Path, found: Mapping[str, Any]) -> None:
    """Draws results.json of the experiment to `path`."""
    arms = found["arms"]
    panels = [
        (lambda ax, key=key: _against_size(ax, arms, key)) if _has(arms, key) else None
        for key in SCORES
    ]
    panels += [lambda ax: _front(ax, found), lambda ax: _latency(ax, found["latency"])]
    figures.draw(path, "Students of many sizes: one supernet, or one by one", panels)


def _has(arms: Mapping[str, Any], key: str) -> bool:
    return any(key in row for rows in arms.values() for row in rows.values())


def _against_size(ax: Axes, arms: Mapping[str, Any], key: str) -> None:
    """Draws a score of every arm against its parameters: means and ranges over seeds."""
    names = []
    for name, colour in zip(SHOWN, figures.COLOURS * 2, strict=False):
        rows = [row for row in arms.get(name, {}).values() if key in row]
        if not rows:
            continue
        sizes = [np.mean(row["params"]) / 1e3 for row in rows]
        means = np.array([np.mean(row[key]) for row in rows])
        low, high = ([f(row[key]) for row in rows] for f in (min, max))
        bars = np.maximum(0, [means - low, np.array(high) - means])
        ax.errorbar(sizes, means, bars, fmt="o-", ms=4, lw=1, color=colour, label=name)
        names.append(name)
    for name, line in REFERENCES.items():
        for row in arms.get(name, {}).values():
            if key in row:
                ax.axhline(np.mean(row[key]), ls=line, lw=1, color=style.SOFT, label=name)
                names.append(name)
    ax.set(title="", xlabel="thousand parameters", ylabel=SCORES[key])
    figures.legend(ax, names)


def _front(ax: Axes, found: Mapping[str, Any]) -> None:
    """Draws the subnets that the searches have scored, and the best of each size."""
    sizes, losses = np.array(found["scored"]).T
    ax.plot(sizes / 1e3, losses, ".", ms=3, color=style.SOFT)
    order = np.lexsort((losses, sizes))
    best = np.minimum.accumulate(losses[order])
    front = order[losses[order] == best]
    ax.step(sizes[front] / 1e3, losses[front], where="post", color=figures.COLOURS[0])
    ax.set(title="Subnets scored by the searches of a seed", xlabel="thousand parameters")
    ax.set_ylabel("absolute error, validation")


def _latency(ax: Axes, rows: list[dict[str, Any]]) -> None:
    """Draws the measured time of each extracted model against its operations."""
    ax.plot([r["flops"] / 1e9 for r in rows], [r["ms"] for r in rows], "o", ms=4)
    ax.set(title="Extracted models on this CPU", xlabel="GFLOP for a clip of 10 s")
    ax.set_ylabel("milliseconds")
    ax.set_ylim(0)


PICTURES = {"results.png": pictures.Kept(draw, ("results.json",))}
"""{picture: how it is drawn}"""
