"""The picture of a pronunciation: a spectrogram with its phones, and how each was scored."""

import pathlib
from collections.abc import Sequence

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from ssl_jax.evals.pronounce import Phone
from ssl_jax.ops import dsp
from ssl_jax.reports import figures, style

GOOD, BAD = "#2a9d8f", "#d1495b"
_MELS = 80


def draw(
    path: pathlib.Path, audio: np.ndarray, rate: int, found: Sequence[Phone], title: str = ""
) -> None:
    """Writes a PNG of a recording (n,) at `rate`, int16 or float, and its judged phones.

    Above the spectrogram stand the canonical phones; below it, a bar for each has the height of its
    score, and is red where another phone was heard, whose name stands over it ("-": none).
    """
    seconds = len(audio) / rate
    with plt.rc_context(style.MATPLOTLIB):
        figure, (upper, lower) = plt.subplots(
            2, 1, figsize=(10, 5), layout="constrained", height_ratios=(2, 1)
        )
        cells = dsp.fbank(jnp.asarray(audio)[None], sample_rate=rate, num_mels=_MELS)
        figures.spectrogram(upper, np.asarray(cells[0]), seconds, title)
        upper.set_xlabel("")
        figures.phones(upper, [(p.start, p.end, p.canonical) for p in found], _MELS)
        _scores(lower, found)
        lower.set(xlim=(0, seconds), ylim=(0, 1.25), xlabel="seconds", ylabel="score")
        figure.savefig(path, dpi=style.DPI)
        plt.close(figure)


def _scores(ax: Axes, found: Sequence[Phone]) -> None:
    for phone in found:
        height = 0.0 if np.isnan(phone.score) else phone.score
        width, colour = phone.end - phone.start, BAD if phone.mistaken else GOOD
        ax.bar(phone.start, height, width, align="edge", color=colour, edgecolor="white")
        if phone.mistaken:
            place = phone.start + width / 2, height + 0.04
            ax.text(*place, phone.heard or "-", ha="center", fontsize=8, color=BAD)
