"""Which rows make up the batch of any step: a pure, stateless function of (seed, step).

Rows are assigned to length buckets, and a batch comes from one bucket, so its shape is fixed. Each
source is permuted anew every time it is used up; a bucket mixes its sources in proportion to their
weights. An epoch draws about as many rows as the corpus has; with equal weights, each once. A
source whose rows have weights is drawn with replacement instead. Where sources have shares of the
batch, every batch holds as many rows of each.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ssl_jax.data import hashing
from ssl_jax.data.errors import DataError

# Names of the streams of permutations.
_ROWS, _MIX, _STEPS, _DRAWS = 1, 2, 3, 4
# Recordings longer than a bucket by at most this still fit it: their lengths are rounded.
SLACK = 1e-4


class Span(NamedTuple):
    """The rows [start, stop) of one source and how often they are drawn.

    rows (stop - start,): weights of the rows in relation to each other, 0 = never; None: all equal.
    share: of every batch, in place of the weight; 0.0 for all spans: left to chance.
    """

    start: int
    stop: int
    weight: float = 1.0
    rows: np.ndarray | None = None
    share: float = 0.0


class BatchIndices(NamedTuple):
    """One global batch of one bucket.

    epoch counts how often a row's source was used up before; of rows with weights, all draws.
    """

    bucket: int
    ids: np.ndarray  # (B,) int64
    epoch: np.ndarray  # (B,) int64
    weight: np.ndarray  # (B,) float32, 0 where a row only pads the last batch


class _Cell(NamedTuple):
    """The rows of one source in one bucket; an epoch draws `draws` of them.

    shares: the share of the draws that each row gets, where they differ.
    """

    source: int
    rows: np.ndarray
    draws: int
    shares: np.ndarray | None = None

    def mean(self, values: np.ndarray) -> float:
        """Returns the mean of values (n,) of all rows over the draws."""
        return float(np.average(values[self.rows], weights=self.shares))


class _Epoch(NamedTuple):
    """The rows and repetitions of an epoch in order, per bucket, and the order of the steps."""

    ids: list[np.ndarray]
    epoch: list[np.ndarray]
    steps: np.ndarray


class BatchSchedule:
    """Maps any step to its BatchIndices without going through the steps before it.

    seconds (n,): length of each row. spans: the rows of each source, by default one of weight 1.
    buckets: lengths in seconds, ascending; a row goes to the smallest that holds it, else to the
    last. batch_size: rows per step in the last bucket; with `constant_seconds`, shorter buckets
    hold proportionally more. Every batch size is a multiple of `multiple`.
    A training schedule (shuffle) is endless: the last batch of a bucket in an epoch is filled up
    from the start of that bucket. Otherwise rows come once, in order, and padding has weight 0.
    Raises DataError naming the config key.
    """

    def __init__(
        self,
        seconds: np.ndarray,
        *,
        spans: Sequence[Span] = (),
        buckets: Sequence[float],
        batch_size: int,
        constant_seconds: bool = False,
        seed: int = 0,
        shuffle: bool = True,
        multiple: int = 1,
    ):
        self.buckets = tuple(float(b) for b in buckets)
        self.seed, self.shuffle = int(seed), shuffle
        _check(seconds, self.buckets, batch_size, multiple)
        last = self.buckets[-1]
        longer = [last / b if constant_seconds else 1.0 for b in self.buckets]
        self.batch_sizes = tuple(int(batch_size * x + 1e-6) // multiple * multiple for x in longer)
        spans = tuple(Span(*s) for s in spans) or (Span(0, len(seconds)),)
        bucket = np.searchsorted(np.array(self.buckets), seconds - SLACK)
        bucket = np.minimum(bucket, len(self.buckets) - 1)
        self._cells = _cells(bucket, spans, len(self.buckets), equal=not shuffle)
        self._fixed = shuffle and any(span.share for span in spans)
        if self._fixed:
            self._cells = _shared(self._cells, spans, self.buckets, self.batch_sizes)
        draws = [sum(c.draws for c in cells) for cells in self._cells]
        self.examples_per_epoch = sum(draws)
        steps = [-(-n // size) for n, size in zip(draws, self.batch_sizes, strict=True)]
        self._last_step = np.cumsum(steps)
        self.steps_per_epoch = int(self._last_step[-1])
        self.shapes = sum(n > 0 for n in steps)  # of batches: those of buckets with rows
        kept = np.minimum(seconds, last)
        total = sum(
            c.mean(kept) * c.draws * steps[b] * self.batch_sizes[b] / max(draws[b], 1)
            for b, cells in enumerate(self._cells)
            for c in cells
        )
        self.seconds_per_step = float(total) / self.steps_per_epoch
        self._epochs: dict[int, _Epoch] = {}

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __getitem__(self, step: int) -> BatchIndices:
        """Returns the batch of a step; IndexError after the one epoch of an evaluation."""
        number, index = divmod(int(step), self.steps_per_epoch)
        if step < 0 or (number and not self.shuffle):
            raise IndexError(f"step {step} of a schedule of {self.steps_per_epoch} steps")
        epoch = self._epoch(number)
        slot = epoch.steps[index]
        b = int(np.searchsorted(self._last_step, slot, "right"))
        before = self._last_step[b - 1] if b else 0
        size, ids = self.batch_sizes[b], epoch.ids[b]
        place = (slot - before) * size + np.arange(size)
        weight = np.ones(size) if self.shuffle else place < len(ids)
        place = place % len(ids)
        return BatchIndices(b, ids[place], epoch.epoch[b][place], weight.astype(np.float32))

    def __getstate__(self) -> dict:
        # A worker process draws its own epochs, which is cheaper than sending them.
        return {**self.__dict__, "_epochs": {}}

    def _epoch(self, number: int) -> _Epoch:
        """Returns an epoch; keeps the latest two, since reading ahead crosses their border."""
        found = self._epochs.get(number)
        if found is None:
            found = self._draw_epoch(number)
            # Two threads may draw the same epoch, with equal results; others may read the old dict.
            kept = {k: v for k, v in self._epochs.items() if abs(k - number) == 1}
            self._epochs = {number: found, **kept}
        return found

    def _draw_epoch(self, number: int) -> _Epoch:
        ids, epochs = [], []
        for b, cells in enumerate(self._cells):
            drawn = [self._draw_cell(c, b, number) for c in cells]
            rows = np.concatenate([d[0] for d in drawn] or [np.zeros(0, np.int64)])
            times = np.concatenate([d[1] for d in drawn] or [np.zeros(0, np.int64)])
            if self._fixed and cells:
                # each step takes its part of every source
                each = np.repeat([i for i, _ in enumerate(cells)], [len(d[0]) for d in drawn])
                step = np.concatenate([_steps_of(len(d[0]), self._steps(b)) for d in drawn])
                order = np.lexsort((each, step))
                rows, times = rows[order], times[order]
            elif self.shuffle and len(cells) > 1:
                order = hashing.permutation(len(rows), self.seed, _MIX, b, number)
                rows, times = rows[order], times[order]
            ids.append(rows)
            epochs.append(times)
        steps = np.arange(self.steps_per_epoch)
        if self.shuffle:
            steps = hashing.permutation(self.steps_per_epoch, self.seed, _STEPS, number)
        return _Epoch(ids, epochs, steps)

    def _steps(self, bucket: int) -> int:
        """Returns the steps of a bucket in an epoch."""
        return int(self._last_step[bucket] - (self._last_step[bucket - 1] if bucket else 0))

    def _draw_cell(self, cell: _Cell, bucket: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Takes the next `draws` rows of a cell's endless permutations -> (rows, repetition)."""
        if not self.shuffle:
            return cell.rows, np.zeros(len(cell.rows), np.int64)
        n = len(cell.rows)
        place = np.arange(number * cell.draws, (number + 1) * cell.draws)
        if cell.shares is not None:
            drawn = hashing.uniform(self.seed, _DRAWS, cell.source, bucket, place)
            ends = np.cumsum(cell.shares)
            # rounding may leave the last end below a draw
            last = np.flatnonzero(cell.shares)[-1]
            return cell.rows[np.minimum(np.searchsorted(ends, drawn, "right"), last)], place
        times = place // n
        rows = np.empty(len(place), np.int64)
        for time in range(int(times[0]), int(times[-1]) + 1):
            order = hashing.permutation(n, self.seed, _ROWS, cell.source, bucket, time)
            now = times == time
            rows[now] = cell.rows[order[place[now] % n]]
        return rows, times


