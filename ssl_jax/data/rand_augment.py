"""RandAugment (1909.13719) in timm's variant, which image recipes use: "m9-mstd0.5-inc1"."""

from collections.abc import Callable

from PIL import Image, ImageEnhance, ImageOps

from ssl_jax.data.hashing import Draws

_LEVELS = 10.0
# The colour that fills what moves into the image: the mean of ImageNet.
_FILL = (124, 116, 104)


def rand_augment(
    image: Image.Image,
    draws: Draws,
    size: int,
    *,
    layers: int = 2,
    magnitude: float = 9.0,
    std: float = 0.5,
    prob: float = 0.5,
    interpolation: str = "bicubic",
) -> Image.Image:
    """Applies `layers` of the 15 operations, drawn with replacement, each with probability `prob`.

    The strength of each, in [0, 10], is normal around `magnitude` with standard deviation `std`;
    a higher strength changes the image more ("increasing").
    """
    del size
    resample = Image.Resampling[interpolation.upper()]
    for _ in range(layers):
        operation = OPERATIONS[draws.below(len(OPERATIONS))]
        if draws.chance(prob):
            strength = magnitude + std * draws.normal() if std else magnitude
            level = min(max(strength, 0.0), _LEVELS) / _LEVELS
            image = operation(image, level, draws, resample)
    return image


def _signed(value: float, draws: Draws) -> float:
    return -value if draws.chance(0.5) else value


def _enhance(enhancer: Callable) -> Callable:
    def change(
        image: Image.Image, level: float, draws: Draws, resample: Image.Resampling
    ) -> Image.Image:
        del resample
        return enhancer(image).enhance(max(0.1, 1.0 + _signed(0.9 * level, draws)))

    return change


def _affine(
    image: Image.Image, matrix: tuple[float, ...], resample: Image.Resampling
) -> Image.Image:
    kind = Image.Transform.AFFINE
    return image.transform(image.size, kind, matrix, resample=resample, fillcolor=_FILL)


def auto_contrast(
    image: Image.Image, level: float, draws: Draws, resample: Image.Resampling
) -> Image.Image:
    """Stretches every channel to the full range."""
    del level, draws, resample
    return ImageOps.autocontrast(image)


def equalize(
    image: Image.Image, level: float, draws: Draws, resample: Image.Resampling
) -> Image.Image:
    """Makes the histogram of every channel flat."""
    del level, draws, resample
    return ImageOps.equalize(image)


def invert(
    image: Image.Image, level: float, draws: Draws, resample: Image.Resampling
) -> Image.Image:
    """Turns x into 255 - x."""
    del level, draws, resample
    return ImageOps.invert(image)


def rotate(
    image: Image.Image, level: float, draws: Draws, resample: Image.Resampling
) -> Image.Image:
    """Turns by up to 30 degrees."""
    return image.rotate(_signed(30.0 * level, draws), resample=resample, fillcolor=_FILL)


def posterize(
    image: Image.Image, level: float, draws: Draws, resample: Image.Resampling
) -> Image.Image:
    """Keeps 4 to 0 bits."""
    del draws, resample
    mask = 256 - (1 << (8 - (4 - int(4 * level))))
    return image.point([i & mask for i in range(256)] * 3)


def solarize(
    image: Image.Image, level: float, draws: Draws, resample: Image.Resampling
) -> Image.Image:
    """Inverts values above a threshold, from 256 down to 0."""
    del draws, resample
    return ImageOps.solarize(image, 256 - min(256, int(256 * level)))


def solarize_add(
    image: Image.Image, level: float, draws: Draws, resample: Image.Resampling
) -> Image.Image:
    """Adds up to 110 to the darker half of the values."""
    del draws, resample
    more = min(128, int(110 * level))
    return image.point([min(255, i + more) if i < 128 else i for i in range(256)] * 3)


def shear_x(
    image: Image.Image, level: float, draws: Draws, resample: Image.Resampling
) -> Image.Image:
    """Shears by up to 0.3, sideways."""
    return _affine(image, (1, _signed(0.3 * level, draws), 0, 0, 1, 0), resample)


def shear_y(
    image: Image.Image, level: float, draws: Draws, resample: Image.Resampling
) -> Image.Image:
    """Shears by up to 0.3, upwards."""
    return _affine(image, (1, 0, 0, _signed(0.3 * level, draws), 1, 0), resample)


def translate_x(
    image: Image.Image, level: float, draws: Draws, resample: Image.Resampling
) -> Image.Image:
    """Moves by up to 0.45 of the width."""
    pixels = _signed(0.45 * level, draws) * image.size[0]
    return _affine(image, (1, 0, pixels, 0, 1, 0), resample)


def translate_y(
    image: Image.Image, level: float, draws: Draws, resample: Image.Resampling
) -> Image.Image:
    """Moves by up to 0.45 of the height."""
    pixels = _signed(0.45 * level, draws) * image.size[1]
    return _affine(image, (1, 0, 0, 0, 1, pixels), resample)


OPERATIONS: tuple[Callable[[Image.Image, float, Draws, Image.Resampling], Image.Image], ...] = (
    auto_contrast,
    equalize,
    invert,
    rotate,
    posterize,
    solarize,
    solarize_add,
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Sharpness),
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)
