"""The splits of a run: their batches in order, what could not be read, durations in steps."""

import dataclasses
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ssl_jax.core import atomic, stop
from ssl_jax.core import config as config_lib
from ssl_jax.core import mesh as mesh_lib
from ssl_jax.core.types import Method
from ssl_jax.data import corpus as corpus_lib
from ssl_jax.data import errors, loader, split_overlap
from ssl_jax.data.base import Corpus
from ssl_jax.data.batch_schedule import BatchSchedule
from ssl_jax.engine import hosts, limits, log
from ssl_jax.nn import build

# batches are multiples of this where config.data.batch_size is, so that a run reads the same
# ones on any number of devices up to it
DEVICES = 8
Rows = Iterator[dict[str, np.ndarray]]
# array of a batch -> what gives it
_GIVEN_BY = {
    "audio": "config.data.modality='audio'",
    "audio_len": "config.data.modality='audio'",
    "image": "config.data.modality='image'",
    "video": "config.data.modality='video'",
    "tokens": "config.data.modality='text'",
    "tokens_len": "config.data.modality='text'",
    "units": "config.data.units.{split}, which names stores of frame labels",
    "target": "config.data.{split}.<name>.target, which names columns of numbers",
    "tags": "config.data.{split}.<name>.tags, which names a column of tags",
    "transcript": "config.data.{split}.<name>.transcript, which names a column of text",
    "transcript_len": "config.data.{split}.<name>.transcript, which names a column of text",
}


@dataclasses.dataclass(frozen=True)
class Split:
    """A split of the data, and the counts of its files that could not be used or are clipped."""

    config: ConfigDict
    corpus: Corpus
    tally: errors.SkipCounter
    clipped: errors.ClippedCounter
    name: str = "train"

    def rows(self, plan: BatchSchedule, names: Iterable[str], mesh: Mesh, **options: Any) -> Rows:
        """Yields the rows of the arrays `names` that this host's devices hold, batch by batch."""
        names = tuple(names)
        check_names(self.corpus, names, self.name)
        parts, of = mesh_lib.local_parts(mesh)
        options |= {"parts": parts, "of": of, "threads": self.config.data.threads}
        for rows, invalid in loader.batches(self.corpus, plan, **options):
            self.tally.add(row for row in invalid if isinstance(row, errors.InvalidRow))
            self.clipped.add(row for row in invalid if isinstance(row, errors.Clipped))
            yield {name: rows[name] for name in names}

    def in_order(self, multiple: int, names: Iterable[str], mesh: Mesh) -> "InOrder":
        """Returns a function that yields every row once over all hosts, in batches of a multiple of
        `multiple`; its length is their number."""
        data = self.config.data
        plan = corpus_lib.make_schedule(self.corpus, data, seed=0, shuffle=False, multiple=multiple)
        return InOrder(self, plan, tuple(names), mesh)


@dataclasses.dataclass(frozen=True)
class InOrder:
    """The batches of one pass over a split: called, it yields them; see `Split.in_order`."""

    split: Split
    plan: BatchSchedule
    names: tuple[str, ...]
    mesh: Mesh

    def __call__(self) -> Rows:
        """Yields the batches, from the first on."""
        return self.split.rows(self.plan, self.names, self.mesh)

    def __len__(self) -> int:
        return len(self.plan)


def open_split(
    config: ConfigDict, workdir: Path, name: str, classes: Sequence[str] | None = None
) -> Split:
    """Opens a split; files that cannot be used are listed in <workdir>/skipped.jsonl."""
    limits.check(config)
    corpus = corpus_lib.open_split(config.data, name, classes)
    _check_vocabulary(config, corpus)
    _check_units(config, corpus, name)
    _check_crop(corpus, name)
    parts = [name if name != "train" else "", str(jax.process_index() or ""), "jsonl"]
    end = ".".join(filter(None, parts))
    tally = errors.SkipCounter(config.data.max_bad_share, len(corpus), workdir / f"skipped.{end}")
    clipped = errors.ClippedCounter(workdir / f"clipped.{end}")
    tally.add(corpus.known_invalid)
    if repeated := len(corpus.sources) > 1 and split_overlap.repeated(corpus):
        log.notify(f"config.data.{name}: {repeated}")
    rows = {"rows": len(corpus), "lengths (their CRC-32)": zlib.crc32(corpus.lengths.tobytes())}
    hosts.check_same({f"{k} of config.data.{name}": str(v) for k, v in rows.items()})
    return Split(config, corpus, tally, clipped, name)


