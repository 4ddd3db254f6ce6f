"""The sounds of the BEATs experiment: recordings, and the same with gain, room and noise."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from configs import common
from ssl_jax.core import atomic
from ssl_jax.data import corpus as corpus_lib
from ssl_jax.data.readers import audio

RATE = 16000
SECONDS = 2.6  # of a piece: sixteen columns of patches
SHORTEST = 1.0  # of the last piece of a recording
SHORT = 1.5  # shorter recordings, such as digits, are joined
QUIETEST = 0.005  # of full scale, from the lowest sample to the highest: less counts as silence


@functools.cache
def recordings(folder: str) -> tuple[list[np.ndarray], Mapping[str, Any]]:
    """Returns the recordings (n,) float32 at RATE of a folder with index.tsv, and its columns.

    Each has a mean of zero: an offset, made louder, would be clipped to a constant.
    """
    data = common.audio_data()
    data.train.own = ConfigDict({"kind": "table", "path": folder})
    data.update({"buckets": (SECONDS,), "batch_size": 1})
    corpus: Any = corpus_lib.open_split(data, "train")
    found = [corpus.read(i).astype(np.float32) / 32768 for i in range(len(corpus))]
    return [clip - clip.mean() for clip in found], corpus.sources[0].columns


def pieces(folder: str, most: int) -> list[np.ndarray]:
    """Returns pieces (n,) of SECONDS or less of `most` recordings of a folder, spread over it,
    without those that are silent."""
    found, joined, waiting = [], [], 0
    every = recordings(folder)[0]
    chosen = np.linspace(0, len(every), min(most, len(every)), endpoint=False).astype(int)
    size = round(SECONDS * RATE)
    for i in chosen:
        clip = every[i]
        if len(clip) < SHORT * RATE:
            joined.append(clip)
            waiting += len(clip)
            if waiting < size:
                continue
            clip, joined, waiting = np.concatenate(joined)[:size], [], 0
        cut = [clip[first : first + size] for first in range(0, len(clip), size)]
        long = (piece for piece in cut if len(piece) >= SHORTEST * RATE)
        found += [piece for piece in long if np.ptp(piece) >= QUIETEST]
    return found


def altered(
    clip: np.ndarray, draw: np.random.Generator, snr_db: tuple[float, float], gain_db: float
) -> np.ndarray:
    """Returns a clip (n,) in a room, with noise of any colour, and louder or softer."""
    echo = round(RATE * draw.uniform(0.05, 0.4))
    room = draw.standard_normal(echo) * np.exp(-6.9 * np.arange(echo) / echo)
    room = 0.3 * room / np.sqrt((room**2).sum())
    room[0] = 1
    size = len(clip) + echo
    wet = np.fft.irfft(np.fft.rfft(clip, size) * np.fft.rfft(room, size), size)[: len(clip)]
    bins = np.fft.rfft(draw.standard_normal(len(clip)))
    tilt = np.maximum(np.arange(len(bins)) / len(bins), 1 / 128) ** (-draw.uniform(0, 2) / 2)
    noise = np.fft.irfft(bins * tilt, len(clip))
    ratio = 10 ** (-draw.uniform(*snr_db) / 20)
    level = np.sqrt((wet**2).mean() / max((noise**2).mean(), 1e-12))
    loud = 10 ** (draw.uniform(-gain_db, gain_db) / 20)
    return np.clip(loud * (wet + ratio * level * noise), -1, 1).astype(np.float32)


def write(folder: pathlib.Path, given: Mapping[str, int], copies: int, seed: int) -> None:
    """Writes pieces of all folders, `copies` of each with gain, room and noise of its own, and
    their index.tsv. given: {folder: most recordings}."""
    draw, rows = np.random.default_rng(seed), ["path\tset"]
    for source, most in given.items():
        name = pathlib.Path(source).name
        for i, piece in enumerate(pieces(source, most)):
            for copy in range(copies):
                clip = (altered(piece, draw, (5.0, 30.0), 12.0) * 32767).astype(np.int16)
                file = f"{name}-{i}-{copy}.flac"
                (folder / file).write_bytes(audio.encode_flac(clip, RATE))
                rows.append(f"{file}\t{name}")
    atomic.write_text(folder / "index.tsv", "\n".join(rows) + "\n")


@functools.cache
def clips(folder: str, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the recordings (N, n) of a folder, cut or padded to `seconds`, and their lengths
    (N,), at least half a second."""
    found, size = recordings(folder)[0], round(seconds * RATE)
    rows = np.stack([np.pad(clip[:size], (0, max(size - len(clip), 0))) for clip in found])
    lengths = np.array([min(max(len(clip), RATE // 2), size) for clip in found], np.int32)
    return rows, lengths


@functools.cache
def noisy(
    folder: str, seconds: float, snr_db: tuple[float, float], gain_db: float, seed: int
) -> np.ndarray:
    """Returns `clips` (N, n), each altered in its own way."""
    draw, (rows, lengths) = np.random.default_rng(seed), clips(folder, seconds)
    heard = np.zeros_like(rows)
    for i, (row, size) in enumerate(zip(rows, lengths, strict=True)):
        heard[i, :size] = altered(row[:size], draw, snr_db, gain_db)
    return heard


def labels(column: Any) -> np.ndarray:
    """Returns a column of a table as indices of its values (N,)."""
    return np.unique([str(value) for value in column], return_inverse=True)[1]
