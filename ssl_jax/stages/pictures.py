"""Pictures of what a model heard and made of it: units over a spectrogram, layers, a map."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ssl_jax.stages.report import COLOURS

_STRIP = 0.16  # height of a row of units, and
_GAP = 0.04  # of what is between rows, in heights of the spectrogram


def spectrogram(ax: Axes, level: np.ndarray, seconds: float, title: str = "") -> None:
    """Draws level (T, M), such as log-mel, of a recording that lasts `seconds`."""
    extent = (0, seconds, 0, level.shape[1])
    # a few loud or silent points do not decide about the colours of all
    low, high = np.percentile(level, (2, 99.8))
    ax.imshow(level.T, origin="lower", aspect="auto", extent=extent, vmin=low, vmax=high)
    ax.set(title=title, xlabel="seconds", ylabel="mel band")


def phones(ax: Axes, spans: Sequence[tuple[float, float, str]], bands: int) -> None:
    """Writes (start, end, name) above the `bands` of a spectrogram, with lines where they begin."""
    seconds = ax.get_xlim()[1]
    for start, end, name in spans:
        if end <= seconds:
            ax.text((start + end) / 2, 1.03 * bands, name, ha="center", fontsize=8)
            ax.axvline(start, color="white", lw=0.5, alpha=0.6)
    ax.set_title(ax.get_title(), pad=18)


def units(
    ax: Axes, rows: Mapping[str, tuple[np.ndarray, float]], bands: int, numbers: bool = False
) -> None:
    """Draws, below the `bands` of a spectrogram, a row of colours for each name.

    rows: name -> (units (T,), units per second). numbers: of units that last long enough too.
    """
    seconds = ax.get_xlim()[1]
    for n, (name, (row, rate)) in enumerate(rows.items()):
        own = np.asarray(row)[: round(seconds * rate)]
        low = -bands * (_STRIP + _GAP) * (n + 1)
        high = low + bands * _STRIP
        # neighbouring units get colours far from each other
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
    """Returns (first, behind the last) of every run of equal values in row (T,)."""
    edges = np.flatnonzero(np.diff(row)) + 1
    ends = [0, *edges.tolist(), len(row)]
    return list(itertools.pairwise(ends)) if len(row) else []


def layers(
    ax: Axes, scores: Mapping[str, Mapping[str, Sequence[float]]], title: str, label: str
) -> None:
    """Draws {name: {layer: one value per seed}}: the mean, with a band from least to most.

    What has a single layer, as raw features have, is a level line.
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
    """Draws points (N, 2) in the colours of labels (N,), places among `names`, named at medians."""
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
