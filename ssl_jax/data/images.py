"""A split of images: decoding them, and the transforms that make them squares of one size."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ssl_jax.data import hashing, transforms
from ssl_jax.data.base import Arrays, Corpus, Shapes
from ssl_jax.data.errors import BadFile, DataError, Unreadable
from ssl_jax.data.readers import pixels
from ssl_jax.data.readers.base import Source
from ssl_jax.data.readers.sources import open_items

_AUGMENT = 0xA061
# Pillow keeps an RGB pixel in four bytes.
_PIXEL = 4


@dataclasses.dataclass(frozen=True)
class ImageCorpus(Corpus):
    """Images, each in one or several views.

    train_steps: for each view what `transforms.build` returns; eval_steps: those of all views,
    which are then equal. min_side: the shortest side in pixels that is allowed. max_megapixels:
    the largest image that is decoded at full size. keep_bytes: bytes of decoded images that are
    kept in memory, so that small corpora are decoded once.
    """

    size: int
    train_steps: tuple
    eval_steps: tuple
    min_side: int
    max_megapixels: float
    keep_bytes: int
    _kept: dict[int, Image.Image] = dataclasses.field(default_factory=dict, repr=False)
    _used: list[int] = dataclasses.field(default_factory=lambda: [0], repr=False)

    def __getstate__(self) -> dict:
        # A worker process keeps its own images.
        return {**self.__dict__, "_kept": {}, "_used": [0]}

    def shapes(self, seconds: float) -> Shapes:
        """Returns image (H, W, 3) uint8, or (views, H, W, 3) if there are several."""
        del seconds
        views = (self.views,) if self.views > 1 else ()
        return {"image": ((*views, self.size, self.size, 3), "uint8")}

    @property
    def views(self) -> int:
        """The number of views of an image."""
        return len(self.train_steps)

    def keys(
        self, ids: np.ndarray, epoch: np.ndarray, seconds: float, seed: int | None
    ) -> Sequence[int]:
        """Returns the key (b,) of each row's random numbers; -1 in evaluation."""
        del seconds
        if seed is None:
            return [-1] * len(ids)
        return hashing.mix(seed, _AUGMENT, ids, epoch).tolist()

    def fill(self, i: int, key: int, arrays: Arrays, row: int) -> None:
        """Decodes image i and transforms it into image[row]. Raises BadFile."""
        image = self.read(i)
        try:
            if key < 0:
                arrays["image"][row] = transforms.apply(self.eval_steps, image, 0, self.size)
                return
            views = [
                transforms.apply(steps, image, _of_view(key, view), self.size)
                for view, steps in enumerate(self.train_steps)
            ]
            arrays["image"][row] = views[0] if len(views) == 1 else np.stack(views)
        except Unreadable as e:
            raise BadFile(self.where(i), str(e)) from e

    def read(self, i: int) -> Image.Image:
        """Returns an RGB image; raises BadFile if it is broken, blank, too small or too large."""
        image = self._kept.get(i)
        if image is not None:
            return image
        source, row = self.locate(i)
        try:
            image = pixels.decode(source.reader.image(int(source.rows[row])), self.max_megapixels)
        except Unreadable as e:
            raise BadFile(source.where(row), str(e)) from e
        width, height = image.size
        if min(width, height) < self.min_side:
            raise BadFile(
                source.where(row),
                f"too small: {width} x {height} pixels, with a side below "
                f"config.data.min_side={self.min_side}",
            )
        if pixels.is_blank(image):
            raise BadFile(source.where(row), f"blank: every pixel is {image.getpixel((0, 0))}")
        # Threads may lose an update here: the limit need not be exact.
        if self._used[0] + width * height * _PIXEL <= self.keep_bytes:
            self._used[0] += width * height * _PIXEL
            self._kept[i] = image
        return image


def _of_view(key: int, view: int) -> int:
    """Returns the key of a view's random numbers, from that of its row."""
    return int(hashing.mix(key, view)) if view else key


def encoded(source: Source, i: int, max_megapixels: float = pixels.MAX_MEGAPIXELS) -> bytes:
    """Returns the bytes of an image file: its own, or a PNG of pixels. Raises BadFile."""
    try:
        data = source.reader.image(int(source.rows[i]))
        image = pixels.decode(data, max_megapixels)
    except Unreadable as e:
        raise BadFile(source.where(i), str(e)) from e
    if isinstance(data, bytes):
        return data
    packed = io.BytesIO()
    image.save(packed, "PNG")
    return packed.getvalue()


def open_sources(config: Mapping[str, Any], named: Mapping[str, Any]) -> list[Source]:
    """Opens the image sources of a split; `named`: "train.mine" -> its section."""
    return [open_items(name, options, "image") for name, options in named.items()]


def _view_steps(config: Mapping[str, Any]) -> tuple:
    """Returns the training transforms of each view; raises DataError on sections that clash."""
    # Older runs have neither key.
    views, own = config.get("views", 1), config.get("view_transforms", {})
    if type(views) is not int or views < 1:
        raise DataError(f"config.data.views is {views!r}: use a whole number, such as 1 or 2")
    names = [f"view{i + 1}" for i in range(views)]
    for name in own:
        if name not in names:
            raise DataError(
                f"config.data.view_transforms.{name} belongs to no view: with "
                f"config.data.views={views} use {', '.join(names)}"
            )
    common = transforms.build(config["transforms"], "config.data.transforms")
    return tuple(
        transforms.build(own[name], f"config.data.view_transforms.{name}")
        if name in own
        else common
        for name in names
    )


def build(config: Mapping[str, Any], shared: Mapping[str, Any], split: str) -> ImageCorpus:
    """Returns the corpus under config.data; shared: the fields that all corpora have."""
    del split
    for key in ("image_size", "min_side"):
        if config[key] < 1:
            raise DataError(f"config.data.{key} is {config[key]}: use pixels, such as 32")
    # Older runs have no such key.
    largest = float(config.get("max_megapixels", pixels.MAX_MEGAPIXELS))
    if not 0 < largest <= pixels.MOST_MEGAPIXELS:
        raise DataError(
            f"config.data.max_megapixels is {largest:g}: use millions of pixels, such as "
            f"{pixels.MAX_MEGAPIXELS}, and at most {pixels.MOST_MEGAPIXELS}"
        )
    return ImageCorpus(
        **shared,
        size=int(config["image_size"]),
        train_steps=_view_steps(config),
        eval_steps=transforms.build(config["eval_transforms"], "config.data.eval_transforms"),
        min_side=int(config["min_side"]),
        max_megapixels=largest,
        keep_bytes=int(config["keep_mb"] * 2**20),
    )
