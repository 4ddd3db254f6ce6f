"""Corrections of the header of a sound file, and the file as it reads with them."""

import io
from typing import IO, Any, NamedTuple


class Correction(NamedTuple):
    """What to correct in a file whose header is wrong; by default, nothing.

    fault: why it cannot be read, or "". head: bytes that replace its first `skip` bytes. frames:
    samples per channel, where they were counted or do not follow from the bytes. size: bytes that
    the file must appear to have, so that all of it is decoded.
    """

    fault: str = ""
    head: bytes = b""
    skip: int = 0
    frames: int | None = None
    size: int = 0


class Spliced(io.RawIOBase):
    """A file whose first `skip` bytes are replaced by `head`, and that is padded to `size`."""

    def __init__(self, file: IO[bytes], head: bytes, skip: int, size: int = 0):
        super().__init__()
        self._file, self._head, self._shift, self._at = file, head, skip - len(head), 0
        self._size = max(file.seek(0, io.SEEK_END) - self._shift, size)

    def readable(self) -> bool:
        """Returns True."""
        return True

    def seekable(self) -> bool:
        """Returns True."""
        return True

    def tell(self) -> int:
        """Returns the position of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a position and returns it."""
        if whence == io.SEEK_END:
            self._at = self._size + offset
        else:
            self._at = offset + (self._at if whence == io.SEEK_CUR else 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fills a buffer, up to the end of the file, and returns the number of bytes."""
        view = memoryview(buffer).cast("B")
        view = view[: max(self._size - self._at, 0)]
        found = self._head[self._at : self._at + len(view)]
        self._file.seek(max(self._at, len(self._head)) + self._shift)
        found += self._file.read(len(view) - len(found))
        view[:] = found.ljust(len(view), b"\0")
        self._at += len(view)
        return len(view)
