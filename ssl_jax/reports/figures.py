"""Pictures and pages of a program's results: curves, a masked spectrogram, bars with intervals."""

import base64
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ssl_jax.core import atomic
from ssl_jax.engine import log
from ssl_jax.evals import table
from ssl_jax.stages import html, metrics

COLOURS = ("#3b6fb6", "#d1495b", "#66a182", "#edae49", "#7d5ba6")


def read_metrics(run: pathlib.Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (steps, values) of one metric of a run's metrics.jsonl, both (n,)."""
    found = metrics.series(log.read(run / "metrics.jsonl"))
    return found.get(name, (np.zeros(0), np.zeros(0)))


def curves(
    ax: Axes, groups: Mapping[str, Sequence[pathlib.Path]], metric: str, title: str, label: str
) -> None:
    """Draws one line per group: the mean over its runs, with a band from least to most."""
    for colour, (name, runs) in zip(COLOURS, groups.items(), strict=False):
        lines = [read_metrics(run, metric) for run in runs]
        steps = lines[0][0]
        values = np.stack([v for _, v in lines])
        ax.plot(steps, values.mean(0), color=colour, label=name)
        if len(runs) > 1:
            ax.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.2, lw=0)
    ax.set(title=title, xlabel="step", ylabel=label)
    if len(groups) > 1:
        ax.legend(frameon=False)


def masked_spectrogram(
    ax: Axes, log_mel: np.ndarray, mask: np.ndarray, seconds_per_token: float, title: str
) -> None:
    """Draws log_mel (T, M) of one clip over time and shades the tokens of mask (S,)."""
    seconds = len(mask) * seconds_per_token
    ax.imshow(log_mel.T, origin="lower", aspect="auto", extent=(0, seconds, 0, log_mel.shape[1]))
    for i in np.flatnonzero(mask):
        ax.axvspan(
            i * seconds_per_token, (i + 1) * seconds_per_token, color="white", alpha=0.75, lw=0
        )
    ax.set(title=title, xlabel="seconds", ylabel="mel band")


def bars(
    ax: Axes, groups: Mapping[str, Mapping[str, Sequence[float]]], title: str, label: str
) -> None:
    """Draws {group: {series: one value per seed}} as bars of the mean with 95 % intervals.

    Every seed is a dot, so that a reader sees what the interval is made of.
    """
    series = list(dict.fromkeys(s for g in groups.values() for s in g))
    width = 0.8 / len(series)
    for i, name in enumerate(series):
        own = [g for g in groups if name in groups[g]]
        x = np.array([list(groups).index(g) for g in own]) + (i - (len(series) - 1) / 2) * width
        intervals = [table.interval(groups[g][name]) for g in own]
        mean, half = np.array(intervals).T
        ax.bar(x, mean, width * 0.92, color=COLOURS[i], label=name)
        ax.errorbar(x, mean, half, fmt="none", color="black", capsize=3, lw=1)
        for xi, g in zip(x, own, strict=True):
            values = groups[g][name]
            ax.plot(np.full(len(values), xi), values, ".", color="black", ms=4, alpha=0.6)
    ax.set_xticks(range(len(groups)), list(groups))
    ax.set(title=title, ylabel=label, ylim=(0, None))
    ax.margins(y=0.15)
    ax.legend(frameon=False, ncols=len(series), loc="upper center")


def page(path: pathlib.Path, title: str, picture: pathlib.Path, text: str, next_: str) -> None:
    """Writes one self-contained HTML page: the picture, the table as text, what to try next."""
    image = base64.b64encode(picture.read_bytes()).decode()
    sections = {
        "Results": f'<img alt="results" src="data:image/png;base64,{image}">',
        "Numbers": f"<pre>{html.text(text)}</pre>",
        "Next": f"<pre>{html.text(next_)}</pre>",
    }
    atomic.write_text(path, html.page(title, sections))


def write_results(path: pathlib.Path, results: Mapping[str, Any]) -> None:
    """Writes results.json whole or not at all."""
    atomic.write_json(path, results)
