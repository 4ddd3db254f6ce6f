"""The figure of the music experiment: probes, ablations, pre-training, a clip and its mask."""

import pathlib
from collections.abc import Mapping
from typing import Any

from experiments import pictures
from ssl_jax.reports import figures

# task: (its score, what is shown)
SHOWN = {
    "instrument": ("accuracy", "instrument (accuracy)"),
    "pitch": ("accuracy", "pitch (accuracy)"),
    "key": ("weighted_key", "key (weighted)"),
    "tempo": ("r2", "tempo (R2)"),
}


def draw(
    path: pathlib.Path, found: Mapping[str, Any], curves: Any = None, clip: Any = None
) -> None:
    """Draws results.json of the experiment; curves and clip: what was kept of its runs, if any."""
    probes, ablations = (_groups(found[part]) for part in ("probes", "ablations"))
    losses = {"masked frames": curves["music"]["train/loss"]} if curves else {}
    panels = [
        lambda ax: figures.points(
            ax, probes, "Frozen features, linear probes on held-out music", "test score"
        ),
        (lambda ax: figures.points(ax, ablations, "Crop length and target layers", "test score"))
        if found["ablations"]
        else None,
        (lambda ax: figures.bands(ax, losses, "Pre-training without labels", "loss"))
        if losses
        else None,
        pictures.masked(clip, "A clip and its mask"),
    ]
    title = "Music2Vec in miniature: mean and 95 % interval over seeds"
    figures.draw(path, title, panels, size=(6.6, 4.2))


def _groups(rows: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    return {
        shown: {name: tasks[task][score] for name, tasks in rows.items()}
        for task, (score, shown) in SHOWN.items()
    }


PICTURES = {"results.png": pictures.Kept(draw, ("results.json", "curves.json", "clip.json"))}
"""{picture: how it is drawn}"""
