"""A split of the data: its sources end to end, with classes, subsets of labels, and reading."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.data import audio, hashing
from ssl_jax.data.errors import BadFile, DataError
from ssl_jax.data.plan import Plan, Span
from ssl_jax.data.source import Source
from ssl_jax.data.sources import open_source

SPLITS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The rows of one split; the id of a row is its place here.

    labels (n,) int32 into `classes`, -1 if unlabelled. lengths (n,) int64 in samples at
    `sample_rate`. first (sources + 1,): the id at which each source starts.
    """

    sources: tuple[Source, ...]
    weights: tuple[float, ...]
    first: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    lengths: np.ndarray
    sample_rate: int
    min_seconds: float
    on_bad: str

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def seconds(self) -> np.ndarray:
        """Lengths (n,) in seconds."""
        return self.lengths / self.sample_rate

    @property
    def spans(self) -> tuple[Span, ...]:
        """The rows and weight of each source, for a Plan."""
        pairs = zip(self.first[:-1], self.first[1:], self.weights, strict=True)
        return tuple(Span(int(a), int(b), w) for a, b, w in pairs)

    def where(self, i: int) -> str:
        """Names the file and row."""
        source, row = self._locate(i)
        return source.where(row)

    def column(self, name: str) -> list[str]:
        """Returns a column as text (n,), "" where a source has no such column."""
        out: list[str] = []
        for source in self.sources:
            values = source.columns.get(name)
            out += [""] * len(source) if values is None else [str(v) for v in values]
        return out

    def read(self, i: int, start: int = 0, length: int | None = None) -> np.ndarray:
        """Reads samples [start, start + length) at `sample_rate` -> (n,) int16. Raises BadFile."""
        length = int(self.lengths[i]) - start if length is None else length
        out = np.zeros(length, np.int16)
        return out[: self.read_into(i, start, out)]

    def read_into(self, i: int, start: int, out: np.ndarray) -> int:
        """Decodes from sample `start` into `out` (m,) int16 and returns how many samples it got.

        Raises BadFile for a file that is broken, empty, shorter than `min_seconds` or silent.
        """
        source, row = self._locate(i)
        self._check_length(source, row, int(self.lengths[i]))
        length = min(len(out), int(self.lengths[i]) - start)
        target = out[:length]

        def native(first: int, last: int) -> tuple[np.ndarray, int]:
            last = min(last, int(source.samples[row]))
            found, rate = source.read_samples(row, first, last, target)
            # A quiet stretch of a longer recording is no fault.
            if len(found) == source.samples[row]:
                _check_sound(source, row, found)
            return found, rate

        rate = int(source.rates[row])
        found = audio.read_crop(native, rate, self.sample_rate, start, length)
        if not len(found):
            raise BadFile(self.where(i), "empty: no samples can be decoded")
        if not np.shares_memory(found, target):
            target[: len(found)] = found
        return len(found)

    def _check_length(self, source: Source, row: int, length: int) -> None:
        if not source.rates[row]:
            source.read(row)  # says what is wrong with the header
        if not length:
            raise BadFile(source.where(row), "empty: 0 samples")
        if length < self.min_seconds * self.sample_rate:
            raise BadFile(
                source.where(row),
                f"too short: {length / self.sample_rate:.3f} s, less than "
                f"config.data.min_seconds={self.min_seconds}",
            )

    def _locate(self, i: int) -> tuple[Source, int]:
        source = int(np.searchsorted(self.first, i, "right")) - 1
        return self.sources[source], int(i - self.first[source])


def open_split(
    config: Mapping[str, Any], split: str, classes: Sequence[str] | None = None
) -> Corpus:
    """Opens config.data's `split`: train, valid or test.

    classes: the names behind the labels in order; by default config.data.classes, or the sorted
    labels of the training split. `labels_per_class` and `label_share` below 1 keep only the
    chosen labelled rows of the training split. Raises DataError naming the config key or the row.
    """
    _check_config(config, split)
    named = {k: config[split][k] for k in config[split]}
    sources = [open_source(f"{split}.{name}", options) for name, options in named.items()]
    texts = [
        _label_text(s, o.get("label", "")) for s, o in zip(sources, named.values(), strict=True)
    ]
    classes = _classes(config, split, classes, texts)
    labels = [_encode(s, t, classes) for s, t in zip(sources, texts, strict=True)]
    if split == "train":
        kept = _chosen(labels, len(classes), config)
        sources = [s.take(k) if len(k) < len(s) else s for s, k in zip(sources, kept, strict=True)]
        labels = [x[k] for x, k in zip(labels, kept, strict=True)]
    rate = int(config["sample_rate"])
    lengths = [audio.resampled_length(s.samples, s.rates, rate) for s in sources]
    corpus = Corpus(
        sources=tuple(sources),
        weights=tuple(float(o.get("weight", 1.0)) for o in named.values()),
        first=np.cumsum([0] + [len(s) for s in sources]),
        labels=np.concatenate(labels),
        classes=classes,
        lengths=np.concatenate(lengths).astype(np.int64),
        sample_rate=rate,
        min_seconds=float(config["min_seconds"]),
        on_bad=config["on_bad"],
    )
    if corpus.on_bad == "raise":
        _check_lengths(corpus)
    return corpus


