"""A split of clips with sound and picture, both cut at the same seconds.

The rows are recordings, of any kind that data/readers/sources.py knows for audio. The picture is in
the same file (an MP4, say, whose sound PyAV decodes too), or in the video file or folder of frames
that a column of the table names. Of a picture that ends before its sound the last frame is held.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.data import hashing, recordings, transforms
from ssl_jax.data.base import Arrays, Shapes
from ssl_jax.data.errors import BadFile, DataError, Unreadable
from ssl_jax.data.readers import video_decoding

_AUGMENT = 0xA0AB
# a key holds the first sample of a crop in its lower bits, and behind them what draws the picture's
# crop and flip; 0: evaluation
_BITS = 36


@dataclasses.dataclass(frozen=True)
class PairCorpus(recordings.AudioCorpus):
    """Recordings with their pictures.

    frames: of an example, evenly spaced over its seconds. pictures (n,): the video of each row.
    fps: frames per second of those that are folders of frames.
    """

    size: int = 0
    frames: int = 0
    fps: float = 0.0
    pictures: tuple[str, ...] = ()
    train_steps: tuple = ()
    eval_steps: tuple = ()

    def shapes(self, seconds: float) -> Shapes:
        """Returns those of audio, and video (T, H, W, 3) uint8."""
        video = ((self.frames, self.size, self.size, 3), "uint8")
        return {**super().shapes(seconds), "video": video}

    def keys(
        self, ids: np.ndarray, epoch: np.ndarray, seconds: float, seed: int | None
    ) -> Sequence[int]:
        """Returns the key (b,) of each row: where its crop starts, and its random numbers."""
        starts = super().keys(ids, epoch, seconds, seed)
        if seed is None:
            return starts
        drawn = hashing.mix(seed, _AUGMENT, ids, epoch).astype(np.uint64).tolist()
        most = 1 << (62 - _BITS)
        return [s + ((1 + d % (most - 1)) << _BITS) for s, d in zip(starts, drawn, strict=True)]

    def fill(self, i: int, key: int, arrays: Arrays, row: int) -> float:
        """Decodes sound and picture of the same seconds; raises BadFile for either."""
        start, drawn = key & ((1 << _BITS) - 1), key >> _BITS
        clipped = super().fill(i, start, arrays, row)
        seconds = arrays["audio"].shape[1] / self.sample_rate
        first = start / self.sample_rate
        times = [first + (k + 0.5) * seconds / self.frames for k in range(self.frames)]
        try:
            arrays["video"][row] = self._clip(self.pictures[i], times, drawn)
        except Unreadable as e:
            raise BadFile(self.where(i), f"{Path(self.pictures[i]).name}: {e}") from e
        return clipped

    def _clip(self, path: str, times: list[float], drawn: int) -> np.ndarray:
        """Returns the frames at these seconds, (T, H, W, 3)."""
        if not path:
            raise Unreadable("no picture is named: give the row one, or leave it out")
        with video_decoding.opened(path, self.fps) as video:
            last = max(0.0, video.seconds - 0.5 / video.rate)
            images = video.frames([min(time, last) for time in times])
        steps = self.train_steps if drawn else self.eval_steps
        return np.stack([transforms.apply(steps, image, drawn, self.size) for image in images])


open_sources = recordings.open_sources


def build(config: Mapping[str, Any], shared: Mapping[str, Any], split: str) -> PairCorpus:
    """Returns the corpus under config.data; shared: the fields that all corpora have."""
    for key, such in (("frames", 8), ("image_size", 224)):
        if config[key] < 1:
            raise DataError(f"config.data.{key} is {config[key]}: use 1 or more, such as {such}")
    if not config["fps"] > 0:
        raise DataError(f"config.data.fps is {config['fps']}: use frames per second, such as 25.0")
    sound = recordings.build(config, shared, split)
    own = {field.name: getattr(sound, field.name) for field in dataclasses.fields(sound)}
    pictures = [name for source in sound.sources for name in _pictures(config, source)]
    return PairCorpus(
        **own,
        size=int(config["image_size"]),
        frames=int(config["frames"]),
        fps=float(config["fps"]),
        pictures=tuple(pictures),
        train_steps=transforms.build(config["transforms"], "config.data.transforms"),
        eval_steps=transforms.build(config["eval_transforms"], "config.data.eval_transforms"),
    )


def _pictures(config: Mapping[str, Any], source: Any) -> list[str]:
    """Returns the video of each row of a source; "" where a column names none."""
    column = config["picture"]
    places = source.places()
    files = [places.files[place] for place in np.asarray(places.file)[source.rows]]
    if not column:
        return files
    if column not in source.columns:
        names = ", ".join(sorted(source.columns))
        raise DataError(
            f"config.data.picture is {column!r}, which is no column of config.data.{source.name}: "
            f"use one of {names}, or '' for the picture in the file of the sound"
        )
    named = [str(name) for name in source.columns[column]]
    # relative to the folder of the sound, as a table has them side by side
    return [
        str(Path(file).parent / name) if name else ""
        for file, name in zip(files, named, strict=True)
    ]
