"""Figures of the results of an experiment: curves, points with intervals, spectrograms, units.

`draw` lays out the panels of a figure in the style of the reports. Legends stand above the data.
"""

import base64
import itertools
import pathlib
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, to_rgb
from matplotlib.ticker import MaxNLocator

from ssl_jax.core import atomic
from ssl_jax.engine import log
from ssl_jax.evals import table
from ssl_jax.reports import html, metrics, style

COLOURS = style.LIGHT
SOUND = LinearSegmentedColormap.from_list("sound", [[c / 255 for c in rgb] for rgb in style.SOUND])
Band = Mapping[str, Any]
"""A curve over several runs: {step, mean, least, most}, each (n,)."""
Panel = Callable[[Axes], None]

_INCH = 12.5  # characters of a legend in an inch
_MARGIN = 0.9  # inches of a panel beside its axes


def draw(
    path: pathlib.Path,
    title: str,
    panels: Sequence[Panel | None],
    size: tuple[float, float] | None = None,
) -> None:
    """Draws the panels that there are, None for one that is not, in rows that leave no gap.

    size: of a panel, in inches, by default one that stays readable in three columns.
    """
    shown = [panel for panel in panels if panel is not None]
    count = -(-len(shown) // 3)
    rows = [list(row) for row in np.array_split(np.arange(len(shown)), count)]
    columns = int(np.lcm.reduce([len(row) for row in rows]))
    with plt.rc_context(style.MATPLOTLIB):
        wide = max(len(row) for row in rows)
        width, height = size or (5 if wide > 2 else 6, 4)
        figure = plt.figure(figsize=(width * wide, height * count), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # type: ignore
        grid = figure.add_gridspec(count, columns)
        for i, row in enumerate(rows):
            span = columns // len(row)
            for j, number in enumerate(row):
                shown[number](figure.add_subplot(grid[i, j * span : (j + 1) * span]))
        figure.suptitle(title)
        figure.savefig(path, dpi=style.DPI)
        plt.close(figure)


def legend(ax: Axes, names: Sequence[str]) -> None:
    """Writes the legend of these lines above the data, and the title above that."""
    columns = len(names)
    while columns > 1 and _width(names, columns) > _room(ax):
        columns -= 1
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1)}
    ax.legend(ncols=columns, **place, frameon=False, borderaxespad=0.1, columnspacing=1.2)
    title, rows = ax.get_title(loc="left") or ax.get_title(), -(-len(names) // columns)
    for loc in ("left", "center"):
        if ax.get_title(loc=loc):
            ax.set_title(title, loc=loc, pad=6 + 14 * rows)


def _room(ax: Axes) -> float:
    """Returns the characters that fit the width of axes, before they are laid out."""
    spec, inches = ax.get_subplotspec(), ax.figure.get_figwidth()  # type: ignore
    if spec is not None:
        inches *= len(spec.colspan) / spec.get_gridspec().ncols
    return _INCH * (inches - _MARGIN)


def _width(names: Sequence[str], columns: int) -> int:
    """Returns the characters of a legend, which fills its columns one after the other."""
    parts = np.array_split(np.array(names, object), columns)
    return sum(max(map(len, part)) + 6 for part in parts)


def read_metrics(run: pathlib.Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (steps, values) of one metric of a run's metrics.jsonl, both (n,)."""
    found = metrics.series(log.read(run / "metrics.jsonl"))
    return found.get(name, (np.zeros(0), np.zeros(0)))


def band(runs: Sequence[pathlib.Path], metric: str) -> dict[str, np.ndarray]:
    """Returns the band of a metric over runs, of any length; {} if none of them logs it."""
    lines = [line for line in (read_metrics(run, metric) for run in runs) if len(line[0])]
    names = ("step", "mean", "least", "most")
    return dict(zip(names, metrics.band(lines), strict=True)) if lines else {}


def curves(
    ax: Axes, groups: Mapping[str, Sequence[pathlib.Path]], metric: str, title: str, label: str
) -> None:
    """Draws one line per group of runs: the mean over those that have come so far, with a band
    from min to max."""
    bands(ax, {name: band(runs, metric) for name, runs in groups.items()}, title, label)


def bands(ax: Axes, given: Mapping[str, Band], title: str, label: str) -> None:
    """Draws {name: curve with its band}; a curve of a single step is a point."""
    shown = {name: curve for name, curve in given.items() if len(curve.get("step", ()))}
    for colour, (name, curve) in zip(itertools.cycle(COLOURS), shown.items(), strict=False):
        one_band(ax, curve, name, colour)
    ax.set(title=title, xlabel="step", ylabel=label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(shown) > 1:
        legend(ax, list(shown))


def one_band(ax: Axes, curve: Band, name: str, colour: str) -> None:
    """Draws the mean of a curve and its band."""
    step, mean = curve["step"], curve["mean"]
    ax.plot(step, mean, "-" if len(step) > 1 else "o", color=colour, label=name)
    ax.fill_between(step, curve["least"], curve["most"], color=colour, alpha=0.2, lw=0)


def masked_spectrogram(
    ax: Axes, log_mel: np.ndarray, mask: np.ndarray, seconds_per_token: float, title: str
) -> None:
    """Draws log_mel (T, M) of one clip over time, in grey at the masked tokens of mask (S,).

    A line below it marks the masked tokens too.
    """
    seconds, tall = len(mask) * seconds_per_token, log_mel.shape[1]
    low, high = np.percentile(log_mel, (2, 99.8))
    share = np.clip((log_mel - low) / max(high - low, 1e-9), 0, 1)
    token = np.arange(len(log_mel)) * len(mask) // len(log_mel)
    grey = np.repeat((0.25 + 0.65 * share)[..., None], 3, -1)
    picture = np.where(np.asarray(mask, bool)[token][:, None, None], grey, SOUND(share)[..., :3])
    ax.imshow(picture.swapaxes(0, 1), origin="lower", aspect="auto", extent=(0, seconds, 0, tall))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(mask, int), [0]])))
    spans = edges.reshape(-1, 2) * seconds_per_token
    ax.broken_barh([(a, b - a) for a, b in spans], (-0.07 * tall, 0.04 * tall), color=COLOURS[1])
    ax.text(1.01 * seconds, -0.05 * tall, "masked", va="center", fontsize=8)
    ax.set(title=title, xlabel="seconds", ylabel="mel band", xlim=(0, seconds))
    ax.set_ylim(-0.09 * tall, tall)
    ax.set_yticks([tick for tick in ax.get_yticks() if 0 <= tick <= tall])


