"""Reads sound files: WAV, FLAC, Ogg Vorbis, Opus, MP3 to mono int16, whole or in part."""

import io
import math
import os
from collections.abc import Callable
from typing import IO

import numpy as np
import soundfile
import soxr

from ssl_jax.data.errors import Unreadable

# What libsndfile turns into int16 without an overflow; floats and lossy codecs can exceed
# full scale, so those are read as float32 and clipped here.
_INTEGER = ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "ULAW", "ALAW", "ALAC_16")
_LOSSY = ("VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III")
# MP3 frames borrow bits from the frames before, up to 511 bytes: after a seek the first ones
# decode to zeros. This many samples, 20 frames, are decoded ahead and dropped.
_MP3_AHEAD = 20 * 1152
# Seconds of neighbouring sound that the resampling filter is given on each side of a crop.
_CONTEXT = 0.05


def header(file: str | IO[bytes]) -> tuple[int, int]:
    """Returns (samples per channel, samples per second); (0, 0) if there is no valid header."""
    try:
        with _opened(file) as f:
            return f.frames, f.samplerate
    except (soundfile.SoundFileError, OSError):
        return 0, 0


def read(
    file: str | IO[bytes], start: int = 0, stop: int | None = None, out: np.ndarray | None = None
) -> tuple[np.ndarray, int]:
    """Reads samples [start, stop) as mono int16 (n,) and the rate; seeks, so memory is bounded.

    out: int16 (m,) to decode into where the format allows; the returned array is then a view of
    it. Channels are averaged. Raises Unreadable for a broken, missing or truncated file.
    """
    try:
        with _opened(file) as f:
            want = (f.frames if stop is None else min(stop, f.frames)) - start
            if want <= 0:
                return np.zeros(0, np.int16), f.samplerate
            ahead = min(start, _MP3_AHEAD) if f.subtype.startswith("MPEG") else 0
            if start:
                f.seek(start - ahead)
            audio = _decode(f, want + ahead, out)[ahead:]
            slack = f.samplerate // 10 if f.subtype in _LOSSY else 0
            if len(audio) < want - slack:
                raise Unreadable(f"truncated: {len(audio)} of {want} samples can be decoded")
            return audio, f.samplerate
    except (soundfile.SoundFileError, OSError) as e:
        raise Unreadable(str(e)) from e


def _opened(file: str | IO[bytes]) -> soundfile.SoundFile:
    """Opens a sound file; a byte of its name may be no text, which the library refuses in str."""
    if isinstance(file, str) and not file.isascii():
        return soundfile.SoundFile(os.fsencode(file))
    return soundfile.SoundFile(file)


def _decode(f: soundfile.SoundFile, want: int, out: np.ndarray | None) -> np.ndarray:
    """Decodes `want` samples from where the file stands -> mono int16 (n,)."""
    if f.subtype not in _INTEGER:
        return to_int16(_mono(f.read(want, dtype="float32")))
    if f.channels > 1:
        return np.rint(_mono(f.read(want, dtype="int16"))).astype(np.int16)
    if out is not None and len(out) >= want:
        return f.read(want, out=out[:want])
    return f.read(want, dtype="int16")


def _mono(audio: np.ndarray) -> np.ndarray:
    """Averages the channels of (n,) or (n, channels)."""
    return audio if audio.ndim == 1 else audio.mean(axis=1, dtype=np.float32)


def to_int16(audio: np.ndarray) -> np.ndarray:
    """Rounds float samples, full scale 1.0, to int16 and clips what exceeds it.

    Raises Unreadable where a sample is not finite: as int16 it would be any number.
    """
    finite = np.isfinite(audio)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise Unreadable(
            f"{len(bad)} of {audio.size} samples are not finite, the first is "
            f"{audio.flat[bad[0]]}: write the file again without them"
        )
    return np.clip(np.rint(audio * 32768.0), -32768, 32767).astype(np.int16)


def encode_flac(audio: np.ndarray, rate: int) -> bytes:
    """Packs mono int16 (n,) into the bytes of a FLAC file, without loss."""
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def resampled_length(samples: np.ndarray, rate: np.ndarray, target: int) -> np.ndarray:
    """Returns how many samples a recording has at the target rate."""
    return samples * target // np.maximum(rate, 1)


def read_crop(
    read: Callable[[int, int], tuple[np.ndarray, int]],
    rate: int,
    target: int,
    start: int,
    length: int,
) -> np.ndarray:
    """Reads `length` samples at the target rate from `start`, decoding only what it needs.

    read(first, last) gives native samples (n,) int16 and the native rate. The resampling filter
    sees the sound around the crop, so the result equals the same part of the whole recording
    resampled. Returns int16 (<= length,).
    """
    if rate == target:
        return read(start, start + length)[0][:length]
    divisor = math.gcd(rate, target)
    block_in, block_out = rate // divisor, target // divisor
    margin = math.ceil(_CONTEXT * target / block_out)
    # Whole blocks of the rate ratio keep the phase of the filter.
    first = max(0, start // block_out - margin)
    last = math.ceil((start + length) / block_out) + margin
    native, _ = read(first * block_in, last * block_in)
    # Float, because the integer mode of soxr adds dither.
    audio = to_int16(soxr.resample(native.astype(np.float32) / 32768.0, rate, target))
    skip = start - first * block_out
    return audio[skip : skip + length]
