"""Figures of the audio and text experiments: probes, pre-training, a clip and its mask."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from ssl_jax.core import config as config_lib
from ssl_jax.data import corpus
from ssl_jax.ops import dsp, masks
from ssl_jax.reports import figures

NAMES = {"this run": "data2vec 2.0"}


def draw(path: pathlib.Path, found: Mapping[str, Any], runs: Sequence[pathlib.Path]) -> None:
    """Draws the results of the audio program and its pre-training runs to `path`."""
    figure, axes = plt.subplots(2, 2, figsize=(13, 9), layout="constrained")
    bars(axes[0, 0], found["probes"], "Frozen features after pre-training on speech, linear probes")
    if found["folds"]:
        groups = {"ESC-10": found["folds"]}
        figures.bars(axes[0, 1], groups, "A fold of ESC-10 held out", "accuracy of each fold")
        axes[0, 1].set_ylim(0, 1.3)
        axes[0, 1].legend(frameon=False, ncols=2, loc="upper center")
    else:
        axes[0, 1].set_axis_off()
    losses = {"masked frames": runs}
    figures.curves(axes[1, 0], losses, "train/loss", "Pre-training on speech", "loss")
    _masked_clip(axes[1, 1], runs[0])
    figure.suptitle("data2vec 2.0 of waveforms in miniature: mean and 95 % interval")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def bars(ax: Axes, rows: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> None:
    """Draws {features: {task: accuracies}} as a group of bars per task."""
    tasks = next(iter(rows.values()))
    groups = {
        task: {NAMES.get(name, name): scores[task] for name, scores in rows.items()}
        for task in tasks
    }
    figures.bars(ax, groups, title, "test accuracy")
    ax.set_ylim(0, 1.3 * max(max(v) for g in groups.values() for v in g.values()))


def _masked_clip(ax: Axes, run: pathlib.Path) -> None:
    """Draws one second of read speech and the mask of one view."""
    config = config_lib.from_json((run / "config.json").read_text(encoding="utf-8"))
    rate, o = config.data.sample_rate, config.method.mask
    samples = round(config.data.buckets[-1] * rate)
    split = corpus.open_split(config.data, "train")
    audio = split.read(int(np.argmax(split.lengths)), 0, samples)
    hop = int(np.prod(config.method.encoder.conv_strides))
    options = {"n_fft": 256, "hop": hop // 4, "n_mels": 64}
    log_mel = dsp.log_mel(audio[None], sample_rate=rate, fmax=rate / 2, **options)[0]
    tokens = len(log_mel) // 4
    keys = jax.random.split(jax.random.key(0), 1)
    mask = masks.block_mask(
        keys, (tokens,), o.ratio, o.adjust, o.block, o.inverse, jnp.array([tokens])
    )[0]
    title = "A second of speech and the mask of one view"
    frames = np.asarray(log_mel)[: 4 * tokens]
    figures.masked_spectrogram(ax, frames, np.asarray(mask), hop / rate, title)