def points(
    ax: Axes, groups: Mapping[str, Mapping[str, Sequence[float]]], title: str, label: str
) -> None:
    """Draws {group: {series: one value per seed}} as points at the mean, with 95 % intervals.

    Each seed is a dot beside it. Where there is one group, its series stand side by side. The axis
    shows the range of the values, and a line at zero where some are below it.
    """
    if len(groups) == 1:
        (own,) = groups.values()
        columns, names = {name: {"": values} for name, values in own.items()}, [""]
    else:
        columns = {group: dict(series) for group, series in groups.items()}
        names = list(dict.fromkeys(s for group in groups.values() for s in group))
    width = 0.7 / len(names)
    for i, (column, series) in enumerate(columns.items()):
        for name, values in series.items():
            place = names.index(name)
            colour = COLOURS[(place if len(names) > 1 else i if len(groups) == 1 else 0) % 8]
            at = i + (place - (len(names) - 1) / 2) * width
            _point(ax, at, values, width, colour, name if column == _holder(columns, name) else "")
    most = max(int(_room(ax) / len(columns)), 8)
    ax.set_xticks(range(len(columns)), [textwrap.fill(str(name), most) for name in columns])
    ax.set(title=title, ylabel=label, xlim=(-0.6, len(columns) - 0.4))
    ax.margins(y=0.12)
    ax.grid(axis="y")
    if any(value < 0 for series in columns.values() for own in series.values() for value in own):
        ax.axhline(0, color=style.SOFT, lw=1, ls="--", zorder=0.5)
    if len(names) > 1:
        legend(ax, names)


