"""Counts the samples of a FLAC file by its last frame, where its header does not state them."""

import struct
from typing import IO, NamedTuple

# Bytes at the end in which the last frame is searched; frames of this size do not occur.
_TAIL = 1 << 20
_LEAST = 10  # bytes of the smallest frame


class Info(NamedTuple):
    """The block STREAMINFO: samples per block, smallest and largest; bytes of the smallest frame;
    the byte that ends with the upper bits of the number of samples; and that number."""

    least_block: int
    block: int
    frame: int
    bits: int
    samples: int

    def most(self, size: int) -> int:
        """Returns how many samples `size` bytes can hold at most."""
        return (size // max(self.frame, _LEAST) + 1) * max(self.block, 16)

    def with_samples(self, samples: int) -> bytes:
        """Returns the bytes of the header that hold the number of samples."""
        upper = (self.bits & 0xF0) | (samples >> 32)
        return bytes([upper]) + struct.pack(">I", samples & 0xFFFFFFFF)


def read_info(file: IO[bytes], start: int) -> Info | None:
    """Reads STREAMINFO of a file that begins at `start`; None if there is none."""
    file.seek(start + 4)
    found = file.read(22)
    if len(found) < 22 or found[0] & 0x7F:
        return None
    least, most = struct.unpack(">HH", found[4:8])
    samples = (found[17] & 0x0F) << 32 | struct.unpack(">I", found[18:22])[0]
    return Info(least, most, int.from_bytes(found[8:11]), found[17], samples)


def measure(file: IO[bytes], start: int, size: int, info: Info) -> int | None:
    """Returns the number of samples up to the end of the last frame; None if it is cut off."""
    first = max(start, size - _TAIL)
    file.seek(first)
    tail = file.read()
    if tail[-128:-125] == b"TAG":
        tail = tail[:-128]
    at = len(tail)
    while (at := tail.rfind(b"\xff", 0, at)) >= 0:
        end = _end(tail[at : at + 32], info)
        if end is not None and not _crc(tail[at:], 0x8005, 16):
            return end
    return None


def _end(head: bytes, info: Info) -> int | None:
    """Returns the sample after the frame with this header, or None if it is not a header."""
    if len(head) < 10 or head[1] & 0xFE != 0xF8 or head[2] >> 4 == 0 or head[2] & 15 == 15:
        return None
    if head[3] >> 4 > 10 or head[3] & 1:
        return None
    number, at = _number(head, 4)
    if number is None:
        return None
    code = head[2] >> 4
    if code in (6, 7):
        block = int.from_bytes(head[at : at + code - 5]) + 1
        at += code - 5
    else:
        block = 192 if code == 1 else 576 << (code - 2) if code < 6 else 256 << (code - 8)
    at += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if at >= len(head) or _crc(head[: at + 1], 0x07, 8):
        return None
    variable = head[1] & 1
    return (number if variable else number * info.least_block) + block


def _number(head: bytes, at: int) -> tuple[int | None, int]:
    """Reads a number that is coded as in UTF-8 -> (number, offset of the next byte)."""
    lead = head[at]
    more = 0 if lead < 0x80 else 8 - (lead ^ 0xFF).bit_length() - 1
    if lead >= 0x80 and not 1 <= more <= 6:
        return None, at
    value = lead if lead < 0x80 else lead & (0x3F >> more)
    for byte in head[at + 1 : at + 1 + more]:
        if byte & 0xC0 != 0x80:
            return None, at
        value = value << 6 | byte & 0x3F
    return value, at + 1 + more


def _table(polynomial: int, bits: int) -> list[int]:
    out, top = [], 1 << (bits - 1)
    for byte in range(256):
        value = byte << (bits - 8)
        for _ in range(8):
            value = (value << 1) ^ (polynomial if value & top else 0)
        out.append(value & ((1 << bits) - 1))
    return out


_TABLES = {(p, b): _table(p, b) for p, b in ((0x07, 8), (0x8005, 16))}


def _crc(data: bytes, polynomial: int, bits: int) -> int:
    """Returns the CRC of data, which is 0 if the data end with their own CRC."""
    table, mask, value = _TABLES[polynomial, bits], (1 << bits) - 1, 0
    for byte in data:
        value = (value << 8) & mask ^ table[(value >> (bits - 8)) ^ byte]
    return value
