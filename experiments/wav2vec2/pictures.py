"""The figure of the experiment on the codes of wav2vec 2.0: a panel per metric."""

import pathlib
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from experiments import pictures
from ssl_jax.reports import figures, style

METRICS = {
    "code_perplexity": "Codes in use (perplexity, both groups)",
    "distinct_negatives": "Negatives with other codes",
    "contrastive_accuracy": "Accuracy of the contrast",
    "contrastive_loss": "Contrastive loss",
}


def draw(path: pathlib.Path, found: Mapping[str, Any], curves: Any = None) -> None:
    """Draws results.json: the curves of every arm, or, where none were kept, its last quarter."""
    panels = [_panel(found, curves, metric) for metric in METRICS]
    when = "" if curves else ", last quarter of the runs"
    figures.draw(
        path, f"wav2vec 2.0 on speech: as published, and with two mistakes of ports{when}", panels
    )


def _panel(found: Mapping[str, Any], curves: Any, metric: str) -> figures.Panel:
    title, label = METRICS[metric], metric.replace("_", " ")

    def panel(ax: Axes) -> None:
        if curves:
            given = {name: own[f"train/{metric}"] for name, own in curves.items()}
            figures.bands(ax, given, title, label)
        else:
            arms = {name: row[metric] for name, row in found["arms"].items()}
            figures.points(ax, {"": arms}, title, label)
        if metric == "code_perplexity":
            for value, words in ((2, "one of each group"), (found["codes"], "all equally often")):
                ax.axhline(value, color=style.SOFT, lw=1, ls=":")
                at, where = ax.get_xlim()[1], "bottom" if value == 2 else "top"
                ax.text(at, value, words, ha="right", va=where, fontsize=8, color=style.SOFT)
            ax.set_ylim(0, 1.05 * found["codes"])

    return panel


PICTURES = {"results.png": pictures.Kept(draw, ("results.json", "curves.json"))}
"""{picture: how it is drawn}"""
