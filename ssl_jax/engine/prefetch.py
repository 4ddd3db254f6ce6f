"""Prefetch: rows of this host become global arrays on the devices, a little ahead of use."""

import queue
import threading
from collections.abc import Generator, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding

from ssl_jax.core import stop
from ssl_jax.core.types import Batch

AHEAD = 2
WAIT = 1.0  # seconds to wait for a batch between two checks for SIGTERM
_END = object()


class DeviceBatch(NamedTuple):
    """One global batch, with its real examples and seconds of audio over all hosts."""

    batch: Batch
    examples: float
    seconds: float


def to_global(rows: Mapping[str, np.ndarray], sharding: NamedSharding) -> Batch:
    """Returns the global arrays of which `rows` are this host's part, example axis first."""
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in rows.items()}


def prefetch(
    batches: Iterable[Mapping[str, np.ndarray]],
    sharding: NamedSharding,
    sample_rate: int = 0,
    ahead: int = AHEAD,
) -> Generator[DeviceBatch, None, None]:
    """Yields batches put on the devices by a thread that works `ahead` of the consumer.

    An error of the source is raised here, at the batch where it happened. Closing the generator
    ends the thread and closes the source.
    """
    ready: queue.Queue = queue.Queue(maxsize=ahead)
    ended = threading.Event()

    def offer(item: object) -> None:
        while not ended.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        source = iter(batches)
        try:
            while not ended.is_set():
                rows = next(source, None)
                if rows is None:
                    break
                batch = to_global(rows, sharding)
                offer(DeviceBatch(batch, *_counts(rows, sample_rate, batch["weight"].size)))
            offer(_END)
        except Exception as e:  # handed to the consumer, which raises it
            offer(e)
        finally:
            if hasattr(source, "close"):
                source.close()

    worker = threading.Thread(target=work, name="feed", daemon=True)
    worker.start()
    try:
        while (item := _taken(ready)) is not _END:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        ended.set()
        # a source that hangs must not keep a run from its end
        worker.join(stop.PATIENCE if stop.noted() else None)


def _taken(ready: queue.Queue) -> Any:
    """Returns the next item; raises Stopped if this process is asked to end before one comes."""
    while True:
        try:
            return ready.get(timeout=WAIT)
        except queue.Empty:
            if stop.noted():
                raise stop.Stopped from None


def _counts(rows: Mapping[str, np.ndarray], sample_rate: int, size: int) -> tuple[float, float]:
    """Returns (real examples, seconds of audio) of a batch of `size`, from this host's rows."""
    real = rows["weight"] > 0
    seconds = 0.0
    if sample_rate and "audio_len" in rows:
        seconds = float(rows["audio_len"][real].sum()) / sample_rate
    share = size / len(real)
    return float(real.sum()) * share, seconds * share
