"""Signal processing on device: Kaldi filterbanks, librosa-style log-mel and MFCC, normalization.

Audio is (B, N), float in [-1, 1] or int16 (divided by 32768). Every function is pure, works
under jit, vmap and grad, and computes in float32. Filters are NumPy constants.
"""

import functools
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core import platform
from ssl_jax.core.types import Array

HIGHEST = jax.lax.Precision.HIGHEST
LOG_FLOOR = float(np.finfo(np.float32).eps)

CONVENTIONS: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "beats": MappingProxyType(
            {
                "num_mels": 128,
                "window": "povey",
                "scale": 32768.0,
                "remove_clip_mean": False,
                "mean": 15.41663,
                "divisor": 2 * 6.55582,
            }
        ),
        "audiomae": MappingProxyType(
            {
                "num_mels": 128,
                "window": "hann",
                "scale": 1.0,
                "remove_clip_mean": True,
                "mean": -4.2677393,
                "divisor": 2 * 4.5689974,
            }
        ),
    }
)
"""Named option sets of `fbank`: BEATs (2212.09058) and AudioMAE (2207.06405, also MAViL)."""


def to_float(audio: Array) -> Array:
    """Returns audio as float32; int16 is divided by 32768. Raises TypeError on other integers."""
    audio = jnp.asarray(audio)
    if audio.dtype == jnp.int16:
        return audio.astype(jnp.float32) / 32768.0
    if not jnp.issubdtype(audio.dtype, jnp.floating):
        raise TypeError(f"audio is {audio.dtype}: pass float in [-1, 1] or int16")
    return audio.astype(jnp.float32)


def frames(n_samples: Any, window: int, hop: int) -> Any:
    """Returns how many windows lie fully inside n samples: 1 + floor((n - window) / hop), or 0.

    `n_samples` is an int or an integer array; windows and hops are in samples.
    """
    count = (n_samples - window) // hop + 1
    return count * (count > 0)


def valid_samples(audio: Array, audio_len: Array | None) -> Array:
    """Returns bool (B, N), true where a sample is real; None means all of them."""
    batch, size = audio.shape
    if audio_len is None:
        return jnp.ones((batch, size), bool)
    return jnp.arange(size) < audio_len[:, None]