def _holder(columns: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """Returns the first column with a series, whose point stands for it in the legend."""
    return next(column for column, series in columns.items() if name in series)


def _point(
    ax: Axes,
    x: float,
    values: Sequence[float],
    width: float,
    colour: str,
    name: str = "",
    side: int = -1,
) -> float:
    """Draws the mean with its interval at x, and the values on one side of it; returns their x."""
    mean, half = table.interval(values)
    ax.plot([x], [mean], "o", color=colour, ms=7, label=name or "_")
    beside = x + side * min(0.28 * width, 0.12)
    if not np.isnan(half):
        ax.errorbar([x], [mean], [half], fmt="none", ecolor=colour, capsize=3, lw=1.6)
        dots = np.full(len(values), beside)
        ax.plot(dots, values, ".", color=colour, ms=5, alpha=0.55, mew=0)
    return beside


def pairs(ax: Axes, arms: Mapping[str, Sequence[float]], title: str, label: str) -> None:
    """Draws two arms {name: one value per seed}, paired by seed: a line for each seed."""
    ends = [
        _point(ax, i, values, 0.7, colour, side=side)
        for i, (values, colour, side) in enumerate(
            zip(arms.values(), COLOURS, (1, -1), strict=False)
        )
    ]
    for values in zip(*arms.values(), strict=True):
        ax.plot(ends, values, "-", color=style.SOFT, alpha=0.5, lw=1)
    ax.set_xticks(range(len(arms)), list(arms))
    ax.set(title=title, ylabel=label, xlim=(-0.5, len(arms) - 0.5))
    ax.margins(y=0.12)
    ax.grid(axis="y")


def page(
    path: pathlib.Path,
    title: str,
    picture: pathlib.Path,
    text: str,
    next_: str,
    lead: str = "",
    runs: Mapping[str, Sequence[pathlib.Path]] | None = None,
) -> None:
    """Writes one self-contained HTML page: the picture, the results as text, what to try next.

    lead: what was learned, in a few sentences. runs: {arm: run folders below that of the page},
    which are linked to.
    """
    image = base64.b64encode(picture.read_bytes()).decode()
    sections = {
        "Results": f'<img alt="results" src="data:image/png;base64,{image}">',
        "Numbers": f"<pre>{html.text(text)}</pre>",
    }
    if runs:
        sections["Runs"] = html.table(
            [{"arm": arm, "reports": _links(path.parent, own)} for arm, own in runs.items()]
        )
    sections["Next"] = f"<pre>{html.text(next_)}</pre>"
    atomic.write_text(path, html.page(title, sections, f"<p>{html.text(lead)}</p>" * bool(lead)))


def _links(root: pathlib.Path, runs: Sequence[pathlib.Path]) -> html.Markup:
    """Returns links from a page in `root` to the reports of runs below it."""
    links = (html.link(r.name, f"{r.relative_to(root).as_posix()}/report.html") for r in runs)
    return html.Markup(" ".join(links))


def write_results(path: pathlib.Path, results: Mapping[str, Any]) -> None:
    """Writes results.json atomically."""
    atomic.write_json(path, results)


_TINTS = [tuple(0.4 * c + 0.6 for c in to_rgb(colour)) for colour in COLOURS]
_UNITS = ListedColormap([*map(to_rgb, COLOURS), *_TINTS])
_STRIP, _GAP = 0.16, 0.04  # height of a row of units, and of a gap, relative to the spectrogram


def spectrogram(ax: Axes, log_mel: np.ndarray, seconds: float, title: str = "") -> None:
    """Draws log_mel (T, M) of a recording that lasts `seconds`."""
    extent = (0, seconds, 0, log_mel.shape[1])
    # percentiles, so that outliers do not set the colour range
    low, high = np.percentile(log_mel, (2, 99.8))
    limits: dict[str, Any] = {"vmin": low, "vmax": high, "cmap": SOUND}
    ax.imshow(log_mel.T, origin="lower", aspect="auto", extent=extent, **limits)
    ax.set(title=title, xlabel="seconds", ylabel="mel band")


def phones(ax: Axes, spans: Sequence[tuple[float, float, str]], bands: int) -> None:
    """Writes (start, end, name) above a spectrogram of `bands`, with a line at each start."""
    seconds = ax.get_xlim()[1]
    for start, end, name in spans:
        if end <= seconds:
            ax.text((start + end) / 2, 1.03 * bands, name, ha="center", fontsize=8)
            ax.vlines(start, 0, bands, color="white", lw=0.5, alpha=0.6)
    for loc in ("left", "center"):
        if title := ax.get_title(loc=loc):
            ax.set_title(title, loc=loc, pad=18)


def units(
    ax: Axes, rows: Mapping[str, tuple[np.ndarray, float]], bands: int, numbers: bool = False
) -> None:
    """Draws a row of colours for each name, below a spectrogram of `bands`.

    rows: name -> (units (T,), units per second). A unit has one colour in its row, and never that
    of a neighbour. numbers: label units that last long enough.
    """
    seconds = ax.get_xlim()[1]
    for n, (name, (row, rate)) in enumerate(rows.items()):
        own = np.asarray(row)[: round(seconds * rate)]
        low = -bands * (_STRIP + _GAP) * (n + 1)
        high = low + bands * _STRIP
        colour = _unit_colours(own)
        extent = (0, len(own) / rate, low, high)
        limits: dict[str, Any] = {"cmap": _UNITS, "vmin": -0.5, "vmax": _UNITS.N - 0.5}
        ax.imshow(colour[None], aspect="auto", extent=extent, interpolation="nearest", **limits)
        ax.text(1.01 * seconds, (low + high) / 2, name, va="center", fontsize=8)
        for start, end in _runs(own) if numbers else ():
            if (end - start) / rate > 0.02 * seconds:
                middle = (start + end) / 2 / rate
                ink = "white" if colour[start] < len(COLOURS) else "black"
                look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7, "color": ink}
                ax.text(middle, (low + high) / 2, str(own[start]), **look)
    ax.set(xlim=(0, seconds), yticks=[], ylabel="")
    ax.set_ylim(-bands * (_STRIP + _GAP) * len(rows), bands)


