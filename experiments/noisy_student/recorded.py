"""Recorded speech for the noisy student experiment: sentences of GRID, and read prompts beside it.

GRID sentences have six words, one from each of six lists (Cooke et al. 2006), so that a language
model of them can be estimated from sentences that nobody has recorded.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.core import atomic
from ssl_jax.core.progress import Progress
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import audio, sources
from ssl_jax.data.readers.base import Recordings

RATE = 16000
HEADER = "path\tsplit\tspeaker\ttext\tsamples\trate\tnoise"
LONGEST = 4.0  # seconds of a recording of the other domain
_WORDS = (
    "bin|lay|place|set",
    "blue|green|red|white",
    "at|by|in|with",
    "a|b|c|d|e|f|g|h|i|j|k|l|m|n|o|p|q|r|s|t|u|v|x|y|z",
    "zero|one|two|three|four|five|six|seven|eight|nine",
    "again|now|please|soon",
)
_PLACES = tuple(tuple(words.split("|")) for words in _WORDS)


def draw_text(rng: np.random.Generator) -> str:
    """Returns a sentence of GRID."""
    return " ".join(words[rng.integers(len(words))] for words in _PLACES)


def write(
    folder: pathlib.Path, grid: str, others: Sequence[str], counts: Mapping[str, int]
) -> None:
    """Writes the recordings as FLAC files of 16 kHz, and index.tsv.

    grid: a folder with index.tsv (path, transcript, split). others: folders with index.tsv (path,
    words), of which recordings of at most 4 s are read: every second one is for the test of the
    other domain. counts: recordings of GRID for `train`, from its split of that name, and for
    `test`, from its other splits. Raises DataError if GRID has fewer.
    """
    source = sources.open_source("train.grid", {"kind": "table", "path": grid})
    train = source.columns["split"] == "train"
    draw, chosen = np.random.default_rng(0), []
    for split, own in (("train", train), ("test", ~train)):
        rows = draw.permutation(np.flatnonzero(own))
        if len(rows) < counts[split]:
            raise DataError(
                f"{grid} has {len(rows)} recordings for {split!r}, and {counts[split]} are asked "
                f"for: use --unlabelled, --labels, --seeds and --test that need at most so many"
            )
        chosen += [(source, int(row), split, "transcript") for row in rows[: counts[split]]]
    for path in others:
        other = sources.open_source("train.others", {"kind": "table", "path": path})
        short = np.flatnonzero(other.samples <= LONGEST * other.rates)
        halves = zip(short, ("other", "test_other") * len(short), strict=False)
        chosen += [(other, int(row), split, "words") for row, split in halves]
    bar, made = Progress("recordings copied", len(chosen), patience=1.0), [HEADER]
    for number, (source, row, split, column) in enumerate(chosen):
        made.append(_copy(folder, f"{split}_{number:05}.flac", source, row, split, column))
        bar.step()
    bar.close()
    atomic.write_text(folder / "index.tsv", "\n".join(made) + "\n")


def _copy(
    folder: pathlib.Path, name: str, source: Recordings, row: int, split: str, column: str
) -> str:
    """Writes a recording at 16 kHz and returns its line of the index."""
    rate, samples = int(source.rates[row]), int(source.samples[row])

    def read(first: int, last: int) -> Any:
        return source.read_samples(row, first, min(last, samples))

    sound = audio.read_crop(read, rate, RATE, 0, samples * RATE // rate)
    (folder / name).write_bytes(audio.encode_flac(sound, RATE))
    fields = name, split, source.name, source.columns[column][row], len(sound), RATE, "none"
    return "\t".join(map(str, fields))
