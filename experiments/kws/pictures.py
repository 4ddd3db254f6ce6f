"""The figures of the keyword experiment and of the quickstart."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import pictures, results
from ssl_jax.reports import figures


def draw(
    path: pathlib.Path, found: Mapping[str, Any], curves: Any = None, clip: Any = None
) -> None:
    """Draws results.json of the experiment; curves and clip: what was kept of its runs, if any."""
    shares, speakers = (_arms(found[part]) for part in ("shares", "speakers"))
    gains = {name: {"gain": _gain(arms)} for name, arms in shares.items()}
    panels = [
        *_training(curves),
        lambda ax: figures.points(ax, shares, "By share of labels", "test accuracy"),
        lambda ax: figures.points(ax, gains, "Gain of pre-training, paired by seed", "accuracy"),
        lambda ax: figures.points(ax, speakers, "Speaker left out of all training", "accuracy"),
        pictures.masked(clip, "A clip and its mask"),
    ]
    if not speakers:
        del panels[-2]
    figures.draw(path, "data2vec on spoken digits: mean and 95 % interval over seeds", panels)


def quickstart(
    path: pathlib.Path, found: Mapping[str, Any], curves: Any = None, clip: Any = None
) -> None:
    """Draws results.json of the quickstart; curves and clip: what was kept of its runs, if any."""
    arms = {arm: found[arm] for arm in results.ARMS}
    labels = f"{found['options']['labels_per_class']} labels per word, a line for each seed"
    loss, tuning = _training(curves)
    panels = [
        loss,
        pictures.masked(clip, "A clip and its mask"),
        tuning,
        lambda ax: figures.pairs(ax, arms, labels, "test accuracy"),
    ]
    figures.draw(path, "data2vec on synthesized keywords", panels)


def _training(curves: Any) -> list[figures.Panel | None]:
    """Returns the panels of pre-training and of fine-tuning."""
    if not curves:
        return [None, None]
    losses = {"masked frames": curves["pre-training"]["train/loss"]}
    tuned = {arm: curves[arm]["valid/accuracy"] for arm in results.ARMS}
    return [
        lambda ax: figures.bands(ax, losses, "Pre-training without labels", "loss"),
        lambda ax: figures.bands(ax, tuned, "Fine-tuning", "validation accuracy"),
    ]


def _arms(groups: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, Any]:
    return {name: {arm: group[arm] for arm in results.ARMS} for name, group in groups.items()}


def _gain(arms: Mapping[str, Sequence[float]]) -> list[float]:
    return [b - a for a, b in zip(arms["scratch"], arms["pretrained"], strict=True)]


PICTURES = {
    "results.png": pictures.Kept(draw, ("results.json", "curves.json", "clip.json")),
    "../quickstart.png": pictures.Kept(
        quickstart, ("../quickstart.json", "../quickstart_curves.json", "../quickstart_clip.json")
    ),
}
"""{picture: how it is drawn}"""
