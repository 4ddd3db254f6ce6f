"""Reads sound files as mono int16, completely or in part, with libsndfile or PyAV.

WAV, FLAC, Ogg Vorbis, Opus, MP3, AIFF, CAF, AU, SPHERE, W64 and RF64; with the extra `audio` also
AAC, MP4 and others.
"""

import contextlib
import io
import math
import os
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np
import soundfile
import soxr

from ssl_jax.data.errors import Unreadable
from ssl_jax.data.readers import containers, ffmpeg
from ssl_jax.data.readers.spliced import Spliced

# Formats that libsndfile converts to int16 without overflow; floats and lossy codecs can exceed
# full scale, so they are read as float32 and clipped here.
_INTEGER = ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "ULAW", "ALAW", "ALAC_16")
_LOSSY = ("VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III")
# MP3 frames borrow bits from earlier frames, up to 511 bytes: after a seek the first ones decode
# to zeros. This many samples, 20 frames, are decoded before a crop and dropped.
_MP3_AHEAD = 20 * 1152
# Seconds of context on each side of a crop for the resampling filter.
_CONTEXT = 0.05
# Floats have full scale 1.0. Louder ones are clipped; above this peak the scale is another one.
PEAK = 4.0
# A recording that spans fewer steps of int16 than this is only rounding noise.
_AUDIBLE = 32
# The range of sampling rates in Hz: lower ones carry no sound, and FLAC allows no higher ones.
RATES = (100, 655_350)
# A header with more samples than this is broken: two years at 16 kHz.
_MOST = 1 << 40
# Values that are decoded at once, so that memory depends on the content of a file, not its header.
_BLOCK = 1 << 24
# Part of the names of length caches; raised when lengths are measured in another way.
MEASURED_BY = 2
_ERRORS = (soundfile.SoundFileError, OSError, ValueError, AssertionError)


class Sound:
    """An open sound file: `frames`, its samples per channel, and their `rate` in Hz."""

    def __init__(self, file: soundfile.SoundFile, frames: int | None):
        self.file = file
        self.frames = file.frames if frames is None else min(frames, file.frames)
        self.rate = file.samplerate
        if not 0 <= self.frames <= _MOST:
            raise Unreadable(f"broken: its header states {self.frames} samples")
        check_rate(self.rate)


def check_rate(rate: int) -> None:
    """Raises Unreadable for a sampling rate outside of RATES."""
    if not RATES[0] <= rate <= RATES[1]:
        raise Unreadable(
            f"its sampling rate of {rate} Hz is impossible: write it again with the true rate, "
            f"{RATES[0]} to {RATES[1]} Hz"
        )


def header(file: str | IO[bytes]) -> tuple[int, int]:
    """Returns (samples per channel, samples per second); (0, 0) if `read` would refuse the file.

    A length that the header does not state is measured, which may require reading the whole file.
    """
    try:
        with _opened(file) as sound:
            if isinstance(sound, Sound):
                return sound.frames, sound.rate
            with contextlib.closing(ffmpeg.opened(file)) as f:
                found, rate = ffmpeg.measure(f, sound)
            check_rate(rate)
            return found, rate
    except Unreadable:
        return 0, 0


def channels(file: str | IO[bytes]) -> int:
    """Returns the number of channels of a sound file; raises Unreadable as `read` does."""
    with _opened(file) as sound:
        if isinstance(sound, Sound):
            return sound.file.channels
        with contextlib.closing(ffmpeg.opened(file)) as f:
            return next((part.shape[1] for part, _ in ffmpeg.blocks(f, sound)), 1)


@contextlib.contextmanager
def _opened(file: str | IO[bytes], stop: int | None = None) -> Iterator[Sound | str]:
    """Opens a file with libsndfile, with its true length in the header; see `containers.look`.

    Where libsndfile does not know the format, yields the name of the demuxer instead.
    """
    with contextlib.ExitStack() as stack:
        try:
            raw = stack.enter_context(_raw(file))
            demuxer = ffmpeg.kind(raw.read(16))
            if demuxer:
                yield demuxer
                return
            found = containers.look(raw, stop)
            if found.fault:
                raise Unreadable(found.fault)
            # The library refuses a str with bytes that are not text.
            source: Any = os.fsencode(file) if isinstance(file, str) else file
            if found.head or found.size:
                source = io.BufferedReader(Spliced(raw, found.head, found.skip, found.size))
            elif not isinstance(file, str):
                raw.seek(0)
            yield Sound(stack.enter_context(soundfile.SoundFile(source)), found.frames)
        except _ERRORS as e:
            raise Unreadable(_reason(e)) from e


