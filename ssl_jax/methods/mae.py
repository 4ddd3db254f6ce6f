"""Masked autoencoders: predict the pixels of the masked patches from the few visible ones.

He et al., 2111.06377, for images; Huang et al., 2207.06405 (AudioMAE), for spectrograms, with the
plain decoder of MAE or with attention in windows, and with single patches hidden or whole stripes
of time and mel. The encoder reads a random quarter of the patches and a class token. A decoder with
mask tokens in place of the rest predicts each patch of the normalized input.

Clips of different lengths share a bucket: of a clip with n real patches int(n * (1 - ratio)), at
least one, are visible, and the fixed shape of the encoder's input is filled up with padding that
nothing attends to. Padded patches are neither masked, nor predicted, nor in the loss.
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
from ssl_jax.nn.beats import BeatsEncoder
from ssl_jax.nn.decoder import PatchDecoder
from ssl_jax.nn.local_decoder import LocalDecoder, LocalOptions
from ssl_jax.nn.transformer import LAST, Encoded, TransformerOptions
from ssl_jax.ops import losses, masks, perturb, stats
from ssl_jax.ops.patches import normalize_patches
from ssl_jax.ops.stripes import StripeOptions

SCOPES = ("frontend", "mask", "encoder", "targets", "predictor", "loss")


@dataclasses.dataclass(frozen=True)
class DecoderOptions:
    """The transformer that predicts patches; pre-norm, with the init and remat of the encoder."""

    width: int
    depth: int
    heads: int
    mlp_width: int


@dataclasses.dataclass(frozen=True)
class Options:
    """The section config.method of MAE."""

    name: str
    encoder: Mapping  # of patches: kind vit or spectrogram; see ssl_jax/nn/build.py
    mask_ratio: float  # int(S * (1 - ratio)) of S patches are visible
    norm_pix: bool  # targets with mean 0 and variance 1 in each patch
    masked_only: bool  # false: visible patches are in the loss too
    decoder: DecoderOptions
    stripes: StripeOptions  # of spectrograms; if there are any, mask_ratio is not used
    attention: str  # of the decoder: global | local, in shifted windows, without the class token
    local: LocalOptions
    augment: Mapping  # {step: options} of the audio, in training; see ssl_jax/ops/perturb.py

    def __post_init__(self) -> None:
        d, key = self.decoder, "config.method.decoder"
        for name, value in dataclasses.asdict(d).items():
            if value < 1:
                raise ConfigError(f"{key}.{name} is {value}: use 1 or more")
        if d.width % 4 or d.width % d.heads:
            raise ConfigError(
                f"{key}.width is {d.width}: use a multiple of 4, for its sin-cos positions, and "
                f"of {key}.heads {d.heads}"
            )
        options_lib.choose("config.method.attention", self.attention, ("global", "local"))
        perturb.check(self.augment, "config.method.augment")


def plain(
    encoder: Mapping, mask_ratio: float, norm_pix: bool, masked_only: bool, decoder: DecoderOptions
) -> Options:
    """Returns the options of He et al., of which other methods take the student."""
    stripes, local = StripeOptions(0.0, 0.0), LocalOptions((1, 1), (0, 0), 1, 0.0)
    given = (encoder, mask_ratio, norm_pix, masked_only, decoder)
    return Options("mae", *given, stripes, "global", local, {})


def make(config: ConfigDict, *, precision: str, sample_rate: int, num_classes: int) -> Method:
    """Returns the method that config.method describes; it needs no classes."""
    del num_classes
    options = options_lib.read(Options, config)
    encoder = build.encoder(options.encoder, precision=precision, sample_rate=sample_rate)
    if not hasattr(encoder, "patches"):
        raise ConfigError(
            f"config.method.encoder.kind is {options.encoder['kind']!r}, which has no patches to "
            f"predict: use 'vit' or 'spectrogram'"
        )
    _check(options, encoder)
    method = MAE(options, encoder)
    if all(encoder.grid):  # else the length of a clip decides, and the first batch is checked
        method.visible(math.prod(encoder.grid))
    return Method(
        init=method.init,
        loss=method.loss,
        features=method.features,
        masks=method.masks,
        batch=encoder_lib.batch_spec(encoder),
        rules=sharding.RULES,
        scopes=SCOPES,
    )


def _check(options: Options, encoder: encoder_lib.Encoder) -> None:
    """Raises ConfigError where options and encoder do not fit each other."""
    if options.stripes.active and "audio" not in encoder.reads:
        raise ConfigError(
            "config.method.stripes hides stripes of time and mel, which the encoder does not "
            "have: set its time and frequency to 0.0"
        )
    if options.augment and "audio" not in encoder.reads:
        raise ConfigError(
            "config.method.augment changes audio, which the encoder does not read: use {}"
        )
    if options.attention == "local":
        options.local.check(encoder.grid)


@dataclasses.dataclass(frozen=True)
class MAE:
    """The functions of the method over one encoder. params: encoder, decoder.

    rounding: how the number of visible patches becomes whole, floor as published, or nearest.
    """

    options: Options
    encoder: encoder_lib.Encoder
    rounding: str = "floor"

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Returns (params, {})."""
        keys = jax.random.split(key)
        encoder, encoded = encoder_lib.init(self.encoder, keys[0], batch)
        _, size, numbers = jax.eval_shape(self.patches, encoder, batch).shape
        self.visible(size)
        return {
            "encoder": encoder,
            "decoder": self.init_decoder(keys[1], encoded, size, numbers),
        }, {}

    def init_decoder(self, key: Array, encoded: Encoded, size: int, numbers: int) -> Tree:
        """Returns the parameters of a decoder to `numbers` values for each of `size` patches.

        encoded: one example, all of its patches.
        """
        places = jnp.arange(size)[None]
        everywhere = jnp.ones(places.shape, bool)
        decoder = self._decoder(numbers).init(
            key,
            encoded.hidden_states[-1],
            places,
            everywhere,
            everywhere,
            encoder_lib.places(self.encoder, size),
            encoded.prefix,
        )
        return decoder["params"]

    def features(
        self, params: Tree, batch: Batch, layers: tuple[int, ...] | None = None
    ) -> Features:
        """Returns the encoder's hidden states of unmasked examples, without the class token."""
        return encoder_lib.features(self.encoder, params["encoder"], batch, layers)

    def masks(self, params: Tree, batch: Batch, streams: Streams) -> Array:
        """Returns which patches an update masks, (B, 1, rows, columns) bool."""
        real = encoder_lib.real(self.encoder, params["encoder"], batch, batch["weight"])
        _, mask = self.mask(streams, real)
        return mask.reshape(len(real), 1, *encoder_lib.places(self.encoder, real.shape[1]))

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, streams: Streams, train: bool
    ) -> Output:
        """Returns the squared error at the masked patches, with collapse diagnostics."""
        o, weight = self.options, batch["weight"]
        if train and o.augment:
            keys = streams.for_examples("augment")
            audio, length = perturb.chain(keys, batch["audio"], batch["audio_len"], o.augment)
            batch = {**batch, "audio": audio, "audio_len": length}

        with jax.named_scope("frontend"):
            x, valid = encoder_lib.frontend(self.encoder, params["encoder"], batch)

        with jax.named_scope("mask"):
            ids_shuffle, mask = self.mask(streams, valid)
            ids_keep = ids_shuffle[:, : self.visible(x.shape[1])[-1]]

        with jax.named_scope("encoder"):
            dropout = streams.for_step("dropout") if train else None
            encoded = encoder_lib.encode(
                self.encoder, params["encoder"], x, valid, dropout, ids_keep, LAST
            )

        with jax.named_scope("targets"):
            targets = self.patches(params["encoder"], batch)
            if o.norm_pix:
                targets = normalize_patches(targets)

        with jax.named_scope("predictor"):
            visible, numbers = valid & ~mask, targets.shape[-1]
            dropout = streams.for_step("decoder") if train and self._local else None
            predictions = self.predict(
                params, encoded, ids_shuffle, visible, valid, numbers, dropout
            )

        with jax.named_scope("loss"):
            counted = mask if o.masked_only else valid
            token = losses.smooth_l1(predictions, targets, 0.0).mean(-1)
            loss, num_targets = losses.masked_mean(token, counted * weight[:, None])

        one, weighted = jnp.ones(()), (weight > 0)[:, None]
        metrics = {
            "loss": (loss * num_targets, num_targets),
            "target_std": (stats.token_std(targets, counted & weighted), one),
            "prediction_std": (stats.token_std(predictions, counted & weighted), one),
            "masked_share": ((mask & weighted).sum(), (valid & weighted).sum()),
        }
        return Output(loss, num_targets, metrics, extra)

    def mask(self, streams: Streams, valid: Array) -> tuple[Array, Array]:
        """valid (B, S) -> ids_shuffle (B, S), visible ids first; mask (B, S) bool."""
        counts = self.visible(valid.shape[1])
        if self.options.stripes.active:
            keys = streams.for_examples("mask")
            return self.options.stripes.draw(keys, valid, self.encoder.grid[1])
        ids, mask = masks.random_visible(streams.for_examples("mask"), valid, counts)
        if isinstance(self.encoder, BeatsEncoder):  # to which the order of tokens matters
            ids = masks.ascending(ids, counts[-1])
        return ids, mask

    def visible(self, size: int) -> list[int]:
        """Returns how many patches of a row with 0 to `size` real ones stay visible.

        Raises ConfigError when a full row has no visible or no masked patch.
        """
        ratio = self.options.mask_ratio
        if size < 2:
            raise ConfigError(
                f"an example has only {size} patch, so nothing is left to mask: make "
                f"config.method.encoder.{self._patch_key} smaller"
            )
        if self.options.stripes.active:
            return self._outside_stripes(size)
        half = 0.5 if self.rounding == "nearest" else 0.0
        kept = int(size * (1 - ratio) + half)
        if not 0 < kept < size:
            raise ConfigError(
                f"config.method.mask_ratio is {ratio}, which leaves {kept} of {size} patches "
                f"visible: use a value such as {0.75 if size > 3 else 0.5}"
            )
        return [min(n, max(1, int(n * (1 - ratio) + half))) for n in range(size + 1)]

    def _outside_stripes(self, size: int) -> list[int]:
        """Returns what `visible` does, for masks of stripes."""
        o, columns = self.options.stripes, self.encoder.grid[1]
        counts = o.visible(size, columns)
        if counts[-1] == size:
            raise ConfigError(
                f"config.method.stripes hides none of {size // columns} x {columns} patches: use "
                f"larger shares, such as time 0.7 and frequency 0.3"
            )
        return counts

    @property
    def _local(self) -> bool:
        """Whether the decoder has attention in windows."""
        return self.options.attention == "local"

    @property
    def _patch_key(self) -> str:
        """The option of the encoder that is the size of a patch."""
        return "patch_size" if hasattr(self.encoder.options, "patch_size") else "patch"

    def patches(self, params: Tree, batch: Batch) -> Array:
        """Returns the patches (B, S, P) of the normalized input, float32."""
        arrays = [batch[name] for name in self.encoder.reads]
        return self.encoder.apply({"params": params}, *arrays, method="patches")

    def predict(
        self,
        params: Tree,
        encoded: Encoded,
        ids_shuffle: Array,
        visible: Array,
        valid: Array,
        numbers: int,
        dropout: Array | None = None,
    ) -> Array:
        """Returns the predictions (B, S, P) of every patch, float32; P is `numbers`.

        In training mode, which only a local decoder has, when there is a `dropout` key.
        """
        variables, last = {"params": params["decoder"]}, encoded.hidden_states[-1]
        grid = encoder_lib.places(self.encoder, valid.shape[1])
        given = (last, ids_shuffle, visible, valid, grid, encoded.prefix)
        if dropout is None:
            return self._decoder(numbers).apply(variables, *given)  # type: ignore
        rngs = {"dropout": dropout}
        return self._decoder(numbers).apply(variables, *given, True, rngs=rngs)  # type: ignore

    def _decoder(self, numbers: int) -> PatchDecoder | LocalDecoder:
        """Returns the decoder to patches of `numbers` values."""
        o, blocks = self.options.decoder, self.encoder.transformer_options
        options = TransformerOptions(
            **dataclasses.asdict(o),
            norm="pre",
            eps=blocks.eps,
            init=blocks.init,
            remat=blocks.remat,
            unroll=blocks.unroll,
        )
        swapped = getattr(self.encoder, "swapped", False)
        if self._local:
            local, dtype = self.options.local, self.encoder.dtype
            return LocalDecoder(numbers, options, local, dtype, swapped)
        return PatchDecoder(numbers, options, self.encoder.dtype, swapped)
