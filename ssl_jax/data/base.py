"""What a run needs from any corpus: its rows, their labels, and how a batch is filled."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.data.batch_schedule import Span
from ssl_jax.data.errors import BadFile, InvalidRow
from ssl_jax.data.readers import content
from ssl_jax.data.readers.base import Source, part_of

Arrays = dict[str, np.ndarray]
Shapes = dict[str, tuple[tuple[int, ...], str]]


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The rows of one split, source after source; the id of a row is its position here.

    weights, row_weights: how often the rows of each source are drawn, and each of them in relation
    to the others; see `data/row_weights.py`. batch_shares: the share of every batch that comes from
    each source, all 0 where that is left to chance. first (sources + 1,): the id at which each
    source starts. labels (n,) int32 into `classes`, -1 if unlabelled. fields: name -> (n, ...)
    array, or an object indexed like one, whose rows go into every batch unchanged. refused: row ->
    why it cannot be used, where that is known before decoding. Images, sound and text each add the
    arrays that `shapes` names and `fill` decodes.
    """

    sources: tuple[Source, ...]
    weights: tuple[float, ...]
    row_weights: tuple[np.ndarray | None, ...]
    batch_shares: tuple[float, ...]
    first: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    fields: dict[str, Any]
    refused: Mapping[int, str]
    on_bad: str

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def content(self) -> str:
        """A digest of the bytes of the files that hold the rows, and of their order."""
        return content.of(self.sources)

    @property
    def lengths(self) -> np.ndarray:
        """Lengths (n,) int64 in samples or tokens; 1 for images."""
        return np.ones(len(self), np.int64)

    @property
    def seconds(self) -> np.ndarray:
        """Lengths (n,) in seconds, which assign rows to buckets; 0 where there is no time axis."""
        return np.zeros(len(self))

    @property
    def buckets(self) -> tuple[float, ...]:
        """The lengths in seconds that batches can have; just one where there is no time axis."""
        return (1.0,)

    @property
    def vocab_size(self) -> int:
        """The number of token ids; 0 where there are no tokens."""
        return 0

    @property
    def unit_rate(self) -> float:
        """Frame labels per second; 0 where there are none."""
        return 0.0

    @property
    def unit_sizes(self) -> tuple[int, ...]:
        """The number of ids in each set of frame labels; empty where there are none."""
        return ()

    @property
    def known_invalid(self) -> list[InvalidRow]:
        """What was found unusable before any row was read, with ids below 0."""
        return []

    @property
    def spans(self) -> tuple[Span, ...]:
        """The rows and weight of each source, for a BatchSchedule."""
        given = (self.first[:-1], self.first[1:], self.weights, self.row_weights, self.batch_shares)
        return tuple(Span(int(a), int(b), w, r, s) for a, b, w, r, s in zip(*given, strict=True))

    def where(self, i: int) -> str:
        """Names the file and row."""
        source, row = self.locate(i)
        return source.where(row)

    def column(self, name: str) -> list[str]:
        """Returns a column as text (n,), "" where a source has no such column."""
        out: list[str] = []
        for source in self.sources:
            values = source.columns.get(name)
            out += [""] * len(source) if values is None else [str(v) for v in values]
        return out

    def locate(self, i: int) -> tuple[Any, int]:
        """Returns the source of a row and its number there."""
        source, row = part_of(self.first, i)
        return self.sources[source], row

    def shapes(self, seconds: float) -> Shapes:
        """Returns the arrays that `fill` writes in a bucket: name -> (shape of a row, dtype)."""
        raise NotImplementedError

    def keys(
        self, ids: np.ndarray, epoch: np.ndarray, seconds: float, seed: int | None
    ) -> Sequence[int]:
        """Returns the key (b,) with which `fill` draws each of the rows `ids` (b,) in a bucket.

        A pure function of (seed, id, epoch). In evaluation seed is None and nothing is drawn.
        """
        raise NotImplementedError

    def fill(self, i: int, key: int, arrays: Arrays, row: int) -> float | None:
        """Decodes row i into arrays[name][row], which holds zeros. Raises BadFile.

        For sound, returns the share of samples that are at full scale.
        """
        raise NotImplementedError

    def refuse(self, i: int) -> None:
        """Raises BadFile for a row that was refused before anything was decoded."""
        if i in self.refused:
            raise BadFile(self.where(i), self.refused[i])

    def check(self) -> None:
        """Raises BadFile for the first row that is known to be unusable before it is decoded."""

    def specs(self, seconds: float) -> Shapes:
        """Returns every array of a batch: name -> (shape of a row, dtype)."""
        fields = {k: (v.shape[1:], str(v.dtype)) for k, v in self.fields.items()}
        own = {"id": ((), "uint32"), "weight": ((), "float32"), "label": ((), "int32")}
        return {**self.shapes(seconds), **own, **fields}