def _raw(file: str | IO[bytes]) -> contextlib.AbstractContextManager[IO[bytes]]:
    if not isinstance(file, str):
        file.seek(0)
        return contextlib.nullcontext(file)
    if not os.path.isfile(file):  # opening a pipe would wait for its other end
        raise Unreadable("not a regular file" if os.path.exists(file) else "No such file")
    return open(file, "rb", buffering=0)


def _reason(error: Exception) -> str:
    """Returns the message of libsndfile without the file name, which the caller adds."""
    return str(error).rpartition(": ")[2] if "Error opening" in str(error) else str(error)


def read(
    file: str | IO[bytes], start: int = 0, stop: int | None = None, out: np.ndarray | None = None
) -> tuple[np.ndarray, int]:
    """Reads samples [start, stop) as mono int16 (n,), and the rate; seeks, so memory is bounded.

    out: int16 (m,) to decode into if the format allows; the returned array is then a view of it.
    Channels are averaged. Raises Unreadable for a broken, missing or truncated file.
    """
    with _opened(file, stop) as sound:
        if not isinstance(sound, Sound):
            return _read_other(file, sound, start, stop)
        f = sound.file
        want = (sound.frames if stop is None else min(stop, sound.frames)) - start
        if want <= 0:
            return np.zeros(0, np.int16), sound.rate
        ahead = min(start, _MP3_AHEAD) if f.subtype.startswith("MPEG") else 0
        if start:
            f.seek(start - ahead)
        audio = _decode(f, want + ahead, out)[ahead:]
        slack = sound.rate // 10 if f.subtype in _LOSSY else 0
        _check_whole(len(audio), want, slack)
        return audio, sound.rate


def _read_other(
    file: str | IO[bytes], demuxer: str, start: int, stop: int | None
) -> tuple[np.ndarray, int]:
    """Reads as `read` does, with PyAV."""
    parts, rate = [np.zeros(0, np.int16)], 0
    with contextlib.closing(ffmpeg.opened(file)) as f:
        for part, own in ffmpeg.blocks(f, demuxer, start, stop):
            parts.append(to_int16(_mono(_in_range(part))))
            rate = own
    if rate:
        check_rate(rate)
    return np.concatenate(parts), rate


def _check_whole(found: int, want: int, slack: int = 0) -> None:
    if found < want - slack:
        raise Unreadable(f"truncated: {found} of {want} samples can be decoded")


