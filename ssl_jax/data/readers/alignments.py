"""Phones with their times, from CTM files: the reference by which cluster ids are evaluated.

A line of a CTM file is `recording channel start seconds phone`, as Kaldi, NIST and forced aligners
write it; `recording` is the name of the sound file without its folder and extension.
"""

import dataclasses
import os
import pathlib
import re

import numpy as np

from ssl_jax.core import atomic, paths
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import lines

SILENCE = "SIL"
_STRESSED = re.compile(r"([A-Z]{2})[0-2]")  # ARPAbet vowels


@dataclasses.dataclass(frozen=True)
class Alignments:
    """Phones of recordings. `names`: the phones in order, silence first.

    rows: recording -> (start (n,), end (n,) in seconds, index into `names` (n,)), by start.
    """

    path: str
    names: tuple[str, ...]
    rows: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]

    def at(self, recording: str, times: np.ndarray) -> np.ndarray:
        """Returns the phone at each of `times` (T,) in seconds, as indices into `names` (T,) int32.

        Gaps between phones are silence. Raises DataError for a recording that is not listed.
        """
        start, end, phone = self.spans(recording)
        place = np.searchsorted(start, times, "right") - 1
        inside = (place >= 0) & (times < end[np.maximum(place, 0)])
        return np.where(inside, phone[np.maximum(place, 0)], 0).astype(np.int32)

    def spans(self, recording: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the row of a recording; raises DataError for one that is not listed."""
        recording = lines.composed(recording)
        if recording not in self.rows:
            some = ", ".join(list(self.rows)[:3])
            raise DataError(
                f"{self.path} has no phones of {recording!r}: its recordings are {some}, ..."
            )
        return self.rows[recording]

    def phones(self, recording: str) -> list[str]:
        """Returns the names of the phones of a recording in order, without silence."""
        return [self.names[p] for p in self.spans(recording)[2] if p]


def name_of(key: str) -> str:
    """Returns the name in a CTM file of a recording whose path, or key in a corpus, is `key`."""
    return pathlib.PurePath(key).stem


def read_ctm(
    path: str | os.PathLike, silence: tuple[str, ...] = ("SIL", "sil", "sp", "spn", "_", "")
) -> Alignments:
    """Reads a CTM file; ARPAbet stress digits are dropped, and all of `silence` become one phone.

    Raises DataError, naming the file and row, for a malformed line and for phones that overlap.
    """
    file = paths.of(path)
    if not file.is_file():
        raise DataError(f"{path} is not a file (from {pathlib.Path.cwd()}): give a CTM file")
    found: dict[str, list[tuple[float, float, str]]] = {}
    for n, line in lines.filled(file):
        try:
            recording, _, begin, seconds, phone = lines.words(lines.composed(line))[:5]
            span = float(begin), float(begin) + float(seconds)
        except ValueError as e:
            raise DataError(
                f"{file}, row {n}: expected 'recording channel start seconds phone', found "
                f"{line.strip()[:80]!r}"
            ) from e
        stressed = _STRESSED.fullmatch(phone)
        name = SILENCE if phone in silence else stressed[1] if stressed else phone
        found.setdefault(recording, []).append((*span, name))
    if not found:
        raise DataError(f"{file} is empty: expected 'recording channel start seconds phone'")
    names = sorted({p for spans in found.values() for _, _, p in spans} - {SILENCE})
    place = {name: i for i, name in enumerate((SILENCE, *names))}
    rows = {}
    for recording, spans in found.items():
        spans.sort()
        start, end = (np.array([s[i] for s in spans]) for i in (0, 1))
        late = np.flatnonzero(end[:-1] > start[1:] + 1e-3)
        if len(late):
            i = int(late[0])
            raise DataError(
                f"{file}: phones of {recording!r} overlap: {spans[i]} and {spans[i + 1]}"
            )
        rows[recording] = start, end, np.array([place[s[2]] for s in spans], np.int32)
    return Alignments(str(file), tuple(place), rows)


def write_ctm(path: str | os.PathLike, rows: dict[str, list[tuple[float, float, str]]]) -> None:
    """Writes recording -> (start, end, phone) in seconds as a CTM file."""
    lines = [
        f"{recording} 1 {start:.5f} {end - start:.5f} {phone}\n"
        for recording, spans in rows.items()
        for start, end, phone in spans
    ]
    atomic.write_text(path, "".join(lines))
