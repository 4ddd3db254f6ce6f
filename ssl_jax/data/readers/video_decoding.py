"""Frames of a video at given seconds: of a file, decoded with PyAV, or of a folder of images.

PyAV comes with the extra `video`: pip install 'ssl_jax[video]'. A frame is shown from its own time
to that of the next one, whatever the frame rate, which may vary. Damage that the decoder conceals
is used as it shows it; a packet that it refuses, or a frame that it flags, is an error.
"""

import contextlib
import dataclasses
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from PIL import Image

from ssl_jax.data.errors import DataError, Unreadable
from ssl_jax.data.readers import ffmpeg, files, pixels

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
_COVER = 0x400  # disposition of a picture that is attached, such as the cover of an album
# Seconds ahead of the last frame that was read beyond which seeking is faster than decoding on.
_AHEAD = 1.0
# What a header may promise beyond the last frame, seconds.
_SLACK = 0.5


Timed = tuple[float, Any]  # when a frame is shown, in seconds, and the frame


class Video(Protocol):
    """One video."""

    @property
    def rate(self) -> float:
        """Frames per second, on average."""

    @property
    def seconds(self) -> float:
        """How long it is."""

    def frames(self, times: Sequence[float]) -> list[Image.Image]:
        """Returns the upright RGB frame that is shown at each time, ascending, in seconds.

        Raises Unreadable, naming the second, for what cannot be decoded.
        """


def container(start: bytes) -> str:
    """Returns the demuxer for a file with these first bytes, "" for any other format.

    FFmpeg is told the demuxer, because it also knows formats that merely point to other files.
    """
    if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        return "avi"
    if start[:4] == b"GIF8":
        return "gif"
    if start[:1] == b"\x47" and start[188:189] == b"\x47":
        return "mpegts"
    found = ffmpeg.kind(start)
    return "" if found == "aac" else found


def check_installed() -> None:
    """Raises DataError, which names the extra, if PyAV is not installed."""
    try:
        import av  # noqa: F401
    except ImportError as e:
        raise DataError("a video file needs PyAV: pip install 'ssl_jax[video]'") from e


@contextlib.contextmanager
def opened(path: str, fps: float) -> Iterator[Video]:
    """Opens a video file, or a folder of images that are shown at `fps` frames per second.

    Raises Unreadable for a format that is not known and for a file without video, and DataError
    without PyAV.
    """
    if os.path.isdir(path):
        yield Folder.of(Path(path), fps)
        return
    source = files.opened(path)
    with _file(source) as file:
        demuxer = container(file.read(189))
        file.seek(0)
        if not demuxer:
            raise Unreadable("no video format is recognised: use MP4, MOV, WebM, MKV, AVI or GIF")
        check_installed()
        with _failures("its header"):
            import av

            with av.open(file, format=demuxer) as found:
                yield Coded.of(found)


@contextlib.contextmanager
def _file(source: str | io.BytesIO) -> Iterator[IO[bytes]]:
    """Opens a path, or gives bytes themselves."""
    if not isinstance(source, str):
        yield source
        return
    try:
        file = open(source, "rb")  # noqa: SIM115
    except OSError as e:
        raise Unreadable(str(e)) from e
    with file:
        yield file


