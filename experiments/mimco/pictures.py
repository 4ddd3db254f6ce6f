"""The figure of the MimCo experiment: probes of frozen features, and fine-tuning."""

import pathlib
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from ssl_jax.reports import figures

LINES = {"random encoder": "--", "pixels": ":"}
PARTS = (
    ("ridge", "Frozen features", "ridge probe, accuracy"),
    ("knn", "Frozen features", "nearest neighbours, accuracy"),
    ("fine-tuned", "Fine-tuned with few labels", "accuracy"),
)


def draw(path: pathlib.Path, found: Mapping[str, Any]) -> None:
    """Draws results.json of the experiment to `path`."""
    figure, axes = plt.subplots(1, len(PARTS), figsize=(15, 5), layout="constrained")
    for axis, (key, title, label) in zip(axes, PARTS, strict=True):
        scores = found[key]
        bars = {name: {"": values} for name, values in scores.items() if name not in LINES}
        figures.bars(axis, bars, title, label)
        lines = {name: style for name, style in LINES.items() if name in scores}
        for name, style in lines.items():
            axis.axhline(np.mean(scores[name]), color="grey", ls=style, lw=1, label=name)
        axis.set_ylim(0.9 * min(min(v) for v in scores.values()), None)
        axis.tick_params(axis="x", rotation=30)
        if lines:
            axis.legend(frameon=False, fontsize="small")
    figure.suptitle("MoCo v3, a MimCo-style student of it, and MAE, of equal size")
    figure.savefig(path, dpi=100)
    plt.close(figure)
