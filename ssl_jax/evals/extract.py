"""Frame features of waveforms of any length and number, in bounded memory.

A clip longer than the window is cut into overlapping windows of that length. Only the frames in the
middle of a window are kept, so each has at least the overlap as context on either side, except at
the ends of the clip. Windows start where a step of the encoder starts, such as a column of patches,
so that frame n of the result is centred where it would be in one pass over the whole clip. Rows are
zero-padded to one of four lengths and run one or `batch` at a time: at most eight compilations for
int16, and as many for float32.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core import stop
from ssl_jax.core.progress import Progress
from ssl_jax.core.types import Array, Batch, Tree
from ssl_jax.evals.pool import FeaturesFn


class Window(NamedTuple):
    """A window of a clip: its samples (n,), and which of its frames are kept."""

    samples: np.ndarray
    first: int
    last: int | None


class Extractor:
    """Runs a model over mono clips at its own sample rate, int16 or float32 in [-1, 1].

    features(params, batch) -> Features. window_s: the longest window in seconds, normally the
    longest clip of training. overlap_s: context on each side of the frames kept (None: an eighth
    of the window). `field` and `hop` are the samples that a step covers and the samples between
    steps, each of `tokens` frames; step n is centred at field / 2 + n * hop.
    """

    def __init__(
        self,
        features: FeaturesFn,
        params: Tree,
        *,
        sample_rate: int,
        window_s: float,
        overlap_s: float | None = None,
        batch: int = 8,
    ):
        self.params, self.sample_rate, self.batch = params, sample_rate, batch
        self.window = round(window_s * sample_rate)
        found = _geometry(features, params, sample_rate, self.window)
        self.field, self.hop, self.tokens = found
        overlap_s = window_s / 8 if overlap_s is None else overlap_s
        self.overlap = _round_up(round(overlap_s * sample_rate), self.hop)
        self.stride = (self.window - 2 * self.overlap) // self.hop * self.hop
        if self.stride <= 0 or self.overlap < self.field - self.hop:
            least = (self.field - self.hop) / sample_rate
            raise ValueError(
                f"windows of {window_s} s cannot overlap by {overlap_s} s: use an overlap of at "
                f"least {least:.3f} s and of less than half the window"
            )
        parts = {max(self.field, -(-self.window // n)) for n in (8, 4, 2)}
        self.lengths = sorted(parts | {self.window})
        self._apply = _counted(features)

    def times(self, count: int) -> np.ndarray:
        """Returns the centres (T,) in seconds of the first `count` frames of a clip; those of one
        step have the same."""
        return (self.field / 2 + self.hop * (np.arange(count) // self.tokens)) / self.sample_rate

    def windows(self, blocks: Iterable[np.ndarray]) -> Iterator[Window]:
        """Cuts a clip, given as consecutive blocks, into windows; holds about one of them.

        Raises ValueError when the clip is shorter than one frame.
        """
        buffer = np.zeros(0, np.int16)
        ahead, last = (
            samples // self.hop * self.tokens
            for samples in (self.overlap, self.overlap + self.stride)
        )
        first = None
        for block in blocks:
            buffer = np.concatenate([buffer, block]) if len(buffer) else block
            while len(buffer) > self.window:
                yield Window(buffer[: self.window], first or 0, last)
                buffer = buffer[self.stride :]
                first = ahead
        if first is None and len(buffer) < self.field:
            raise ValueError(
                f"audio of {len(buffer)} samples at {self.sample_rate} Hz is shorter than one "
                f"frame: at least {self.field} samples are needed"
            )
        yield Window(buffer, first or 0, None)

    def run(self, clips: Iterable[np.ndarray]) -> list[np.ndarray]:
        """Returns the hidden states (L + 1, T, D) float32 of every clip (n,)."""
        windows = [(i, w) for i, clip in enumerate(clips) for w in self.windows([clip])]
        parts: list[list[np.ndarray]] = [[] for _ in {i for i, _ in windows}]
        with Progress("features: window", len(windows)) as progress:
            found = self._extract([w for _, w in windows], progress)
        for (i, _), hidden in zip(windows, found, strict=True):
            parts[i].append(hidden)
        return [p[0] if len(p) == 1 else np.concatenate(p, axis=1) for p in parts]

    def stream(self, blocks: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (hidden states (L + 1, T, D), times (T,)) chunk by chunk, in order.

        Memory is bounded by `batch` windows, however long the clip is.
        """
        done = 0
        for windows in _grouped(self.windows(blocks), self.batch):
            hidden = np.concatenate(self._extract(windows), axis=1)
            count = hidden.shape[1]
            yield hidden, self.times(done + count)[done:]
            done += count

    def batches(self, rows: Sequence[np.ndarray]) -> Iterator[tuple[list[int], Batch]]:
        """Groups rows (n,), at most a window long, into padded batches of similar length and type.

        Yields (positions in `rows`, batch); a batch may end with spare rows.
        """
        kinds = [(next(n for n in self.lengths if n >= len(r)), r.dtype.str) for r in rows]
        for length, kind in sorted(set(kinds)):
            like = (i for i, own in enumerate(kinds) if own == (length, kind))
            for group in _grouped(like, self.batch):
                size = 1 if len(group) == 1 else self.batch
                # spare rows repeat the first, since norms may not handle empty rows
                chosen = [rows[i] for i in group + group[:1] * (size - len(group))]
                audio = np.stack([np.pad(row, (0, length - len(row))) for row in chosen])
                counts = np.asarray([len(row) for row in chosen], np.int32)
                yield group, audio_batch(audio, counts)

    def _extract(self, windows: list[Window], progress: Progress | None = None) -> list[np.ndarray]:
        """Returns the kept frames (L + 1, T, D) of every window, in the given order."""
        found: list[np.ndarray] = [np.zeros(0)] * len(windows)
        for group, batch in stop.between(self.batches([w.samples for w in windows])):
            hidden, counts = jax.device_get(self._apply(self.params, batch))
            for row, i in enumerate(group):
                frames = hidden[:, row, : counts[row]]
                found[i] = frames[:, windows[i].first : windows[i].last].copy()
            if progress:
                progress.step(len(group))
        return found


