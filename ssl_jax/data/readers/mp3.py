"""Measures an MP3 by its length frame (Xing, Info, VBRI), or by the header of every frame."""

import re
import struct
from typing import IO, NamedTuple

from ssl_jax.data.readers.spliced import Correction

_RATES = (44100, 48000, 32000)
_LAYERS = {3: 1, 2: 2, 1: 3}
_BITS = {  # (MPEG 1, layer) -> kbit/s
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MARGIN = 100  # frames, so that the decoder's guess is too long, never too short
_SLACK = 0.01  # of the stated bytes: some programs count tags too
_PIECE = 1 << 20
_WINDOW = 1 << 16  # bytes in which the first frame is searched


class Frame(NamedTuple):
    """One frame: its bytes and samples, what all frames of a file share, and the offset of Xing."""

    size: int
    samples: int
    same: tuple[int, int]
    side: int


def tag_size(start: bytes) -> int:
    """Returns the bytes of the ID3v2 tag that a file begins with, or 0."""
    if start[:3] != b"ID3" or len(start) < 10 or max(start[6:10]) > 127:
        return 0
    size = 10 + (start[6] << 21 | start[7] << 14 | start[8] << 7 | start[9])
    return size + (10 if start[5] & 0x10 else 0)


def is_frame(head: bytes) -> bool:
    """Returns whether bytes begin with a frame header."""
    return frame(head) is not None


def frame(head: bytes) -> Frame | None:
    """Reads the four bytes of a frame header; None for anything else, and for free formats."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, _LAYERS.get(head[1] >> 1 & 3)
    code, rate = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer is None or code in (0, 15) or rate == 3:
        return None
    first = version == 3
    hertz = _RATES[rate] >> (0 if first else 1 if version == 2 else 2)
    bits, padding = 1000 * _BITS[first, layer][code], head[2] >> 1 & 1
    if layer == 1:
        return Frame((12 * bits // hertz + padding) * 4, 384, (head[1] & 0xFE, rate), 0)
    samples = 1152 if first or layer == 2 else 576
    mono = head[3] >> 6 == 3
    side = 4 + ((17 if mono else 32) if first else (9 if mono else 17)) if layer == 3 else 0
    return Frame(samples // 8 * bits // hertz + padding, samples, (head[1] & 0xFE, rate), side)


def look(file: IO[bytes], start: int, size: int, stop: int | None) -> Correction:
    """Returns the correction of a file whose tag ends at `start`."""
    at = _first(file, start)
    if at is None:
        return Correction()
    file.seek(at)
    head = file.read(2048)
    found = frame(head)
    assert found is not None
    if not found.side:  # layers I and II have a constant bit rate and no length frame
        return Correction()
    place, frames, length = _stated(head, found)
    if place == 0:  # no length frame: the decoder would guess from the size and the first frame
        count = _needed(file, at, found, stop)
        return Correction(
            frames=count * found.samples, size=at + (count + _MARGIN) * found.size * 11 // 10
        )
    there = size - at
    if not frames or not length or abs(there - length) <= max(_SLACK * length, found.size):
        return Correction()
    count = _needed(file, at + found.size, found, stop)
    if not stop and count < frames - 1:
        return Correction(
            f"cut off: its length frame states {frames} frames, and it has {count}; copy the whole "
            f"file"
        )
    if count <= frames + 1 or place < 0:  # the other bytes are tags
        return Correction()
    fixed = bytearray(head[: found.size])  # another MP3 was appended
    fixed[place + 8 : place + 16] = struct.pack(">II", count, there)
    return Correction(head=bytes(fixed), skip=at + found.size)


def _needed(file: IO[bytes], at: int, found: Frame, stop: int | None) -> int:
    """Returns the number of frames, or for `stop` samples a number that is large enough."""
    return stop // found.samples + 2 if stop else _count(file, at, found)


def _stated(head: bytes, found: Frame) -> tuple[int, int, int]:
    """Returns (offset of Xing, or -1 for VBRI or 0 for none; frames; bytes) of a length frame."""
    if head[36:40] == b"VBRI" and len(head) >= 54:
        length, frames = struct.unpack(">II", head[46:54])
        return -1, frames, length
    place = found.side
    if head[place : place + 4] not in (b"Xing", b"Info") or len(head) < place + 16:
        return 0, 0, 0
    flags, frames, length = struct.unpack(">III", head[place + 4 : place + 16])
    if not flags & 1:
        return 0, 0, 0
    return place, frames, length if flags & 2 else 0


def _first(file: IO[bytes], start: int) -> int | None:
    """Returns the offset of the first frame that is followed by another of its kind."""
    file.seek(start)
    window = file.read(_WINDOW)
    for match in re.finditer(rb"\xff[\xe0-\xff]", window):
        at = match.start()
        found = frame(window[at : at + 4])
        if found is None:
            continue
        after = frame(window[at + found.size : at + found.size + 4])
        if after is not None and after.same == found.same:
            return start + at
    return None


def _count(file: IO[bytes], at: int, found: Frame) -> int:
    """Counts the complete frames of the same kind from `at` on, skipping anything between them."""
    count, data, place = 0, b"", 0
    file.seek(at)
    sizes: dict[bytes, int] = {}
    while True:
        if place + 4096 > len(data):
            more = file.read(_PIECE)
            data, place = data[place:] + more, 0
        head = data[place : place + 3]
        size = sizes.get(head)
        if size is None:
            here = frame(data[place : place + 4])
            size = sizes[head] = here.size if here and here.same == found.same else 0
        if size and place + size <= len(data):
            count += 1
            place += size
        elif len(data) - place < 4096:
            if size or len(data) - place < 4:
                return count
            place += 1
        else:
            following = data.find(b"\xff", place + 1)
            place = following if following >= 0 else len(data) - 3
