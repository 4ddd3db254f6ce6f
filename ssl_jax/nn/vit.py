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

from ssl_jax.core.types import Array, Spec
from ssl_jax.nn.relative import RelativePositions
from ssl_jax.nn.transformer import (
    ALL,
    INITS,
    Encoded,
    Layers,
    Transformer,
    TransformerOptions,
    check_share,
    layer_norm,
    select,
)
from ssl_jax.ops import patches

POSITIONS = ("sincos", "learned", "relative", "none")


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
    "base": _size(12, 768, 12),
    "small": _size(12, 384, 6),
    "large": _size(24, 1024, 16),
    "huge": {**_size(32, 1280, 16), "patch_size": 14},
}


@dataclasses.dataclass(frozen=True)
class Options:
    """From pixels to tokens: the options of a VisionTransformer except for its blocks."""

    image_size: int = 224
    patch_size: int = 16
    # sincos: fixed | learned: starts as sincos | relative: a bias on the scores (BEiT) | none
    positions: str = "sincos"
    class_token: bool = True
    class_std: float = 0.02  # of its initial value
    embed_norm: bool = False  # a LayerNorm of the tokens before the first block
    embed_dropout: float = 0.0
    patch_init: str | None = None  # of the projection of patches; None: that of the blocks
    patch_bias: str = "torch"  # its initial bias: torch (a convolution's) | zero
    row_first: bool = False  # the row in the first half of sin-cos positions (MoCo v3)
    # patches: one projection | convolutions: of 3 x 3 and stride 2, then a projection (2106.14881)
    stem: str = "patches"

    def __post_init__(self) -> None:
        for key, choices in (
            ("positions", POSITIONS),
            ("patch_init", (None, *INITS)),
            ("patch_bias", ("torch", "zero")),
            ("stem", ("patches", "convolutions")),
        ):
            if getattr(self, key) not in choices:
                raise ValueError(
                    f"config.method.encoder.{key} is {getattr(self, key)!r}: "
                    f"use one of {', '.join(map(str, choices))}"
                )
        check_share("embed_dropout", self.embed_dropout)
        size, patch = self.image_size, self.patch_size
        if self.stem == "convolutions" and (patch < 2 or patch & (patch - 1)):
            raise ValueError(
                f"config.method.encoder.stem 'convolutions' halves the image again and again, and "
                f"config.method.encoder.patch_size is {patch}: use a power of 2, such as 16"
            )
        if patch < 1 or size < patch or size % patch:
            near = max(patch, 1) * max(1, size // max(patch, 1))
            raise ValueError(
                f"config.method.encoder.image_size {size} is not a multiple of "
                f"config.method.encoder.patch_size {patch}: use a value such as {near}"
            )


def check_positions(width: int) -> None:
    """Raises ValueError on a width that cannot hold sin-cos positions."""
    if width % 4:
        raise ValueError(
            f"config.method.encoder.width {width} cannot hold sin-cos positions: use a "
            f"multiple of 4"
        )


def projection(
    size: int, width: int, weight_init: str, dtype: jnp.dtype, bias_init: str = "torch"
) -> nn.Dense:
    """Returns a linear map from patches of `size` numbers to tokens, with a convolution's bias, or
    one that starts at zero."""

    def torch_bias(key: Array, shape: tuple[int, ...], kind: jnp.dtype = jnp.float32) -> Array:
        # the originals use a convolution, with torch's initial bias
        return jax.random.uniform(key, shape, kind, -(size**-0.5), size**-0.5)

    bias = torch_bias if bias_init == "torch" else nn.initializers.zeros
    return nn.Dense(
        width, dtype=dtype, kernel_init=INITS[weight_init], bias_init=bias, name="projection"
    )


class ConvStem(nn.Module):
    """Halves an image until a pixel is a patch: convolution, LayerNorm over channels, ReLU.

    The channels double from layer to layer, up to the width of a token; a projection follows. The
    original has batch norm in place of LayerNorm, which would couple the images of a batch.
    """

    patch_size: int
    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, image: Array) -> Array:
        """image (B, H, W, 3), normalized -> (B, S, D), patches in raster order."""
        x, layers = image.astype(self.dtype), self.patch_size.bit_length() - 1
        for i in range(layers):
            x = nn.Conv(
                self.width // 2 ** (layers - 1 - i),
                (3, 3),
                strides=2,
                padding=1,
                use_bias=False,
                dtype=self.dtype,
                kernel_init=nn.initializers.he_normal(),
                name=f"conv{i}",
            )(x)
            x = nn.relu(layer_norm(1e-6, self.dtype, name=f"norm{i}")(x))
        return x.reshape(len(x), -1, self.width)


