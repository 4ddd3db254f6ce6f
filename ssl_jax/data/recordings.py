"""A split of audio: decoding, resampling and cropping its recordings."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.data import frame_labels as units_lib
from ssl_jax.data import hashing, pseudo_labels
from ssl_jax.data.base import Arrays, Corpus, Shapes
from ssl_jax.data.batch_schedule import SLACK
from ssl_jax.data.errors import BadFile, DataError, Unreadable
from ssl_jax.data.readers import audio
from ssl_jax.data.readers.base import Recordings
from ssl_jax.data.readers.sources import open_source

_CROP = 0xC309
# Samples that are allocated at once, whatever length a table or a header states.
_BLOCK = 1 << 26


@dataclasses.dataclass(frozen=True)
class AudioCorpus(Corpus):
    """Recordings; `sizes` (n,) int64 are their lengths in samples at `sample_rate`.

    units: their frame labels, if config.data.units names some.
    """

    sizes: np.ndarray
    sample_rate: int
    min_seconds: float
    bucket_seconds: tuple[float, ...]
    units: units_lib.Units | None = None

    @property
    def lengths(self) -> np.ndarray:
        """Lengths (n,) int64 in samples at `sample_rate`."""
        return self.sizes

    @property
    def seconds(self) -> np.ndarray:
        """Lengths (n,) in seconds."""
        return self.lengths / self.sample_rate

    @property
    def buckets(self) -> tuple[float, ...]:
        """config.data.buckets."""
        return self.bucket_seconds

    @property
    def unit_rate(self) -> float:
        """Frame labels per second."""
        return self.units.rate if self.units else 0.0

    @property
    def unit_sizes(self) -> tuple[int, ...]:
        """The number of ids in each set of frame labels."""
        return self.units.sizes if self.units else ()

    def key(self, i: int) -> str:
        """Returns the key of a row in stores of frame labels; see `data/frame_label_store.py`."""
        source, row = self.locate(i)
        return source.key(row)

    def shapes(self, seconds: float) -> Shapes:
        """Returns audio (N,) int16 and audio_len () int32 of a bucket and, with frame labels,
        units (K, U) int32, -1 where a set has none."""
        length = round(seconds * self.sample_rate)
        shapes: Shapes = {"audio": ((length,), "int16"), "audio_len": ((), "int32")}
        if self.units:
            shapes["units"] = (len(self.units.stores), self.units.labels(length)), "int32"
        return shapes

    def keys(
        self, ids: np.ndarray, epoch: np.ndarray, seconds: float, seed: int | None
    ) -> Sequence[int]:
        """Returns where each crop starts (b,), in samples; evaluation crops from the start."""
        room = np.maximum(self.lengths[ids] - round(seconds * self.sample_rate), 0)
        if seed is None:
            return [0] * len(ids)
        drawn = hashing.uniform(seed, _CROP, ids, epoch)
        starts = (drawn * (room + 1)).astype(np.int64)
        if self.units and self.units.grid > 1:
            starts -= starts % round(self.sample_rate * self.units.grid / self.units.rate)
        return starts.tolist()

    def fill(self, i: int, key: int, arrays: Arrays, row: int) -> float:
        """Decodes from sample `key` into audio[row] and returns the share of samples at full
        scale; raises BadFile as `read_into` does, and where frame labels are missing or do not
        fit."""
        size, clipped = self._decode(i, key, arrays["audio"][row])
        arrays["audio_len"][row] = size
        if self.units:
            self._check_units(i)
            try:
                self.units.read_into(i, key, size, arrays["units"][row])
            except Unreadable as e:
                raise BadFile(self.where(i), str(e)) from e
        return clipped

    def read(self, i: int, start: int = 0, length: int | None = None) -> np.ndarray:
        """Reads samples [start, start + length) at `sample_rate` -> (n,) int16. Raises BadFile."""
        length = int(self.lengths[i]) - start if length is None else length
        blocks = []
        for first in range(0, max(length, 1), _BLOCK):
            out = np.zeros(min(_BLOCK, length - first), np.int16)
            blocks.append(out[: self.read_into(i, start + first, out)])
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    def read_into(self, i: int, start: int, out: np.ndarray) -> int:
        """Decodes from sample `start` into `out` (m,) int16 and returns how many samples it read.

        Raises BadFile for a file that is broken, empty, shorter than `min_seconds` or silent.
        """
        return self._decode(i, start, out)[0]

    def _decode(self, i: int, start: int, out: np.ndarray) -> tuple[int, float]:
        """Decodes as `read_into` does; also returns the share of samples at full scale."""
        source, row = self.locate(i)
        self._check_length(source, row, int(self.lengths[i]))
        length = min(len(out), int(self.lengths[i]) - start)
        target, clipped = out[:length], 0.0

        def native(first: int, last: int) -> tuple[np.ndarray, int]:
            nonlocal clipped
            last = min(last, int(source.samples[row]))
            found, rate = source.read_samples(row, first, last, target)
            # Silence in part of a longer recording is fine.
            if len(found) == source.samples[row]:
                source.check_sound(row, found)
            clipped = audio.clipped(found) / max(len(found), 1)
            return found, rate

        rate = int(source.rates[row])
        found = audio.read_crop(native, rate, self.sample_rate, start, length)
        if not len(found):
            raise BadFile(self.where(i), "empty: no samples can be decoded")
        if not np.shares_memory(found, target):
            target[: len(found)] = found
        return len(found), clipped

    def check(self) -> None:
        """Raises BadFile for the first row whose header already shows that it cannot be used."""
        least = max(1, self.min_seconds * self.sample_rate)
        short = np.flatnonzero(self.lengths < least)
        if len(short):
            source, row = self.locate(int(short[0]))
            self._check_length(source, row, int(self.lengths[short[0]]))
        if self.units:
            for i in np.flatnonzero(self.units.unfit(self.sizes))[:1].tolist():
                self._check_units(i)

    def _check_units(self, i: int) -> None:
        reason = self.units.reason(i, int(self.sizes[i]), self.key(i)) if self.units else ""
        if reason:
            raise BadFile(self.where(i), reason)

    def _check_length(self, source: Recordings, row: int, length: int) -> None:
        if not source.rates[row]:
            source.read(row)  # raises what is wrong with the header
            raise BadFile(
                source.where(row), "its length is unknown: it cannot be decoded to its end"
            )
        source.check_rate(row)
        if not length:
            raise BadFile(source.where(row), "empty: 0 samples")
        if length < self.min_seconds * self.sample_rate:
            raise BadFile(
                source.where(row),
                f"too short: {length / self.sample_rate:.3f} s, less than "
                f"config.data.min_seconds={self.min_seconds}",
            )


def open_sources(config: Mapping[str, Any], named: Mapping[str, Any]) -> list[Recordings]:
    """Opens the audio sources of a split; `named`: "train.mine" -> its section."""
    if config["sample_rate"] < 1:
        raise DataError(f"config.data.sample_rate is {config['sample_rate']}: use Hz, like 16000")
    return [
        pseudo_labels.attached(open_source(name, options), options)
        for name, options in named.items()
    ]


def build(config: Mapping[str, Any], shared: Mapping[str, Any], split: str) -> AudioCorpus:
    """Returns the corpus under config.data; shared: the fields that all corpora have."""
    rate = int(config["sample_rate"])
    lengths = [audio.resampled_length(s.samples, s.rates, rate) for s in shared["sources"]]
    sizes = np.concatenate(lengths).astype(np.int64)
    longest = sizes.max() / rate
    if 0 < longest < config["min_seconds"]:
        raise DataError(
            f"config.data.min_seconds is {config['min_seconds']}, but the longest recording of "
            f"config.data.{split} has {longest:.3f} s: use at most that, as in "
            f"--config.data.min_seconds={np.floor(10 * longest) / 10}"
        )
    buckets = tuple(config["buckets"])
    if "transcript" in shared["fields"]:
        shared = {**shared, "refused": {**cut(sizes / rate, buckets), **shared["refused"]}}
    return AudioCorpus(
        **shared,
        sizes=sizes,
        sample_rate=rate,
        min_seconds=float(config["min_seconds"]),
        bucket_seconds=buckets,
        units=units_lib.open_units(config, split, shared["sources"]),
    )


def cut(seconds: np.ndarray, buckets: tuple[float, ...]) -> dict[int, str]:
    """Returns {row: why} of the recordings that would be cut while their transcript is kept."""
    rows = np.flatnonzero(seconds > max(buckets, default=np.inf) + SLACK)
    return {
        int(i): f"lasts {seconds[i]:.3f} s and would be cut at {buckets[-1]} s, but its transcript "
        f"would not: end config.data.buckets at {np.ceil(10 * seconds[i]) / 10} or more"
        for i in rows
    }
