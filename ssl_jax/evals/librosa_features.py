"""Descriptors of music by librosa, a baseline for probes of music and sound.

They are computed on the host, 0.1 to 0.2 seconds a clip, so that only protocols that ask for them
pay for them.
"""

import importlib.metadata
import math
import warnings
from collections.abc import Mapping
from typing import Any

import librosa
import numpy as np

from ssl_jax.evals.baselines import Encoder, vector_features

NAME = "chroma, CQT, tonnetz, onsets, tempo"
HOP = 512
_LOWEST = 32.70319566257483  # Hz, C1
_OCTAVES = 7


def encoder(sample_rate: int) -> Encoder:
    """Returns the descriptors as an encoder of one layer with a single frame per clip."""

    def prepare(batch: Mapping[str, Any]) -> dict[str, Any]:
        kept = {k: batch[k] for k in ("id", "weight", "label") if k in batch}
        clips = zip(batch["audio"], batch["audio_len"], strict=True)
        rows = [describe(x[:n].astype(np.float32) / 32768, sample_rate) for x, n in clips]
        return {**kept, "vector": np.stack(rows)}

    features = vector_features(lambda batch: batch["vector"])
    key = f"librosa {importlib.metadata.version('librosa')} at {sample_rate}"
    return Encoder(NAME, features, {}, key, prepare, frames=False)


def describe(audio: np.ndarray, rate: int) -> np.ndarray:
    """audio (n,) float32 -> (2 F + 1,): mean and deviation over frames, and the tempo in BPM.

    A clip without samples gives zeros.
    """
    if not len(audio):
        return np.zeros(2 * (12 * octaves(rate) + 12 + 6 + 1) + 1, np.float32)
    # half a hop still gives one frame, and librosa cannot resample less for its lowest octave
    audio = np.pad(audio, (0, max(0, HOP // 2 - len(audio))))
    with warnings.catch_warnings():
        # librosa pads clips shorter than its windows, and warns each time
        warnings.filterwarnings("ignore", "n_fft=", UserWarning)
        cqt = np.abs(
            librosa.cqt(
                audio, sr=rate, hop_length=HOP, fmin=_LOWEST, n_bins=12 * octaves(rate), tuning=0.0
            )
        )
        chroma = librosa.feature.chroma_cqt(C=cqt, sr=rate, fmin=_LOWEST, bins_per_octave=12)
        tonnetz = librosa.feature.tonnetz(chroma=chroma, sr=rate)
        onsets = librosa.onset.onset_strength(y=audio, sr=rate, hop_length=HOP)
        tempo = librosa.feature.tempo(onset_envelope=onsets, sr=rate, hop_length=HOP)
    frames = np.concatenate([chroma, librosa.amplitude_to_db(cqt), tonnetz, onsets[None]])
    return np.concatenate([frames.mean(1), frames.std(1), tempo]).astype(np.float32)


def octaves(rate: int) -> int:
    """Returns how many octaves above C1 a sample rate can hold, at most seven."""
    return min(_OCTAVES, math.floor(math.log2(0.45 * rate / _LOWEST)))
