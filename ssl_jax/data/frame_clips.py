"""A split of clips that lie as folders of frames: choosing these, and one crop for a whole clip."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.data import hashing, transforms
from ssl_jax.data.base import Arrays, Corpus, Shapes
from ssl_jax.data.errors import BadFile, DataError, Unreadable
from ssl_jax.data.readers import pixels
from ssl_jax.data.readers.base import Source
from ssl_jax.data.readers.sources import open_items

_AUGMENT, _START = 0xC11F, 0x57A7


@dataclasses.dataclass(frozen=True)
class FrameClips(Corpus):
    """Clips of `frames` frames of `size` pixels, `stride` apart.

    In training the first one is drawn, in evaluation the clip is from the middle. Of a video that
    is shorter the last frame is repeated. All frames of a clip are transformed with the same random
    numbers.
    """

    size: int
    frames: int
    stride: int
    train_steps: tuple
    eval_steps: tuple

    def shapes(self, seconds: float) -> Shapes:
        """Returns video (T, H, W, 3) uint8."""
        del seconds
        return {"video": ((self.frames, self.size, self.size, 3), "uint8")}

    def keys(
        self, ids: np.ndarray, epoch: np.ndarray, seconds: float, seed: int | None
    ) -> Sequence[int]:
        """Returns the key (b,) of each row's random numbers; -1 in evaluation."""
        del seconds
        if seed is None:
            return [-1] * len(ids)
        return hashing.mix(seed, _AUGMENT, ids, epoch).tolist()

    def fill(self, i: int, key: int, arrays: Arrays, row: int) -> None:
        """Decodes the frames of clip i into video[row]. Raises BadFile, naming the frame."""
        source, own = self.locate(i)
        reader, number = source.reader, int(source.rows[own])
        steps = self.eval_steps if key < 0 else self.train_steps
        decoded = functools.cache(lambda n: pixels.decode(reader.frame(number, n)))
        for t, n in enumerate(self.chosen(reader.count(number), key).tolist()):
            try:
                frame = transforms.apply(steps, decoded(n), max(key, 0), self.size)
            except Unreadable as e:
                raise BadFile(source.where(own), f"frame {n}: {e}") from e
            arrays["video"][row, t] = frame

    def chosen(self, count: int, key: int) -> np.ndarray:
        """Returns the numbers (T,) of the frames of a clip in a video of `count`; key -1: those in
        the middle."""
        room = count - (self.frames - 1) * self.stride - 1
        if key < 0 or room <= 0:
            return middle(count, self.frames, self.stride)
        start = int(hashing.mix(key, _START)) % (room + 1)
        return start + self.stride * np.arange(self.frames)


def middle(count: int, frames: int, stride: int) -> np.ndarray:
    """Returns the numbers (frames,) of the frames in the middle of a video of `count`, `stride`
    apart; of a shorter one the last is repeated."""
    start = max(count - (frames - 1) * stride - 1, 0) // 2
    return np.minimum(start + stride * np.arange(frames), count - 1)


def open_sources(config: Mapping[str, Any], named: Mapping[str, Any]) -> list[Source]:
    """Opens the sources of clips of a split; `named`: "train.mine" -> its section."""
    del config
    return [open_items(name, options, "video") for name, options in named.items()]


def build(config: Mapping[str, Any], shared: Mapping[str, Any], split: str) -> FrameClips:
    """Returns the corpus under config.data; shared: the fields that all corpora have."""
    del split
    for key in ("image_size", "frames", "stride"):
        if config[key] < 1:
            raise DataError(f"config.data.{key} is {config[key]}: use 1 or more")
    return FrameClips(
        **shared,
        size=int(config["image_size"]),
        frames=int(config["frames"]),
        stride=int(config["stride"]),
        train_steps=transforms.build(config["transforms"], "config.data.transforms"),
        eval_steps=transforms.build(config["eval_transforms"], "config.data.eval_transforms"),
    )