def _unit_colours(row: np.ndarray) -> np.ndarray:
    """Returns an index into _UNITS for every unit of row (T,).

    Equal units have equal colours, neighbours have different ones, and each colour is used for as
    few units as possible.
    """
    order = [int(row[start]) for start, _ in _runs(row)]
    near: dict[int, set[int]] = {unit: set() for unit in order}
    for a, b in itertools.pairwise(order):
        near[a].add(b)
        near[b].add(a)
    found: dict[int, int] = {}
    used = [0] * _UNITS.N
    for unit in near:  # by first appearance
        taken = {found[other] for other in near[unit] if other in found}
        free = [c for c in range(_UNITS.N) if c not in taken] or list(range(_UNITS.N))
        found[unit] = min(free, key=lambda c: (used[c], c))
        used[found[unit]] += 1
    return np.array([found[int(unit)] for unit in row], int)


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
    deepest = max((int(n) for own in scores.values() for n in own if n.isdigit()), default=0)
    ax.set_xticks(range(0, deepest + 1, -(-(deepest + 1) // 13)))
    legend(ax, list(scores))


def principal(x: np.ndarray, count: int = 2) -> np.ndarray:
    """Returns the first principal components (N, count) of rows x (N, D), largest first."""
    centred = np.asarray(x, np.float64) - np.mean(x, 0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    return left[:, :count] * size[:count]


def embedding_map(
    ax: Axes, points: np.ndarray, labels: np.ndarray, names: Sequence[str], title: str = ""
) -> None:
    """Draws points (N, 2) coloured by labels (N,), indices into `names`, which stand at medians."""
    colours = COLOURS
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
