"""Plots of metrics.jsonl: curves, collapse diagnostics, probes, speed."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.reports import html, meanings, plots

Row = Mapping[str, Any]
Series = dict[str, tuple[np.ndarray, np.ndarray]]
"""Metric -> (steps, values), both (n,); values that were not finite are NaN."""
Bands = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]
"""Name -> metric -> {step, mean, least, most}, as in a curves.json of an experiment."""

REFERENCES = {"speech": "audio", "music": "audio", "sounds": "audio", "audio": "audio"}
REFERENCES |= {"image": "image", "images": "image", "text": "text"}
"""Name of a reference -> the modality whose runs it is for."""
SPLITS = ("train", "valid", "test")
SPEED = ("examples_per_second", "audio_hours_per_second")
# diagnostics of representation collapse, in addition to every metric that ends in _std
COLLAPSE = (
    "instance_variance_ratio",
    "teacher_student_cosine",
    "code_perplexity",
    "soft_perplexity",
    "prediction_entropy",
    "target_entropy",
    "blank_share",
)
FIRST = ("loss", "accuracy")  # the first plots
PEAK = 3.0  # times the median speed: anything faster is an artifact of timing
SHOWN = 6  # evaluations that a plot by layer shows, a line each
_LAYERED = {
    "std": "Spread of a layer's mean over clips; near 0, all clips look alike to it.",
    "rankme": "Dimensions that a layer uses, at most its width; 1 is a collapse.",
    "teacher_cosine": "How alike a layer is in student and teacher; 1 is equal.",
    "ridge/accuracy": "What a linear probe reads from each layer.",
    "knn/accuracy": "What the nearest neighbours in each layer tell.",
}
_LAYER = re.compile(r"monitor/(?P<what>.+?)[/_]layer(?P<layer>\d+)")


def series(rows: Sequence[Row]) -> Series:
    """Returns every metric of the rows of a metrics.jsonl."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name in ("step", "time"):
                continue
            steps, values = found.setdefault(name, ([], []))
            steps.append(row["step"])
            values.append(np.nan if value is None else float(value))
    return {name: (np.array(s), np.array(v)) for name, (s, v) in found.items()}


def of_modality(bands: Bands, modality: str, where: str) -> Bands:
    """Returns the references that a run of a modality may be compared with.

    A reference whose name is a kind of data (REFERENCES) is for runs that read such data; any other
    is for all. where: the file of the references. Raises ValueError if none is left.
    """
    kept = {
        name: band
        for name, band in bands.items()
        if not modality or REFERENCES.get(name, modality) == modality
    }
    if not kept:
        raise ValueError(
            f"{where} has the references {', '.join(bands)}, and the run reads {modality}: make "
            f"one of your own seeds with `python -m experiments.curves "
            f"--runs {modality}=RUN,RUN --save curves.json`"
        )
    return kept


