"""Pages and plots: well formed, self-contained, and faithful to their numbers."""

import base64
import io
import re

import numpy as np
import page_checks
import pytest
from PIL import Image

from ssl_jax.reports import html, plots


def points(svg, kind="curve"):
    """Returns the (x, y) of every subpath of the paths of a class."""
    paths = re.findall(rf'<path class="{kind}(?: [^"]*)?"[^>]* d="([^"]*)"', svg)
    pieces = [p for path in paths for p in path.strip("MZ").split("M") if p]
    return [np.array([xy.split() for xy in p.split("L")], float) for p in pieces]


def test_a_page_is_well_formed_and_asks_for_nothing():
    table = html.table([{"name": "a < b & 'c'", "value": 1.5}, {"name": "d", "more": "x"}], [1])
    content = html.page("A <title>", {"First part": table, "Second": html.png(np.eye(3) > 0)})
    page = page_checks.check(content)
    assert page.headings() == ["first-part", "second"]
    assert "a < b & 'c'" in page.words and "A <title>" in page.words
    assert page.words.count("–") == 2
    assert page.count("tr", class_="mark") == 1 and page.count("td", class_="n") == 2
    assert "prefers-color-scheme:dark" in content


@pytest.mark.parametrize(
    "bad",
    [
        "<!doctype html><p><b>x</p></b>",
        "<!doctype html><p>",
        '<!doctype html><img src="https://example.org/a.png">',
        '<!doctype html><p id="a"></p><p id="a"></p>',
        '<!doctype html><a href="#nowhere">x</a>',
        "<!doctype html><style>@import 'x.css'</style>",
        '<!doctype html><path d="M1.0 nan"/>',
    ],
)
def test_the_check_of_pages_can_fail(bad):
    with pytest.raises(AssertionError):
        page_checks.check(bad)


def test_a_picture_is_the_same_pixels():
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    address = html.png(pixels)
    data = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)


def test_a_line_is_where_its_numbers_are_and_breaks_where_there_is_none():
    line = plots.Line("a", [0, 1, 2, 3, 4, 5], [1.0, 3.0, np.nan, 2.0, 1.0, np.inf])
    first, second = points(plots.lines([line], "t"))
    assert len(first) == len(second) == 2
    # x is evenly spaced, larger values are higher, equal ones are level
    assert np.allclose(np.diff([*first[:, 0], *second[:, 0]]), np.array([1, 2, 1]) * 71.6, atol=0.2)
    assert second[1, 1] == first[0, 1] > second[0, 1] > first[1, 1]
    assert second[0, 1] == pytest.approx((first[0, 1] + first[1, 1]) / 2, abs=0.1)


def test_the_logarithmic_twin_is_straight_where_a_line_decays():
    x = np.arange(20)
    svg = plots.lines([plots.Line("a", x, 0.5**x)], "t", log_switch=True)
    linear, log = points(svg)
    assert 'class="linear"' in svg and 'class="log"' in svg
    assert np.ptp(np.diff(linear[:, 1])) > 50
    assert np.ptp(np.diff(log[:, 1])) < 0.3
    with_zero = plots.lines([plots.Line("a", x, x)], "t", log_switch=True)
    assert 'class="log"' not in with_zero


def test_a_long_line_is_short_in_the_page_and_keeps_its_spike():
    y = np.sin(np.arange(50_000) / 5_000)
    y[31_415] = 40
    (found,) = points(plots.lines([plots.Line("a", np.arange(50_000), y)], "t"))
    assert len(found) <= plots.POINTS
    spike = found[found[:, 1].argmin()]
    assert spike[0] == pytest.approx(plots.LEFT + (420 - 62) * 31_415 / 49_999, abs=0.1)
    assert spike[1] < found[:, 1].max() - 180


def test_a_band_and_a_legend():
    lines = [
        plots.Line("mine", [0, 1], [1, 2]),
        plots.Line("theirs", [0, 1], [1, 1], low=[0, 0.5], high=[2, 3], colour=3),
    ]
    svg = plots.lines(lines, "t")
    (band,) = points(svg, "band")
    assert len(band) == 4 and svg.count('<g class="c3">') == 2
    page = page_checks.check(html.page("p", {"a": svg}))
    assert page.words.count("theirs") == 2  # the legend's and the tip's