def make_plan(
    corpus: Corpus,
    config: Mapping[str, Any],
    *,
    seed: int,
    shuffle: bool = True,
    multiple: int = 1,
) -> Plan:
    """Returns the plan of a corpus under config.data; see Plan for the arguments."""
    return Plan(
        corpus.seconds,
        spans=corpus.spans,
        buckets=config["buckets"],
        batch_size=config["batch_size"],
        constant_seconds=config["constant_seconds"],
        seed=seed,
        shuffle=shuffle,
        multiple=multiple,
    )


def _check_config(config: Mapping[str, Any], split: str) -> None:
    if split not in SPLITS:
        raise DataError(f"there is no split {split!r}: use one of {', '.join(SPLITS)}")
    if not len(config[split]):
        raise DataError(
            f"config.data.{split} names no source: add one, such as "
            f"config.data.{split}.mine = dict(kind='folder', path='...')"
        )
    if config["on_bad"] not in ("raise", "skip"):
        raise DataError(f"config.data.on_bad is {config['on_bad']!r}: use 'raise' or 'skip'")
    if not 0 < config["label_share"] <= 1:
        raise DataError(f"config.data.label_share is {config['label_share']}: use 0 < share <= 1")
    if config["sample_rate"] < 1:
        raise DataError(f"config.data.sample_rate is {config['sample_rate']}: use Hz, as 16000")


def _label_text(source: Source, label: str) -> np.ndarray | None:
    """Returns the column that holds the class, or None."""
    if label and label not in source.columns:
        raise DataError(
            f"config.data.{source.name}.label is {label!r}: "
            f"its columns are {sorted(source.columns)}"
        )
    return source.columns.get(label or "label")


def _classes(
    config: Mapping[str, Any],
    split: str,
    classes: Sequence[str] | None,
    texts: list[np.ndarray | None],
) -> tuple[str, ...]:
    chosen = tuple(config["classes"]) if classes is None else tuple(classes)
    if chosen:
        return tuple(str(c) for c in chosen)
    if classes is None and split != "train" and len(config["train"]):
        return open_split(config, "train").classes
    found = {str(v) for t in texts if t is not None for v in np.unique(t)}
    return tuple(sorted(found - {""}))


def _encode(source: Source, values: np.ndarray | None, classes: tuple[str, ...]) -> np.ndarray:
    """Turns class names (n,) into int32 (n,), -1 where empty."""
    if values is None:
        return np.full(len(source), -1, np.int32)
    names, inverse = np.unique(values, return_inverse=True)
    number = {"": -1, **{c: i for i, c in enumerate(classes)}}
    codes = [number.get(str(name), -2) for name in names]
    labels = np.array(codes, np.int32)[inverse.reshape(-1)]
    if -2 in codes:
        i = int(np.flatnonzero(labels == -2)[0])
        raise DataError(
            f"config.data.{source.name}: {source.where(i)}: label {str(values[i])!r} is not among "
            f"the {len(classes)} classes ({', '.join(classes[:8])}...): see config.data.classes"
        )
    return labels


def _chosen(labels: list[np.ndarray], classes: int, config: Mapping[str, Any]) -> list[np.ndarray]:
    """Returns the rows of each source to train on: all, or the chosen share of each class.

    A smaller choice with the same seed is part of a larger one.
    """
    share, most = config["label_share"], config["labels_per_class"]
    if share == 1 and not most:
        return [np.arange(len(x)) for x in labels]
    every = np.concatenate(labels)
    order = hashing.permutation(len(every), int(config["label_seed"]))
    keep = np.zeros(len(every), bool)
    for c in range(classes):
        own = order[every[order] == c]
        count = max(1, round(share * len(own)))
        keep[own[: min(count, most) if most else count]] = True
    if not keep.any():
        raise DataError(
            "config.data.labels_per_class and label_share choose among labelled rows, but no row "
            "of config.data.train has a label: set config.data.train.<name>.label to its column"
        )
    borders = np.cumsum([len(x) for x in labels])[:-1]
    return [np.flatnonzero(k) for k in np.split(keep, borders)]


def _check_sound(source: Source, row: int, found: np.ndarray) -> None:
    # Two samples decide nearly always.
    if found[0] == found[-1] and (found == found[0]).all():
        raise BadFile(source.where(row), f"silent: all {len(found)} samples are {found[0]}")


def _check_lengths(corpus: Corpus) -> None:
    """Raises BadFile for the first row whose header already shows that it cannot be used."""
    least = max(1, corpus.min_seconds * corpus.sample_rate)
    short = np.flatnonzero(corpus.lengths < least)
    if len(short):
        source, row = corpus._locate(int(short[0]))
        corpus._check_length(source, row, int(corpus.lengths[short[0]]))
