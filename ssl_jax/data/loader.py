"""Yields the batches of a schedule in order, read ahead by grain's threads or processes.

Step n is read by a pure function of n, so batches are bit-identical for any number of threads,
workers and hosts, and from any starting step.
"""

import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Iterator

import grain
import numpy as np
from absl import flags

from ssl_jax.core import orphans, pulse
from ssl_jax.data.base import Arrays, Corpus
from ssl_jax.data.batch_schedule import BatchSchedule
from ssl_jax.data.errors import CLIPPED_SHARE, BadFile, Clipped, DataError, InvalidRow


@dataclasses.dataclass(frozen=True)
class StepReader:
    """Reads one host's rows of any step: those of `parts`, out of `of` equal parts, in order."""

    corpus: Corpus
    schedule: BatchSchedule
    parts: tuple[int, ...] = (0,)
    of: int = 1

    def __call__(self, step: int) -> tuple[Arrays, list[InvalidRow | Clipped]]:
        """Returns the arrays of `corpus.specs`, example axis first, such as id (b,) uint32,
        weight (b,) float32, label (b,) int32 and audio (b, N) int16 with audio_len (b,) int32;
        and the invalid rows, whose weight is 0, and the clipped ones."""
        indices = self.schedule[step]
        mine = np.arange(len(indices.ids)).reshape(self.of, -1)[list(self.parts)].reshape(-1)
        ids, weight, size = indices.ids[mine], indices.weight[mine], len(mine)
        corpus, seconds = self.corpus, self.schedule.buckets[indices.bucket]
        shapes = corpus.shapes(seconds)
        arrays = {name: np.zeros((size, *shape), kind) for name, (shape, kind) in shapes.items()}
        seed = self.schedule.seed if self.schedule.shuffle else None
        keys = corpus.keys(ids, indices.epoch[mine], seconds, seed)
        flagged: list[InvalidRow | Clipped] = []
        for row, (i, key) in enumerate(zip(ids.tolist(), keys, strict=True)):
            if not weight[row]:
                continue
            try:
                corpus.refuse(i)
                with pulse.During(functools.partial(corpus.where, i)):
                    share = corpus.fill(i, key, arrays, row)
                if share and share > CLIPPED_SHARE:
                    flagged.append(Clipped(i, corpus.where(i), round(share, 4)))
            except BadFile as e:
                if corpus.on_bad == "raise":
                    raise
                weight[row] = 0.0
                for array in arrays.values():
                    array[row] = 0
                flagged.append(InvalidRow(i, e.where, e.reason))
        arrays |= {"id": ids.astype(np.uint32), "label": corpus.labels[ids], "weight": weight}
        arrays |= {name: values[ids] for name, values in corpus.fields.items()}
        # The order in which grain returns them from another process.
        return dict(sorted(arrays.items())), flagged


def batches(
    corpus: Corpus,
    schedule: BatchSchedule,
    start: int = 0,
    stop: int | None = None,
    *,
    parts: tuple[int, ...] = (0,),
    of: int = 1,
    workers: int = 0,
    threads: int = 2,
) -> Iterator[tuple[Arrays, list[InvalidRow | Clipped]]]:
    """Yields this host's parts of steps [start, stop): (arrays, flagged rows); see StepReader.

    stop=None: endless for a training schedule, to the end of the epoch for an evaluation.
    workers: processes that read ahead, each with `threads` threads; 0 = threads of this process,
    which is as fast for sound files, since decoding releases the interpreter lock. A script that
    uses workers needs `if __name__ == "__main__"` around its main part.
    Raises DataError if the parts do not divide the batch, and for a bad file with on_bad="raise".
    """
    if any(size % of for size in schedule.batch_sizes):
        raise DataError(
            f"config.data.batch_size gives batches of {schedule.batch_sizes} rows, which do not "
            f"split into {of} equal parts: use a multiple of {of}"
        )
    if stop is None:
        # Grain counts in C integers.
        stop = sys.maxsize if schedule.shuffle else schedule.steps_per_epoch
    reader = StepReader(corpus, schedule, parts, of)
    return _iterate(reader, start, stop, workers, threads)


def _iterate(
    reader: StepReader, start: int, stop: int, workers: int, threads: int
) -> Iterator[tuple[Arrays, list[InvalidRow | Clipped]]]:
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    steps = grain.MapDataset.range(start, stop).map(reader)
    dataset = steps.to_iter_dataset(options)
    if workers:
        # Grain's processes read command-line flags, which a notebook has not parsed.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        processes = grain.MultiprocessingOptions(num_workers=workers)
        dataset = dataset.mp_prefetch(processes, orphans.end_worker)
    with _workers_on_cpu(workers):
        iterator = iter(dataset)
        batch = next(iterator, None)
    try:
        while batch is not None:
            arrays, flagged = batch
            # Copied out of the workers' shared memory, which is freed with the original.
            yield ({k: np.array(v) for k, v in arrays.items()} if workers else arrays), flagged
            batch = next(iterator, None)
    finally:
        # Frees the processes and their shared memory even if the consumer stops early.
        iterator.close()


@contextlib.contextmanager
def _workers_on_cpu(workers: int) -> Iterator[None]:
    """Makes worker processes, which import jax too, leave the accelerator to the parent."""
    before = os.environ.get("JAX_PLATFORMS")
    if workers:
        os.environ["JAX_PLATFORMS"] = "cpu"
    try:
        yield
    finally:
        if workers and before is None:
            os.environ.pop("JAX_PLATFORMS", None)
        elif workers:
            os.environ["JAX_PLATFORMS"] = before or ""
