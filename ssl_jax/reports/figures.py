"""Figures of the results of an experiment: curves, spectrograms, units, bars with intervals."""

import base64
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ssl_jax.core import atomic
from ssl_jax.engine import log
from ssl_jax.evals import table
from ssl_jax.reports import html, metrics

COLOURS = ("#3b6fb6", "#d1495b", "#66a182", "#edae49", "#7d5ba6")


def read_metrics(run: pathlib.Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (steps, values) of one metric of a run's metrics.jsonl, both (n,)."""
    found = metrics.series(log.read(run / "metrics.jsonl"))
    return found.get(name, (np.zeros(0), np.zeros(0)))


def curves(
    ax: Axes, groups: Mapping[str, Sequence[pathlib.Path]], metric: str, title: str, label: str
) -> None:
    """Draws one line per group: the mean over its runs, with a band from min to max."""
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
    """Draws log_mel (T, M) of one clip over time and shades the masked tokens of mask (S,)."""
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

    Each seed is a dot, so that a reader can see the values behind the interval.
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
    """Writes one self-contained HTML page: the picture, the results as text, what to try next."""
    image = base64.b64encode(picture.read_bytes()).decode()
    sections = {
        "Results": f'<img alt="results" src="data:image/png;base64,{image}">',
        "Numbers": f"<pre>{html.text(text)}</pre>",
        "Next": f"<pre>{html.text(next_)}</pre>",
    }
    atomic.write_text(path, html.page(title, sections))


def write_results(path: pathlib.Path, results: Mapping[str, Any]) -> None:
    """Writes results.json atomically."""
    atomic.write_json(path, results)


_STRIP, _GAP = 0.16, 0.04  # height of a row of units, and of a gap, relative to the spectrogram


def spectrogram(ax: Axes, log_mel: np.ndarray, seconds: float, title: str = "") -> None:
    """Draws log_mel (T, M) of a recording that lasts `seconds`."""
    extent = (0, seconds, 0, log_mel.shape[1])
    # percentiles, so that outliers do not set the colour range
    low, high = np.percentile(log_mel, (2, 99.8))
    ax.imshow(log_mel.T, origin="lower", aspect="auto", extent=extent, vmin=low, vmax=high)
    ax.set(title=title, xlabel="seconds", ylabel="mel band")


def phones(ax: Axes, spans: Sequence[tuple[float, float, str]], bands: int) -> None:
    """Writes (start, end, name) above a spectrogram of `bands`, with a line at each start."""
    seconds = ax.get_xlim()[1]
    for start, end, name in spans:
        if end <= seconds:
            ax.text((start + end) / 2, 1.03 * bands, name, ha="center", fontsize=8)
            ax.axvline(start, color="white", lw=0.5, alpha=0.6)
    ax.set_title(ax.get_title(), pad=18)


def units(
    ax: Axes, rows: Mapping[str, tuple[np.ndarray, float]], bands: int, numbers: bool = False
) -> None:
    """Draws a row of colours for each name, below a spectrogram of `bands`.

    rows: name -> (units (T,), units per second). numbers: label units that last long enough.
    """
    seconds = ax.get_xlim()[1]
    for n, (name, (row, rate)) in enumerate(rows.items()):
        own = np.asarray(row)[: round(seconds * rate)]
        low = -bands * (_STRIP + _GAP) * (n + 1)
        high = low + bands * _STRIP
        # consecutive ids get distant colours
        colour = (own * 0.618034) % 1
        extent = (0, len(own) / rate, low, high)
        ax.imshow(colour[None], aspect="auto", cmap="hsv", extent=extent, vmin=0, vmax=1)
        ax.text(1.01 * seconds, (low + high) / 2, name, va="center", fontsize=8)
        for start, end in _runs(own) if numbers else ():
            if (end - start) / rate > 0.02 * seconds:
                middle = (start + end) / 2 / rate
                number = str(own[start])
                ax.text(middle, (low + high) / 2, number, ha="center", va="center", fontsize=7)
    ax.set(xlim=(0, seconds), yticks=[], ylabel="")
    ax.set_ylim(-bands * (_STRIP + _GAP) * len(rows), bands)


def _runs(row: np.ndarray) -> list[tuple[int, int]]:
    """Returns (start, stop) of every run of equal values in row (T,)."""
    edges = np.flatnonzero(np.diff(row)) + 1
    ends = [0, *edges.tolist(), len(row)]
    return list(itertools.pairwise(ends)) if len(row) else []


def layers(
    ax: Axes, scores: Mapping[str, Mapping[str, Sequence[float]]], title: str, label: str
) -> None:
    """Draws {name: {layer: one value per seed}}: the mean, with a band from min to max.

    Features with a single layer, such as raw features, are a horizontal line.
    """
    for colour, (name, by_layer) in zip(COLOURS, scores.items(), strict=False):
        found = {int(layer): values for layer, values in by_layer.items() if layer.isdigit()}
        values = np.array(list(found.values()))
        if len(found) == 1:
            ax.axhline(values.mean(), color=colour, ls="--", label=name)
            continue
        ax.plot(list(found), values.mean(1), "o-", color=colour, label=name)
        ax.fill_between(list(found), values.min(1), values.max(1), color=colour, alpha=0.2, lw=0)
    ax.set(title=title, xlabel="layer (0: input of the first block)", ylabel=label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False)


def principal(x: np.ndarray, count: int = 2) -> np.ndarray:
    """Returns the first principal components (N, count) of rows x (N, D), largest first."""
    centred = np.asarray(x, np.float64) - np.mean(x, 0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    return left[:, :count] * size[:count]


def embedding_map(
    ax: Axes, points: np.ndarray, labels: np.ndarray, names: Sequence[str], title: str = ""
) -> None:
    """Draws points (N, 2) coloured by labels (N,), indices into `names`, which stand at medians."""
    colours = [f"C{i}" for i in range(10)]
    for i, name in enumerate(names):
        own = points[labels == i]
        if not len(own):
            continue
        colour = colours[i % len(colours)]
        ax.plot(*own.T, "o" if i < len(colours) else "^", color=colour, ms=3, alpha=0.5, mew=0)
        x, y = np.median(own, 0)
        box = {"facecolor": "white", "edgecolor": colour, "pad": 1.5, "alpha": 0.85}
        ax.text(x, y, name, ha="center", va="center", fontsize=9, bbox=box)
    ax.set(title=title, xticks=[], yticks=[])
