"""What the bytes of a sound file say about its length, where its header alone cannot be trusted.

Recorders and pipes write headers before they know how much follows, and copies end early. Each
function here reads the few bytes that tell: those of the header, or every frame header of an MP3.
"""

import io
import struct
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

from ssl_jax.data.readers import flac, mp3

# A size that stands for "not known yet": that of a format's own limit, or near it, or the round
# number of a program that streams. Under a tenth of it is there.
_STREAMED = 2_000_000_000
_LIMITS = (1 << 31, 1 << 32)
_NEAR = 1 << 13
_SHORTEN = "is compressed by shorten: unpack it, such as by sph2pipe"
_CHUNKS = 4096  # more than that before the sound is no sound file


class Truth(NamedTuple):
    """What is true of a file, where its header is not.

    fault: why it cannot be read, "" for most. head: bytes that replace the first `skip` of it.
    frames: samples per channel, where the container states them apart from its bytes, or they were
    counted. size: bytes that it must seem to have for all of it to be decoded.
    """

    fault: str = ""
    head: bytes = b""
    skip: int = 0
    frames: int | None = None
    size: int = 0


class Spliced(io.RawIOBase):
    """A file whose first `skip` bytes are replaced by `head`; zeros follow it up to `size`."""

    def __init__(self, file: IO[bytes], head: bytes, skip: int, size: int = 0):
        super().__init__()
        self._file, self._head, self._shift, self._at = file, head, skip - len(head), 0
        self._size = max(file.seek(0, io.SEEK_END) - self._shift, size)

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Returns the place of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a place."""
        if whence == io.SEEK_END:
            self._at = self._size + offset
        else:
            self._at = offset + (self._at if whence == io.SEEK_CUR else 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fills a buffer as far as there are bytes."""
        view = memoryview(buffer).cast("B")
        view = view[: max(self._size - self._at, 0)]
        found = self._head[self._at : self._at + len(view)]
        self._file.seek(max(self._at, len(self._head)) + self._shift)
        found += self._file.read(len(view) - len(found))
        view[:] = found.ljust(len(view), b"\0")
        self._at += len(view)
        return len(view)


def look(file: IO[bytes], stop: int | None = None) -> Truth:
    """Returns what is true of a sound file; nothing special for formats that state no length.

    stop: up to which sample will be read, if that is known: then an MP3 is not measured for it.
    """
    try:
        return _look(file, stop)
    except (struct.error, OverflowError):  # a broken header: the decoder says so
        return Truth()


def _look(file: IO[bytes], stop: int | None) -> Truth:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    start = file.read(48)
    if not start:
        return Truth("empty: 0 bytes")
    if start.startswith(b"version https://git-lfs"):
        return Truth("is a pointer of Git LFS, not the file: run `git lfs pull`")
    tag = mp3.tag_size(start)
    if tag:
        file.seek(tag)
        start = file.read(48)
    magic, kind = start[:4], start[8:12]
    if magic == b"fLaC":
        return _flac(file, tag, size)
    if mp3.is_frame(start) or tag:
        return Truth(*mp3.look(file, tag, size, stop))
    if magic in (b"RIFF", b"RIFX", b"RF64", b"BW64") and kind == b"WAVE":
        return _wave(file, size, ">" if magic == b"RIFX" else "<")
    reader = _READERS.get(magic)
    return reader(file, size) if reader else Truth()


def _cut(stated: int, there: int) -> str:
    return (
        f"cut off: its header states {stated} bytes of sound, and {max(there, 0)} are there; copy "
        f"the whole file"
    )


def _unknown(stated: int, there: int) -> bool:
    """Whether a stated number of bytes only stands for one that was not known."""
    if stated >= _STREAMED and stated > 10 * there:
        return True
    return any(limit - _NEAR <= stated < limit + _NEAR for limit in _LIMITS) and stated > there


def _spliced(file: IO[bytes], length: int, fields: dict[int, bytes]) -> Truth:
    """Returns the first `length` bytes with `fields`, place -> bytes, in them."""
    file.seek(0)
    head = bytearray(file.read(length))
    for at, value in fields.items():
        head[at : at + len(value)] = value
    return Truth(head=bytes(head), skip=length)


