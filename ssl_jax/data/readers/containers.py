"""Checks the length of a sound file against its bytes, where its header cannot be trusted.

Recorders and pipes write headers before they know how much follows, and copies end early. Each
function here reads only the bytes that decide: the header, or every frame header of an MP3.
"""

import io
import struct
from collections.abc import Callable, Iterator
from typing import IO

from ssl_jax.data.readers import flac, mp3
from ssl_jax.data.readers.spliced import Correction

# Sizes that mean "not known yet": the limit of a format, a number near it, or a round number that
# a streaming program writes, of which less than a tenth is there.
_STREAMED = 2_000_000_000
_LIMITS = (1 << 31, 1 << 32)
_NEAR = 1 << 13
_SHORTEN = "is compressed by shorten: unpack it, for example with sph2pipe"
_CHUNKS = 4096  # a file with more chunks before its audio is not a sound file
_BLOCK_CODECS = (0x02, 0x11, 0x31)  # ADPCM and GSM 6.10


def look(file: IO[bytes], stop: int | None = None) -> Correction:
    """Returns the correction of a sound file; an empty one for formats that state no length.

    stop: the sample up to which the file will be read, if known; an MP3 is then not measured.
    """
    try:
        return _look(file, stop)
    except (struct.error, OverflowError):  # a broken header, for which the decoder raises
        return Correction()


def _look(file: IO[bytes], stop: int | None) -> Correction:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    start = file.read(48)
    if not start:
        return Correction("empty: 0 bytes")
    if start.startswith(b"version https://git-lfs"):
        return Correction("is a Git LFS pointer, not the file itself: run `git lfs pull`")
    tag = mp3.tag_size(start)
    if tag:
        file.seek(tag)
        start = file.read(48)
    magic, kind = start[:4], start[8:12]
    if magic == b"fLaC":
        return _flac(file, tag, size)
    if mp3.is_frame(start) or tag:
        return mp3.look(file, tag, size, stop)
    if magic in (b"RIFF", b"RIFX", b"RF64", b"BW64") and kind == b"WAVE":
        return _wave(file, size, ">" if magic == b"RIFX" else "<")
    reader = _READERS.get(magic)
    return reader(file, size) if reader else Correction()


def _checked(stated: int, there: int, block: int = 1) -> Correction:
    """Returns the fault of a file that has fewer blocks of audio than its header states."""
    if stated // block <= there // block:
        return Correction()
    return Correction(
        f"cut off: its header states {stated} bytes of sound, and it has {max(there, 0)}; copy "
        f"the whole file"
    )


def _unknown(stated: int, there: int) -> bool:
    """Returns whether a stated number of bytes is a placeholder for an unknown one."""
    if stated >= _STREAMED and stated > 10 * there:
        return True
    return any(limit - _NEAR <= stated < limit + _NEAR for limit in _LIMITS) and stated > there


def _spliced(file: IO[bytes], length: int, fields: dict[int, bytes]) -> Correction:
    """Replaces the first `length` bytes by a copy with `fields`, offset -> bytes, filled in."""
    file.seek(0)
    head = bytearray(file.read(length))
    for at, value in fields.items():
        head[at : at + len(value)] = value
    return Correction(head=bytes(head), skip=length)


def _chunks(
    file: IO[bytes], at: int, size: int, head: str, align: int, inner: int = 0
) -> Iterator[tuple[bytes, int, int]]:
    """Yields (name, offset of the content, its size) of chunks; `inner`: bytes of a chunk header
    that its stated size includes."""
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


def _wave(file: IO[bytes], size: int, order: str) -> Correction:
    """WAV, RF64 and BW64."""
    file.seek(4)
    riff = struct.unpack(order + "I", file.read(4))[0]
    kind, block, fact, long, ds64 = 1, 1, 0, 0, 0
    for name, at, length in _chunks(file, 12, size, order + "4sI", 2):
        file.seek(at)
        if name == b"fmt " and length >= 16:
            kind, _, _, _, block, _ = struct.unpack(order + "HHIIHH", file.read(16))
            block = max(block, 1)
        elif name == b"fact" and length >= 4:
            fact = struct.unpack(order + "I", file.read(4))[0]
        elif name == b"ds64" and length >= 24:
            riff, long = struct.unpack(order + "QQ", file.read(16))
            ds64 = at
        elif name == b"data":
            stated = long if ds64 and length == 0xFFFFFFFF else length
            found = _wave_data(file, size, order, (at, stated, riff, block, ds64))
            # block codecs pad their last block: `fact` states the true number of samples
            return found._replace(frames=fact) if kind in _BLOCK_CODECS and fact else found
    return Correction()


