"""Images of any kind as 8-bit RGB: which formats are read, on what scale, in which orientation.

No other program is started, and nothing is decoded before its size is known.
"""

import io
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ssl_jax.data.errors import Unreadable

# Pillow knows more formats, but starts other programs for some; it decodes these itself.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_MEGAPIXELS = 64
# Pillow refuses images above this.
MOST_MEGAPIXELS = 178
_ORIENTATION = 0x0112  # in EXIF
_PHOTOMETRIC = 262  # in TIFF; 0 means that white is 0, which Pillow inverts for 8 bits only
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_CHANNELS = (1, 3, 4)
_ARRAYS = "pass (H, W, 3) uint8, uint16, or float in 0..1"


def decode(data: bytes | np.ndarray, max_megapixels: float = MAX_MEGAPIXELS) -> Image.Image:
    """Returns the upright RGB image of a file's bytes, or of pixels as `from_array` takes them.

    White is 65535 for 16 bits and 1.0 for floats; transparency and all but the first frame are
    dropped. A JPEG above max_megapixels is decoded at a half, a quarter or an eighth of its sides.
    Raises Unreadable.
    """
    if isinstance(data, np.ndarray):
        return from_array(data)
    if not data:
        raise Unreadable("empty: 0 bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        _bound(image, max_megapixels)
        image.load()
        return rgb(image)
    except Unreadable:
        raise
    except UnidentifiedImageError as e:
        raise Unreadable(
            f"no image format is recognised in its {len(data)} bytes: use {', '.join(FORMATS)}"
        ) from e
    except Image.DecompressionBombError as e:
        raise Unreadable(f"has more than {MOST_MEGAPIXELS} megapixels: scale it down") from e
    except Exception as e:  # decoders raise many types
        raise Unreadable(f"cannot be decoded: {e}") from e


def rgb(image: Image.Image) -> Image.Image:
    """Returns a loaded Pillow image of any mode as upright 8-bit RGB. Raises Unreadable."""
    turn = _TURNS.get(_orientation(image))
    if image.mode == "RGB":
        out = image
    elif image.mode.startswith("I") or image.mode == "F":
        out = from_array(_scaled(image))
    elif image.mode == "La" or (image.mode == "P" and "transparency" in image.info):
        out = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGB")
    else:
        out = image.convert("RGB")
    return out if turn is None else out.transpose(turn)


def from_array(array: np.ndarray) -> Image.Image:
    """Returns pixels (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) as RGB; a fourth channel is dropped.

    Types: uint8, uint16 with white at 65535, float with white at 1.0, and bool. Raises Unreadable
    for anything else, whose scale or channel axis would be a guess.
    """
    shape = array.shape
    if (
        not array.size
        or array.ndim not in (2, 3)
        or (array.ndim == 3 and shape[2] not in _CHANNELS)
    ):
        first = array.ndim == 3 and shape[0] in _CHANNELS
        hint = "; its channels come first: np.moveaxis(image, 0, -1)" if first else ""
        raise Unreadable(f"pixels of shape {shape} are not an image: {_ARRAYS}{hint}")
    if array.ndim == 3:
        array = array[..., 0] if shape[2] == 1 else array[..., :3]
    return Image.fromarray(np.ascontiguousarray(_eight_bits(array))).convert("RGB")


def is_blank(image: Image.Image) -> bool:
    """Returns whether all pixels of an RGB image are the same."""
    right, below = image.width - 1, image.height - 1
    # Four pixels nearly always decide.
    corners = ((0, 0), (right, 0), (0, below), (right // 2, below // 2))
    if len({image.getpixel(at) for at in corners}) > 1:
        return False
    return all(low == high for low, high in image.getextrema())  # type: ignore[misc]


def _eight_bits(array: np.ndarray) -> np.ndarray:
    """Returns pixels rescaled and rounded to uint8."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if array.dtype.kind != "f":
        raise Unreadable(f"pixels of dtype {array.dtype} have no defined scale: {_ARRAYS}")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):  # refuses NaN too
        raise Unreadable(f"float pixels from {low:g} to {high:g}, not in 0..1: {_ARRAYS}")
    return np.rint(array.astype(np.float64) * 255).astype(np.uint8)


def _scaled(image: Image.Image) -> np.ndarray:
    """Returns the pixels of a gray image of more than 8 bits, (H, W) uint16 or float."""
    pixels = np.asarray(image)
    if image.mode == "F":
        return pixels
    # For these two formats Pillow returns 16 bits as 32, on the scale of 16.
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise Unreadable(
            "signed or 32-bit integer pixels have no defined scale: save unsigned 8 or 16 bits"
        )
    pixels = pixels.astype(np.uint16)
    inverted = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0  # type: ignore[attr-defined]
    return 65535 - pixels if inverted else pixels


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # unreadable EXIF does not affect the pixels
        return None


def _bound(image: Image.Image, max_megapixels: float) -> None:
    """Makes a JPEG of too many pixels decode at reduced size; raises Unreadable for others."""
    width, height = image.size
    most = max_megapixels * 1e6
    if width * height <= most:
        return
    # A progressive JPEG is in memory at full size while it is decoded.
    if image.format in ("JPEG", "MPO") and not image.info.get("progressive"):
        for part in (2, 4, 8):
            if -(-width // part) * -(-height // part) <= most:
                image.draft(None, (width // part, height // part))
                return
    raise Unreadable(
        f"has {width} x {height} pixels, more than config.data.max_megapixels={max_megapixels:g}: "
        f"scale it down, or allow {-(-width * height // 10**6)}"
    )