def band(
    lines: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns (steps, mean, least, most) over curves (steps, values), all (n,).

    The steps are those of any curve. A curve counts from its first step to its last, and is
    linear in between; so curves may differ in length, and may have a single point.
    """
    steps = np.unique(np.concatenate([s for s, _ in lines]))
    values = np.array([np.interp(steps, s, v, left=np.nan, right=np.nan) for s, v in lines])
    there = ~np.isnan(values)
    count = np.maximum(there.sum(0), 1)
    mean = np.where(there.any(0), np.where(there, values, 0).sum(0) / count, np.nan)
    least, most = np.where(there, values, np.inf).min(0), np.where(there, values, -np.inf).max(0)
    least, most = (np.where(there.any(0), edge, np.nan) for edge in (least, most))
    return steps, mean, least, most


def curves(found: Series, bands: Bands | None = None, validation: str = "") -> str:
    """Returns a plot for each metric that is not a collapse diagnostic, with a line per split.

    validation: why the loss of validation differs from that of training, told where both are.
    """
    names = [n for n in _groups(found) if not is_diagnostic(n) and n not in SPEED]
    evaluated = {name.partition("/")[2] for name in found if not name.startswith("train/")}
    places = {name: FIRST.index(name) if name in FIRST else len(FIRST) for name in names}
    names.sort(key=lambda name: (places[name], name not in evaluated, name))
    if not names:
        return '<p class="soft">No steps have been logged yet.</p>'
    both = {"train/loss", "valid/loss"} <= set(found)
    notes = {"loss": validation} if both else {}
    figures = [_plot(found, name, bands or {}, notes.get(name, "")) for name in names]
    return f"<p>{html.LOG_SWITCH}</p>{html.grid(figures)}"


def collapse(found: Series, evaluated: Mapping[str, Mapping[str, float]]) -> str:
    """Returns the plots of collapse diagnostics: over steps, and by layer.

    evaluated: features -> diagnostics of their layers, as in evaluation.json.
    """
    figures = [_plot(found, name, {}) for name in _groups(found) if is_diagnostic(name)]
    layers = _by_layer(found)
    for what in ("std", "rankme", "teacher_cosine"):
        if what in layers:
            figures.append(_layers_plot(what, layers[what]))
    figures += [_evaluated_plot(what, evaluated) for what in ("std", "rankme") if evaluated]
    if not figures:
        return '<p class="soft">The method logs no collapse diagnostics.</p>'
    hint = ""
    if "rankme" not in layers and not evaluated:
        hint = (
            '<p class="soft">To measure the standard deviation and the effective rank (RankMe) of '
            "each layer, set <code>config.eval.monitors=('collapse',)</code>, or run "
            "<code>python -m ssl_jax.evaluate</code>.</p>"
        )
    return html.grid(figures) + hint


def probes(found: Series) -> str:
    """Returns the plots of the probes that ran during training."""
    named = {m[1] for n in found if (m := re.fullmatch(r"monitor/([\w/]+)/accuracy", n))}
    figures = []
    if named:
        lines = [plots.Line(name, *found[f"monitor/{name}/accuracy"]) for name in sorted(named)]
        title = ", ".join(sorted(named))
        note = "Accuracy of a probe of the best layer, while the model trains."
        figures.append(plots.lines(lines, f"validation accuracy: {title}", note=note))
    layers = _by_layer(found)
    figures += [
        _layers_plot(what, layers[what]) for what in sorted(layers) if what.endswith("/accuracy")
    ]
    return html.grid(figures) if figures else ""


def speed(found: Series) -> str:
    """Returns the plots of examples, and hours of audio, per second."""
    figures = []
    for name in SPEED:
        steps, values = found.get(f"train/{name}", (np.zeros(0), np.zeros(0)))
        if not np.any(values > 0):
            continue
        # earlier versions counted steps right after a pause that were dispatched but not finished
        usual = values <= PEAK * np.nanmedian(values[values > 0])
        left = int((~usual).sum())
        note = meanings.of(name)
        if left:
            note += f" Intervals right after a pause that were left out: {left}."
        line = plots.Line(name, steps, np.where(usual, values, np.nan))
        figures.append(plots.lines([line], _title(name), note=note))
    return html.grid(figures) if figures else '<p class="soft">No steps have been timed yet.</p>'


def last(found: Series) -> list[dict[str, object]]:
    """Returns the last value of each metric by split, as rows of a table."""
    rows: list[dict[str, object]] = []
    for name, splits in _groups(found).items():
        if name not in SPEED:
            ends = {split: html.short(found[f"{split}/{name}"][1][-1]) for split in splits}
            rows.append({"metric": name, **ends})
    return rows


def is_diagnostic(name: str) -> bool:
    """Returns whether a metric, named without its split, is a diagnostic of collapse."""
    return name.endswith("_std") or name in COLLAPSE


def _groups(found: Series) -> dict[str, list[str]]:
    """Returns metric -> the splits that log it."""
    groups: dict[str, list[str]] = {}
    for split in SPLITS:
        for name in sorted(found):
            if name.startswith(f"{split}/"):
                groups.setdefault(name.partition("/")[2], []).append(split)
    return groups


def _plot(found: Series, name: str, bands: Bands, more: str = "") -> str:
    lines = [
        plots.Line(split, *found[f"{split}/{name}"], colour=SPLITS.index(split))
        for split in _groups(found)[name]
    ]
    colour = len(SPLITS)
    for reference, metrics in bands.items():
        for split in SPLITS:
            band = metrics.get(f"{split}/{name}")
            if band is not None:
                edges = {"low": band["least"], "high": band["most"], "colour": colour}
                label = f"{reference}, {split}"
                lines.append(plots.Line(label, band["step"], band["mean"], **edges))  # type: ignore
                colour += 1
    alone = "" if len(lines) > 1 else f", {lines[0].name}"
    note = " ".join(filter(None, [meanings.of(name), more]))
    return plots.lines(lines, _title(name) + alone, log_switch=True, note=note)


def _title(name: str) -> str:
    return name.replace("_", " ")


def _by_layer(found: Series) -> dict[str, dict[int, tuple[np.ndarray, np.ndarray]]]:
    """Returns metric -> layer -> (steps, values), for metrics measured by layer."""
    out: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
    for name, pair in found.items():
        if match := _LAYER.fullmatch(name):
            out.setdefault(match["what"], {})[int(match["layer"])] = pair
    return out


def _layers_plot(what: str, layers: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> str:
    """Returns a metric over layers, with a line for each of up to SHOWN evaluations."""
    order = sorted(layers)
    steps = layers[order[0]][0]
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(SHOWN, len(steps))).round().astype(int))
    lines = []
    for place, i in enumerate(chosen):
        values = [layers[n][1][i] if i < len(layers[n][1]) else np.nan for n in order]
        share = place / max(len(chosen) - 1, 1)
        lines.append(plots.Line(f"step {steps[i]}", order, values, share=share))
    title = f"{_names(what)} by layer"
    return plots.lines(lines, title, xlabel="layer", note=_LAYERED.get(what, ""))


def _evaluated_plot(what: str, evaluated: Mapping[str, Mapping[str, float]]) -> str:
    lines = []
    for name, values in evaluated.items():
        own = {int(k.rpartition("layer")[2]): v for k, v in values.items() if k.startswith(what)}
        order = sorted(own)
        lines.append(plots.Line(name, order, [own[n] for n in order]))
    title = f"{_names(what)} by layer (ssl_jax.evaluate)"
    return plots.lines(lines, title, xlabel="layer", note=_LAYERED.get(what, ""))


def _names(what: str) -> str:
    names = {"std": "standard deviation", "rankme": "RankMe, the effective rank"}
    return names.get(what, _title(what))