def _chunks(
    file: IO[bytes], at: int, size: int, head: str, align: int, inner: int = 0
) -> Iterator[tuple[bytes, int, int]]:
    """Yields (name, place of the content, its bytes) of chunks; `inner`: bytes of their headers
    that count as content."""
    form = struct.Struct(head)
    for _ in range(_CHUNKS):
        if at > size:
            return
        file.seek(at)
        found = file.read(form.size)
        if len(found) < form.size:
            return
        name, length = form.unpack(found)
        length -= inner
        yield name[:4], at + form.size, length
        if length < 0:
            return
        at += form.size + length + -(length + inner) % align


def _wave(file: IO[bytes], size: int, order: str) -> Truth:
    """WAV, RF64 and BW64."""
    file.seek(4)
    riff = struct.unpack(order + "I", file.read(4))[0]
    form, fact, long, ds64 = (1, 1, 0), 0, 0, 0
    for name, at, length in _chunks(file, 12, size, order + "4sI", 2):
        file.seek(at)
        if name == b"fmt " and length >= 16:
            kind, _, _, _, block, _ = struct.unpack(order + "HHIIHH", file.read(16))
            form = (kind, max(block, 1), at)
        elif name == b"fact" and length >= 4:
            fact = struct.unpack(order + "I", file.read(4))[0]
        elif name == b"ds64" and length >= 24:
            riff, long = struct.unpack(order + "QQ", file.read(16))
            ds64 = at
        elif name == b"data":
            stated = long if ds64 and length == 0xFFFFFFFF else length
            truth = _wave_data(file, size, order, (at, stated, riff, form[1], ds64))
            # codecs that work in blocks fill the last one up: `fact` states what is real
            blocks = form[0] in (0x02, 0x11, 0x31) and fact
            return truth._replace(frames=fact) if blocks else truth
    return Truth()


def _wave_data(
    file: IO[bytes], size: int, order: str, about: tuple[int, int, int, int, int]
) -> Truth:
    """Compares what the chunk `data` states with what is there."""
    at, stated, riff, block, ds64 = about
    there = size - at
    # An empty recording ends with this chunk, and its outer size says so; a recorder that was
    # killed, or wrote to a pipe, left the sizes of a file without sound.
    untold = stated == 0 and there >= block and (riff + 8 <= at or _unknown(riff, there))
    # Sizes of 32 bits begin again at 0 after 4 GiB.
    if untold or (not ds64 and there - stated >= (1 << 32) - _NEAR):
        real = there - there % block
        if ds64:
            return _spliced(file, at, {ds64: struct.pack("<QQ", size - 8, real)})
        if real > 0xFFFFFFFF:
            return _as_rf64(file, at, size, real) if order == "<" else Truth()
        sizes = {4: size - 8, at - 4: real}
        return _spliced(file, at, {k: struct.pack(order + "I", v) for k, v in sizes.items()})
    if stated // block > there // block and not _unknown(stated, there):
        return Truth(_cut(stated, there))
    return Truth()


def _as_rf64(file: IO[bytes], at: int, size: int, real: int) -> Truth:
    """Returns the header of an RF64, whose sizes have 64 bits, for a WAV with sound from `at`."""
    file.seek(12)
    chunks = file.read(at - 16)
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, size + 28, real, 0, 0)
    head = b"RF64\xff\xff\xff\xffWAVE" + sizes + chunks + b"\xff\xff\xff\xff"
    return Truth(head=head, skip=at)


def _w64(file: IO[bytes], size: int) -> Truth:
    file.seek(16)
    whole = struct.unpack("<Q", file.read(8))[0]
    for name, at, length in _chunks(file, 40, size, "<16sQ", 8, inner=24):
        if name == b"data":
            there = size - at
            streamed = length < 0 or length > 1 << 62 or (length == 0 and whole <= at)
            if streamed and there > 0:
                sizes = {16: size, at - 8: there + 24}
                return _spliced(file, at, {k: struct.pack("<Q", v) for k, v in sizes.items()})
            return Truth(_cut(length, there)) if length > there else Truth()
    return Truth()


