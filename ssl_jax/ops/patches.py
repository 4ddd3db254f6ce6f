"""Patches of images and spectrograms: cutting, normalizing, fixed positions, restored order."""

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.types import Array

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, in RGB


def normalize_image(image: Array) -> Array:
    """image (..., 3), uint8 or float in [0, 255] -> float32 with the statistics of ImageNet."""
    scale = 1.0 / (255.0 * np.asarray(STD, np.float32))
    return image.astype(jnp.float32) * scale - np.asarray(MEAN, np.float32) / np.asarray(STD)


def first_view(image: Array) -> Array:
    """image (B, H, W, 3), or (B, V, H, W, 3) of V views -> (B, H, W, 3)."""
    return image[:, 0] if image.ndim == 5 else image


def patchify(x: Array, patch: tuple[int, int]) -> Array:
    """Cuts x (B, H, W, C) into patches (B, S, ph * pw * C), both in raster order.

    Within a patch: row, column, channel last. H and W are multiples of ph and pw.
    """
    batch, height, width, channels = x.shape
    ph, pw = patch
    x = x.reshape(batch, height // ph, ph, width // pw, pw, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, ph * pw * channels)


def overlapping(x: Array, patch: tuple[int, int], step: tuple[int, int]) -> Array:
    """Cuts x (B, H, W, C) into patches (B, S, ph * pw * C) as `patchify` does, but `step` rows and
    columns apart; what does not fill a last patch is dropped."""
    rows, columns = ((n - p) // s + 1 for n, p, s in zip(x.shape[1:3], patch, step, strict=True))
    if patch == step:
        return patchify(x[:, : rows * patch[0], : columns * patch[1]], patch)
    high, wide = (
        np.arange(count)[:, None] * s + np.arange(p)
        for count, s, p in zip((rows, columns), step, patch, strict=True)
    )
    x = x[:, high][:, :, :, wide]  # (B, rows, ph, columns, pw, C)
    return x.swapaxes(2, 3).reshape(len(x), rows * columns, -1)


def normalize_patches(patches: Array, eps: float = 1e-6) -> Array:
    """Scales each patch (..., P) to mean 0 and variance 1; float32.

    The variance is unbiased and `eps` inside the root (MAE, 2111.06377, norm_pix_loss).
    """
    x = patches.astype(jnp.float32)
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centred).sum(-1, keepdims=True) / (x.shape[-1] - 1)
    return centred * jax.lax.rsqrt(variance + eps)


def sincos_table(grid: tuple[int, ...], width: int, row_first: bool = False) -> np.ndarray:
    """Returns the fixed positions (tokens, D) float32 of a grid in raster order.

    The axes share D evenly, the last one first: of an image, the first half of D encodes the column
    and the second the row. Each is [sin | cos] of position / 10000^(k / n) for k below n, half of
    its share, in float64 (MAE, 2111.06377, appendix A.1 and its code). With `row_first` the first
    axis comes first (MoCo v3, 2104.02057). Raises ValueError unless D is a multiple of twice the
    axes.
    """
    if width % (2 * len(grid)):
        raise ValueError(
            f"a width of {width} cannot hold sin-cos positions of {len(grid)} axes: use a multiple "
            f"of {2 * len(grid)}"
        )
    waves = width // (2 * len(grid))
    omega = 1.0 / 10000 ** (np.arange(waves, dtype=np.float64) / waves)
    places, parts = np.meshgrid(*map(np.arange, grid), indexing="ij"), []
    for place in places if row_first else reversed(places):
        angle = place.reshape(-1, 1) * omega
        parts += [np.sin(angle), np.cos(angle)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def restore(x: Array, ids_shuffle: Array) -> Array:
    """Puts tokens x (B, V, D) back in place: ids_shuffle (B, S), a permutation -> (B, S, D).

    x[:, i] goes to place ids_shuffle[:, i]; the other S - V places hold zeros.
    """

    def row(tokens: Array, rank: Array) -> Array:
        # each token has one place, so that the gradient is a scatter without collisions
        return tokens.at[rank].get(mode="fill", fill_value=0, unique_indices=True)

    return jax.vmap(row)(x, jnp.argsort(ids_shuffle, axis=-1))