def _check(seconds: np.ndarray, buckets: tuple, batch_size: int, multiple: int) -> None:
    if not len(seconds):
        raise DataError("the corpus has no rows: see config.data.train")
    if not buckets or any(b <= a for a, b in zip((0.0, *buckets), buckets, strict=False)):
        raise DataError(
            f"config.data.buckets is {buckets}: use ascending seconds, for example (2.0, 4.0)"
        )
    if batch_size < 1 or batch_size % multiple:
        near = max(multiple, batch_size // multiple * multiple)
        raise DataError(
            f"config.data.batch_size is {batch_size}: use a multiple of {multiple}, such as {near}"
        )


def _cells(
    bucket: np.ndarray, spans: Sequence[Span], buckets: int, equal: bool
) -> list[list[_Cell]]:
    """Groups rows by bucket and source, and divides an epoch's draws by weight."""
    found = []
    for source, (start, stop, weight, each, _) in enumerate(spans):
        for b in range(buckets):
            rows = start + np.flatnonzero(bucket[start:stop] == b)
            if not len(rows):
                continue
            if equal or each is None:
                found.append((b, source, rows, (1.0 if equal else float(weight)) * len(rows), None))
                continue
            # as many draws as its share of the source, of which an average row has one
            own = each[rows - start]
            if own.any():
                mass = float(weight) * own.sum() / each.mean()
                found.append((b, source, rows, mass, own / own.sum()))
    draws = _apportion(np.array([mass for *_, mass, _ in found]), len(bucket))
    out: list[list[_Cell]] = [[] for _ in range(buckets)]
    for (b, source, rows, _, shares), n in zip(found, draws, strict=True):
        out[b].append(_Cell(source, rows, int(n), shares))
    return out


def _shared(
    cells: list[list[_Cell]],
    spans: Sequence[Span],
    buckets: Sequence[float],
    sizes: Sequence[int],
) -> list[list[_Cell]]:
    """Returns the cells with as many draws as fixed shares of the batches of an epoch need.

    A bucket keeps its number of steps. Raises DataError for a bucket in which a source has no rows,
    or for batches too small to hold a row of each.
    """
    out: list[list[_Cell]] = []
    for own, seconds, size in zip(cells, buckets, sizes, strict=True):
        if not own:
            out.append([])
            continue
        missing = sorted(set(range(len(spans))) - {cell.source for cell in own})
        if missing:
            raise DataError(
                f"config.data.buckets: source {missing[0] + 1} of config.data.train has no "
                f"recording in the bucket of {seconds} s, of whose batches it has a share "
                f"(batch_share): use fewer buckets, such as ({buckets[-1]},)"
            )
        rows = _apportion(np.array([span.share for span in spans]), size)
        if rows.sum() > size:
            raise DataError(
                f"config.data.batch_size gives batches of {size} rows, too few to hold one of each "
                f"of {len(spans)} sources by batch_share: use a larger one"
            )
        steps = -(-sum(cell.draws for cell in own) // size)
        out.append([cell._replace(draws=int(rows[cell.source]) * steps) for cell in own])
    return out


def _steps_of(draws: int, steps: int) -> np.ndarray:
    """Returns the step (draws,) in which each draw of a cell is used, equally many in each."""
    return np.arange(draws) // (draws // steps)


def _apportion(mass: np.ndarray, total: int) -> np.ndarray:
    """Divides `total` in proportion to mass by largest remainders; each gets at least one."""
    exact = mass * (total / mass.sum())
    whole = np.floor(exact + 1e-9).astype(np.int64)
    rest = total - whole.sum()
    whole[np.argsort(whole - exact, kind="stable")[:rest]] += 1
    return np.maximum(whole, 1)
