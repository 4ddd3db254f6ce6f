"""BEST-RQ: predict, at masked frames, the codes that a random quantizer gives to their log-mel.

Chiu et al., 2202.01855. Normalized log-mel frames are stacked to the rate of the encoder, projected
by a random matrix and labelled by the nearest of random vectors; neither is ever trained, so that
the targets cannot collapse. A Linear layer predicts the labels from the encoder's last layer.

Where this file differs from the paper:
- Masked frames of the encoder are replaced by a learned vector, as in wav2vec 2.0; there, masked
  log-mel frames are replaced by noise of deviation 0.1.
- Log-mel is normalized over each recording, for the labels; there, over the data set.
- There may be several codebooks, each with a Linear layer of its own; their losses are averaged.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ssl_jax.core import options as options_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.rng import Streams
from ssl_jax.core.types import Array, Batch, Features, Method, Output, Tree
from ssl_jax.nn import build, heads, sharding
from ssl_jax.nn import encoder as encoder_lib
from ssl_jax.nn.conv import length_mask
from ssl_jax.nn.transformer import LAST
from ssl_jax.ops import dsp, losses, masks, norms, random_labels, stats

SCOPES = ("frontend", "mask", "encoder", "targets", "predictor", "loss")
MEL_RATE = 100  # log-mel frames per second


@dataclasses.dataclass(frozen=True)
class MaskOptions:
    """Which frames are masked; see `ops.masks.span_mask`."""

    prob: float  # expected spans = prob * frames / length
    length: int  # frames per span
    min_spans: int
    same_count: bool  # every row trimmed to the fewest masked frames of the batch


@dataclasses.dataclass(frozen=True)
class LabelOptions:
    """The random quantizer; see `ops.random_labels`."""

    seed: int  # of projections and codes; a run that goes on from another needs the same
    num_mels: int
    width: int  # of a projected frame
    codes: int  # per codebook
    books: int


@dataclasses.dataclass(frozen=True)
class Options:
    """The section config.method of best_rq."""

    name: str
    encoder: Mapping  # see ssl_jax/nn/build.py; of audio
    mask: MaskOptions
    labels: LabelOptions

    def __post_init__(self) -> None:
        for name, least, such in (
            ("num_mels", 1, 80),
            ("width", 1, 16),
            ("codes", 2, 8192),
            ("books", 1, 1),
        ):
            value = getattr(self.labels, name)
            if value < least:
                raise ConfigError(
                    f"config.method.labels.{name} is {value}: use {least} or more, such as {such}"
                )


def make(config: ConfigDict, *, precision: str, sample_rate: int, num_classes: int) -> Method:
    """Returns the method that config.method describes; it needs no classes."""
    del num_classes
    options = options_lib.read(Options, config)
    encoder = build.moving(options.encoder, precision=precision, sample_rate=sample_rate)
    if "audio" not in encoder.reads or len(encoder.grid) > 1 or encoder.prefix:
        raise ConfigError(
            f"config.method.encoder.kind is {options.encoder.get('kind')!r}, which has no frames "
            f"of audio to label: use 'mel_conformer' or 'waveform'"
        )
    if encoder.rate > MEL_RATE:
        raise ConfigError(
            f"config.method.encoder has {encoder.rate:g} frames per second, more than the "
            f"{MEL_RATE} of log-mel that are labelled: use larger strides"
        )
    method = BestRq(options, encoder, sample_rate)
    return Method(
        init=method.init,
        loss=method.loss,
        features=method.features,
        masks=method.masks,
        batch=encoder_lib.batch_spec(encoder),
        rules=sharding.RULES,
        scopes=SCOPES,
        couples=masks.coupled("BEST-RQ", options.mask.same_count) | encoder_lib.coupled(encoder),
    )


@dataclasses.dataclass(frozen=True)
class BestRq:
    """The functions of the method over one encoder.

    params: encoder, mask/vector (D,), head: a Linear layer to the codes of all books.
    """

    options: Options
    encoder: encoder_lib.Encoder
    sample_rate: int

    @property
    def head(self) -> heads.PredictionHead:
        """From the last layer to logits over the codes of all books, float32."""
        return heads.PredictionHead(self.options.labels.books * self.options.labels.codes)

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Returns (params, {})."""
        keys, width = jax.random.split(key, 3), self.encoder.width
        params = {
            "encoder": encoder_lib.init(self.encoder, keys[0], batch)[0],
            "mask": {"vector": jax.random.uniform(keys[1], (width,))},
            "head": self.head.init(keys[2], jnp.zeros((1, width)))["params"],
        }
        return params, {}

    def features(
        self, params: Tree, batch: Batch, layers: tuple[int, ...] | None = None
    ) -> Features:
        """Returns the hidden states of the unmasked recording."""
        return encoder_lib.features(self.encoder, params["encoder"], batch, layers)

    def masks(self, params: Tree, batch: Batch, streams: Streams) -> Array:
        """Returns which frames an update masks, (B, 1, S) bool."""
        real = encoder_lib.real(self.encoder, params["encoder"], batch, encoder_lib.weights(batch))
        return self._mask(streams, real)[:, None]

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, streams: Streams, train: bool
    ) -> Output:
        """Returns the cross-entropy of the labels at masked frames, in nats."""
        weight, own = encoder_lib.weights(batch), params["encoder"]

        with jax.named_scope("frontend"):
            x, valid = encoder_lib.frontend(self.encoder, own, batch, train)

        with jax.named_scope("mask"):
            real = valid & (weight > 0)[:, None]
            mask = self._mask(streams, real)
            masked_input = jnp.where(mask[..., None], params["mask"]["vector"].astype(x.dtype), x)

        with jax.named_scope("encoder"):
            dropout = streams.for_step("dropout") if train else None
            encoded = encoder_lib.encode(
                self.encoder, own, masked_input, valid, dropout, layers=LAST
            )

        with jax.named_scope("targets"):
            labels = self.labels(batch, x.shape[1])

        with jax.named_scope("predictor"):
            last = encoded.hidden_states[-1].astype(jnp.float32)
            logits = self._predict(params, last)

        with jax.named_scope("loss"):
            entropies = losses.cross_entropy(logits, labels).mean(1)
            loss, num_targets = losses.masked_mean(entropies, mask * weight[:, None])

        one, first = jnp.ones(()), logits[:, 0]
        codes, counted = self.options.labels.codes, mask.astype(jnp.float32)
        metrics = {
            "loss": (loss * num_targets, num_targets),
            "masked_accuracy": losses.accuracy(first, labels[:, 0], counted),
            "unit_entropy": (stats.usage_entropy(labels[:, 0], codes, mask), one),
            "prediction_entropy": (stats.usage_entropy(first.argmax(-1), codes, mask), one),
            "used_rows": encoder_lib.used_rows(batch, weight),
            "masked_share": (mask.sum(), real.sum()),
            "prediction_std": (stats.token_std(last, mask), one),
            "frontend_std": (stats.token_std(x, real), one),
        }
        moved = {"encoder": encoded.moved} if encoded.moved else {}
        return Output(loss, num_targets, metrics, extra, moved=moved)

    def labels(self, batch: Batch, size: int) -> Array:
        """Returns the codes of the first `size` frames in every book, (B, K, size) int32.

        Frame s of an encoder of R frames per second is labelled by the 100 / R log-mel frames from
        s * 100 / R on.
        """
        o, audio, audio_len = self.options.labels, batch["audio"], batch["audio_len"]
        each = int(MEL_RATE // self.encoder.rate)
        start = np.floor(np.arange(size) * MEL_RATE / self.encoder.rate).astype(np.int32)
        mel = dsp.fbank(
            audio,
            audio_len,
            sample_rate=self.sample_rate,
            num_mels=o.num_mels,
            num_frames=int(start[-1]) + each,
        )
        window, hop = self.sample_rate * 25 // 1000, self.sample_rate // MEL_RATE
        real = length_mask(dsp.frames(audio_len, window, hop), mel.shape[1])
        mel = norms.instance_norm(mel, real)
        stacked = jnp.concatenate([mel[:, start + k] for k in range(each)], -1)
        chosen = random_labels.tables(o.seed, each * o.num_mels, o.width, o.codes, o.books)
        return jax.lax.stop_gradient(random_labels.label(stacked, *chosen))

    def _mask(self, streams: Streams, real: Array) -> Array:
        """real (B, S) -> bool (B, S), true at the masked frames."""
        o, keys = self.options.mask, streams.for_examples("mask")
        lengths, size = real.sum(1), real.shape[1]
        return masks.span_mask(keys, lengths, size, o.prob, o.length, o.min_spans, o.same_count)

    def _predict(self, params: Tree, last: Array) -> Array:
        """Last layer (B, S, D) -> logits (B, K, S, C)."""
        logits = self.head.apply({"params": params["head"]}, last)
        split = logits.reshape(*last.shape[:2], self.options.labels.books, -1)  # type: ignore
        return jnp.moveaxis(split, 2, 1)
