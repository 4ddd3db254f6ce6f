"""VideoMAE: predict the pixels of the hidden tubes of a clip from the few visible tubelets.

Tong et al., 2203.12602. A clip is cut into tubelets, patches that last two frames. Nine of ten
places of a frame are hidden, and stay hidden in all frames, since otherwise a neighbour in time
would tell what is hidden. The encoder reads the visible tubelets; a shallow decoder gets them and
mask tokens, and predicts the hidden tubelets with each channel normalized in each of them.

Each clip hides as many tubelets as any other, so that all shapes are known beforehand.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ssl_jax.core import options as options_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.rng import Streams
from ssl_jax.core.types import Array, Batch, Features, Method, Output, Tree
from ssl_jax.nn import build, sharding
from ssl_jax.nn import encoder as encoder_lib
from ssl_jax.nn.hidden_decoder import DecoderOptions, HiddenDecoder, predicted
from ssl_jax.nn.transformer import LAST
from ssl_jax.ops import losses, masks, stats, tubelets

SCOPES = ("frontend", "mask", "encoder", "targets", "predictor", "loss")


@dataclasses.dataclass(frozen=True)
class MaskOptions:
    """Which tubelets of a clip are hidden."""

    kind: str  # tube: the same places at every step | random: as many, each drawn for itself
    ratio: float  # int(ratio * places) of the places of a step are hidden

    def __post_init__(self) -> None:
        options_lib.choose("config.method.mask.kind", self.kind, ("tube", "random"))

    def hidden(self, grid: tuple[int, ...]) -> int:
        """Returns how many tubelets of a clip are hidden.

        Raises ConfigError when nothing or everything is.
        """
        steps, places = grid[0], math.prod(grid[1:])
        each = int(self.ratio * places)
        if not 0 < each < places:
            raise ConfigError(
                f"config.method.mask.ratio is {self.ratio}, which hides {each} of the {places} "
                f"places of a frame: use a value such as {0.75 if places > 3 else 0.5}, or smaller "
                f"patches"
            )
        return steps * each

    def draw(self, keys: Array, grid: tuple[int, ...]) -> tuple[Array, Array]:
        """keys (B,) -> ids_shuffle (B, S), visible ids first, both parts in order; mask (B, S)."""
        draw = masks.tube_mask if self.kind == "tube" else masks.scattered_mask
        mask = draw(keys, grid[0], math.prod(grid[1:]), self.ratio)
        return masks.ids_shuffle_of(mask), mask

    def of_update(self, batch: Batch, streams: Streams, grid: tuple[int, ...]) -> Array:
        """Returns what an update hides of the clips that count, (B, 1, *grid) bool."""
        _, mask = self.draw(streams.for_examples("mask"), grid)
        mask = mask & (batch["weight"] > 0)[:, None]
        return mask.reshape(len(mask), 1, *grid)


@dataclasses.dataclass(frozen=True)
class Options:
    """The section config.method of VideoMAE."""

    name: str
    encoder: Mapping  # of kind video; see ssl_jax/nn/build.py
    mask: MaskOptions
    norm_pix: bool  # targets with mean 0 and deviation 1 in each channel of each tubelet
    decoder: DecoderOptions

    def __post_init__(self) -> None:
        self.decoder.check("config.method.decoder")


def make(config: ConfigDict, *, precision: str, sample_rate: int, num_classes: int) -> Method:
    """Returns the method that config.method describes; it needs no classes."""
    del num_classes
    options = options_lib.read(Options, config)
    encoder = clips(options.encoder, precision, sample_rate)
    options.mask.hidden(encoder.grid)
    method = VideoMAE(options, encoder)
    return Method(
        init=method.init,
        loss=method.loss,
        features=method.features,
        masks=method.masks,
        batch=encoder_lib.batch_spec(encoder),
        rules=sharding.RULES,
        scopes=SCOPES,
    )


def clips(section: Mapping, precision: str, sample_rate: int) -> encoder_lib.Encoder:
    """Returns the encoder that a section describes; raises ConfigError unless it reads clips."""
    encoder = build.encoder(section, precision=precision, sample_rate=sample_rate)
    if not hasattr(encoder, "tubelets"):
        raise ConfigError(
            f"config.method.encoder.kind is {section['kind']!r}, which has no tubelets to hide: "
            f"use 'video'"
        )
    return encoder


@dataclasses.dataclass(frozen=True)
class VideoMAE:
    """The functions of the method over one encoder. params: encoder, decoder."""

    options: Options
    encoder: encoder_lib.Encoder

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Returns (params, {})."""
        keys = jax.random.split(key)
        encoder, _ = encoder_lib.init(self.encoder, keys[0], batch)
        ids = jnp.arange(math.prod(self.encoder.grid))[None]
        x = jnp.zeros((1, 1, self.encoder.width), self.encoder.dtype)
        numbers = jax.eval_shape(self._tubelets, encoder, batch).shape[-1]
        decoder = self._decoder(numbers).init(keys[1], x, ids, self.encoder.grid)
        return {"encoder": encoder, "decoder": decoder["params"]}, {}

    def features(
        self, params: Tree, batch: Batch, layers: tuple[int, ...] | None = None
    ) -> Features:
        """Returns the encoder's hidden states of whole clips."""
        return encoder_lib.features(self.encoder, params["encoder"], batch, layers)

    def masks(self, params: Tree, batch: Batch, streams: Streams) -> Array:
        """Returns which tubelets an update hides, (B, 1, steps, rows, columns) bool."""
        del params
        return self.options.mask.of_update(batch, streams, self.encoder.grid)

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, streams: Streams, train: bool
    ) -> Output:
        """Returns the squared error at the hidden tubelets, with collapse diagnostics."""
        weight, grid = batch["weight"], self.encoder.grid

        with jax.named_scope("frontend"):
            x, valid = encoder_lib.frontend(self.encoder, params["encoder"], batch)

        with jax.named_scope("mask"):
            ids_shuffle, mask = self.options.mask.draw(streams.for_examples("mask"), grid)
            seen = x.shape[1] - self.options.mask.hidden(grid)
            ids_keep, ids_hidden = ids_shuffle[:, :seen], ids_shuffle[:, seen:]

        with jax.named_scope("encoder"):
            dropout = streams.for_step("dropout") if train else None
            encoded = encoder_lib.encode(
                self.encoder, params["encoder"], x, valid, dropout, ids_keep, LAST
            )

        with jax.named_scope("targets"):
            targets = self._tubelets(params["encoder"], batch)
            targets = jnp.take_along_axis(targets, ids_hidden[..., None], axis=1)
            if self.options.norm_pix:
                targets = tubelets.normalize(targets)

        with jax.named_scope("predictor"):
            key = streams.for_step("decoder") if train else None
            decoder, last = self._decoder(targets.shape[-1]), encoded.hidden_states[-1]
            predictions = predicted(decoder, params["decoder"], last, ids_shuffle, grid, key)

        with jax.named_scope("loss"):
            token = losses.smooth_l1(predictions, targets, 0.0).mean(-1)
            counted = jnp.broadcast_to(weight[:, None], token.shape)
            loss, num_targets = losses.masked_mean(token, counted)

        one, weighted = jnp.ones(()), (weight > 0)[:, None]
        real = jnp.broadcast_to(weighted, token.shape)
        metrics = {
            "loss": (loss * num_targets, num_targets),
            "target_std": (stats.token_std(targets, real), one),
            "prediction_std": (stats.token_std(predictions, real), one),
            "masked_share": ((mask & weighted).sum(), (valid & weighted).sum()),
        }
        return Output(loss, num_targets, metrics, extra)

    def reconstruct(self, params: Tree, batch: Batch, streams: Streams) -> tuple[Array, Array]:
        """Returns clips (B, T, H, W, 3) uint8 with the hidden tubelets as they are predicted, and
        which pixels are hidden (B, T, H, W) bool.

        Where targets are normalized, a prediction gets the mean and deviation of the true pixels.
        """
        o, grid = self.encoder.options, self.encoder.grid
        x, valid = encoder_lib.frontend(self.encoder, params["encoder"], batch)
        ids, mask = self.options.mask.draw(streams.for_examples("mask"), grid)
        seen = x.shape[1] - self.options.mask.hidden(grid)
        encoded = encoder_lib.encode(
            self.encoder, params["encoder"], x, valid, None, ids[:, :seen], LAST
        )
        true, hidden = self._tubelets(params["encoder"], batch), ids[:, seen:, None]
        decoder, last = self._decoder(true.shape[-1]), encoded.hidden_states[-1]
        y = predicted(decoder, params["decoder"], last, ids, grid, None)
        if self.options.norm_pix:
            pixels = jnp.take_along_axis(true, hidden, axis=1).reshape(*y.shape[:2], -1, 3)
            spread, mean = pixels.std(2, keepdims=True, ddof=1), pixels.mean(2, keepdims=True)
            y = (y.reshape(pixels.shape) * spread + mean).reshape(y.shape)
        whole = true.at[jnp.arange(len(y))[:, None], ids[:, seen:]].set(y)
        cube = (o.tubelet, o.patch_size, o.patch_size)
        video = (tubelets.join(whole, grid, cube) * 255).round().clip(0, 255).astype(jnp.uint8)
        covered = jnp.broadcast_to(mask[..., None], true.shape)
        return video, tubelets.join(covered, grid, cube)[..., 0]

    def _tubelets(self, params: Tree, batch: Batch) -> Array:
        """Returns the tubelets (B, S, P) of pixels in [0, 1], float32."""
        arrays = [batch[name] for name in self.encoder.reads]
        return self.encoder.apply({"params": params}, *arrays, method="tubelets")

    def _decoder(self, numbers: int) -> HiddenDecoder:
        """Returns the decoder to tubelets of `numbers` values."""
        blocks = self.options.decoder.blocks(self.encoder.transformer_options)
        # the original has no bias between encoder and decoder, and torch's initial weight there
        return HiddenDecoder(numbers, blocks, "flat", False, "torch", self.encoder.dtype)
