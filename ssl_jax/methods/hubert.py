"""HuBERT: predict, from masked audio, the cluster of each masked frame.

Hsu et al., 2106.07447. The label of a frame, its unit, comes from k-means over MFCC (iteration 1)
or over a layer of the previous model (from iteration 2 on); several sets of labels may be predicted
at once (section II.C). The logits are cosines between the projected frame and a vector per unit.

Where the published code (fairseq) surprises, this file does the following.
- A unit is its own class: the four classes of the dictionary's special symbols, which no frame
  has, are left out. The loss is the plain cross-entropy over the units, in nats, not bits.
- The loss is divided by the masked frames of the global batch, in which padding and frames after
  the last label do not count; the original cuts the whole batch to its shortest labels.
- The feature penalty is the mean square of the convolutions' output over real frames. It is taken
  after the factor on their gradient, so that its own gradient is scaled too, as in the original.
- Masks are drawn on the device from (seed, example, step). `mask.same_count` trims all rows of the
  global batch to the fewest masked frames, where the original compares only the rows of a device.
- Unmasked frames always pass through the head, at little cost; their `unmasked_accuracy` may fall
  while the model learns, which is normal: what counts is `masked_accuracy`.
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
from ssl_jax.core.types import Array, Batch, Features, Method, Output, Spec, Tree
from ssl_jax.nn import build, sharding
from ssl_jax.nn import encoder as encoder_lib
from ssl_jax.nn.transformer import LAST
from ssl_jax.nn.unit_head import UnitHead
from ssl_jax.ops import losses, masks, stats

SCOPES = ("frontend", "mask", "encoder", "targets", "predictor", "loss")


@dataclasses.dataclass(frozen=True)
class UnitOptions:
    """The labels to predict; config.data.units names their files."""

    classes: tuple[int, ...]  # units of each set of labels
    rate: float  # labels per second; frame t has label int(t * rate / frames per second)
    tied: bool  # one projection for all sets


@dataclasses.dataclass(frozen=True)
class MaskOptions:
    """Which frames are masked; see `ops.masks.span_mask`."""

    prob: float  # expected spans = prob * frames / length; spans overlap: 57 % are masked
    length: int  # frames per span
    min_spans: int
    same_count: bool  # every row trimmed to the fewest masked frames of the batch


@dataclasses.dataclass(frozen=True)
class HeadOptions:
    """From the last layer to logits; see `nn.unit_head`."""

    width: int
    temperature: float


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """Weights of the parts of the loss (section II.B: alpha and 1 - alpha)."""

    masked: float  # of the cross-entropy summed over masked frames
    unmasked: float  # of that over unmasked ones; the sum is per frame of a weight above 0
    penalty: float  # of the mean square of the convolutions' output


@dataclasses.dataclass(frozen=True)
class Options:
    """The section config.method of hubert."""

    name: str
    encoder: Mapping  # see ssl_jax/nn/build.py
    units: UnitOptions
    mask: MaskOptions
    head: HeadOptions
    loss: LossOptions

    def __post_init__(self) -> None:
        key, classes = "config.method", self.units.classes
        if not classes or any(not isinstance(n, int) or n < 2 for n in classes):
            raise ConfigError(
                f"{key}.units.classes is {classes}: use numbers from 2 up, such as (100,)"
            )
        if self.encoder.get("kind") != "waveform":
            raise ConfigError(f"{key}.encoder.kind is {self.encoder.get('kind')!r}: use 'waveform'")
        if self.head.width < 1 or self.head.temperature <= 0:
            raise ConfigError(
                f"{key}.head.width is {self.head.width} and {key}.head.temperature "
                f"{self.head.temperature}: use 1 or more, such as 256, and above 0.0, such as 0.1"
            )
        loss = self.loss
        if min(loss.masked, loss.unmasked, loss.penalty) < 0 or not loss.masked + loss.unmasked:
            raise ConfigError(
                f"{key}.loss.masked is {loss.masked}, {key}.loss.unmasked {loss.unmasked} and "
                f"{key}.loss.penalty {loss.penalty}: use 0.0 or more, one of the first two above it"
            )


def make(config: ConfigDict, *, precision: str, sample_rate: int, num_classes: int) -> Method:
    """Returns the method that config.method describes; config.method.units sets the classes."""
    del num_classes
    options = options_lib.read(Options, config)
    encoder = build.encoder(options.encoder, precision=precision, sample_rate=sample_rate)
    rate = encoder_lib.token_rate(encoder)
    if options.units.rate < rate:
        raise ConfigError(
            f"config.method.units.rate is {options.units.rate:g} labels per second, fewer than the "
            f"{rate:g} frames of config.method.encoder: use labels of {rate:g} Hz or more"
        )
    method = Hubert(options, encoder)
    units = Spec((len(options.units.classes), None), "int32")
    return Method(
        init=method.init,
        loss=method.loss,
        features=method.features,
        masks=method.masks,
        batch={**encoder_lib.batch_spec(encoder), "units": units},
        rules=sharding.RULES,
        scopes=SCOPES,
        combine=method.combine if options.loss.penalty else None,
        couples=masks.coupled("HuBERT", options.mask.same_count),
    )


@dataclasses.dataclass(frozen=True)
class Hubert:
    """The functions of the method over one encoder.

    params: encoder, mask/vector (D,), head (projection, units (sum of classes, width)).
    """

    options: Options
    encoder: encoder_lib.Encoder

    @property
    def head(self) -> UnitHead:
        """From frames to logits over the units of each set; float32."""
        o, units = self.options.head, self.options.units
        return UnitHead(units.classes, o.width, units.tied, o.temperature)

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
        """Returns the hidden states of the unmasked example: layers for k-means."""
        return encoder_lib.features(self.encoder, params["encoder"], batch, layers)

    def masks(self, params: Tree, batch: Batch, streams: Streams) -> Array:
        """Returns which frames an update masks, (B, 1, S) bool."""
        real = encoder_lib.real(self.encoder, params["encoder"], batch, encoder_lib.weights(batch))
        return self._mask(streams, real)[:, None]

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, streams: Streams, train: bool
    ) -> Output:
        """Returns the cross-entropy of the units at masked frames, with collapse diagnostics."""
        o, weight = self.options, encoder_lib.weights(batch)

        with jax.named_scope("frontend"):
            dropout = streams.for_step("frontend_dropout") if train else None
            x, valid, stages = encoder_lib.frontend_intermediates(
                self.encoder, params["encoder"], batch, dropout
            )

        with jax.named_scope("mask"):
            real = valid & (weight > 0)[:, None]
            mask = self._mask(streams, real)
            masked_input = jnp.where(mask[..., None], params["mask"]["vector"].astype(x.dtype), x)

        with jax.named_scope("encoder"):
            dropout = streams.for_step("dropout") if train else None
            student = encoder_lib.encode(
                self.encoder, params["encoder"], masked_input, valid, dropout, layers=LAST
            )

        with jax.named_scope("targets"):
            units = self.align(batch["units"], x.shape[1])
            masked, unmasked = ((units >= 0) & m[:, None] for m in (mask, real & ~mask))

        with jax.named_scope("predictor"):
            last = student.hidden_states[-1].astype(jnp.float32)
            projected, logits = self._predict(params, last)

        with jax.named_scope("loss"):
            entropies = [losses.cross_entropy(each, units[:, k]) for k, each in enumerate(logits)]
            cross_entropy = jnp.stack(entropies, 1)
            total, num_targets = self._total(cross_entropy, masked, unmasked)
            square = jnp.square(stages["raw"]).mean(-1)
            penalty, frames = losses.masked_mean(square, real)
            loss = total / jnp.where(num_targets > 0, num_targets, 1) + o.loss.penalty * penalty

        one = jnp.ones(())
        metrics = {
            "loss": (loss * num_targets, num_targets),
            "masked_loss": ((cross_entropy * masked).sum(), masked[:, 0].sum()),
            "unmasked_loss": ((cross_entropy * unmasked).sum(), unmasked[:, 0].sum()),
            "feature_penalty": (penalty * frames, frames),
            "used_rows": encoder_lib.used_rows(batch, weight),
            "masked_share": (mask.sum(), real.sum()),
            "prediction_std": (stats.token_std(projected, mask), one),
            "frontend_std": (stats.token_std(x, real), one),
        }
        for k, each in enumerate(logits):
            metrics |= _of_set(k, each, units[:, k], masked[:, k], unmasked[:, k])
        sums = {"units": (total, num_targets), "penalty": (penalty * frames, frames)}
        return Output(loss, num_targets, metrics, extra, sums)

    def combine(self, sums: Tree) -> Array:
        """Returns the loss of a batch from the sums of its parts."""
        penalty = self.options.loss.penalty * losses.mean_of(sums["penalty"])
        return losses.mean_of(sums["units"]) + penalty

    def align(self, units: Array, frames: int) -> Array:
        """units (B, K, U) -> the label of each frame (B, K, S), -1 where there is none."""
        ratio = self.options.units.rate / encoder_lib.token_rate(self.encoder)
        place = np.floor(np.arange(frames) * ratio).astype(np.int32)
        inside = place < units.shape[-1]
        return jnp.where(inside, units[..., np.where(inside, place, 0)], -1)

    def _mask(self, streams: Streams, real: Array) -> Array:
        """real (B, S) -> bool (B, S), true at the masked frames."""
        o, keys = self.options.mask, streams.for_examples("mask")
        lengths, size = real.sum(1), real.shape[1]
        return masks.span_mask(keys, lengths, size, o.prob, o.length, o.min_spans, o.same_count)

    def _predict(self, params: Tree, last: Array) -> tuple[Array, tuple[Array, ...]]:
        """Last layer (B, S, D) -> projected frames, and logits (B, S, C) of each set."""
        return self.head.apply({"params": params["head"]}, last)  # type: ignore

    def _total(self, cross_entropy: Array, masked: Array, unmasked: Array) -> tuple[Array, Array]:
        """Returns the weighted sum over all sets (B, K, S), and the number of frames by which to
        divide it: those of the first set whose weight is above 0."""
        total = num_targets = jnp.zeros(())
        for factor, kept in (
            (self.options.loss.masked, masked),
            (self.options.loss.unmasked, unmasked),
        ):
            if factor:
                total = total + factor * jnp.where(kept, cross_entropy, 0).sum()
                num_targets = num_targets + kept[:, 0].sum()
        return total, num_targets


def _of_set(
    k: int, logits: Array, units: Array, masked: Array, unmasked: Array
) -> dict[str, tuple[Array, Array]]:
    """Returns the accuracies of one set of labels, and how evenly units are used, in nats.

    A model that predicts only the frequency of each unit has a loss of `unit_entropy`;
    `prediction_entropy`, of the units that were predicted, falls to 0 in a collapse.
    """
    one, name = jnp.ones(()), f"_{k}" if k else ""
    size = logits.shape[-1]
    return {
        f"masked_accuracy{name}": losses.accuracy(logits, units, masked.astype(jnp.float32)),
        f"unmasked_accuracy{name}": losses.accuracy(logits, units, unmasked.astype(jnp.float32)),
        f"unit_entropy{name}": (stats.usage_entropy(units, size, masked), one),
        f"prediction_entropy{name}": (stats.usage_entropy(logits.argmax(-1), size, masked), one),
    }
