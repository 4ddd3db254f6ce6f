"""The pictures of the MVD experiment: probes of space and time, and a gallery of clips."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from experiments import pictures
from experiments.mvd import claims
from ssl_jax.core import rng
from ssl_jax.reports import figures, style

ARMS = ("VideoMAE alone", "image teacher", "video teacher", "both")
# name: (style of its line, side of the line that its name is on)
LINES = {"untrained": ("--", "bottom"), "single frame": (":", "top")}
SCALE = 3  # of the pixels in the gallery


def draw(path: pathlib.Path, found: Mapping[str, Any]) -> None:
    """Draws results.json of the experiment to `path`."""
    probe = found["probe"]
    panels = [
        lambda ax: _labels(ax, probe, claims.SPACE, "What a frame tells"),
        lambda ax: _labels(ax, probe, claims.TIME, "What motion tells"),
        lambda ax: _labels(ax, probe, ("faster",), "What needs both"),
        (lambda ax: _droid(ax, found["droid"])) if found["droid"] else None,
    ]
    figures.draw(path, "Students of a teacher of images, of video, and of both", panels)


def gallery(path: pathlib.Path, model: Any, shown: tuple[np.ndarray, Any]) -> None:
    """Draws clips of a run of VideoMAE: the first frame of each step, what the encoder saw of it,
    and the reconstruction, in three lines a clip."""
    method, videos = model.method, shown[0]
    batch = {
        "video": jnp.asarray(videos),
        "id": jnp.arange(len(videos), dtype=jnp.uint32),
        "weight": jnp.ones(len(videos)),
    }
    streams = rng.Streams(rng.key_data(0), jnp.int32(0), batch["id"])
    functions = method.loss.__self__
    rebuilt, hidden = jax.device_get(jax.jit(functions.reconstruct)(model.params, batch, streams))
    tubelet = functions.encoder.options.tubelet
    lines = []
    for clip, clean, mask in zip(videos, rebuilt, hidden, strict=True):
        covered = np.where(mask[..., None], 255, clip).astype(np.uint8)
        lines += [np.concatenate(list(x[::tubelet]), 1) for x in (clip, covered, clean)]
        lines.append(np.full((2, lines[-1].shape[1], 3), 255, np.uint8))
    whole = np.concatenate(lines[:-1])
    image = Image.fromarray(whole)
    image.resize((SCALE * image.width, SCALE * image.height), Image.Resampling.NEAREST).save(path)


def _labels(ax: Axes, probe: Mapping[str, Any], labels: tuple[str, ...], title: str) -> None:
    groups = {label: {arm: probe[arm][label] for arm in ARMS} for label in labels}
    figures.points(ax, groups, title, "ridge probe, accuracy")
    # a single group has its arms side by side
    wide = len(ARMS) if len(labels) == 1 else 1
    for i, label in enumerate(labels):
        left, right = i - 0.4, i + wide - 0.6
        for name, (line, side) in LINES.items():
            level = np.mean(probe[name][label])
            ax.plot([left, right], [level, level], color=style.SOFT, ls=line, lw=1)
            if not i:
                ax.text(left, level, name, va=side, fontsize=8)


def _droid(ax: Axes, found: Mapping[str, Mapping[str, list[float]]]) -> None:
    labels = next(iter(found.values()))
    groups = {label: {arm: found[arm][label] for arm in found} for label in labels}
    figures.points(ax, groups, "Real videos", "ridge probe, accuracy")


PICTURES = {"results.png": pictures.Kept(draw, ("results.json",))}
"""{picture: how it is drawn}"""
