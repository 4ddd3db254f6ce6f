"""The figure of the DMAE experiment: accuracy of the probes of students, teacher and baselines."""

import pathlib
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from ssl_jax.reports import figures

LINES = {"teacher": "-", "random encoder": "--", "pixels": ":"}


def draw(path: pathlib.Path, found: Mapping[str, Any]) -> None:
    """Draws results.json of the experiment to `path`."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    probe = found["probe"]
    groups = {
        "75 % masked": {n: probe[f"{n} 75 %"] for n in ("MAE", "DMAE")},
        "95 % masked": {n: probe[f"{n} 95 %"] for n in ("MAE", "DMAE")},
        f"75 %, {found['options']['longer']} x steps": {"MAE": probe["MAE 75 %, longer"]},
    }
    figures.bars(axes[0], groups, "The images of the training", "ridge probe, accuracy")
    for name, style in LINES.items():
        axes[0].axhline(np.mean(probe[name]), color="grey", ls=style, lw=1, label=name)
    axes[0].set_ylim(0.9 * min(min(v) for v in probe.values()), None)
    axes[0].legend(frameon=False, fontsize="small", ncols=2)
    if found["other"]:
        groups = {name: {name.split()[0]: values} for name, values in found["other"].items()}
        figures.bars(axes[1], groups, "Images never trained on", "ridge probe, accuracy")
    else:
        axes[1].set_axis_off()
    figure.suptitle("Students of equal size: MAE alone, and aligned with a frozen, larger MAE")
    figure.savefig(path, dpi=100)
    plt.close(figure)
