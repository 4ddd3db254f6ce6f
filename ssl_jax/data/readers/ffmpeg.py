"""Reads the audio of files that libsndfile does not know, such as AAC and MP4, with PyAV.

PyAV comes with the extra `audio`: pip install 'ssl_jax[audio]'.
"""

import io
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from ssl_jax.data.errors import DataError, Unreadable

EXTENSIONS = (".m4a", ".mp4", ".aac", ".webm", ".mka", ".wma")
# Only here are times exact to the sample; other formats are decoded from their start.
_SEEKABLE = "mov"
# Seconds that are decoded before a crop and dropped, since frames depend on earlier ones.
_AHEAD = 1.0


def kind(start: bytes) -> str:
    """Returns the demuxer for a file with these first bytes, "" for any other format.

    FFmpeg is told the demuxer, because it also knows formats that merely point to other files.
    """
    if start[4:8] == b"ftyp":
        return "mov"
    if start[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if start[:4] == b"\x30\x26\xb2\x75":
        return "asf"
    return "aac" if len(start) > 2 and start[0] == 0xFF and start[1] & 0xF6 == 0xF0 else ""


def check_installed(what: str) -> None:
    """Raises DataError, which names the extra, if PyAV is not installed."""
    try:
        import av  # noqa: F401
    except ImportError as e:
        raise DataError(f"{what} needs PyAV: pip install 'ssl_jax[audio]'") from e


def blocks(
    file: IO[bytes], demuxer: str, start: int = 0, stop: int | None = None
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields samples [start, stop) as float32 (n, channels) and the rate, frame by frame.

    Raises Unreadable for a file that cannot be decoded or has no audio.
    """
    check_installed("a file of this format")
    import av

    try:
        with av.open(file, format=demuxer) as container:
            if not container.streams.audio:
                raise Unreadable("it has no audio")
            yield from _blocks(container, container.streams.audio[0], demuxer, start, stop)
    except (av.FFmpegError, OSError, ValueError) as e:
        raise Unreadable(f"cannot be decoded: {getattr(e, 'strerror', None) or e}") from e


def _blocks(
    container: Any, stream: Any, demuxer: str, start: int, stop: int | None
) -> Iterator[tuple[np.ndarray, int]]:
    """Decodes a stream from shortly before `start` if its times are exact, else from its start."""
    import av

    rate, channels = int(stream.codec_context.sample_rate or 0), stream.codec_context.channels
    to = av.AudioResampler(format="fltp", layout=stream.codec_context.layout, rate=rate)
    sought = start > 2 * rate and demuxer == _SEEKABLE
    first = _first_time(container, stream) if sought else None
    if first is not None:
        second = max(start / rate - _AHEAD, 0)
        container.seek(first + int(second / stream.time_base), stream=stream)
    at = None if first is not None else 0
    for frame in container.decode(stream):
        if frame.sample_rate != rate or len(frame.layout.channels) != channels:
            raise Unreadable(f"its rate or channels change after {at} samples")
        if at is None:
            at = round((frame.pts - first) * stream.time_base * rate)
        for part in to.resample(frame):
            samples = part.to_ndarray().T
            found = samples[max(start - at, 0) : None if stop is None else max(stop - at, 0)]
            at += len(samples)
            if len(found):
                yield found, rate
        if stop is not None and at >= stop:
            return
    stated = int((stream.duration or 0) * stream.time_base * rate) if demuxer == _SEEKABLE else 0
    if stop is None and at is not None and at < stated - rate // 4:
        raise Unreadable(
            f"cut off: its header states {stated} samples, and only {at} can be decoded; copy the "
            f"whole file"
        )


def _first_time(container: Any, stream: Any) -> int | None:
    """Returns the time of the first sample, in the time base of the stream."""
    frame = next(container.decode(stream), None)
    return None if frame is None else frame.pts


def measure(file: IO[bytes], demuxer: str) -> tuple[int, int]:
    """Decodes a whole file -> (samples per channel, samples per second)."""
    samples, rate = 0, 0
    for found, own in blocks(file, demuxer):
        samples, rate = samples + len(found), own
    return samples, rate


def opened(file: str | IO[bytes]) -> IO[bytes]:
    """Opens a path, or returns the bytes of an object from their start."""
    if isinstance(file, str):
        return open(file, "rb")
    file.seek(0)
    return file if isinstance(file, io.BytesIO) else io.BytesIO(file.read())
