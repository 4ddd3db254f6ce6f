"""Frame labels of the recordings of a corpus: cropped with the audio, and checked against it.

`config.data.units.<split>` names stores of `data/frame_label_store.py`, one for each set of
labels. A row needs labels of all sets; audio and labels may differ in length by TOLERANCE, since
the last frame ends before the audio does.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.data import frame_label_store
from ssl_jax.data.errors import DataError
from ssl_jax.data.frame_label_store import UnitStore
from ssl_jax.data.readers.base import Recordings

TOLERANCE = 0.1
"""Seconds by which the audio and the labels of a row may differ in length."""


@dataclasses.dataclass(frozen=True)
class Units:
    """The label sets of a corpus: K stores of one rate, and the positions of its n rows in them.

    places (K, n) int64, -1 where a row has no labels.
    """

    stores: tuple[UnitStore, ...]
    places: np.ndarray
    sample_rate: int

    @property
    def rate(self) -> float:
        """Labels per second."""
        return self.stores[0].rate

    @property
    def grid(self) -> int:
        """Labels of one step, at which crops have to start."""
        return self.stores[0].grid

    @property
    def tolerance(self) -> float:
        """Seconds by which audio and labels may differ: of a grid, a step that is not full too."""
        return TOLERANCE + 1e-9 + (self.grid / self.rate if self.grid > 1 else 0)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of ids of each set."""
        return tuple(store.vocab_size for store in self.stores)

    def labels(self, samples: int) -> int:
        """Returns how many labels cover so many samples, rounded to the nearest integer."""
        return round(samples * self.rate / self.sample_rate)

    def read_into(self, i: int, start: int, size: int, out: np.ndarray) -> None:
        """Writes the labels of samples [start, start + size) of row i into out (K, U), padded
        with -1.

        Start and number are rounded to whole labels, and end with those of the row. Raises
        Unreadable for an id outside the vocabulary.
        """
        first, count = self.labels(start), self.labels(size)
        out[:] = -1
        for k, store in enumerate(self.stores):
            found = store.read(int(self.places[k, i]), first, first + count)
            out[k, : len(found)] = found

    def unfit(self, samples: np.ndarray) -> np.ndarray:
        """samples (n,) of the rows -> bool (n,), true where labels are missing or do not fit."""
        bad = np.zeros(len(samples), bool)
        for store, places in zip(self.stores, self.places, strict=True):
            seconds = store.counts[places] / store.rate
            off = np.abs(seconds - samples / self.sample_rate) > self.tolerance
            bad |= (places < 0) | off
        return bad

    def reason(self, i: int, samples: int, key: str) -> str:
        """Returns why the labels of row i, of so many samples and this key, do not fit, or ""."""
        seconds = samples / self.sample_rate
        for store, place in zip(self.stores, self.places[:, i].tolist(), strict=True):
            if place < 0:
                return (
                    f"has no frame labels in {store.path} (key {key!r}): label this corpus again, "
                    "or leave the row out of config.data"
                )
            count = int(store.counts[place])
            if abs(count / store.rate - seconds) > self.tolerance:
                fewer = "fewer" if count < seconds * store.rate else "more"
                return (
                    f"{fewer} frame labels than audio: {count} at {store.rate:g} Hz in "
                    f"{store.path}, {count / store.rate:.3f} s for {seconds:.3f} s; make them "
                    "again from this file, and check their rate"
                )
        return ""


def open_units(
    config: Mapping[str, Any], split: str, sources: Sequence[Recordings]
) -> Units | None:
    """Opens the stores that config.data.units names for a split and finds all rows in them.

    None where it names none. Raises DataError for a path that is not a store, sets of different
    rates, and labels from other clusters than those of the training split.
    """
    paths = _paths(config, split)
    if not paths:
        return None
    stores = tuple(_open(split, path) for path in paths)
    for store in stores:
        if store.rate != stores[0].rate:
            raise DataError(
                f"config.data.units.{split} names labels of {stores[0].rate:g} Hz "
                f"({stores[0].path}) and of {store.rate:g} Hz ({store.path}): use one rate"
            )
    if split != "train":
        _check_same(split, stores, [_open("train", path) for path in _paths(config, "train")])
    keys = [source.key(i) for source in sources for i in range(len(source))]
    places = np.stack([store.find(keys) for store in stores])
    return Units(stores, places, int(config["sample_rate"]))


def _paths(config: Mapping[str, Any], split: str) -> tuple[str, ...]:
    named = config.get("units", {}).get(split, ())
    return tuple(filter(None, (named,) if isinstance(named, str) else named))


def _open(split: str, path: str) -> UnitStore:
    try:
        return frame_label_store.open_store(path)
    except DataError as e:
        raise DataError(f"config.data.units.{split}: {e}") from e


def _check_same(split: str, stores: Sequence[UnitStore], train: Sequence[UnitStore]) -> None:
    """Raises DataError unless both splits were labelled by the same clusters."""
    if train and len(train) != len(stores):
        raise DataError(
            f"config.data.units.{split} names {len(stores)} sets of labels and "
            f"config.data.units.train {len(train)}: use the same number, in the same order"
        )
    for own, other in zip(stores, train, strict=bool(train)):
        for name in ("signature", "vocab_size", "rate"):
            a, b = getattr(own, name), getattr(other, name)
            if a != b:
                raise DataError(
                    f"config.data.units.{split}: {own.path} has {name} {a!r} and "
                    f"{other.path} of config.data.units.train {b!r}: label both splits with one "
                    "k-means model, or their losses cannot be compared"
                )
