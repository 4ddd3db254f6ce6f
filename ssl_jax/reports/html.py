"""Self-contained pages, which load nothing from the network: sections, tables, pictures.

A page follows the reader's preference for light or dark colours. Plots are in `plots`.
"""

import base64
import html
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image

from ssl_jax.evals.table import NONE, missing
from ssl_jax.reports import style

SERIES = len(style.LIGHT)  # colours of series; CSS classes c0 to c7
LOG_SWITCH = '<label class="switch"><input type="checkbox" id="log">log scale</label>'
"""Switches the plots of a page that have a logarithmic version; at most one per page."""

_LIGHT = {
    "ink": style.INK,
    "soft": style.SOFT,
    "line": style.LINE,
    "paper": "#ffffff",
    "panel": "#f5f7f9",
    "mark": "#fff0b8",
    "bad": "#b3261e",
    "low": "#2b5fa8",
    "high": "#b8650f",
}
_DARK = {
    "ink": "#e4e8ed",
    "soft": "#98a2b0",
    "line": "#3a424d",
    "paper": "#14181d",
    "panel": "#1d232a",
    "mark": "#4c4212",
    "bad": "#ff8a80",
    "low": "#6ea4ea",
    "high": "#f2a65a",
}

_STYLE = """
:root{color-scheme:light dark;LIGHT}
@media(prefers-color-scheme:dark){:root{DARK}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);
max-width:76rem;margin:0 auto;padding:1.5rem 1.25rem 4rem}
h1{font-size:1.5rem;margin:0 0 .2rem;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:2.2rem 0 .6rem;padding-bottom:.2rem;border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:1.2rem 0 .4rem}
p{margin:.4rem 0;max-width:60rem}
.soft{color:var(--soft)}.bad{color:var(--bad)}
nav{display:flex;flex-wrap:wrap;gap:.2rem 1rem;margin:.6rem 0}
a{color:var(--c0)}
pre{background:var(--panel);padding:.8rem 1rem;overflow-x:auto;border-radius:4px;font-size:13px}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.2rem .9rem .2rem 0;border-bottom:1px solid var(--line);
vertical-align:top;overflow-wrap:break-word}
th{font-weight:600;color:var(--soft)}
td.n,th.n{text-align:right;white-space:nowrap}
tr.mark td{background:var(--mark)}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,22rem),1fr));gap:1rem}
figure{margin:0;min-width:0}
figcaption{font-size:13px;color:var(--soft);overflow-wrap:anywhere}
figcaption b{color:var(--ink);font-weight:600}
svg{display:block;width:100%;height:auto;overflow:visible;font:11px system-ui,sans-serif}
svg text{fill:var(--soft);paint-order:stroke;stroke:var(--paper);stroke-width:3px}
svg .frame{stroke:var(--line);fill:none}
svg g,svg rect{fill:currentColor;stroke:none}
svg .none{color:var(--soft);stroke-dasharray:3 3}
svg .curve{fill:none;stroke:currentColor;stroke-width:1.6;stroke-linejoin:round}
svg .band{fill-opacity:.2}
svg .dot{fill:var(--ink);fill-opacity:.55}
svg .whisker{stroke:currentColor;stroke-width:1.4;fill:none}
svg .zero{stroke:var(--soft);stroke-dasharray:4 3;fill:none}
svg .mask{fill:#8b929c;fill-opacity:.86}
svg .sound{isolation:isolate}
svg .sound .mask{fill:#808080;fill-opacity:1;mix-blend-mode:saturation}
svg .edge{fill:none;stroke:#fff;stroke-opacity:.75;stroke-width:1.2}
img{max-width:100%;background:#fff}
svg image{image-rendering:pixelated}
.legend{display:flex;flex-wrap:wrap;gap:0 .9rem;font-size:13px;color:var(--soft)}
.legend i{display:inline-block;width:.8rem;height:.8rem;border-radius:2px;margin-right:.3rem;
vertical-align:-.1rem;background:currentColor}
.legend span{overflow-wrap:anywhere}.legend b{font-weight:400;color:var(--soft)}
.switch{display:inline-flex;gap:.4rem;align-items:center;cursor:pointer}
.log{display:none}
body:has(#log:checked) .log{display:block}
body:has(#log:checked) .linear{display:none}
details>summary{cursor:pointer;color:var(--soft)}
.whole{grid-column:1/-1}
.views{display:grid;grid-template-columns:repeat(auto-fill,minmax(4.2rem,1fr));gap:.4rem}
.whole svg+svg{margin-top:.3rem}
.tokens{font:13px/1.9 ui-monospace,monospace;overflow-wrap:anywhere}
.tokens{white-space:pre-wrap;max-width:none}
.tokens span{border-radius:3px;padding:.1rem .1rem;margin-right:1px}
.tokens span.masked{background:var(--c0);color:var(--paper)}
"""


