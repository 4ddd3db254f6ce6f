"""The splits of a run: their batches in order, what could not be read, durations in steps."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ssl_jax.core import config as config_lib
from ssl_jax.core import mesh as mesh_lib
from ssl_jax.data import corpus as corpus_lib
from ssl_jax.data import errors, loader
from ssl_jax.data.corpus import Corpus
from ssl_jax.data.plan import Plan

# batches are multiples of this where config.data.batch_size is, so that a run reads the same
# ones on any number of devices up to it
DEVICES = 8
Rows = Iterator[dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Split:
    """A split of the data, and the count of its files that could not be used."""

    config: ConfigDict
    corpus: Corpus
    tally: errors.BadTally

    def rows(self, plan: Plan, names: Iterable[str], **options: int) -> Rows:
        """Yields this host's rows of the arrays `names`, batch by batch."""
        host = {"host": jax.process_index(), "hosts": jax.process_count()}
        threads = self.config.data.threads
        for rows, bads in loader.batches(self.corpus, plan, threads=threads, **host, **options):
            self.tally.add(bads)
            yield {name: rows[name] for name in names}

    def in_order(self, multiple: int, names: Iterable[str]) -> Callable[[], Rows]:
        """Returns a function giving every row once, in batches that are multiples of `multiple`."""
        data = self.config.data
        plan = corpus_lib.make_plan(self.corpus, data, seed=0, shuffle=False, multiple=multiple)
        return lambda: self.rows(plan, names)


def open_split(
    config: ConfigDict, workdir: Path, name: str, classes: Sequence[str] | None = None
) -> Split:
    """Opens a split; files that cannot be used are listed in <workdir>/skipped.jsonl."""
    corpus = corpus_lib.open_split(config.data, name, classes)
    parts = ["skipped", name if name != "train" else "", str(jax.process_index() or "")]
    path = workdir / ".".join([*filter(None, parts), "jsonl"])
    return Split(config, corpus, errors.BadTally(config.data.max_bad_share, len(corpus), path))


def durations(config: ConfigDict, plan: Plan) -> Callable[..., int]:
    """Returns to_steps(duration, key): epochs are those of the plan, "10%" is of the run."""
    size = config.data.batch_size
    if config.data.constant_seconds:
        size = max(1, round(plan.examples_per_epoch / plan.steps_per_epoch))

    def convert(text: int | str, key: str, total: int | None) -> int:
        examples, seconds = plan.steps_per_epoch * size, plan.seconds_per_step
        return config_lib.steps(
            text,
            batch_size=size,
            examples=examples,
            seconds_per_step=seconds,
            total=total,
            key=key,
        )

    whole = convert(config.train.duration, "config.train.duration", None)
    if not whole:
        raise config_lib.ConfigError("config.train.duration is 0: use such as '10k steps'")
    return lambda text, key="a duration of config.optim": convert(text, key, whole)


def unit(config: ConfigDict, mesh: Mesh) -> int:
    """Returns what every batch is a multiple of, the same on up to DEVICES devices."""
    ways = math.prod(mesh.shape[axis] for axis in mesh_lib.BATCH_AXES)
    return math.lcm(ways * config.train.accumulate, math.gcd(config.data.batch_size, DEVICES))