def blocks(file: str, seconds: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields a whole file as mono float32 blocks (n,) of so many seconds, and the rate.

    Raises Unreadable as `read` does.
    """
    with _opened(file) as sound:
        if not isinstance(sound, Sound):
            with contextlib.closing(ffmpeg.opened(file)) as other:
                for part, rate in ffmpeg.blocks(other, sound):
                    yield _in_range(part).mean(1), rate
            return
        done, f = 0, sound.file
        while done < sound.frames:
            want = min(seconds * sound.rate, sound.frames - done)
            part = f.read(want, dtype="float32", always_2d=True)
            if not len(part):
                break
            done += len(part)
            yield _in_range(part).mean(1), sound.rate
        _check_whole(done, sound.frames, sound.rate // 10 if f.subtype in _LOSSY else 0)


def _decode(f: soundfile.SoundFile, want: int, out: np.ndarray | None) -> np.ndarray:
    """Decodes `want` samples from the current position -> mono int16 (n,)."""
    most = max(1, _BLOCK // f.channels)
    if want <= most or (out is not None and len(out) >= want):
        return _decode_once(f, want, out)
    parts, left = [], want
    while left > 0:
        parts.append(_decode_once(f, min(left, most), None))
        left = left - most if len(parts[-1]) == min(left, most) else 0
    return np.concatenate(parts)


def _decode_once(f: soundfile.SoundFile, want: int, out: np.ndarray | None) -> np.ndarray:
    if f.subtype not in _INTEGER:
        return to_int16(_mono(_in_range(f.read(want, dtype="float32"))))
    if f.channels > 1:
        return np.rint(_mono(f.read(want, dtype="int16"))).astype(np.int16)
    if out is not None and len(out) >= want:
        return f.read(want, out=out[:want])
    return f.read(want, dtype="int16")


def _mono(audio: np.ndarray) -> np.ndarray:
    """Averages the channels of (n,) or (n, channels)."""
    return audio if audio.ndim == 1 else audio.mean(axis=1, dtype=np.float32)


def _in_range(audio: np.ndarray) -> np.ndarray:
    """Returns float samples if they are finite and on the right scale; see `scale_fault`."""
    fault = scale_fault(audio)
    if fault:
        raise Unreadable(f"{fault}: write the file again with samples from -1 to 1")
    return audio


def scale_fault(audio: np.ndarray) -> str:
    """Returns what is wrong with the float samples of a file or an array, "" if nothing is.

    Full scale is 1.0. Samples up to PEAK are merely too loud, and are clipped.
    """
    peak = max(float(audio.max(initial=0)), -float(audio.min(initial=0)))
    if peak <= PEAK:  # false for NaN, too
        return ""
    finite = np.isfinite(audio)
    if finite.all():
        return f"reaches {peak:g}, and floats have full scale 1.0"
    bad = audio[~finite]
    return f"{len(bad)} of {audio.size} samples are not finite, the first is {bad[0]}"


def to_int16(audio: np.ndarray) -> np.ndarray:
    """Rounds float samples, full scale 1.0, to int16, and clips those above.

    Raises Unreadable for samples that are not finite, which int16 cannot represent.
    """
    return np.clip(np.rint(_in_range(audio) * 32768.0), -32768, 32767).astype(np.int16)


def silence(audio: np.ndarray) -> str:
    """Returns why a complete recording (n,) int16 counts as silent, "" if it does not."""
    # The first and the last sample nearly always decide.
    if abs(int(audio[0]) - int(audio[-1])) >= _AUDIBLE:
        return ""
    low, high = int(audio.min()), int(audio.max())
    if low == high:
        return f"silent: all {len(audio)} samples are {low}"
    if high - low < _AUDIBLE:
        return (
            f"nearly silent: its {len(audio)} samples span {high - low} of the 65536 steps of "
            f"int16; write it again at a higher level"
        )
    return ""


def clipped(audio: np.ndarray) -> int:
    """Returns how many samples (n,) int16 are at full scale, to which louder ones are clipped."""
    return int(np.count_nonzero((audio == 32767) | (audio == -32768)))


def encode_flac(audio: np.ndarray, rate: int) -> bytes:
    """Encodes mono int16 (n,) as the bytes of a FLAC file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def resampled_length(samples: np.ndarray, rate: np.ndarray, target: int) -> np.ndarray:
    """Returns how many samples recordings have at the target rate, without overflow."""
    samples, rate = np.asarray(samples, np.int64), np.maximum(rate, 1).astype(np.int64)
    seconds, rest = np.divmod(samples, rate)
    return seconds * target + rest * target // rate


def read_crop(
    read: Callable[[int, int], tuple[np.ndarray, int]],
    rate: int,
    target: int,
    start: int,
    length: int,
) -> np.ndarray:
    """Reads `length` samples at the target rate from `start`, decoding only what is needed.

    read(first, last) returns native samples (n,) int16 and the native rate. The resampling filter
    gets context around the crop, so the result equals that part of the resampled recording.
    Returns int16 (<= length,).
    """
    if rate == target:
        return read(start, start + length)[0][:length]
    divisor = math.gcd(rate, target)
    block_in, block_out = rate // divisor, target // divisor
    margin = math.ceil(_CONTEXT * target / block_out)
    # Multiples of the rate ratio keep the phase of the filter.
    first = max(0, start // block_out - margin)
    last = math.ceil((start + length) / block_out) + margin
    native, _ = read(first * block_in, last * block_in)
    # Float, because the integer mode of soxr adds dither.
    audio = to_int16(soxr.resample(native.astype(np.float32) / 32768.0, rate, target))
    skip = start - first * block_out
    return audio[skip : skip + length]
