"""Plots as inline SVG for the pages of `html`: lines, points, parallel coordinates.

Colours come from the page, so that a plot is readable in its light and dark themes. Each function
returns a complete <figure>. Points that are NaN or infinite are left out.

Matplotlib's SVG would look the same, but takes 3 to 5 s per report, during which training waits,
against 0.1 s here. Its pages are two to four times as large, and CSS colours, tooltips and parallel
coordinates would still have to be added by hand.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.evals.table import interval
from ssl_jax.reports import html

WIDTH, HEIGHT = 420, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 8, 34  # margins of the axes
POINTS = 240  # of a line: more would not be visible, and make the page heavy
FEW = 6  # an axis of parallel coordinates labels every value up to this many


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve: x and y (n,), and optionally the edges of a band, low and high (n,).

    colour: an index below `html.SERIES`, by default the line's position among the lines. share:
    instead of it, a position on the colour scale, from 0 (lowest) to 1 (highest).
    """

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    low: Sequence[float] | np.ndarray | None = None
    high: Sequence[float] | np.ndarray | None = None
    colour: int | None = None
    share: float | None = None


@dataclasses.dataclass(frozen=True)
class _Axis:
    """Maps data (low, high) to pixels (start, end), and chooses ticks."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False  # ticks are whole numbers: steps and layers

    def __call__(self, value: Any) -> Any:
        low, high = self.low, self.high
        if self.log:
            value = np.log10(np.maximum(value, 1e-300))
            low, high = math.log10(low), math.log10(high)
        return self.start + (np.asarray(value) - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Returns round numbers within the range of the axis."""
        if not self.log:
            return _linear_ticks(self.low, self.high, self.whole)
        first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
        parts = (1,) if last - first >= 2 else (1, 2, 5)
        step = max(1, (last - first) // 5)
        found = [p * 10.0**e for e in range(first - 1, last + 1, step) for p in parts]
        within = [v for v in found if self.low <= v <= self.high]
        return within if len(within) > 1 else _linear_ticks(self.low, self.high)


def lines(
    series: Sequence[Line],
    title: str,
    *,
    xlabel: str = "step",
    log_switch: bool = False,
    note: str = "",
) -> str:
    """Returns a plot of lines over a shared x axis, with a legend if there are several.

    log_switch: `html.LOG_SWITCH` of the page switches y to a logarithmic scale, unless a value is
    not positive.
    """
    shown = [(_paint(line, i), line) for i, line in enumerate(series)]
    values = np.concatenate([np.zeros(0), *(_values(line) for _, line in shown)])
    x = np.concatenate([np.zeros(0), *(np.asarray(line.x, float) for _, line in shown)])
    values, x = values[np.isfinite(values)], x[np.isfinite(x)]
    if not len(values) or not len(x):
        return html.figure('<p class="soft">no finite value</p>', title, note)
    across = _axis(x.min(), x.max(), LEFT, WIDTH - RIGHT, margin=0.0)
    across = dataclasses.replace(across, whole=True)
    up = (HEIGHT - BOTTOM, TOP)
    drawing = _lines_svg(shown, title, xlabel, across, _axis(values.min(), values.max(), *up))
    if log_switch and values.min() > 0:
        axis = _log_axis(values.min(), values.max(), *up)
        drawing = f'<div class="linear">{drawing}</div><div class="log">' + (
            _lines_svg(shown, title, xlabel, across, axis) + "</div>"
        )
    return html.figure(
        drawing + _legend([(paint, line.name) for paint, line in shown]), title, note
    )


def points(
    groups: Mapping[str, Mapping[str, Sequence[float] | float]],
    title: str,
    *,
    note: str = "",
) -> str:
    """Returns {group: {series: value, or one value per seed}} as points at the mean.

    A point of several values has their 95 % interval and a dot for each value. The axis shows the
    range of the values, and zero where some are below it.
    """
    names = list(dict.fromkeys(s for group in groups.values() for s in group))
    cells = {
        (i, names.index(s)): np.atleast_1d(np.asarray(v, float))
        for i, group in enumerate(groups.values())
        for s, v in group.items()
    }
    cells = {k: v[np.isfinite(v)] for k, v in cells.items()}
    found = {k: (*interval(v), v) for k, v in cells.items() if len(v)}
    if not found:
        return html.figure('<p class="soft">no finite value</p>', title, note)
    ends = [m + sign * np.nan_to_num(h) for m, h, _ in found.values() for sign in (-1, 1)]
    ends += [v for *_, values in found.values() for v in values]
    ends += [0.0] if min(ends) < 0 else []
    axis = _axis(min(ends), max(ends), HEIGHT - BOTTOM, TOP, margin=0.08)
    room = (WIDTH - LEFT - RIGHT) / len(groups)
    width = 0.8 * room / len(names)
    parts = [_frame(axis)]
    if min(ends) < 0:
        parts.append(f'<path class="zero" d="M{LEFT} {float(axis(0)):.1f}H{WIDTH - RIGHT}"/>')
    for (group, one), (mean, half, values) in found.items():
        x = LEFT + room * (group + 0.1) + width * (one + 0.5)
        tip = f"{list(groups)[group]}, {names[one]}: {html.short(mean)}"
        if not math.isnan(half):
            parts += [_dot(x - 6, axis(v)) for v in values]
        parts.append(_point(x, axis, mean, half, one, tip))
    for i, name in enumerate(groups):
        parts.append(_words(name, LEFT + room * (i + 0.5), HEIGHT - BOTTOM + 14, "middle", room))
    legend = _legend([(_series(i), name) for i, name in enumerate(names)])
    return html.figure(_svg(title, parts) + legend, title, note)


def parallel(
    rows: Sequence[Mapping[str, Any]],
    axes: Sequence[str],
    title: str,
    *,
    colour: str,
    note: str = "",
) -> str:
    """Returns parallel coordinates: a line per row {axis: value} over the named axes.

    colour: the axis whose value colours the lines, for example the score. A numeric axis is
    logarithmic if its values are positive and the largest is over 30 times the smallest; any other
    axis has one position per value. A row skips axes for which it has no value, and is dashed if
    its `colour` is missing or not finite.
    """
    width, height = max(1000, 150 * len(axes)), 320
    scales = {
        name: _Scale([row.get(name) for row in rows], height - BOTTOM, TOP + 16) for name in axes
    }
    at = {n: LEFT + (width - 2 * LEFT) * i / max(len(axes) - 1, 1) for i, n in enumerate(axes)}
    scores = [_number(row.get(colour)) for row in rows]
    known = [s for s in scores if math.isfinite(s)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    parts = []
    # the highest are drawn last, on top of the others
    for i in sorted(range(len(rows)), key=lambda i: (math.isfinite(scores[i]), scores[i])):
        row = rows[i]
        points = [(at[n], scales[n].place(row[n])) for n in axes if scales[n].has(row.get(n))]
        tip = ", ".join(f"{n} {html.short(row[n])}" for n in axes if n in row)
        share = (scores[i] - low) / (high - low) if high > low else scores[i] * 0 + 1
        parts.append(_row_line(points, share, tip))
    for name in axes:
        parts += scales[name].draw(name, at[name], height - BOTTOM, TOP + 16)
    return html.figure(_svg(title, parts, width, height), title, note)


class _Scale:
    """One axis of parallel coordinates: numeric, or one position per value."""

    def __init__(self, values: Sequence[Any], start: float, end: float):
        given = [v for v in values if v is not None]
        numbers = [_number(v) for v in given]
        self.numeric = bool(given) and all(
            isinstance(v, int | float) and not isinstance(v, bool) for v in given
        )
        finite = [n for n in numbers if math.isfinite(n)]
        self.places: dict[str, float] = {}
        self.ticks: list[float] = []
        if self.numeric and finite:
            low, high = min(finite), max(finite)
            make = _log_axis if low > 0 and high / low > 30 else _axis
            self.axis = make(low, high, start, end)
            # if there are few values, all of them are ticks
            few = sorted(set(finite))
            self.ticks = few if len(few) <= FEW else self.axis.ticks()
        else:
            self.numeric = False
            names = list(dict.fromkeys(map(str, given)))
            gap = (end - start) / (len(names) + 1)
            self.places = {n: start + gap * (i + 1) for i, n in enumerate(names)}

    def has(self, value: Any) -> bool:
        if value is None:
            return False
        return math.isfinite(_number(value)) if self.numeric else str(value) in self.places

    def place(self, value: Any) -> float:
        return float(self.axis(value)) if self.numeric else self.places[str(value)]

    def draw(self, name: str, x: float, start: float, end: float) -> list[str]:
        ticks = {html.short(v): float(self.axis(v)) for v in self.ticks}
        parts = [f'<path class="frame" d="M{x:.1f} {start:.1f}V{end:.1f}"/>']
        for word, y in {**ticks, **self.places}.items():
            parts.append(f'<path class="frame" d="M{x - 3:.1f} {y:.1f}h6"/>')
            parts.append(_words(word, x + 6, y + 4, "start", 100))
        return [*parts, _words(name, x, start + 18, "middle", 120)]


def _row_line(points: Sequence[tuple[float, float]], share: float, tip: str) -> str:
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    if not points:
        return ""
    if math.isfinite(share):
        paint = _between(share)
    else:
        paint = 'class="none"'
    return (
        f'<g {paint}><path class="curve" stroke-opacity=".8" d="{path}">'
        f"<title>{html.text(tip)}</title></path></g>"
    )


def _paint(line: Line, place: int) -> str:
    """Returns the attribute that colours a line at position `place` of its plot."""
    if line.share is not None:
        return _between(line.share)
    return _series(place if line.colour is None else line.colour)


def _series(number: int) -> str:
    return f'class="c{number % html.SERIES}"'


def _between(share: float) -> str:
    return f'style="color:color-mix(in oklab,var(--high) {100 * share:.0f}%,var(--low))"'


def _values(line: Line) -> np.ndarray:
    parts = [line.y, *(edge for edge in (line.low, line.high) if edge is not None)]
    return np.concatenate([np.asarray(p, float) for p in parts])


def _number(value: Any) -> float:
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return float(value) if is_number else math.nan


def _axis(low: float, high: float, start: float, end: float, margin: float = 0.04) -> _Axis:
    """Returns a linear axis with a margin at both ends; a single value is at its centre."""
    room = (high - low) * margin if high > low else max(abs(high) * 0.1, 1e-6)
    # an axis that begins at zero stays there
    bottom = low if low == 0 and high > 0 else low - room
    return _Axis(float(bottom), float(high + room), start, end)


def _log_axis(low: float, high: float, start: float, end: float) -> _Axis:
    room = 10 ** max(0.04 * math.log10(high / low), 0.01)
    return _Axis(float(low / room), float(high * room), start, end, True)


def _linear_ticks(low: float, high: float, whole: bool = False) -> list[float]:
    raw = max((high - low) / 6, 1 if whole else 0)
    unit = 10.0 ** math.floor(math.log10(raw))
    parts = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    step = next(m * unit for m in parts if m * unit >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _lines_svg(
    shown: Sequence[tuple[str, Line]], title: str, xlabel: str, across: _Axis, up: _Axis
) -> str:
    parts = [_frame(up, across)]
    for paint, line in shown:
        x, y = across(np.asarray(line.x, float)), up(np.asarray(line.y, float))
        if line.low is not None and line.high is not None:
            low, high = up(np.asarray(line.low, float)), up(np.asarray(line.high, float))
            parts.append(_band(x, low, high, paint))
        parts.append(_curve(x, y, paint, line.name))
    middle = (LEFT + WIDTH - RIGHT) / 2
    return _svg(title, [*parts, _words(xlabel, middle, HEIGHT - 4, "middle")])


def _curve(x: np.ndarray, y: np.ndarray, paint: str, name: str) -> str:
    """Returns the path of a line, broken at values that are not finite; lone points are dots."""
    tip = f"<title>{html.text(name)}</title>"
    gaps, path, dots = np.flatnonzero(~np.isfinite(x + y)), "", ""
    for segment in np.split(np.arange(len(x)), gaps):
        segment = segment[np.isfinite(x[segment] + y[segment])]
        if len(segment) == 1:
            i = segment[0]
            dots += f'<circle cx="{x[i]:.1f}" cy="{y[i]:.1f}" r="2.5"/>'
        elif len(segment):
            kept = segment[_thinned(y[segment])]
            path += "M" + "L".join(f"{x[i]:.1f} {y[i]:.1f}" for i in kept)
    line = f'<path class="curve" d="{path}">{tip}</path>' if path else ""
    return f"<g {paint}>{line}{dots}</g>"


def _thinned(y: np.ndarray) -> np.ndarray:
    """Returns at most POINTS indices into y (n,) that keep both ends and every spike."""
    if len(y) <= POINTS:
        return np.arange(len(y))
    kept = {0, len(y) - 1}
    for part in np.array_split(np.arange(len(y)), POINTS // 2 - 1):
        kept |= {int(part[y[part].argmin()]), int(part[y[part].argmax()])}
    return np.array(sorted(kept))


def _band(x: np.ndarray, low: np.ndarray, high: np.ndarray, paint: str) -> str:
    real = np.flatnonzero(np.isfinite(x + low + high))
    kept = real[np.linspace(0, len(real) - 1, min(len(real), POINTS)).round().astype(int)]
    there = [f"{x[i]:.1f} {low[i]:.1f}" for i in kept]
    back = [f"{x[i]:.1f} {high[i]:.1f}" for i in kept[::-1]]
    band = f'<path class="band" d="M{"L".join(there + back)}Z"/>' if there else ""
    return f"<g {paint}>{band}</g>"


def _point(x: float, axis: _Axis, mean: float, half: float, colour: int, tip: str) -> str:
    """Returns the mean as a point, with its interval unless `half` is NaN."""
    whisker = ""
    if not math.isnan(half):
        low, high = float(axis(mean - half)), float(axis(mean + half))
        path = f"M{x:.1f} {low:.1f}V{high:.1f}M{x - 4:.1f} {low:.1f}h8M{x - 4:.1f} {high:.1f}h8"
        whisker = f'<path class="whisker" d="{path}"/>'
    return (
        f'<g {_series(colour)}>{whisker}<circle class="mean" cx="{x:.1f}" '
        f'cy="{float(axis(mean)):.1f}" r="4.5"><title>{html.text(tip)}</title></circle></g>'
    )


def _dot(x: float, y: Any) -> str:
    return f'<circle class="dot" cx="{x:.1f}" cy="{float(y):.1f}" r="2"/>'


def _frame(up: _Axis, across: _Axis | None = None) -> str:
    """Returns the axes: grid lines and labels at the ticks of y, labels at those of x."""
    parts = []
    for value in up.ticks():
        y = float(up(value))
        parts.append(f'<path class="frame" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_words(html.short(value), LEFT - 5, y + 4, "end"))
    if across is not None:
        for value in across.ticks():
            x = float(across(value))
            parts.append(_words(html.short(value), x, HEIGHT - BOTTOM + 14, "middle"))
    return "".join(parts)


def _svg(title: str, parts: Iterable[str], width: int = WIDTH, height: int = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.text(title)}">'
        f"{''.join(parts)}</svg>"
    )


def _words(word: str, x: float, y: float, anchor: str, room: float = 0.0) -> str:
    """Returns a text; one wider than `room` (0: no limit) is cut, with the full text as tooltip."""
    most, tip = int(room / 6), ""
    if room and len(word) > most:
        tip = f"<title>{html.text(word)}</title>"
        word = word[: max(most - 1, 1)] + "…"
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.text(word)}{tip}</text>'
        if word
        else ""
    )


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    if len(entries) < 2:
        return ""
    items = "".join(
        f"<span {paint}><i></i><b>{html.text(name)}</b></span>" for paint, name in entries
    )
    return f'<div class="legend">{items}</div>'