@pytest.mark.parametrize("y", [[], [np.nan, np.nan]])
def test_what_has_no_number_says_so(y):
    assert "no finite value" in plots.lines([plots.Line("a", range(len(y)), y)], "t")
    assert "no finite value" in plots.points({"g": {"s": y}}, "t")


@pytest.mark.parametrize(
    ("low", "high", "log", "ticks"),
    [
        (0.0, 1.0, False, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-3.0, 7.1, False, [-2, 0, 2, 4, 6]),
        (0.9, 2000.0, True, [1, 10, 100, 1000]),
        (0.03, 0.4, True, [0.05, 0.1, 0.2]),
        (2.01, 2.13, True, [2.02, 2.04, 2.06, 2.08, 2.1, 2.12]),
    ],
)
def test_ticks_are_round_numbers_within_the_axis(low, high, log, ticks):
    assert plots._Axis(low, high, 0, 1, log).ticks() == pytest.approx(ticks)


def test_numbers_in_few_characters():
    given = [0.0012345, 1234, 56_000, 2.5e6, -3e9, 1e-7, float("nan"), True, "a", 0]
    assert [html.short(v) for v in given] == (
        ["0.001234", "1234", "56k", "2.5M", "-3G", "1e-07", "none", "True", "a", "0"]
    )


def test_a_score_over_nothing_is_none_and_never_the_best():
    table = html.table([{"wer": float("nan")}, {"wer": None}, {"wer": 0.25}])
    assert table.count('<td class="n">none</td>') == 2 and "nan" not in table
    rows = [{"lr": 1.0, "wer": 0.5}, {"lr": 2.0, "wer": None}, {"lr": 3.0, "wer": float("nan")}]
    svg = plots.parallel(rows, ["lr", "wer"], "t", colour="wer")
    assert svg.count('class="none"') == 2 and svg.count("var(--high) 100%") == 1
    svg = plots.points({"a": {"x": [None]}, "b": {"x": [0.5]}}, "t")
    assert svg.count('class="mean"') == 1


def test_points_stand_at_the_means_with_intervals_and_dots_for_seeds():
    svg = plots.points({"a": {"x": [0.45, 0.5, 0.55], "y": 1.0}, "b": {"x": [0.25]}}, "t")
    first, alone, other = (
        float(y) for y in re.findall(r'class="mean" cx="[\d.]+" cy="([\d.]+)"', svg)
    )
    assert (other - first) / (first - alone) == pytest.approx(0.25 / 0.5, abs=0.01)
    assert svg.count('class="whisker"') == 1 and svg.count('class="dot"') == 3
    assert 'class="zero"' not in svg
    page_checks.check(html.page("p", {"a": svg}))
    svg = plots.points({"a": {"x": [-0.4, -0.2]}, "b": {"x": [-0.1]}}, "t")
    (zero,) = re.findall(r'class="zero" d="M\d+ ([\d.]+)H', svg)
    assert float(zero) < min(float(y) for y in re.findall(r'cy="([\d.]+)"', svg))


def test_layers_and_steps_have_whole_ticks():
    svg = plots.lines([plots.Line("a", [0, 1, 2], [0.1, 0.2, 0.4])], "t", xlabel="layer")
    below = re.findall(r'y="220.0" text-anchor="middle">([\d.]+)<', svg)
    assert below == ["0", "1", "2"]


def test_parallel_coordinates():
    rows = [
        {"lr": 1e-4, "norm": "pre", "score": 0.5},
        {"lr": 1e-2, "norm": "post", "score": 0.9},
        {"lr": 1e-3, "norm": "pre", "score": float("nan")},
    ]
    svg = plots.parallel(rows, ["lr", "norm", "score"], "t", colour="score")
    dashed, worst, best = points(svg, "curve")
    assert len(dashed) == 2 and svg.count('class="none"') == 1
    assert len(worst) == len(best) == 3
    # a logarithmic axis, since it spans a factor of 100: 1e-3 is in the middle
    assert dashed[0, 1] == pytest.approx((worst[0, 1] + best[0, 1]) / 2, abs=0.1)
    assert worst[1, 1] == dashed[1, 1] != best[1, 1]
    assert "var(--high) 100%" in svg and "var(--high) 0%" in svg
    page_checks.check(html.page("p", {"a": svg}))