def split_frames(audio: Array, window: int, hop: int) -> Array:
    """Cuts audio (B, N) into overlapping windows (B, T, window) without a gather."""
    batch, size = audio.shape
    count = frames(size, window, hop)
    blocks = -(-window // hop)
    total = (count + blocks - 1) * hop
    audio = jnp.pad(audio, ((0, 0), (0, max(0, total - size))))[:, :total]
    hops = audio.reshape(batch, count + blocks - 1, hop)
    parts = [hops[:, i : i + count] for i in range(blocks)]
    return jnp.concatenate(parts, axis=-1)[..., :window]


@functools.cache
def _dft_matrix(window: int, n_fft: int) -> tuple[np.ndarray, np.ndarray]:
    angle = 2 * np.pi * np.outer(np.arange(window), np.arange(n_fft // 2 + 1)) / n_fft
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def power_spectrum(x: Array, n_fft: int, dft: str = "auto") -> Array:
    """Returns |DFT|^2 of real windows x (..., W), zero-padded to n_fft -> (..., n_fft // 2 + 1).

    dft: "rfft", "matmul" (two products in full precision, faster on TPU), or "auto".
    """
    if dft == "auto":
        dft = "matmul" if platform.name() == "tpu" else "rfft"
    if dft == "rfft":
        spectrum = jnp.fft.rfft(x, n_fft)
        return jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    if dft != "matmul":
        raise ValueError(f"dft is {dft!r}: use 'auto', 'rfft' or 'matmul'")
    cos, sin = _dft_matrix(x.shape[-1], n_fft)
    real = jnp.matmul(x, cos, precision=HIGHEST)
    imag = jnp.matmul(x, sin, precision=HIGHEST)
    return jnp.square(real) + jnp.square(imag)


@functools.cache
def kaldi_mel(
    num_mels: int, n_fft: int, sample_rate: int, low_hz: float, high_hz: float
) -> np.ndarray:
    """Returns Kaldi's triangular filters (n_fft // 2 + 1, M): linear in mel, peak 1, Nyquist 0.

    mel(f) = 1127 ln(1 + f / 700).
    """
    low, high = 1127 * np.log1p(np.array([low_hz, high_hz]) / 700)
    edges = np.linspace(low, high, num_mels + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    hz = np.arange(n_fft // 2) * sample_rate / n_fft
    mel = 1127 * np.log1p(hz / 700)[:, None]
    rise, fall = (mel - left) / (centre - left), (right - mel) / (right - centre)
    filters = np.maximum(0, np.minimum(rise, fall))
    return np.pad(filters, ((0, 1), (0, 0))).astype(np.float32)


def _slaney_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * math.log(6.4) / 27))


def _slaney_from_hz(hz: np.ndarray) -> np.ndarray:
    above = 15 + np.log(np.maximum(hz, 1000) / 1000) * 27 / math.log(6.4)
    return np.where(hz < 1000, hz * 3 / 200, above)


@functools.cache
def slaney_mel(
    num_mels: int, n_fft: int, sample_rate: int, low_hz: float, high_hz: float
) -> np.ndarray:
    """Returns Slaney's triangular filters (n_fft // 2 + 1, M), linear in Hz, of unit area."""
    low, high = _slaney_from_hz(np.array([low_hz, high_hz], float))
    edges = _slaney_hz(np.linspace(low, high, num_mels + 2))
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    hz = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)[:, None]
    rise, fall = (hz - left) / (centre - left), (right - hz) / (right - centre)
    filters = np.maximum(0, np.minimum(rise, fall)) * 2 / (right - left)
    return filters.astype(np.float32)


@functools.cache
def dct_matrix(num_inputs: int, num_outputs: int) -> np.ndarray:
    """Returns the orthonormal DCT-II as a matrix (num_inputs, num_outputs)."""
    n = np.arange(num_inputs)[:, None] + 0.5
    matrix = np.cos(np.pi * n * np.arange(num_outputs) / num_inputs) * math.sqrt(2 / num_inputs)
    matrix[:, 0] /= math.sqrt(2)
    return matrix.astype(np.float32)


def window_of(name: str, size: int) -> np.ndarray:
    """Returns a window (size,): "hann" and "povey" are symmetric, "periodic_hann" is not."""
    period = size if name == "periodic_hann" else size - 1
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / period)
    if name in ("hann", "periodic_hann"):
        return hann.astype(np.float32)
    if name == "povey":
        return (hann**0.85).astype(np.float32)
    raise ValueError(f"window is {name!r}: use 'povey', 'hann' or 'periodic_hann'")


def _subtract_mean(audio: Array, real: Array) -> Array:
    """Subtracts from each row (B, N) the mean of its real samples."""
    count = jnp.maximum(real.sum(1, keepdims=True), 1)
    return audio - jnp.where(real, audio, 0).sum(1, keepdims=True) / count


def _kaldi_power(audio: Array, size: int, hop: int, window: str, n_fft: int, dft: str) -> Array:
    """Returns the power spectrum (B, T, n_fft // 2 + 1) of Kaldi's windows."""
    x = split_frames(audio, size, hop)
    x = x - x.mean(-1, keepdims=True)
    x = x - 0.97 * jnp.concatenate([x[..., :1], x[..., :-1]], axis=-1)
    return power_spectrum(x * window_of(window, size), n_fft, dft)


def fit_frames(features: Array, lengths: Array | None, size: int | None) -> Array:
    """Pads with zeros or cuts features (B, T, F) to `size` frames; zero past `lengths` (B,)."""
    if lengths is not None:
        real = jnp.arange(features.shape[1]) < lengths[:, None]
        features = jnp.where(real[..., None], features, 0)
    if size is None:
        return features
    missing = max(0, size - features.shape[1])
    return jnp.pad(features, ((0, 0), (0, missing), (0, 0)))[:, :size]


def fbank(
    audio: Array,
    audio_len: Array | None = None,
    *,
    sample_rate: int = 16000,
    num_mels: int = 128,
    window: str = "povey",
    scale: float = 1.0,
    remove_clip_mean: bool = False,
    mean: float = 0.0,
    divisor: float = 1.0,
    num_frames: int | None = None,
    dft: str = "auto",
) -> Array:
    """Log-mel energies as Kaldi computes them: audio (B, N) -> (B, T, M). See CONVENTIONS.

    Windows of 25 ms every 10 ms, fully inside the signal; each is centred, pre-emphasized by
    0.97 and windowed; filters from 20 Hz to half the rate; natural log, floored at the float32
    epsilon; no dither. `scale` multiplies the waveform, `remove_clip_mean` first subtracts the
    mean of the clip; the result is (x - mean) / divisor. `num_frames` pads or cuts T. Frames past
    `audio_len` (B,) samples, and padded ones, are 0 *before* that last step, as in AudioMAE.
    """
    size, hop = sample_rate * 25 // 1000, sample_rate // 100
    n_fft = 2 ** math.ceil(math.log2(size))
    audio = to_float(audio)
    if remove_clip_mean:
        audio = _subtract_mean(audio, valid_samples(audio, audio_len))
    power = _kaldi_power(audio * scale, size, hop, window, n_fft, dft)
    filters = kaldi_mel(num_mels, n_fft, sample_rate, 20.0, sample_rate / 2)
    energy = jnp.matmul(power, filters, precision=HIGHEST)
    features = jnp.log(jnp.maximum(energy, LOG_FLOOR))
    lengths = None if audio_len is None else frames(audio_len, size, hop)
    return (fit_frames(features, lengths, num_frames) - mean) / divisor


def log_mel(
    audio: Array,
    audio_len: Array | None = None,
    *,
    sample_rate: int = 16000,
    n_fft: int = 480,
    hop: int = 160,
    n_mels: int = 80,
    fmin: float = 0.0,
    fmax: float = 7600.0,
    center: bool = False,
    top_db: float | None = 80.0,
    dft: str = "auto",
) -> Array:
    """Mel power in dB as librosa computes it: audio (B, N) -> (B, T, M).

    Slaney filters of the power spectrum of periodic Hann windows of n_fft samples;
    10 log10(max(1e-10, p)), floored `top_db` below the loudest cell of each clip (librosa:
    below the loudest of a batch). With `audio_len` (B,), frames past it do not count as
    loudest, so padding changes nothing. `center` pads n_fft // 2 zeros on both sides.
    """
    audio = to_float(audio)
    pad = n_fft // 2 if center else 0
    audio = jnp.pad(audio, ((0, 0), (pad, pad)))
    x = split_frames(audio, n_fft, hop) * window_of("periodic_hann", n_fft)
    filters = slaney_mel(n_mels, n_fft, sample_rate, fmin, fmax)
    mel = jnp.matmul(power_spectrum(x, n_fft, dft), filters, precision=HIGHEST)
    db = 10 * jnp.log10(jnp.maximum(mel, 1e-10))
    if top_db is None:
        return db
    loud = db
    if audio_len is not None:
        count = frames(audio_len + 2 * pad, n_fft, hop)[:, None, None]
        loud = jnp.where(jnp.arange(db.shape[1])[:, None] < count, db, -100.0)
    return jnp.maximum(db, loud.max((1, 2), keepdims=True) - top_db)


def mfcc(
    audio: Array, audio_len: Array | None = None, *, n_mfcc: int = 40, **options: Any
) -> Array:
    """Mel-frequency cepstral coefficients as in librosa: audio (B, N) -> (B, T, n_mfcc).

    Orthonormal DCT-II of `log_mel`, which takes the other options. The defaults are those of
    data2vec-KWS (2210.01703): 16000 samples -> (98, 40).
    """
    features = log_mel(audio, audio_len, **options)
    return jnp.matmul(features, dct_matrix(features.shape[-1], n_mfcc), precision=HIGHEST)


def kaldi_mfcc(
    audio: Array,
    audio_len: Array | None = None,
    *,
    sample_rate: int = 16000,
    num_ceps: int = 13,
    num_mels: int = 23,
    lifter: float = 22.0,
    orders: int = 2,
    dft: str = "auto",
) -> Array:
    """Kaldi's MFCC and their derivatives: audio (B, N) -> (B, T, num_ceps * (1 + orders)).

    The targets of HuBERT's first iteration (2106.07447, section IV-A) with the defaults: the
    orthonormal DCT-II of `fbank`, each coefficient i times 1 + lifter / 2 sin(pi i / lifter),
    the zeroth one kept and no energy; then `orders` times `deltas`. 100 frames a second.
    """
    features = fbank(audio, audio_len, sample_rate=sample_rate, num_mels=num_mels, dft=dft)
    lift = 1 + lifter / 2 * np.sin(np.pi * np.arange(num_ceps) / lifter)
    matrix = (dct_matrix(num_mels, num_ceps) * lift).astype(np.float32)
    found = [jnp.matmul(features, matrix, precision=HIGHEST)]
    lengths = None
    if audio_len is not None:
        lengths = frames(audio_len, sample_rate * 25 // 1000, sample_rate // 100)
    for _ in range(orders):
        found.append(deltas(found[-1], lengths))
    return jnp.concatenate(found, axis=-1)


def deltas(x: Array, lengths: Array | None = None, reach: int = 2) -> Array:
    """Slopes of x (B, T, F) over time, by regression over 2 * reach + 1 frames -> (B, T, F).

    The first and the last real frame repeat beyond the ends; `lengths` (B,) are the real frames.
    """
    last = x.shape[1] - 1 if lengths is None else jnp.maximum(lengths - 1, 0)[:, None]
    place = jnp.arange(x.shape[1])[None]

    def moved(by: int) -> Array:
        index = jnp.broadcast_to(jnp.clip(place + by, 0, last), x.shape[:2])
        return jnp.take_along_axis(x, index[..., None], axis=1)

    steps = range(1, reach + 1)
    total = sum((n * (moved(n) - moved(-n)) for n in steps), jnp.zeros_like(x))
    return total / (2 * sum(n * n for n in steps))


def normalize_audio(audio: Array, audio_len: Array | None = None, eps: float = 1e-5) -> Array:
    """Scales each clip (B, N) to zero mean and unit variance over its real samples; the rest is 0.

    `eps` is inside the root: 1e-5 in fairseq, 1e-7 in transformers.
    """
    audio = to_float(audio)
    real = valid_samples(audio, audio_len)
    count = jnp.maximum(real.sum(1, keepdims=True), 1)
    centred = jnp.where(real, _subtract_mean(audio, real), 0)
    variance = jnp.square(centred).sum(1, keepdims=True) / count
    return centred * jax.lax.rsqrt(variance + eps)