def _style() -> str:
    def variables(colours: Mapping[str, str], series: Sequence[str]) -> str:
        named = {**colours, **{f"c{i}": c for i, c in enumerate(series)}}
        return ";".join(f"--{name}:{value}" for name, value in named.items())

    light, dark = variables(_LIGHT, style.LIGHT), variables(_DARK, style.DARK)
    classes = "".join(f".c{i}{{color:var(--c{i})}}" for i in range(SERIES))
    return _STYLE.replace("LIGHT", light).replace("DARK", dark).replace("\n", "") + classes


def text(value: object) -> str:
    """Returns a value as text of a page, with HTML's reserved characters escaped.

    A lone surrogate, which JSON may contain, becomes a question mark.
    """
    return html.escape(str(value)).encode("utf-8", "replace").decode()


class Markup(str):
    """HTML, which a table shows as it is; any other value is shown as text."""


def link(words: str, address: str) -> Markup:
    """Returns a link to a file beside the page."""
    return Markup(f'<a href="{text(address)}">{text(words)}</a>')


def short(value: object) -> str:
    """Returns a number in short form: 15k, 0.003, 2e-05; "none" for NaN and None; other values as
    text."""
    if missing(value):
        return NONE
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        return str(value)
    number = float(value)
    for unit, word in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= max(unit, 1e4) and math.isfinite(number):
            return f"{number / unit:.4g}{word}"
    return f"{number:.4g}"


def page(title: str, sections: Mapping[str, str], lead: str = "") -> str:
    """Returns a complete page: title, `lead` (HTML), links to the sections, and the sections.

    sections: {heading: HTML}. The anchor of a section is its heading in lower case, with dashes.
    """
    links = "".join(f'<a href="#{anchor(name)}">{text(name)}</a>' for name in sections)
    body = "".join(
        f'<section id="{anchor(name)}"><h2>{text(name)}</h2>{content}</section>\n'
        for name, content in sections.items()
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1">'
        # an empty icon, or the browser requests one
        f'<link rel="icon" href="data:,"><title>{text(title)}</title>'
        f"<style>{_style()}</style></head>\n<body><header><h1>{text(title)}</h1>{lead}"
        f"<nav>{links}</nav></header>\n{body}</body></html>\n"
    )


def anchor(heading: str) -> str:
    """Returns the id of a section: "Time per scope" -> "time-per-scope"."""
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")


def table(rows: Sequence[Mapping[str, object]], marked: Iterable[int] = ()) -> str:
    """Returns rows of {column: value} as a table, with "–" for missing values.

    Columns are in order of first appearance. A column is right-aligned if all of its values are
    numbers or texts that begin with a digit. Rows whose indices are in `marked` are highlighted.
    """
    if not rows:
        return '<p class="soft">none</p>'
    columns = list(dict.fromkeys(name for row in rows for name in row))
    right = {c: all(_numeric(row[c]) for row in rows if c in row) for c in columns}
    marks = set(marked)

    def cell(tag: str, column: str, value: object) -> str:
        kind = ' class="n"' if right[column] else ""
        content = value if isinstance(value, Markup) else text(_shown(value))
        return f"<{tag}{kind}>{content}</{tag}>"

    head = "".join(cell("th", c, c) for c in columns)
    lines = []
    for i, row in enumerate(rows):
        kind = ' class="mark"' if i in marks else ""
        cells = "".join(cell("td", c, row.get(c, "–")) for c in columns)
        lines.append(f"<tr{kind}>{cells}</tr>")
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _shown(value: object) -> object:
    if missing(value):
        return NONE
    return f"{value:.6g}" if isinstance(value, float) else value


def _numeric(value: object) -> bool:
    if missing(value) or value == NONE:
        return True  # in a column of numbers
    return isinstance(value, int | float) or bool(re.match(r"[-+]?\d", str(value)))


def figure(drawing: str, title: str = "", note: str = "") -> str:
    """Returns a drawing (HTML or SVG) with a title above and a note below, both plain text."""
    head = f"<figcaption><b>{text(title)}</b></figcaption>" if title else ""
    foot = f"<figcaption>{text(note)}</figcaption>" if note else ""
    return f"<figure>{head}{drawing}{foot}</figure>"


def grid(figures: Iterable[str]) -> str:
    """Returns figures side by side, as many as fit the width of the window."""
    return f'<div class="grid">{"".join(figures)}</div>'


def details(summary: str, content: str, opened: bool = False) -> str:
    """Returns a summary that shows its content when clicked."""
    state = " open" if opened else ""
    return f"<details{state}><summary>{text(summary)}</summary>{content}</details>"


def png(pixels: np.ndarray) -> str:
    """Returns pixels (H, W, 3) or (H, W) uint8 as the data URL of a PNG."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
