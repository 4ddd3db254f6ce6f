"""Random image transforms on the host, as config.data.transforms names them.

Each function takes an RGB Pillow image, the random numbers of its row and the side of the result,
and returns an image. Options are keyword-only, with the names and values of torchvision and timm.
Transforms are applied in the order of `STEPS`, whatever that of the config, because a config sorts
its keys. Every step draws from its own random stream, so adding one does not change what the others
draw.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from ssl_jax.data import hashing
from ssl_jax.data.errors import DataError, Unreadable
from ssl_jax.data.hashing import Draws
from ssl_jax.data.rand_augment import rand_augment

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# Means and standard deviations of ImageNet, by which random erasing scales its noise.
_MEAN = np.array([0.485, 0.456, 0.406]) * 255
_STD = np.array([0.229, 0.224, 0.225]) * 255

Step = Callable[[Image.Image, Draws, int], Image.Image]


def random_resized_crop(
    image: Image.Image,
    draws: Draws,
    size: int,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: str = "bicubic",
    clamp: bool = False,
) -> Image.Image:
    """Crops a share `scale` of the area at an aspect `ratio` and resizes it to a square.

    Tries ten times for a crop that fits, then takes the largest central one, as torchvision does.
    `clamp`: one try, whose sides are clamped to the image, as in TensorFlow recipes and the linear
    probe of MAE.
    """
    width, height = image.size
    box = _crop_box(width, height, draws, scale, ratio, clamp)
    if box != (0, 0, width, height):
        image = image.crop(box)
    return _resized(image, (size, size), interpolation)


def _crop_box(
    width: int,
    height: int,
    draws: Draws,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    clamp: bool,
) -> tuple[int, int, int, int]:
    """Returns (left, top, right, bottom)."""
    area = width * height
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(1 if clamp else 10):
        part = area * draws.uniform(*scale)
        aspect = math.exp(draws.uniform(low, high))
        w, h = round(math.sqrt(part * aspect)), round(math.sqrt(part / aspect))
        if clamp:
            w, h = min(max(w, 1), width), min(max(h, 1), height)
        if 0 < w <= width and 0 < h <= height:
            top, left = draws.below(height - h + 1), draws.below(width - w + 1)
            return left, top, left + w, top + h
    w, h = width, height
    if width / height < ratio[0]:
        h = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        w = max(1, round(height * ratio[1]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def random_crop(
    image: Image.Image, draws: Draws, size: int, *, padding: int = 4, fill: int = 0
) -> Image.Image:
    """Crops a square from the image padded by `padding` pixels of `fill`, as for CIFAR.

    Raises Unreadable if the padded image is smaller than the crop.
    """
    width, height = image.size
    if min(width, height) + 2 * padding < size:
        raise Unreadable(
            f"{width} x {height} pixels with a padding of {padding} are smaller than the crop of "
            f"config.data.image_size={size}; use random_resized_crop, which enlarges, or a "
            f"padding of {math.ceil((size - min(width, height)) / 2)}"
        )
    left = draws.below(width + 2 * padding - size + 1) - padding
    top = draws.below(height + 2 * padding - size + 1) - padding
    if left >= 0 and top >= 0 and left + size <= width and top + size <= height:
        return image.crop((left, top, left + size, top + size))
    out = Image.new("RGB", (size, size), (fill, fill, fill))
    out.paste(image, (-left, -top))
    return out


def center_crop(
    image: Image.Image,
    draws: Draws,
    size: int,
    *,
    share: float = 0.875,
    interpolation: str = "bicubic",
) -> Image.Image:
    """Resizes the shorter side to size / share and crops the center; 0.875 crops 224 from 256."""
    del draws
    width, height = image.size
    short = int(size / share)
    if width <= height:
        new = (short, int(short * height / width))
    else:
        new = (int(short * width / height), short)
    image = _resized(image, new, interpolation)
    left, top = round((new[0] - size) / 2), round((new[1] - size) / 2)
    return image if new == (size, size) else image.crop((left, top, left + size, top + size))


def flip(image: Image.Image, draws: Draws, size: int, *, prob: float = 0.5) -> Image.Image:
    """Mirrors the image, left to right."""
    del size
    if draws.chance(prob):
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image


def color_jitter(
    image: Image.Image,
    draws: Draws,
    size: int,
    *,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.0,
    prob: float = 1.0,
) -> Image.Image:
    """Scales brightness, contrast and saturation by factors uniform in [1 - x, 1 + x], and turns
    hue by a fraction of the colour circle in [-hue, hue], in random order."""
    del size
    if not draws.chance(prob):
        return image
    shares = (brightness, contrast, saturation)
    factors = [draws.uniform(max(0.0, 1 - x), 1 + x) for x in shares]
    turn = draws.uniform(-hue, hue)
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for i in draws.order(4):
        if i == 3:
            image = _turn_hue(image, turn) if hue else image
        elif shares[i]:
            image = enhancers[i](image).enhance(factors[i])
    return image


def _turn_hue(image: Image.Image, turn: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point([(i + int(turn * 255)) % 256 for i in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def grayscale(image: Image.Image, draws: Draws, size: int, *, prob: float = 0.2) -> Image.Image:
    """Removes the colour."""
    del size
    return image.convert("L").convert("RGB") if draws.chance(prob) else image


def gaussian_blur(
    image: Image.Image,
    draws: Draws,
    size: int,
    *,
    sigma: tuple[float, float] = (0.1, 2.0),
    prob: float = 0.5,
) -> Image.Image:
    """Blurs with a Gaussian whose standard deviation, in pixels, is uniform in `sigma`."""
    del size
    if not draws.chance(prob):
        return image
    return image.filter(ImageFilter.GaussianBlur(draws.uniform(*sigma)))


def solarize(
    image: Image.Image, draws: Draws, size: int, *, threshold: int = 128, prob: float = 0.2
) -> Image.Image:
    """Inverts the values from `threshold` up."""
    del size
    return ImageOps.solarize(image, threshold) if draws.chance(prob) else image


def random_erasing(
    image: Image.Image,
    draws: Draws,
    size: int,
    *,
    prob: float = 0.25,
    area: tuple[float, float] = (0.02, 1 / 3),
    aspect: float = 0.3,
) -> Image.Image:
    """Fills a rectangle with noise: a share `area` of the image, of an aspect in
    [aspect, 1 / aspect].

    The noise is standard normal in normalized pixels, as in timm's mode "pixel", but clipped to
    what a pixel can hold, about -2 to 2.5 standard deviations.
    """
    del size
    if not draws.chance(prob):
        return image
    width, height = image.size
    for _ in range(10):
        part = width * height * draws.uniform(*area)
        tall = math.exp(draws.uniform(math.log(aspect), -math.log(aspect)))
        h, w = round(math.sqrt(part * tall)), round(math.sqrt(part / tall))
        if 0 < w < width and 0 < h < height:
            top, left = draws.below(height - h + 1), draws.below(width - w + 1)
            noise = hashing.normal(h * w * 3, draws.bits()).reshape(h, w, 3)
            pixels = np.clip(np.rint(noise * _STD + _MEAN), 0, 255).astype(np.uint8)
            image = image.copy()
            image.paste(Image.fromarray(pixels), (left, top))
            break
    return image


CROPS: dict[str, Callable] = {
    "random_resized_crop": random_resized_crop,
    "random_crop": random_crop,
    "center_crop": center_crop,
}
CHANGES: dict[str, Callable] = {
    "flip": flip,
    "rand_augment": rand_augment,
    "color_jitter": color_jitter,
    "grayscale": grayscale,
    "gaussian_blur": gaussian_blur,
    "solarize": solarize,
    "random_erasing": random_erasing,
}
STEPS = {**CROPS, **CHANGES}


def build(section: Mapping[str, Any], key: str) -> tuple[tuple[int, Step], ...]:
    """Returns the steps of {name: options} in order, each with the number of its random stream.

    Exactly one of them must be in `CROPS`, which give the image its size. Raises DataError, naming
    the key, for an unknown name or option and for a value that cannot be used.
    """
    named = {name: dict(section[name].items()) for name in section}
    for name, options in named.items():
        if name not in STEPS:
            raise DataError(f"{key}.{name} does not exist: use any of {', '.join(STEPS)}")
        parameters = inspect.signature(STEPS[name]).parameters.values()
        known = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        for option, value in options.items():
            _check_value(f"{key}.{name}.{option}", option, value, known)
    crops = [name for name in named if name in CROPS]
    if len(crops) != 1:
        raise DataError(
            f"{key} has {crops or 'no crop'}: name exactly one of {', '.join(CROPS)}, which makes "
            "images config.data.image_size pixels wide"
        )
    return tuple(
        (number, functools.partial(step, **named[name]))
        for number, (name, step) in enumerate(STEPS.items())
        if name in named
    )


def _check_value(key: str, option: str, value: Any, known: Mapping[str, Any]) -> None:
    """Raises DataError unless the option is known and its value can be used."""
    if option not in known:
        raise DataError(f"{key} does not exist: use {', '.join(known)}")
    default = known[option]
    if option == "interpolation":
        good = value in FILTERS
        hint = f"one of {', '.join(FILTERS)}"
    elif isinstance(default, bool):
        good, hint = isinstance(value, bool), "True or False"
    elif isinstance(default, tuple):
        good = isinstance(value, tuple | list) and len(value) == 2
        good = good and all(_number(v) and v > 0 for v in value) and value[0] <= value[1]
        hint = f"two ascending positive numbers, such as {default}"
    elif isinstance(default, int):
        good, hint = type(value) is int and value >= 0, f"a whole number, such as {default}"
    else:
        most = 1.0 if option in ("prob", "share", "aspect") else math.inf
        good, hint = _number(value) and 0 <= value <= most, f"a number such as {default}"
        good = good and (value > 0 or option not in ("share", "aspect"))
    if not good:
        raise DataError(f"{key} is {value!r}: use {hint}")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def apply(
    steps: tuple[tuple[int, Step], ...], image: Image.Image, key: int, size: int
) -> np.ndarray:
    """Runs the steps -> (size, size, 3) uint8; `key` seeds the random numbers."""
    for stream, step in steps:
        image = step(image, Draws(key, stream), size)
    return np.asarray(image)


def _resized(image: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
    return image if image.size == size else image.resize(size, FILTERS[interpolation])