class Examples:
    """Runs a model over examples of one shape, such as images or blocks of tokens.

    features(params, batch) -> Features. A row is {name: array} of what the method reads.
    """

    def __init__(self, features: FeaturesFn, params: Tree, *, batch: int = 8):
        self.params, self.batch = params, batch
        self._apply = _counted(features)

    def batches(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[list[int], Batch]]:
        """Groups rows: yields (positions in `rows`, batch); a batch may end with spare rows."""
        for group in _grouped(range(len(rows)), self.batch):
            size = 1 if len(group) == 1 else self.batch
            chosen = [rows[i] for i in group + group[:1] * (size - len(group))]
            arrays: Any = {name: np.stack([row[name] for row in chosen]) for name in rows[0]}
            yield group, {**_unlabelled(size), **arrays}

    def run(self, rows: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
        """Returns the hidden states (L + 1, T, D) float32 of every row, without padding."""
        found: list[np.ndarray] = [np.zeros(0)] * len(rows)
        with Progress("features: example", len(rows)) as progress:
            for group, batch in stop.between(self.batches(rows)):
                hidden, counts = jax.device_get(self._apply(self.params, batch))
                for row, i in enumerate(group):
                    found[i] = hidden[:, row, : counts[row]].copy()
                progress.step(len(group))
        return found


def _counted(features: FeaturesFn) -> Callable[[Tree, Batch], tuple[Array, Array]]:
    """Returns the jitted (params, batch) -> (hidden states (L + 1, B, T, D), real frames (B,))."""

    def apply(params: Tree, batch: Batch) -> tuple[Array, Array]:
        out = features(params, batch)
        return out.hidden_states.astype(jnp.float32), out.mask.sum(-1)

    return jax.jit(apply)


def audio_batch(audio: np.ndarray, lengths: np.ndarray | Array) -> Batch:
    """Returns an unlabelled batch of audio (B, N) with real lengths (B,)."""
    arrays: dict[str, Any] = {"audio": audio, "audio_len": lengths}
    return {**_unlabelled(len(lengths)), **arrays}


def _unlabelled(size: int) -> Batch:
    """Returns the arrays that every batch has besides its signal."""
    arrays: dict[str, Any] = {
        "id": np.arange(size, dtype=np.uint32),
        "weight": np.ones(size, np.float32),
        "label": np.full(size, -1, np.int32),
    }
    return arrays


def _geometry(
    features: FeaturesFn, params: Tree, sample_rate: int, longest: int
) -> tuple[int, int, int]:
    """Returns (samples that one step covers, samples between steps, frames of a step).

    The first by a search over masks: the shortest clip with a valid frame is one step long. Only
    the mask is computed: the compiler drops the rest.
    """
    silence = np.zeros((1, longest), np.int16)

    def apply(params: Tree, length: Array) -> Array:
        return features(params, audio_batch(silence, length)).mask.sum()

    batch = audio_batch(silence, np.ones(1, np.int32))
    shapes = jax.eval_shape(features, params, batch)
    hop = sample_rate / shapes.rate
    if abs(hop - round(hop)) > 1e-6:
        raise ValueError(
            f"{shapes.rate} frames per second do not divide the sample rate {sample_rate}"
        )
    count = jax.jit(apply)
    if not count(params, np.asarray([longest], np.int32)):
        raise ValueError(f"a window of {longest / sample_rate} s is shorter than one frame")
    low, high = 0, longest
    while high - low > 1:
        middle = (low + high) // 2
        if count(params, np.asarray([middle], np.int32)):
            high = middle
        else:
            low = middle
    return high, round(hop), math.prod(shapes.grid[1:])


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _grouped(items: Iterable, size: int) -> Iterator[list]:
    group = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
