"""Vision Transformers of clips: tubelets, fixed positions, blocks (VideoMAE, 2203.12602).

Tokens are in raster order of time, row and column; a class token, which VideoMAE does not have and
MAViL (2212.08071) has, comes before them. In attention, query and value have a bias and the key has
none, by default.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ssl_jax.core import options as options_lib
from ssl_jax.core.types import Array, Spec
from ssl_jax.nn import vit
from ssl_jax.nn.transformer import (
    ALL,
    Encoded,
    Layers,
    Transformer,
    TransformerOptions,
    select,
)
from ssl_jax.ops import tubelets
from ssl_jax.ops.patches import normalize_image

PRESETS: dict[str, dict[str, Any]] = {
    name: {**vit.PRESETS[name], "key_bias": False, "patch_size": 16}
    for name in ("base", "small", "large", "huge")
}


@dataclasses.dataclass(frozen=True)
class Options:
    """From frames to tokens: the options of a VideoTransformer except for its blocks."""

    image_size: int = 224
    frames: int = 16  # of a clip
    patch_size: int = 16
    tubelet: int = 2  # frames of a token
    # flat: of the place in raster order | space_time (MVD) | space: equal at each step | none
    positions: str = "flat"
    class_token: bool = False

    def __post_init__(self) -> None:
        key = "config.method.encoder"
        options_lib.choose(f"{key}.positions", self.positions, tubelets.POSITIONS)
        pairs = (("image_size", "patch_size"), ("frames", "tubelet"))
        for whole, part in pairs:
            size, each = getattr(self, whole), getattr(self, part)
            if each < 1 or size < each or size % each:
                near = max(each, 1) * max(1, size // max(each, 1))
                raise ValueError(
                    f"{key}.{whole} {size} is not a multiple of {key}.{part} {each}: use a value "
                    f"such as {near}"
                )

    @property
    def grid(self) -> tuple[int, int, int]:
        """Steps, rows and columns of the tokens."""
        side = self.image_size // self.patch_size
        return self.frames // self.tubelet, side, side


class TubeletFrontEnd(nn.Module):
    """Frames to tokens: tubelets of the normalized clip, projected."""

    options: Options
    width: int
    dtype: jnp.dtype = jnp.float32

    @property
    def reads(self) -> dict[str, Spec]:
        """The arrays of a batch that it takes."""
        o = self.options
        return {"video": Spec((o.frames, o.image_size, o.image_size, 3), "uint8")}

    @nn.compact
    def __call__(self, video: Array, train: bool) -> tuple[Array, Array]:
        """video (B, T, H, W, 3) uint8 -> x (B, S, D), valid (B, S), all true."""
        del train  # nothing random in here
        cut = self.cut(normalize_image(video))
        # the original has a convolution, with torch's initial weight and bias
        x = vit.projection(cut.shape[-1], self.width, "torch", self.dtype)(cut)
        return x, jnp.ones(x.shape[:2], bool)

    def tubelets(self, video: Array) -> Array:
        """video (B, T, H, W, 3) uint8 -> tubelets (B, S, P) of pixels in [0, 1], float32."""
        return self.cut(video.astype(jnp.float32) / 255.0)

    def cut(self, clips: Array) -> Array:
        """Returns the tubelets of clips; raises ValueError unless the clips fit the options."""
        o = self.options
        wanted = self.reads["video"].shape
        if clips.shape[1:] != wanted:
            raise ValueError(
                f"clips of {clips.shape[1:]} do not fit config.method.encoder.frames {o.frames} "
                f"and image_size {o.image_size}: set config.data.frames and config.data.image_size "
                f"to them"
            )
        return tubelets.cut(clips, (o.tubelet, o.patch_size, o.patch_size))


class VideoTransformer(nn.Module):
    """An encoder of tubelets in a grid of time, rows and columns."""

    frontend: nn.Module
    options: Options
    transformer_options: TransformerOptions
    dtype: jnp.dtype = jnp.float32
    rate: float = 0.0  # frames of a clip are as far apart as config.data says

    def setup(self) -> None:
        if self.options.class_token:
            init, width = nn.initializers.normal(0.02), self.transformer_options.width
            self.cls = self.param("cls", init, (width,), jnp.float32)
        self.transformer = Transformer(self.transformer_options, self.dtype)
        nn.share_scope(self, self.transformer)

    @property
    def reads(self) -> dict[str, Spec]:
        """The arrays of a batch that the front end takes."""
        return self.frontend.reads

    @property
    def grid(self) -> tuple[int, int, int]:
        """Steps, rows and columns of the tokens."""
        return self.options.grid

    @property
    def prefix(self) -> int:
        """1 with a class token, else 0."""
        return int(self.options.class_token)

    @property
    def width(self) -> int:
        """The size of a token, D."""
        return self.transformer_options.width

    @property
    def depth(self) -> int:
        """The number of blocks."""
        return self.transformer_options.depth

    def encode(
        self,
        x: Array,
        valid: Array,
        train: bool,
        ids_keep: Array | None = None,
        layers: Layers = ALL,
    ) -> Encoded:
        """x (B, S, D), valid (B, S) -> Encoded of S tokens, or of the V in `ids_keep`."""
        table = tubelets.positions(self.options.positions, self.grid, self.width)
        x = x + jnp.asarray(table).astype(x.dtype)
        if ids_keep is not None:
            x, valid = select(x, valid, ids_keep)
        if self.options.class_token:
            cls = jnp.broadcast_to(self.cls.astype(x.dtype), (len(x), 1, x.shape[-1]))
            x = jnp.concatenate([cls, x], 1)
            valid = jnp.pad(valid, ((0, 0), (1, 0)), constant_values=True)
        return self.transformer(x, valid, train, prefix=self.prefix, layers=layers)

    def tubelets(self, video: Array) -> Array:
        """The array of `reads` -> tubelets (B, S, P) of pixels in [0, 1]; see ops/tubelets.py."""
        return self.frontend.tubelets(video)

    def __call__(self, video: Array, train: bool = False) -> Encoded:
        """The array of `reads` -> Encoded of complete clips."""
        x, valid = self.frontend(video, train)
        return self.encode(x, valid, train)


def make(
    options: Options, blocks: TransformerOptions, *, dtype: jnp.dtype, sample_rate: int
) -> VideoTransformer:
    """Returns the encoder of clips; `sample_rate` is not used."""
    del sample_rate
    if options.positions == "space_time" and blocks.width % 16:
        raise ValueError(
            f"config.method.encoder.width {blocks.width} cannot hold positions of space and time: "
            f"use a multiple of 16"
        )
    if options.positions in ("flat", "space"):
        vit.check_positions(blocks.width)
    return VideoTransformer(TubeletFrontEnd(options, blocks.width, dtype), options, blocks, dtype)