def _aiff(file: IO[bytes], size: int) -> Truth:
    file.seek(4)
    whole = struct.unpack(">I", file.read(4))[0]
    block, place = 1, 0
    for name, at, length in _chunks(file, 12, size, ">4sI", 2):
        file.seek(at)
        if name == b"COMM" and length >= 18:
            channels, _, bits = struct.unpack(">HIH", file.read(8))
            block, place = max(channels * ((bits + 7) // 8), 1), at + 2
        elif name == b"SSND":
            stated, there = length - 8, size - at - 8
            none = stated <= 0 and there >= block and whole <= at
            if none or _unknown(length, there):
                real = there - there % block
                sizes = {4: size - 8, at - 4: real + 8, place: real // block}
                return _spliced(file, at, {k: struct.pack(">I", v) for k, v in sizes.items() if k})
            return Truth(_cut(stated, there)) if stated // block > there // block else Truth()
    return Truth()


def _au(file: IO[bytes], size: int, order: str = ">") -> Truth:
    file.seek(4)
    found = file.read(8)
    if len(found) < 8:
        return Truth()
    at, stated = struct.unpack(order + "II", found)
    there = size - at
    if there > 0 and (stated == 0 or (_unknown(stated, there) and stated != 0xFFFFFFFF)):
        return _spliced(file, 12, {8: struct.pack(order + "I", min(there, 0xFFFFFFFF))})
    return Truth(_cut(stated, there)) if stated > there and stated != 0xFFFFFFFF else Truth()


def _caf(file: IO[bytes], size: int) -> Truth:
    for name, at, length in _chunks(file, 8, size, ">4sq", 1):
        if name == b"data":
            there = size - at
            if length < 0 or (length == 0 and there > 4):
                return _spliced(file, at, {at - 8: struct.pack(">q", there)})
            return Truth(_cut(length - 4, there - 4)) if length > there else Truth()
    return Truth()


def _nist(file: IO[bytes], size: int) -> Truth:
    file.seek(8)
    length = file.read(8).strip()
    if not length.isdigit():
        return Truth()
    file.seek(0)
    lines = file.read(min(int(length), 1 << 16)).decode("latin-1").split("\n")
    fields = {p[0]: p[2] for p in (line.split(None, 2) for line in lines) if len(p) == 3}
    if "shorten" in fields.get("sample_coding", ""):
        return Truth(_SHORTEN)
    numbers = [fields.get(f"{k}", "1").strip() for k in ("sample_n_bytes", "channel_count")]
    count = fields.get("sample_count", "").strip()
    if not count.isdigit() or not all(n.isdigit() for n in numbers):
        return Truth()
    stated, there = int(count) * int(numbers[0]) * int(numbers[1]), size - int(length)
    return Truth(_cut(stated, there)) if stated > there else Truth()


def _flac(file: IO[bytes], tag: int, size: int) -> Truth:
    """FLAC, which states its samples, or 0 where its encoder could not go back."""
    info = flac.read_info(file, tag)
    if info is None:
        return Truth()
    if info.samples > info.most(size - tag):
        return Truth(
            f"cut off, or broken: its header states {info.samples} samples, more than its {size} "
            f"bytes can hold; copy the whole file"
        )
    if info.samples:
        return Truth()
    samples = flac.measure(file, tag, size, info)
    if samples is None:
        return Truth(
            "cut off: its header states no length, and it ends within a frame; write it again, "
            "such as by `flac --decode-through-errors` and `flac`"
        )
    truth = _spliced(file, tag + 26, {tag + 21: info.with_samples(samples)})
    return truth._replace(head=truth.head[tag:])


_READERS: dict[bytes, Callable[[IO[bytes], int], Truth]] = {
    b"riff": _w64,
    b"FORM": _aiff,
    b".snd": _au,
    b"dns.": lambda file, size: _au(file, size, "<"),
    b"caff": _caf,
    b"NIST": _nist,
}