@contextlib.contextmanager
def _failures(where: str) -> Iterator[None]:
    """Turns the errors of FFmpeg into Unreadable."""
    import av

    try:
        yield
    except (av.FFmpegError, OSError, ValueError) as e:
        what = getattr(e, "strerror", None) or e
        raise Unreadable(f"cannot be decoded at {where}: {what}") from e


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder of images in the order of their names, one frame after the other."""

    names: tuple[str, ...]
    rate: float

    @classmethod
    def of(cls, path: Path, fps: float) -> "Folder":
        """Returns the images of a folder; raises Unreadable if there are none."""
        names = _images(path)
        if not names:
            raise Unreadable(f"the folder has no images: use files such as 0001{IMAGES[0]}")
        return cls(tuple(str(path / name) for name in names), fps)

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.names) / self.rate

    def frames(self, times: Sequence[float]) -> list[Image.Image]:
        """Returns the image at each time; see `Video`."""
        last, found = len(self.names) - 1, []
        for time in times:
            name = self.names[min(last, max(0, int(time * self.rate)))]
            try:
                found.append(pixels.decode(Path(name).read_bytes()))
            except (OSError, Unreadable) as e:
                raise Unreadable(f"{os.path.basename(name)}, at {time:.2f} s: {e}") from e
        return found


def first_file(path: str) -> str:
    """Returns a path itself, or that of the first frame of a folder that has one."""
    names = _images(path) if os.path.isdir(path) else []
    return os.path.join(path, names[0]) if names else path


def _images(path: str | Path) -> list[str]:
    """Returns the names of the images of a folder, in order."""
    return sorted(n for n in os.listdir(path) if n.lower().endswith(IMAGES) and n[0] != ".")


@dataclasses.dataclass
class Coded:
    """A video file that PyAV has opened. start: the time of its first frame in the file."""

    source: Any
    stream: Any
    rate: float
    seconds: float
    start: float

    @classmethod
    def of(cls, source: Any) -> "Coded":
        """Returns the first video stream of a file; raises Unreadable if there is none."""
        streams = [s for s in source.streams.video if not s.disposition & _COVER]
        if not streams:
            raise Unreadable("it has no video stream")
        stream = streams[0]
        stream.thread_type = "AUTO"
        start = float((stream.start_time or 0) * stream.time_base)
        if stream.duration:
            seconds = float(stream.duration * stream.time_base)
        elif source.duration:
            seconds = source.duration / 1e6
        else:
            seconds = _counted(source, stream)
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        if not rate or not seconds:
            raise Unreadable("its header states no duration or no frame rate")
        return cls(source, stream, rate, seconds, start)

    def frames(self, times: Sequence[float]) -> list[Image.Image]:
        """Returns the frame that is shown at each time; see `Video`."""
        found: list[Image.Image] = []
        shown: Timed | None = None
        ahead: Timed | None = None
        coming: Iterator[Timed] = iter(())
        for time in times:
            if shown is None or time > shown[0] + _AHEAD:
                coming = self._from(time)
                shown, ahead = None, next(coming, None)
            while ahead is not None and ahead[0] <= time:
                shown, ahead = ahead, next(coming, None)
            shown = shown or ahead  # the first frame may come late
            if shown is None or (ahead is None and time > shown[0] + 1 / self.rate + _SLACK):
                end = f"at {shown[0]:.2f} s" if shown else f"before {time:.2f} s"
                raise Unreadable(f"it ends {end}, although it states {self.seconds:.2f} s")
            found.append(_upright(shown[1]))
        return found

    def _from(self, time: float) -> Iterator[Timed]:
        """Yields (seconds, frame) from the key frame before `time` on."""
        with _failures(f"{time:.2f} s"):
            target = int((time + self.start) / self.stream.time_base)
            self.source.seek(target, stream=self.stream, backward=True)
        at = time
        decoder = self.source.decode(self.stream)
        while True:
            with _failures(f"{at:.2f} s"):
                frame = next(decoder, None)
            if frame is None:
                return
            at = float(frame.pts * frame.time_base) - self.start
            if frame.is_corrupt:
                raise Unreadable(f"cannot be decoded at {at:.2f} s: the frame is damaged")
            yield at, frame


def _counted(source: Any, stream: Any) -> float:
    """Returns the seconds of a video whose header states none: all of its packets are read."""
    last = 0.0
    for packet in source.demux(stream):
        if packet.pts is not None:
            last = max(last, float((packet.pts + (packet.duration or 0)) * stream.time_base))
    return last


def _upright(frame: Any) -> Image.Image:
    """Returns a frame as RGB, turned as its file says."""
    image = frame.to_image()
    turn = int(frame.rotation) % 360
    return image.rotate(turn, expand=True) if turn else image
