"""A report in a real browser: it is drawn, is readable in light and dark, and loads nothing else.

Skipped without one: pip install 'ssl_jax[browser]', and apt install chromium or
`playwright install chromium`. The content of pages is checked elsewhere, without a browser.
"""

import shutil
from pathlib import Path

import pytest
import report_folder as cases

from ssl_jax.reports import html, plots, run_report

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# for every text, the contrast of its colour and the background: (luminance + 0.05) ratios
CONTRAST = """() => {
  const light = text => {
    const part = document.createElement('canvas').getContext('2d');
    part.fillStyle = text; part.fillRect(0, 0, 1, 1);
    const rgb = [...part.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255);
    const line = rgb.map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * line[0] + 0.7152 * line[1] + 0.0722 * line[2] + 0.05;
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  return [...document.querySelectorAll('p, td, th, h2, a, svg text, .legend b, .curve')].map(e => {
    const style = getComputedStyle(e);
    const ink = light(e.matches('svg text') ? style.fill
      : e.matches('.curve') ? style.stroke : style.color);
    return [Math.max(ink, paper) / Math.min(ink, paper), e.outerHTML.slice(0, 80)];
  });
}"""
BOXES = """kind => [...document.querySelectorAll(kind)].filter(e => e.checkVisibility())
  .map(e => e.getBoundingClientRect()).map(b => [b.width, b.height])"""


@pytest.fixture(scope="module")
def browser():
    library = pytest.importorskip(
        "playwright.sync_api", reason="no playwright: pip install 'ssl_jax[browser]'"
    )
    own = next(filter(None, map(shutil.which, BROWSERS)), None)
    with library.sync_playwright() as play:
        if own is None and not Path(play.chromium.executable_path).is_file():
            pytest.skip("no Chromium: apt install chromium, or playwright install chromium")
        found = play.chromium.launch(executable_path=own, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory, root):
    folder = cases.make_folder(tmp_path_factory.mktemp("browser") / "run", root)
    for add in (cases.add_evaluation, cases.add_examples, cases.add_scopes):
        add(folder)
    return run_report.write(folder)


def opened(browser, path, scheme, width=1200):
    """Returns (page, its console messages and any other requests)."""
    page, told = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 800}), []
    page.on("console", lambda message: told.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: told.append(f"error: {error}"))
    page.on("request", lambda request: told.append(request.url))
    page.goto(path.as_uri())
    return page, [t for t in told if t != path.as_uri() and not t.startswith("data:")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_is_drawn_and_readable(browser, report, scheme):
    page, told = opened(browser, report, scheme)
    assert not told
    sections = page.evaluate(BOXES, "section")
    assert len(sections) == 7 and all(w > 500 and h > 40 for w, h in sections)
    plots_drawn = page.evaluate(BOXES, "svg .curve")
    assert len(plots_drawn) > 10 and all(w > 100 for w, _ in plots_drawn)
    assert all(w > 50 and h > 50 for w, h in page.evaluate(BOXES, "svg image"))
    contrast = page.evaluate(CONTRAST)
    low = [(round(ratio, 2), what) for ratio, what in contrast if ratio < 3]
    assert len(contrast) > 100 and not low
    assert min(ratio for ratio, what in contrast if not what.startswith("<path")) >= 4.5
    page.close()


def test_the_switch_turns_curves_to_a_logarithmic_scale(browser, report):
    page, _ = opened(browser, report, "light")
    before = page.evaluate(BOXES, ".linear"), page.evaluate(BOXES, ".log")
    assert len(before[0]) == 3 and not before[1]  # loss, lr and the deviation of targets
    page.check("#log")
    assert not page.evaluate(BOXES, ".linear") and page.evaluate(BOXES, ".log") == before[0]
    page.close()


def test_a_telephone_scrolls_in_one_direction_only(browser, report):
    page, _ = opened(browser, report, "light", width=400)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.close()


def test_parallel_coordinates_and_points_are_drawn(browser, tmp_path):
    rows = [{"lr": 10.0**-n, "norm": "pre", "score": n / 4} for n in range(4)]
    points = plots.points({"g": {"a": [1.0, 2.0], "b": 3.0}}, "points")
    drawn = plots.parallel(rows, ["lr", "norm", "score"], "lines", colour="score")
    path = tmp_path / "page.html"
    path.write_text(html.page("p", {"a": points, "b": drawn}))
    page, told = opened(browser, path, "dark")
    assert not told
    assert len(page.evaluate(BOXES, "svg .mean")) == 2
    colours = page.evaluate(
        "[...document.querySelectorAll('.curve')].map(e => getComputedStyle(e).stroke)"
    )
    assert len(set(colours)) == 4
    page.close()