def open_train(config: ConfigDict, workdir: Path, mesh: Mesh) -> tuple[Split, BatchSchedule, int]:
    """Returns (training split, schedule of its batches, what their sizes are a multiple of)."""
    stop.check("config.data.train to open")
    train = open_split(config, workdir, "train")
    multiple = multiple_of_run(config, mesh, workdir)
    plan = corpus_lib.make_schedule(train.corpus, config.data, seed=config.seed, multiple=multiple)
    return train, plan, multiple


def open_others(config: ConfigDict, workdir: Path, train: Split) -> dict[str, Split]:
    """Returns the splits that a run needs, by name: `train`, and those of config.eval.

    Raises DataError where one file is in two of them, naming both rows.
    """
    stop.check("config.data.valid and config.data.test to open")
    opened = {"train": train}
    for name, wanted in (("valid", True), ("test", config.eval.test)):
        if len(config.data[name]) and wanted:
            opened[name] = open_split(config, workdir, name, train.corpus.classes)
    check_apart(*opened.values())
    return opened


def check_apart(*found: Split) -> None:
    """Raises DataError where one file is in two of these splits, naming both rows; mentions
    speakers of the training split in the others."""
    corpora = {split.name: split.corpus for split in found}
    split_overlap.check(corpora)
    for note in split_overlap.known_speakers(corpora):
        log.notify(note)


