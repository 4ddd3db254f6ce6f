"""Batches on their way to the devices: host rows become global arrays, a little ahead of use."""

import queue
import threading
from collections.abc import Generator, Iterable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding

from ssl_jax.core.types import Batch

AHEAD = 2
_END = object()


class Fed(NamedTuple):
    """One global batch, and what it holds over all hosts: real examples and seconds of audio."""

    batch: Batch
    examples: float
    seconds: float


def to_global(rows: Mapping[str, np.ndarray], sharding: NamedSharding) -> Batch:
    """Returns the global arrays of which `rows` are this host's part, example axis first."""
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in rows.items()}


def feed(
    batches: Iterable[Mapping[str, np.ndarray]],
    sharding: NamedSharding,
    sample_rate: int = 0,
    ahead: int = AHEAD,
) -> Generator[Fed, None, None]:
    """Yields batches put on the devices by a thread that works `ahead` of the consumer.

    An error of the source is raised here, at the batch where it happened. Closing the generator
    ends the thread and closes the source.
    """
    ready: queue.Queue = queue.Queue(maxsize=ahead)
    stop = threading.Event()

    def offer(item: object) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        source = iter(batches)
        try:
            while not stop.is_set():
                rows = next(source, None)
                if rows is None:
                    break
                batch = to_global(rows, sharding)
                offer(Fed(batch, *_counts(rows, sample_rate, batch["weight"].size)))
            offer(_END)
        except Exception as e:  # handed to the consumer, which raises it
            offer(e)
        finally:
            if hasattr(source, "close"):
                source.close()

    worker = threading.Thread(target=work, name="feed", daemon=True)
    worker.start()
    try:
        while (item := ready.get()) is not _END:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stop.set()
        worker.join()


def _counts(rows: Mapping[str, np.ndarray], sample_rate: int, size: int) -> tuple[float, float]:
    """Returns (real examples, seconds of audio) of a batch of `size`, from this host's rows."""
    real = rows["weight"] > 0
    seconds = 0.0
    if sample_rate and "audio_len" in rows:
        seconds = float(rows["audio_len"][real].sum()) / sample_rate
    share = size / len(real)
    return float(real.sum()) * share, seconds * share
