"""Vision Transformers (2010.11929) for masked prediction: patches, positions, blocks.

One encoder serves MAE (2111.06377: pre-norm, fixed sin-cos positions, class token at position
zero), data2vec 2.0 (2212.07525: post-norm, a norm before the blocks) and BEiT-style data2vec
(2202.03555: relative positions, layer scale). Tokens are in raster order.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.types import Spec
from ssl_jax.nn.transformer import (
    INITS,
    Encoded,
    Transformer,
    TransformerOptions,
    check_share,
    layer_norm,
    select,
)

Array = jax.Array

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, in RGB


def _size(depth: int, width: int, heads: int) -> dict[str, Any]:
    return {
        "depth": depth,
        "width": width,
        "heads": heads,
        "mlp_width": 4 * width,
        "norm": "pre",
        "eps": 1e-6,
        "init": "xavier",
    }


PRESETS: dict[str, dict[str, Any]] = {
    "small": _size(12, 384, 6),
    "base": _size(12, 768, 12),
    "large": _size(24, 1024, 16),
    "huge": {**_size(32, 1280, 16), "patch_size": 14},
}


@dataclasses.dataclass(frozen=True)
class VisionOptions:
    """From pixels to tokens: the options of a VisionTransformer beside its blocks."""

    image_size: int = 224
    patch_size: int = 16
    positions: str = "sincos"  # sincos: fixed | learned: begins as sincos | none
    class_token: bool = True
    class_std: float = 0.02  # of its initial value
    embed_norm: bool = False  # a LayerNorm of the tokens before the first block
    embed_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.positions not in ("sincos", "learned", "none"):
            raise ValueError(
                f"config.method.encoder.positions is {self.positions!r}: "
                f"use 'sincos', 'learned' or 'none'"
            )
        check_share("embed_dropout", self.embed_dropout)
        size, patch = self.image_size, self.patch_size
        if patch < 1 or size < patch or size % patch:
            near = max(patch, 1) * max(1, size // max(patch, 1))
            raise ValueError(
                f"config.method.encoder.image_size {size} is no multiple of "
                f"config.method.encoder.patch_size {patch}: use such as {near}"
            )


def sincos_table(grid: tuple[int, int], width: int) -> np.ndarray:
    """Returns the fixed positions (rows * columns, D) float32 of a grid in raster order.

    The first half of D encodes the column, the second the row, each as [sin | cos] of
    position / 10000^(k / (D / 4)) (MAE, 2111.06377, appendix A.1 and its code).
    """
    if width % 4:
        raise ValueError(
            f"config.method.encoder.width {width} cannot hold sin-cos positions: use a "
            f"multiple of 4"
        )
    rows, columns = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    omega = 1.0 / 10000 ** (np.arange(width // 4, dtype=np.float64) / (width / 4))
    halves = []
    for place in (columns, rows):
        angle = place.reshape(-1, 1) * omega
        halves += [np.sin(angle), np.cos(angle)]
    return np.concatenate(halves, axis=1).astype(np.float32)


def patchify(image: Array, patch: tuple[int, int]) -> Array:
    """image (B, H, W, C) -> (B, S, ph * pw * C): row in patch, column in patch, channel last."""
    batch, height, width, channels = image.shape
    ph, pw = patch
    x = image.reshape(batch, height // ph, ph, width // pw, pw, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, ph * pw * channels)


def normalize_image(image: Array) -> Array:
    """image (..., 3) uint8, or float in [0, 255] -> float32 with the statistics of ImageNet."""
    scale = 1.0 / (255.0 * np.asarray(STD, np.float32))
    return image.astype(jnp.float32) * scale - np.asarray(MEAN, np.float32) / np.asarray(STD)


class PatchFrontEnd(nn.Module):
    """Pixels to tokens: patches of the normalized image, projected."""

    options: VisionOptions
    width: int
    weight_init: str = "xavier"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, image: Array, train: bool) -> tuple[Array, Array]:
        """image (B, H, W, 3) uint8 -> x (B, S, D), valid (B, S), all true."""
        del train  # nothing random in here
        o = self.options
        if image.shape[1:] != (o.image_size, o.image_size, 3):
            raise ValueError(
                f"images of {image.shape[1:]} do not fit config.method.encoder.image_size "
                f"{o.image_size}: set config.data.image_size to it"
            )
        patches = patchify(normalize_image(image), (o.patch_size, o.patch_size))
        project = nn.Dense(
            self.width, dtype=self.dtype, kernel_init=INITS[self.weight_init], name="projection"
        )
        x = project(patches)
        return x, jnp.ones(x.shape[:2], bool)


class VisionTransformer(nn.Module):
    """An encoder of patches in a grid.

    `frontend` gives the patches without positions, `encode` the rest; a method that masks either
    replaces patches between the two, or names the visible ones by `keep`.
    """

    frontend: nn.Module
    grid: tuple[int, int]
    options: VisionOptions
    transformer_options: TransformerOptions
    dtype: jnp.dtype = jnp.float32
    rate: float = 0.0

    def setup(self) -> None:
        o, blocks = self.options, self.transformer_options
        if o.class_token:
            init = nn.initializers.normal(o.class_std)
            self.cls = self.param("cls", init, (blocks.width,), jnp.float32)
        if o.positions == "learned":
            table = sincos_table(self.grid, blocks.width)
            self.table = self.param("positions", lambda _: jnp.asarray(table))
        if o.embed_norm:
            self.norm = layer_norm(blocks.eps, self.dtype)
        self.dropout = nn.Dropout(o.embed_dropout)
        self.transformer = Transformer(blocks, self.dtype)
        nn.share_scope(self, self.transformer)

    @property
    def reads(self) -> dict[str, Spec]:
        """The arrays of a batch that the front end takes."""
        size = self.options.image_size
        return {"image": Spec((size, size, 3), "uint8")}

    @property
    def width(self) -> int:
        """The size of a token, D."""
        return self.transformer_options.width

    @property
    def prefix(self) -> int:
        """The number of tokens before the patches."""
        return int(self.options.class_token)

    def encode(self, x: Array, valid: Array, train: bool, keep: Array | None = None) -> Encoded:
        """x (B, S, D), valid (B, S) -> Encoded of prefix + S tokens, or prefix + V of `keep`."""
        if self.options.positions != "none":
            x = x + self._positions().astype(x.dtype)
        if keep is not None:
            x, valid = select(x, valid, keep)
        if self.prefix:
            cls = jnp.broadcast_to(self.cls.astype(x.dtype), (len(x), 1, self.width))
            x = jnp.concatenate([cls, x], 1)
            valid = jnp.pad(valid, ((0, 0), (1, 0)), constant_values=True)
        if self.options.embed_norm:
            x = self.norm(x)
        x = self.dropout(x, deterministic=not train)
        return self.transformer(x, valid, train, prefix=self.prefix)

    def _positions(self) -> Array:
        if self.options.positions == "learned":
            return self.table
        return jnp.asarray(sincos_table(self.grid, self.width))

    def __call__(self, *arrays: Array, train: bool = False) -> Encoded:
        """The arrays of `reads` -> Encoded of whole examples."""
        x, valid = self.frontend(*arrays, train)
        return self.encode(x, valid, train)


def make(
    options: VisionOptions, blocks: TransformerOptions, *, dtype: jnp.dtype, sample_rate: int
) -> VisionTransformer:
    """Returns the encoder of square images; `sample_rate` means nothing to it."""
    del sample_rate
    if options.positions != "none":
        sincos_table((1, 1), blocks.width)  # raises on a width that cannot hold them
    side = options.image_size // options.patch_size
    frontend = PatchFrontEnd(options, blocks.width, blocks.init, dtype)
    return VisionTransformer(frontend, (side, side), options, blocks, dtype)