def batch_shapes(
    method: Method, plan: BatchSchedule, corpus: Corpus
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the global batch of the longest bucket as the method reads it, abstract.

    Raises ConfigError where the method reads what the data do not give, or in another shape.
    """
    check_names(corpus, method.batch, "train")
    given, size = corpus.specs(plan.buckets[-1]), plan.batch_sizes[-1]
    for name, spec in method.batch.items():
        shape = given[name][0]
        if name == "image":
            _check_views(spec.shape, shape)
        same = len(shape) == len(spec.shape)
        if not same or any(n not in (None, m) for n, m in zip(spec.shape, shape, strict=True)):
            raise config_lib.ConfigError(
                f"the method of config.method reads {name} of shape {spec.shape} and config.data "
                f"gives {shape}: {_sized_by(name, spec.shape)}"
            )
    return {
        name: jax.ShapeDtypeStruct((size, *given[name][0]), spec.dtype)
        for name, spec in method.batch.items()
    }


def _check_views(read: tuple[int | None, ...], given: tuple[int, ...]) -> None:
    """Raises ConfigError unless the data give as many views of an image as the method reads."""
    wanted, found = (shape[0] if len(shape) == 4 else 1 for shape in (read, given))
    if wanted != found:
        raise config_lib.ConfigError(
            f"config.data.views is {found}, and the method of config.method takes {wanted} of an "
            f"image: set config.data.views={wanted}"
        )


def without_short(split: Split, method: Method) -> Split:
    """Returns the split in which recordings with fewer frames than their transcript needs are
    refused: an error, or with config.data.on_bad='skip' rows that are skipped."""
    corpus: Any = split.corpus
    spoken = corpus.fields.get("transcript")
    if method.frames is None or spoken is None:
        return split
    frames = np.asarray(method.frames(corpus.lengths))
    needed, how = spoken.needed, "repeats included"
    if method.decoder is not None:
        most = method.decoder.per_frame
        needed, how = np.maximum(-(-spoken.lengths // most), 1), f"at most {most} a frame"
    refused = {
        int(i): f"{spoken.lengths[i]} tokens of its transcript, {how}, need {needed[i]} frames, "
        f"and the encoder of config.method makes {frames[i]} of it: fix the transcript, or set "
        f"config.data.on_bad='skip'"
        for i in np.flatnonzero(frames < needed)
    }
    corpus = dataclasses.replace(corpus, refused={**refused, **corpus.refused})
    if corpus.on_bad == "raise":
        corpus.refuse(min(refused, default=-1))
    return dataclasses.replace(split, corpus=corpus)


def check_names(corpus: Corpus, names: Iterable[str], split: str) -> None:
    """Raises ConfigError when the batches of a corpus lack one of the arrays `names`."""
    given = corpus.specs(1.0)
    for name in names:
        if name not in given:
            by = _GIVEN_BY.get(name, "no config").format(split=split)
            raise config_lib.ConfigError(
                f"config.method reads {name!r}, which config.data.{split} does not give (only "
                f"{', '.join(sorted(given))}): {name!r} comes from {by}"
            )


def _check_vocabulary(config: ConfigDict, corpus: Corpus) -> None:
    """Raises ConfigError when the encoder has no vector for some of the tokens."""
    for key, section in build.sections(config.method).items():
        size = section.get("vocab_size")
        if size is not None and size < corpus.vocab_size:
            raise config_lib.ConfigError(
                f"config.method.{key}.vocab_size is {size}, and config.data.tokenizer="
                f"{config.data.tokenizer!r} has {corpus.vocab_size} tokens: set it to "
                f"{corpus.vocab_size}"
            )


def _check_units(config: ConfigDict, corpus: Corpus, name: str) -> None:
    """Raises ConfigError when the method expects other frame labels than the data have."""
    wanted = config.method.get("units")
    if not wanted or not corpus.unit_sizes:
        return
    given = {"classes": corpus.unit_sizes, "rate": corpus.unit_rate}
    for key, value in given.items():
        if wanted[key] != value:
            what = {"classes": "ids", "rate": "labels per second"}[key]
            raise config_lib.ConfigError(
                f"config.method.units.{key} is {wanted[key]}, and the frame labels of "
                f"config.data.units.{name} have {value} {what}: set it to {value}"
            )


def _check_crop(corpus: Corpus, name: str) -> None:
    """Raises ConfigError when every example would be mostly silence."""
    longest, crop = float(corpus.seconds.max()), max(corpus.buckets, default=0.0)
    if name == "train" and longest > 0 and crop > 2 * longest:
        end = math.ceil(10 * longest) / 10
        raise config_lib.ConfigError(
            f"config.data.buckets ends at {crop} s, but the longest recording of config.data.train "
            f"has {longest:.3f} s: end it at {end}, as in --config.data.buckets='({end},)'"
        )


def _sized_by(name: str, shape: tuple[int | None, ...]) -> str:
    """Returns the key that sets the shape of an array that the method reads."""
    if name == "image":
        return f"set config.data.image_size={shape[-2]}, or config.method.encoder.image_size"
    if name == "video":
        return (
            f"set config.data.frames={shape[0]} and config.data.image_size={shape[-2]}, or "
            f"config.method.encoder.frames and image_size"
        )
    if name == "tokens":
        return f"set config.data.block_tokens={shape[0]}, or config.method.encoder.max_tokens"
    return f"config.data.{name}s and config.method must agree"


def durations(config: ConfigDict, plan: BatchSchedule) -> Callable[..., int]:
    """Returns to_steps(duration, key): epochs are those of the plan, "10%" is of the run."""
    size = config.data.batch_size
    if config.data.get("constant_seconds", False):
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
        raise config_lib.ConfigError("config.train.duration is 0: use a value such as '10k steps'")
    return lambda text, key="a duration of config.optim": convert(text, key, whole)


def batch_multiple(config: ConfigDict, mesh: Mesh) -> int:
    """Returns what the size of every batch is a multiple of, the same on up to DEVICES devices."""
    return math.lcm(_parts(config, mesh), math.gcd(config.data.batch_size, DEVICES))


def multiple_of_run(config: ConfigDict, mesh: Mesh, workdir: Path) -> int:
    """Returns what the size of every training batch is a multiple of, as when the run began.

    So batches of shorter buckets hold the same rows on whatever devices the run resumes. Where
    it does not divide over these devices, a line on the error stream notes that the batches
    change. Call `keep_multiple` once it is known that the run may go on.
    """
    found, file = batch_multiple(config, mesh), workdir / "multiple.txt"
    known = hosts.is_first() and file.exists()  # read by process 0, which writes it
    begun = hosts.of_first(_multiple(file, found) if known else 0)
    if begun and begun % _parts(config, mesh) == 0:
        return begun
    if begun and config.data.get("constant_seconds") and len(config.data.buckets) > 1:
        log.notify(
            f"the batches of shorter buckets were multiples of {begun} examples, which do not "
            f"divide over these devices: from here on they are multiples of {found} and hold other "
            f"rows. On 1 to {begun} devices that divide {begun} they would stay the same"
        )
    return found


def _multiple(file: Path, found: int) -> int:
    """Reads multiple.txt; raises ValueError with what to write to a damaged one."""
    remedy = (
        f"if the run began on as many devices as there are now, write {found} to it, and the same "
        f"command goes on; else what {found} would be on those"
    )
    text = atomic.read_text(file, remedy).strip()
    if not text.isdigit() or not int(text):
        raise ValueError(f"{file} holds {text[:20]!r}, not a number above 0: {remedy}")
    return int(text)


def keep_multiple(workdir: Path, multiple: int) -> None:
    """Writes multiple.txt, which `multiple_of_run` reads when the run goes on."""
    if hosts.is_first():
        atomic.write_text(workdir / "multiple.txt", f"{multiple}\n")


def _parts(config: ConfigDict, mesh: Mesh) -> int:
    ways = math.prod(mesh.shape[axis] for axis in mesh_lib.BATCH_AXES)
    return ways * config.train.accumulate
