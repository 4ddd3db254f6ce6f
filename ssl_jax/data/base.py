"""What a run needs to know of any corpus: its rows, their labels, and how a batch is filled."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.data.batch_schedule import Span
from ssl_jax.data.errors import Bad, BadFile
from ssl_jax.data.readers import content
from ssl_jax.data.readers.base import Source

Arrays = dict[str, np.ndarray]
Shapes = dict[str, tuple[tuple[int, ...], str]]


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The rows of one split, source after source; the id of a row is its place here.

    first (sources + 1,): the id at which each source starts. labels (n,) int32 into `classes`,
    -1 if unlabelled. fields: name -> (n, ...) array, or what can be indexed like one, whose rows
    are part of every batch as they are. refused: row -> why it cannot be used, known beforehand.
    Images, sound and text each add the arrays that `shapes` names and `fill` decodes.
    """

    sources: tuple[Source, ...]
    weights: tuple[float, ...]
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
        """What changes with a byte of the files that hold the rows, or with their order."""
        return content.of(self.sources)

    @property
    def lengths(self) -> np.ndarray:
        """Lengths (n,) int64 in the unit of the corpus: samples or tokens; images have 1."""
        return np.ones(len(self), np.int64)

    @property
    def seconds(self) -> np.ndarray:
        """Lengths (n,) in seconds, by which rows fall into buckets; 0 where there is no time."""
        return np.zeros(len(self))

    @property
    def buckets(self) -> tuple[float, ...]:
        """The lengths in seconds of the shapes that batches have; one where there is no time."""
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
    def known_bads(self) -> list[Bad]:
        """What was found to be unusable before any row was read, by ids below 0."""
        return []

    @property
    def spans(self) -> tuple[Span, ...]:
        """The rows and weight of each source, for a BatchSchedule."""
        pairs = zip(self.first[:-1], self.first[1:], self.weights, strict=True)
        return tuple(Span(int(a), int(b), w) for a, b, w in pairs)

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
        source = int(np.searchsorted(self.first, i, "right")) - 1
        return self.sources[source], int(i - self.first[source])

    def shapes(self, seconds: float) -> Shapes:
        """Returns the arrays that `fill` writes in a bucket: name -> (shape of a row, dtype)."""
        raise NotImplementedError

    def keys(
        self, ids: np.ndarray, epoch: np.ndarray, seconds: float, seed: int | None
    ) -> Sequence[int]:
        """Returns what `fill` needs to draw each of the rows `ids` (b,) in a bucket.

        A pure function of (seed, id, epoch); seed None is evaluation, where nothing is drawn.
        """
        raise NotImplementedError

    def fill(self, i: int, key: int, arrays: Arrays, row: int) -> float | None:
        """Decodes row i into arrays[name][row], zeros before. Raises BadFile.

        Of sound, returns the share of samples that stand at full scale.
        """
        raise NotImplementedError

    def refuse(self, i: int) -> None:
        """Raises BadFile for a row that was refused before anything was decoded."""
        if i in self.refused:
            raise BadFile(self.where(i), self.refused[i])

    def check(self) -> None:
        """Raises BadFile for a row that is known to be unusable before it is decoded."""

    def specs(self, seconds: float) -> Shapes:
        """Returns every array of a batch: name -> (shape of a row, dtype)."""
        fields = {k: (v.shape[1:], str(v.dtype)) for k, v in self.fields.items()}
        own = {"id": ((), "uint32"), "weight": ((), "float32"), "label": ((), "int32")}
        return {**self.shapes(seconds), **own, **fields}