def _wave_data(
    file: IO[bytes], size: int, order: str, about: tuple[int, int, int, int, int]
) -> Correction:
    """Compares the size that the `data` chunk states with the bytes of the file.

    about: offset of the audio, its stated size, the stated size of the file, bytes per block, and
    the offset of the chunk `ds64`, or 0.
    """
    at, stated, riff, block, ds64 = about
    there = size - at
    # An empty recording ends with this chunk, and its outer size agrees; a recorder that was killed
    # or wrote to a pipe left the sizes of a file without audio.
    unstated = stated == 0 and there >= block and (riff + 8 <= at or _unknown(riff, there))
    # 32-bit sizes wrap around after 4 GiB.
    if unstated or (not ds64 and there - stated >= (1 << 32) - _NEAR):
        real = there - there % block
        if ds64:
            return _spliced(file, at, {ds64: struct.pack("<QQ", size - 8, real)})
        if real > 0xFFFFFFFF:
            return _as_rf64(file, at, size, real) if order == "<" else Correction()
        sizes = {4: size - 8, at - 4: real}
        return _spliced(file, at, {k: struct.pack(order + "I", v) for k, v in sizes.items()})
    return Correction() if _unknown(stated, there) else _checked(stated, there, block)


def _as_rf64(file: IO[bytes], at: int, size: int, real: int) -> Correction:
    """Returns an RF64 header, whose sizes have 64 bits, for a WAV whose audio starts at `at`."""
    file.seek(12)
    chunks = file.read(at - 16)
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, size + 28, real, 0, 0)
    head = b"RF64\xff\xff\xff\xffWAVE" + sizes + chunks + b"\xff\xff\xff\xff"
    return Correction(head=head, skip=at)


def _w64(file: IO[bytes], size: int) -> Correction:
    file.seek(16)
    whole = struct.unpack("<Q", file.read(8))[0]
    for name, at, length in _chunks(file, 40, size, "<16sQ", 8, inner=24):
        if name == b"data":
            there = size - at
            streamed = length < 0 or length > 1 << 62 or (length == 0 and whole <= at)
            if streamed and there > 0:
                sizes = {16: size, at - 8: there + 24}
                return _spliced(file, at, {k: struct.pack("<Q", v) for k, v in sizes.items()})
            return _checked(length, there)
    return Correction()


def _aiff(file: IO[bytes], size: int) -> Correction:
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
            unstated = stated <= 0 and there >= block and whole <= at
            if unstated or _unknown(length, there):
                real = there - there % block
                sizes = {4: size - 8, at - 4: real + 8, place: real // block}
                return _spliced(file, at, {k: struct.pack(">I", v) for k, v in sizes.items() if k})
            return _checked(stated, there, block)
    return Correction()


def _au(file: IO[bytes], size: int, order: str = ">") -> Correction:
    file.seek(4)
    found = file.read(8)
    if len(found) < 8:
        return Correction()
    at, stated = struct.unpack(order + "II", found)
    there = size - at
    if there > 0 and (stated == 0 or (_unknown(stated, there) and stated != 0xFFFFFFFF)):
        return _spliced(file, 12, {8: struct.pack(order + "I", min(there, 0xFFFFFFFF))})
    return Correction() if stated == 0xFFFFFFFF else _checked(stated, there)


def _caf(file: IO[bytes], size: int) -> Correction:
    for name, at, length in _chunks(file, 8, size, ">4sq", 1):
        if name == b"data":
            there = size - at
            if length < 0 or (length == 0 and there > 4):
                return _spliced(file, at, {at - 8: struct.pack(">q", there)})
            return _checked(length - 4, there - 4)
    return Correction()


def _nist(file: IO[bytes], size: int) -> Correction:
    file.seek(8)
    length = file.read(8).strip()
    if not length.isdigit():
        return Correction()
    file.seek(0)
    lines = file.read(min(int(length), 1 << 16)).decode("latin-1").split("\n")
    fields = {p[0]: p[2] for p in (line.split(None, 2) for line in lines) if len(p) == 3}
    if "shorten" in fields.get("sample_coding", ""):
        return Correction(_SHORTEN)
    numbers = [fields.get(key, "1").strip() for key in ("sample_n_bytes", "channel_count")]
    count = fields.get("sample_count", "").strip()
    if not count.isdigit() or not all(n.isdigit() for n in numbers):
        return Correction()
    stated, there = int(count) * int(numbers[0]) * int(numbers[1]), size - int(length)
    return _checked(stated, there)


def _flac(file: IO[bytes], tag: int, size: int) -> Correction:
    """FLAC, which states its number of samples, or 0 if the encoder could not seek back."""
    info = flac.read_info(file, tag)
    if info is None:
        return Correction()
    if info.samples > info.most(size - tag):
        return Correction(
            f"cut off or broken: its header states {info.samples} samples, more than its {size} "
            f"bytes can hold; copy the whole file"
        )
    if info.samples:
        return Correction()
    samples = flac.measure(file, tag, size, info)
    if samples is None:
        return Correction(
            "cut off: its header states no length, and it ends within a frame; write it again, "
            "for example with `flac --decode-through-errors` and `flac`"
        )
    found = _spliced(file, tag + 26, {tag + 21: info.with_samples(samples)})
    return found._replace(head=found.head[tag:])


_READERS: dict[bytes, Callable[[IO[bytes], int], Correction]] = {
    b"riff": _w64,
    b"FORM": _aiff,
    b".snd": _au,
    b"dns.": lambda file, size: _au(file, size, "<"),
    b"caff": _caf,
    b"NIST": _nist,
}
