"""The figure of the music experiment: probes, ablations, pre-training, a clip and its mask."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import probes
from matplotlib.axes import Axes

from ssl_jax.core import config as config_lib
from ssl_jax.data import corpus
from ssl_jax.ops import dsp, masks
from ssl_jax.reports import figures

LABELS = {
    "instrument": "instrument\n(accuracy)",
    "pitch": "pitch\n(accuracy)",
    "key": "key\n(weighted)",
    "tempo": "tempo\n(R2)",
}


def draw(path: pathlib.Path, found: Mapping[str, Any], runs: Sequence[pathlib.Path]) -> None:
    """Draws the results of the experiment and its pre-training runs to `path`."""
    figure, axes = plt.subplots(2, 2, figsize=(13, 9), layout="constrained")
    _bars(axes[0, 0], found["probes"], "Frozen features, linear probes on held-out music")
    if found["ablations"]:
        _bars(axes[0, 1], found["ablations"], "Crop length and target layers, short runs")
    else:
        axes[0, 1].set_axis_off()
    losses = {"masked frames": runs}
    figures.curves(axes[1, 0], losses, "train/loss", "Pre-training without labels", "loss")
    _masked_clip(axes[1, 1], runs[0])
    figure.suptitle("Music2Vec in miniature: mean and 95 % interval over seeds")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _bars(ax: Axes, rows: Mapping[str, Any], title: str) -> None:
    groups = {
        LABELS[task]: {name: tasks[task][score] for name, tasks in rows.items()}
        for task, score in probes.SHOWN.items()
    }
    figures.bars(ax, groups, title, "test score")
    ax.set_ylim(min(0.0, ax.get_ylim()[0]), 1.25 * ax.get_ylim()[1])
    ax.legend(frameon=False, ncols=2, loc="upper right")


def _masked_clip(ax: Axes, run: pathlib.Path) -> None:
    """Draws the first validation clip and the frames that are masked for the student of `run`."""
    config = config_lib.from_json((run / "config.json").read_text(encoding="utf-8"))
    mask, rate = config.method.mask, config.data.sample_rate
    seconds = config.data.buckets[-1]
    audio = corpus.open_split(config.data, "valid").read(0, 0, round(seconds * rate))
    hop = int(np.prod(config.method.encoder.conv_strides))
    options = {"n_fft": 512, "hop": hop // 4, "n_mels": 80, "fmax": 0.475 * rate}
    log_mel = dsp.log_mel(audio[None], sample_rate=rate, **options)[0]
    tokens = len(log_mel) // 4
    keys = jax.random.split(jax.random.key(0), 1)
    masked = masks.span_mask(keys, jnp.array([tokens]), tokens, mask.prob, mask.length)[0]
    figures.masked_spectrogram(
        ax, np.asarray(log_mel)[: 4 * tokens], np.asarray(masked), hop / rate, "A clip and its mask"
    )
