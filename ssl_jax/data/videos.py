"""A split of videos: which frames make a clip, and the transforms that all of them share."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.data import hashing, transforms
from ssl_jax.data.base import Arrays, Corpus, Shapes
from ssl_jax.data.errors import BadFile, DataError, Unreadable
from ssl_jax.data.hashing import Draws
from ssl_jax.data.readers.base import Source
from ssl_jax.data.readers.sources import open_items
from ssl_jax.data.readers.video_decoding import Video

SAMPLINGS = ("dense", "segments")
SHORT = ("hold", "error")
_AUGMENT = 0xA071
_PLACE = 0x71  # the stream of the random numbers that choose frames


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Which frames of a video make a clip; see configs/clips.py for the keys."""

    frames: int
    stride: int
    fps: float
    kind: str
    short: str

    def times(self, video: Video, key: int) -> list[float]:
        """Returns the seconds of the frames, ascending. key: of the random numbers; below 0: the
        middle of what could be drawn.

        A time is that of the middle of a frame, so that rounding chooses no neighbour. Raises
        Unreadable for a video that is too short where that is an error.
        """
        rate = self.fps or video.rate
        count = max(1, round(video.seconds * rate))
        span = self.frames if self.kind == "segments" else (self.frames - 1) * self.stride + 1
        if count < span and self.short == "error":
            raise Unreadable(
                f"too short: {video.seconds:.2f} s have {count} frames, and a clip needs {span}: "
                f"use config.data.short='hold', or fewer config.data.frames"
            )
        draw = None if key < 0 else Draws(key, _PLACE)
        if self.kind == "segments":
            places = self._segments(count, draw)
        else:
            free = max(0, count - span)
            first = free // 2 if draw is None else draw.below(free + 1)
            places = [first + k * self.stride for k in range(self.frames)]
        return [(min(place, count - 1) + 0.5) / rate for place in places]

    def _segments(self, count: int, draw: Draws | None) -> list[int]:
        """Returns a frame of each of `frames` equal parts of `count` frames."""
        edges = [k * count / self.frames for k in range(self.frames + 1)]
        places = []
        for low, high in itertools.pairwise(edges):
            first, size = int(low), max(1, int(high) - int(low))
            places.append(first + (size // 2 if draw is None else draw.below(size)))
        return places


@dataclasses.dataclass(frozen=True)
class VideoCorpus(Corpus):
    """Videos, of which an example is a clip of a few frames.

    train_steps and eval_steps: what `transforms.build` returns; the frames of a clip share their
    random numbers, and so the place of a crop and every change.
    """

    size: int
    sampling: Sampling
    train_steps: tuple
    eval_steps: tuple

    def shapes(self, seconds: float) -> Shapes:
        """Returns video (T, H, W, 3) uint8."""
        del seconds
        return {"video": ((self.sampling.frames, self.size, self.size, 3), "uint8")}

    def keys(
        self, ids: np.ndarray, epoch: np.ndarray, seconds: float, seed: int | None
    ) -> Sequence[int]:
        """Returns the key (b,) of each row's random numbers; -1 in evaluation."""
        del seconds
        if seed is None:
            return [-1] * len(ids)
        return hashing.mix(seed, _AUGMENT, ids, epoch).tolist()

    def fill(self, i: int, key: int, arrays: Arrays, row: int) -> None:
        """Decodes the frames of a clip of video i into video[row]. Raises BadFile."""
        source, own = self.locate(i)
        steps = self.eval_steps if key < 0 else self.train_steps
        try:
            with source.reader.video(int(source.rows[own])) as video:
                images = video.frames(self.sampling.times(video, key))
            clip = [transforms.apply(steps, image, max(key, 0), self.size) for image in images]
        except Unreadable as e:
            raise BadFile(source.where(own), str(e)) from e
        arrays["video"][row] = np.stack(clip)


def open_sources(config: Mapping[str, Any], named: Mapping[str, Any]) -> list[Source]:
    """Opens the sources of a split; `named`: "train.mine" -> its section."""
    del config
    return [open_items(name, options, "video") for name, options in named.items()]


def sampling_of(config: Mapping[str, Any]) -> Sampling:
    """Returns how config.data samples clips; raises DataError on values that cannot be used."""
    for key, such in (("frames", 16), ("stride", 4), ("image_size", 224)):
        if config[key] < 1:
            raise DataError(f"config.data.{key} is {config[key]}: use 1 or more, such as {such}")
    if config["fps"] < 0:
        raise DataError(f"config.data.fps is {config['fps']}: use 0.0, or frames such as 25.0")
    for key, known in (("sampling", SAMPLINGS), ("short", SHORT)):
        if config[key] not in known:
            raise DataError(f"config.data.{key} is {config[key]!r}: use one of {', '.join(known)}")
    given = config["frames"], config["stride"], config["fps"], config["sampling"], config["short"]
    return Sampling(*given)


def build(config: Mapping[str, Any], shared: Mapping[str, Any], split: str) -> VideoCorpus:
    """Returns the corpus under config.data; shared: the fields that all corpora have."""
    del split
    sampling = sampling_of(config)
    return VideoCorpus(
        **shared,
        size=int(config["image_size"]),
        sampling=sampling,
        train_steps=transforms.build(config["transforms"], "config.data.transforms"),
        eval_steps=transforms.build(config["eval_transforms"], "config.data.eval_transforms"),
    )
