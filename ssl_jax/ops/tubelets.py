"""Tubelets of clips, patches that last several frames: cutting, normalizing, fixed positions.

Tubelets are in raster order: time, row, column. So are the numbers of one, with its channel last.
"""

import jax.numpy as jnp
import numpy as np

from ssl_jax.core.types import Array
from ssl_jax.ops.patches import sincos_table

POSITIONS = ("flat", "space_time", "space", "none")


def cut(x: Array, tubelet: tuple[int, int, int]) -> Array:
    """Cuts clips x (B, T, H, W, C) into tubelets (B, S, t * h * w * C) of `tubelet` (t, h, w).

    T, H and W are multiples of t, h and w.
    """
    batch, frames, height, width, channels = x.shape
    t, h, w = tubelet
    x = x.reshape(batch, frames // t, t, height // h, h, width // w, w, channels)
    return x.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(batch, -1, t * h * w * channels)


def join(x: Array, grid: tuple[int, ...], tubelet: tuple[int, int, int]) -> Array:
    """Undoes `cut`: tubelets x (B, S, t * h * w * C) of a grid (steps, rows, columns) -> clips."""
    (steps, rows, columns), (t, h, w) = grid, tubelet
    x = x.reshape(len(x), steps, rows, columns, t, h, w, -1).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(len(x), steps * t, rows * h, columns * w, -1)


def normalize(x: Array, channels: int = 3, eps: float = 1e-6) -> Array:
    """Scales each channel of each tubelet (..., P) to mean 0 and deviation 1; float32.

    The variance is unbiased, and `eps` is added to its root (VideoMAE, 2203.12602), unlike in the
    patches of an image.
    """
    pixels = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, channels)
    centred = pixels - pixels.mean(-2, keepdims=True)
    variance = jnp.square(centred).sum(-2, keepdims=True) / (pixels.shape[-2] - 1)
    # the root has no gradient at zero, and targets need none
    return (centred / (jnp.sqrt(variance) + eps)).reshape(x.shape)


def positions(kind: str, grid: tuple[int, ...], width: int) -> np.ndarray:
    """Returns fixed positions (S, D) float32 of a grid (steps, rows, columns).

    flat: of the place in raster order, with sine and cosine in turn (VideoMAE). space_time: a
    quarter of D for the step, then three for row and column as MAE has them (MVD). space: those of
    MAE, the same at each step. none: zeros. Raises ValueError for a width that can not hold them.
    """
    steps, rows, columns = grid
    if kind == "none":
        return np.zeros((steps * rows * columns, width), np.float32)
    if kind == "space":
        return np.tile(sincos_table((rows, columns), width), (steps, 1))
    if kind == "flat":
        return _interleaved(steps * rows * columns, width)
    if width % 16:
        raise ValueError(
            f"a width of {width} cannot hold positions of space and time: use a multiple of 16"
        )
    step = sincos_table((steps,), width // 4).repeat(rows * columns, 0)
    place = np.tile(sincos_table((rows, columns), width - width // 4), (steps, 1))
    return np.concatenate([step, place], 1)


def _interleaved(size: int, width: int) -> np.ndarray:
    """Returns (S, D): sines in the even columns, cosines in the odd ones."""
    if width % 2:
        raise ValueError(f"a width of {width} cannot hold sin-cos positions: use an even one")
    omega = 1.0 / 10000 ** (np.arange(width) // 2 * 2 / width)
    angle = np.arange(size)[:, None] * omega
    even = np.arange(width) % 2 == 0
    return np.where(even, np.sin(angle), np.cos(angle)).astype(np.float32)