class PatchFrontEnd(nn.Module):
    """Pixels to tokens: patches of the normalized image, projected."""

    options: Options
    width: int
    weight_init: str = "xavier"
    dtype: jnp.dtype = jnp.float32

    @property
    def reads(self) -> dict[str, Spec]:
        """The arrays of a batch that it takes."""
        size = self.options.image_size
        return {"image": Spec((size, size, 3), "uint8")}

    @nn.compact
    def __call__(self, image: Array, train: bool) -> tuple[Array, Array]:
        """image (B, H, W, 3) uint8 -> x (B, S, D), valid (B, S), all true."""
        del train  # nothing random in here
        o = self.options
        if o.stem == "convolutions":
            stem = ConvStem(o.patch_size, self.width, self.dtype, name="stem")
            cut = stem(patches.normalize_image(image))
        else:
            cut = self.patches(image)
        size = cut.shape[-1]
        x = projection(size, self.width, self.weight_init, self.dtype, o.patch_bias)(cut)
        return x, jnp.ones(x.shape[:2], bool)

    def patches(self, image: Array) -> Array:
        """image (B, H, W, 3) uint8 -> patches (B, S, P) of the normalized image, float32."""
        o = self.options
        if image.shape[1:] != (o.image_size, o.image_size, 3):
            raise ValueError(
                f"images of {image.shape[1:]} do not fit config.method.encoder.image_size "
                f"{o.image_size}: set config.data.image_size to it"
            )
        return patches.patchify(patches.normalize_image(image), (o.patch_size, o.patch_size))


class VisionTransformer(nn.Module):
    """An encoder of patches in a grid.

    `frontend` gives the patches without positions, `encode` the rest; a method that masks either
    replaces patches between the two, or names the visible ones in `ids_keep`.
    """

    frontend: nn.Module
    grid: tuple[int, int]  # rows, columns; 0 rows: as many as the batch has
    options: Any  # Options, or others that have its fields from `positions` on
    transformer_options: TransformerOptions
    dtype: jnp.dtype = jnp.float32
    rate: float = 0.0  # rows per second; 0: an image has no time
    row_first: bool = False  # see Options
    swapped: bool = False  # positions of the grid with its axes exchanged, see nn/spectrogram.py

    def setup(self) -> None:
        o, blocks = self.options, self.transformer_options
        if o.class_token:
            init = nn.initializers.normal(o.class_std)
            self.cls = self.param("cls", init, (blocks.width,), jnp.float32)
        if o.positions == "learned":
            table = patches.sincos_table(self.grid, blocks.width, self.row_first)
            self.table = self.param("positions", lambda _: jnp.asarray(table))
        if o.positions == "relative":
            self.relative = RelativePositions(self.grid, blocks.heads, o.class_token)
        if o.embed_norm:
            self.norm = layer_norm(blocks.eps, self.dtype)
        self.dropout = nn.Dropout(o.embed_dropout)
        self.transformer = Transformer(blocks, self.dtype)
        nn.share_scope(self, self.transformer)

    @property
    def reads(self) -> dict[str, Spec]:
        """The arrays of a batch that the front end takes."""
        return self.frontend.reads

    @property
    def width(self) -> int:
        """The size of a token, D."""
        return self.transformer_options.width

    @property
    def depth(self) -> int:
        """The number of blocks."""
        return self.transformer_options.depth

    @property
    def prefix(self) -> int:
        """The number of tokens ahead of the patches: the class token, if there is one."""
        return int(self.options.class_token)

    def encode(
        self,
        x: Array,
        valid: Array,
        train: bool,
        ids_keep: Array | None = None,
        layers: Layers = ALL,
    ) -> Encoded:
        """x (B, S, D), valid (B, S) -> Encoded of prefix + S tokens, or of the V in `ids_keep`.

        ids_keep (B, V) int32: the patches to encode, in addition to the prefix.
        """
        bias = self.relative(ids_keep) if self.options.positions == "relative" else None
        if self.options.positions in ("sincos", "learned"):
            x = x + self._positions(x.shape[1]).astype(x.dtype)
        if ids_keep is not None:
            x, valid = select(x, valid, ids_keep)
        if self.prefix:
            cls = jnp.broadcast_to(self.cls.astype(x.dtype), (len(x), 1, self.width))
            x = jnp.concatenate([cls, x], 1)
            valid = jnp.pad(valid, ((0, 0), (1, 0)), constant_values=True)
        if self.options.embed_norm:
            x = self.norm(x)
        x = self.dropout(x, deterministic=not train)
        return self.transformer(x, valid, train, bias, self.prefix, layers)

    def patches(self, *arrays: Array) -> Array:
        """The arrays of `reads` -> normalized patches (B, S, P), which a masked autoencoder
        reconstructs.

        P is in the order of `ops.patches.patchify`.
        """
        return self.frontend.patches(*arrays)

    def _positions(self, size: int) -> Array:
        if self.options.positions == "learned":
            return self.table
        columns = self.grid[1]
        grid = (size // columns, columns)
        grid = grid[::-1] if self.swapped else grid
        return jnp.asarray(patches.sincos_table(grid, self.width, self.row_first))

    def __call__(self, *arrays: Array, train: bool = False) -> Encoded:
        """The arrays of `reads` -> Encoded of complete examples."""
        x, valid = self.frontend(*arrays, train)
        return self.encode(x, valid, train)


def make(
    options: Options, blocks: TransformerOptions, *, dtype: jnp.dtype, sample_rate: int
) -> VisionTransformer:
    """Returns the encoder of square images; `sample_rate` is not used."""
    del sample_rate
    if options.positions in ("sincos", "learned"):
        check_positions(blocks.width)
    side = options.image_size // options.patch_size
    weight_init = options.patch_init or blocks.init
    frontend = PatchFrontEnd(options, blocks.width, weight_init, dtype)
    return VisionTransformer(
        frontend, (side, side), options, blocks, dtype, row_first=options.row_first
    )
