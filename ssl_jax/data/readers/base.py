"""The common form of every open source: recordings, images or documents."""

import dataclasses
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from ssl_jax.core import paths
from ssl_jax.data.errors import BadFile, Unreadable
from ssl_jax.data.readers import audio, identity

Text = np.dtypes.StringDType()
S = TypeVar("S", bound="Source")


class Reader(Protocol):
    """Gives access to recordings by row number; safe to use from several threads."""

    def read(
        self, row: int, start: int, stop: int, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, int]:
        """Returns native samples [start, stop) as mono int16 and the rate, or raises Unreadable."""
        ...

    def row_key(self, row: int) -> str:
        """Returns a permanent name of the row, whatever the location of its corpus."""
        ...

    def where(self, row: int) -> str:
        """Names the file and row."""
        ...

    def places(self) -> identity.Places:
        """Returns the files of all rows, and where in them the rows begin."""
        ...


class ImageReader(Protocol):
    """Gives access to images by row number; safe to use from several threads."""

    def image(self, row: int) -> bytes | np.ndarray:
        """Returns the bytes of an image file, or its pixels (H, W, 3), or raises Unreadable."""
        ...

    def where(self, row: int) -> str:
        """Names the file and row."""
        ...

    def places(self) -> identity.Places:
        """Returns the files of all rows, and where in them the rows begin."""
        ...


class TextReader(Protocol):
    """Gives access to documents by row number."""

    def texts(self, row: int) -> tuple[str, ...]:
        """Returns the text of a row, one or two parts; raises Unreadable."""
        ...

    def where(self, row: int) -> str:
        """Names the file and row."""
        ...

    def places(self) -> identity.Places:
        """Returns the files of all rows, and where in them the rows begin."""
        ...


class Rows(NamedTuple):
    """What a reader finds on disk: a Reader, lengths (n,), rates (n,), columns of (n,).

    states: `identity.states` of the files in the reader's places, if they were looked up.
    """

    reader: Reader
    samples: np.ndarray
    rates: np.ndarray
    columns: dict[str, np.ndarray]
    states: np.ndarray | None = None


class Items(NamedTuple):
    """The same for images and documents: a reader, their number, columns of (n,)."""

    reader: Any  # an ImageReader or a TextReader
    total: int
    columns: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Source:
    """Rows as columns: name -> (n,) array of numpy strings or numbers, such as "label".

    `rows` (n,) are their numbers in the reader. `cached` keeps their places and file states.
    """

    name: str
    reader: Any
    rows: np.ndarray
    columns: dict[str, np.ndarray]
    cached: dict[str, Any] = dataclasses.field(
        default_factory=dict, kw_only=True, repr=False, compare=False
    )

    def __getstate__(self) -> dict:
        # A worker process looks them up itself.
        return {**self.__dict__, "cached": {}}

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, i: int) -> str:
        """Returns "file, row n" of one row."""
        return self.reader.where(int(self.rows[i]))

    def places(self) -> identity.Places:
        """Returns the files of all rows of the reader, and where in them they begin."""
        if "places" not in self.cached:
            self.cached["places"] = self.reader.places()
        return self.cached["places"]

    def states(self) -> np.ndarray:
        """Returns `identity.states` of these files (m, 5), looked up once."""
        if self.cached.get("states") is None:
            self.cached["states"] = identity.states(self.places().files)
        return self.cached["states"]

    def take(self: S, index: np.ndarray) -> S:
        """Returns the source with only these rows."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        changed = {k: v[index] for k, v in own.items() if isinstance(v, np.ndarray)}
        columns = {k: v[index] for k, v in self.columns.items()}
        return dataclasses.replace(self, columns=columns, **changed)


@dataclasses.dataclass(frozen=True)
class Recordings(Source):
    """A source of audio: `samples` (n,) int64 at the native `rates` (n,) int32.

    A recording without a readable header has 0 samples; reading it raises the reason.
    """

    samples: np.ndarray
    rates: np.ndarray

    def key(self, i: int) -> str:
        """Returns a permanent name of a row: its source, whatever the split, and its row key."""
        return f"{self.name.partition('.')[2]}/{self.reader.row_key(int(self.rows[i]))}"

    def read(
        self, i: int, start_s: float = 0.0, stop_s: float | None = None
    ) -> tuple[np.ndarray, int]:
        """Reads seconds [start_s, stop_s) -> (int16 (n,), rate). Raises BadFile."""
        rate, stop = int(self.rates[i]), int(self.samples[i])
        if stop_s is not None:
            stop = min(stop, round(stop_s * rate))
        return self.read_samples(i, round(start_s * rate), stop)

    def read_samples(
        self, i: int, start: int, stop: int, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, int]:
        """Reads native samples [start, stop) -> (int16 (n,), rate). Raises BadFile."""
        try:
            found, rate = self.reader.read(int(self.rows[i]), start, stop, out)
        except Unreadable as e:
            raise BadFile(self.where(i), str(e)) from e
        if rate != self.rates[i] and self.rates[i]:
            raise BadFile(self.where(i), f"has {rate} samples per second, not {self.rates[i]}")
        # Lengths of lossy files are inexact, so a tenth of a second may be missing.
        missing = min(stop, int(self.samples[i])) - start - len(found)
        if missing > rate // 10:
            raise BadFile(self.where(i), f"ends {missing} samples before its stated length")
        return found, rate

    def check_sound(self, i: int, found: np.ndarray) -> None:
        """Raises BadFile for a complete recording (n,) int16 that is silent."""
        reason = audio.silence(found)
        if reason:
            raise BadFile(self.where(i), reason)

    def check_rate(self, i: int) -> None:
        """Raises BadFile if a table or a header gives an impossible sampling rate."""
        try:
            audio.check_rate(int(self.rates[i]))
        except Unreadable as e:
            raise BadFile(self.where(i), str(e)) from e


def part_of(first: np.ndarray, i: int) -> tuple[int, int]:
    """Returns the part that row i lies in, and its number there; first (parts + 1,) ascends."""
    part = int(np.searchsorted(first, i, "right")) - 1
    return part, int(i - first[part])


def text(values: list[str]) -> np.ndarray:
    """Returns a compact array (n,) of strings; names that are no text appear as `paths.shown`."""
    try:
        return np.array(values, dtype=Text)
    except UnicodeEncodeError:
        return np.array([paths.shown(value) for value in values], dtype=Text)
