"""CTC: an encoder, pre-trained or not, learns to transcribe from recordings and their text.

The fine-tuning of wav2vec 2.0 (2006.11477, section 4.3) and HuBERT (2106.07447, section 4.4) on the
loss of Graves et al. (2006). The encoder has the same place in the parameters as in pre-training,
so `config.init_from` takes it over by path, along with the mask vector if that run has one. Dropout
and one Linear layer map each frame to logits over the vocabulary.

What is trained when: `frozen` stops the gradient of the convolutions or of the encoder for the
whole run; name the same parameters in config.optim.frozen. config.optim.frozen_first and
freeze_until freeze the rest of the encoder while the head begins to learn.

Where this file differs from the published code:
- Recordings are padded, never cropped to the shortest of a batch, and padded frames do not count:
  the loss ends with the last real frame.
- Each recording has its own number of masked frames and channels; there all rows are cut to the
  fewest of the batch, which masks little of long recordings in a batch of mixed lengths.
- A transcript that needs more frames than there are has no loss and does not count in the mean;
  the metric `infeasible` is the share of such rows. `python -m ssl_jax.train` rejects them before
  training.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ssl_jax.core import options as options_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.rng import Streams
from ssl_jax.core.types import Array, Batch, Features, Method, Output, Spec, Tree
from ssl_jax.nn import build, heads, sharding
from ssl_jax.nn import encoder as encoder_lib
from ssl_jax.nn.transformer import LAST, STATES, Layers
from ssl_jax.ops import ctc, losses, masks

SCOPES = ("frontend", "mask", "encoder", "predictor", "loss")
UNMASKED = ("frontend", "encoder", "predictor", "loss")
FROZEN = ("none", "convs", "encoder")


@dataclasses.dataclass(frozen=True)
class MaskOptions:
    """What a training step masks of the projected frames; see `ops.masks.span_mask`."""

    prob: float  # expected spans = prob * frames / length; 0: none
    length: int  # frames per span
    min_spans: int
    channel_prob: float  # the same over the D channels, zeroed in all frames; 0: none
    channel_length: int


@dataclasses.dataclass(frozen=True)
class HeadOptions:
    """From hidden states to logits; see `nn.heads.FrameClassifier`."""

    dropout: float
    mix: bool  # all hidden states with learned weights, instead of the last one
    projection: int  # width of a Linear layer before the classifier; 0: none
    # what the bias of the blank begins at; below 0, such as -2.0, the time is shorter in which only
    # the blank is predicted
    blank_bias: float


@dataclasses.dataclass(frozen=True)
class TunedOptions:
    """The part of config.method about an encoder that learns to transcribe."""

    name: str
    encoder: Mapping  # see ssl_jax/nn/build.py
    mask: MaskOptions
    # none | convs: the convolutions of the front end get no gradient | encoder: nor does the rest
    # of the encoder, which runs in evaluation mode
    frozen: str

    def __post_init__(self) -> None:
        key, mask = "config.method", self.mask
        options_lib.choose(f"{key}.frozen", self.frozen, FROZEN)
        for name, value in (("prob", mask.prob), ("channel_prob", mask.channel_prob)):
            if not 0 <= value <= 1:
                raise ConfigError(f"{key}.mask.{name} is {value}: use 0.0 to 1.0, such as 0.5")
        for name, value in (("length", mask.length), ("channel_length", mask.channel_length)):
            if value < 1:
                raise ConfigError(f"{key}.mask.{name} is {value}: use 1 or more, such as 10")


@dataclasses.dataclass(frozen=True)
class Options(TunedOptions):
    """The section config.method of ctc."""

    head: HeadOptions

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.head.dropout < 1:
            raise ConfigError(
                f"config.method.head.dropout is {self.head.dropout}: use 0.0 or more and below 1.0"
            )


def make(config: ConfigDict, *, precision: str, sample_rate: int, num_classes: int) -> Method:
    """Returns the method that config.method describes; `num_classes` counts the tokens."""
    options = options_lib.read(Options, config)
    encoder = build.moving(options.encoder, precision=precision, sample_rate=sample_rate)
    check(options, encoder, num_classes)
    method = Ctc(options, encoder, num_classes)
    spoken = {"transcript": Spec((None,), "int32"), "transcript_len": Spec((), "int32")}
    return Method(
        init=method.init,
        loss=method.loss,
        features=method.features,
        masks=method.masks if options.mask.prob else None,
        emissions=method.emissions,
        frames=method.encoder.frames,
        batch=encoder_lib.batch_spec(encoder) | spoken,
        rules=sharding.RULES,
        scopes=SCOPES if options.mask.prob or options.mask.channel_prob else UNMASKED,
        couples=encoder_lib.coupled(encoder),
    )


def check(options: TunedOptions, encoder: encoder_lib.Encoder, num_classes: int) -> None:
    """Raises ConfigError where options, encoder and vocabulary do not fit each other."""
    if "audio" not in encoder.reads or len(encoder.grid) > 1:
        raise ConfigError(
            f"config.method.encoder.kind is {options.encoder.get('kind')!r}: transcripts need the "
            f"frames of a recording, so use 'waveform', 'mel_conformer' or 'keyword_transformer'"
        )
    if options.frozen == "convs" and options.encoder.get("kind") != "waveform":
        raise ConfigError(
            "config.method.frozen is 'convs', which the encoder kind "
            f"{options.encoder.get('kind')!r} does not have: use 'none' or 'encoder'"
        )
    if options.frozen == "encoder" and (options.mask.prob or options.mask.channel_prob):
        raise ConfigError(
            "config.method.frozen is 'encoder', which runs in evaluation mode: set "
            "config.method.mask.prob and channel_prob to 0.0"
        )
    if getattr(encoder.options, "input_dropout", 0):
        raise ConfigError(
            "config.method.encoder.input_dropout is for pre-training: set it to 0.0, and "
            "use config.method.encoder.embed_dropout instead"
        )
    if num_classes < 2:
        raise ConfigError(
            f"the vocabulary has {num_classes} tokens, the blank included: set "
            "config.data.train.<name>.transcript to the column of the transcript"
        )


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What methods that transcribe do with their encoder. params: encoder, mask/vector (D,)."""

    options: Any
    encoder: Any
    tokens: int

    @property
    def _layers(self) -> Layers:
        """The layers that are read from the encoder."""
        return LAST

    def features(
        self, params: Tree, batch: Batch, layers: tuple[int, ...] | None = None
    ) -> Features:
        """Returns the hidden states of the complete recording."""
        return encoder_lib.features(self.encoder, params["encoder"], batch, layers)

    def masks(self, params: Tree, batch: Batch, streams: Streams) -> Array:
        """Returns which frames an update masks, (B, 1, S) bool."""
        return self._spans(streams, encoder_lib.real(self.encoder, params["encoder"], batch))[
            :, None
        ]

    def _tuned(self, encoder: Tree) -> Tree:
        """Returns the parameters of the encoder, without a gradient where they are frozen."""
        if self.options.frozen == "encoder":
            return jax.lax.stop_gradient(encoder)
        if self.options.frozen == "none":
            return encoder
        frontend = encoder["frontend"]
        held = jax.lax.stop_gradient(frontend["convs"])
        return {**encoder, "frontend": {**frontend, "convs": held}}

    def _spans(self, streams: Streams, valid: Array) -> Array:
        """valid (B, S) -> bool (B, S), true at the frames that a training step masks."""
        o, keys = self.options.mask, streams.for_examples("mask")
        lengths, size = valid.sum(1), valid.shape[1]
        return masks.span_mask(keys, lengths, size, o.prob, o.length, o.min_spans, same_count=False)

    def _hide(self, params: Tree, streams: Streams, x: Array, valid: Array) -> Array:
        """Returns frames x (B, S, D) with spans of them masked, and spans of channels zeroed."""
        o, (rows, _, width) = self.options.mask, x.shape
        if o.prob:
            vector = params["mask"]["vector"].astype(x.dtype)
            x = jnp.where(self._spans(streams, valid)[..., None], vector, x)
        if o.channel_prob:
            keys, lengths = streams.for_examples("channels"), jnp.full((rows,), width)
            silent = masks.span_mask(
                keys, lengths, width, o.channel_prob, o.channel_length, 0, same_count=False
            )
            x = jnp.where(silent[:, None], 0, x)
        return x

    def _encode(
        self, encoder: Tree, x: Array, valid: Array, streams: Streams | None = None
    ) -> tuple[Array, Tree]:
        """x (B, S, D), valid (B, S) -> the hidden states of `_layers`, (N, B, S, D), and what is
        moved (see `core.types.Output`).

        In training mode when there are `streams`.
        """
        tuned = self.options.frozen != "encoder"
        dropout = streams.for_step("dropout") if streams is not None and tuned else None
        encoded = encoder_lib.encode(self.encoder, encoder, x, valid, dropout, layers=self._layers)
        moved = {"encoder": encoded.moved} if encoded.moved else {}
        return encoded.hidden_states[:, :, encoded.prefix :], moved


@dataclasses.dataclass(frozen=True)
class Ctc(Tuned):
    """The functions of the method over one encoder. params: encoder, head, mask/vector (D,)."""

    @property
    def head(self) -> heads.FrameClassifier:
        """Dropout and Linear on every frame."""
        o = self.options.head
        return heads.FrameClassifier(self.tokens, o.dropout, o.mix, o.projection)

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Returns (params, {})."""
        keys = jax.random.split(key, 3)
        encoder, encoded = encoder_lib.init(self.encoder, keys[0], batch)
        head = self.head.init(keys[1], encoded.hidden_states)["params"]
        classifier = head["classifier"]
        bias = classifier["bias"].at[ctc.BLANK].add(self.options.head.blank_bias)
        head = {**head, "classifier": {**classifier, "bias": bias}}
        params = {"encoder": encoder, "head": head}
        if self.options.mask.prob:
            params["mask"] = {"vector": jax.random.uniform(keys[2], (self.encoder.width,))}
        return params, {}

    @property
    def _layers(self) -> Layers:
        return STATES if self.options.head.mix else LAST

    def emissions(self, params: Tree, batch: Batch) -> tuple[Array, Array]:
        """Returns the log-probabilities of the tokens (B, S, V) float32 and the frames (B,)."""
        x, valid = encoder_lib.frontend(self.encoder, params["encoder"], batch)
        return self._answer(params, self._encode(params["encoder"], x, valid)[0]), valid.sum(1)

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, streams: Streams, train: bool
    ) -> Output:
        """Returns the mean over recordings of -log p(transcript), summed over tokens, in nats."""
        weight, encoder = batch["weight"], self._tuned(params["encoder"])

        with jax.named_scope("frontend"):
            x, valid = encoder_lib.frontend(self.encoder, encoder, batch)

        if train:
            with jax.named_scope("mask"):
                x = self._hide(params, streams, x, valid)

        noise = streams if train else None
        with jax.named_scope("encoder"):
            hidden_states, moved = self._encode(encoder, x, valid, noise)

        with jax.named_scope("predictor"):
            log_probs = self._answer(params, hidden_states, noise)

        with jax.named_scope("loss"):
            frames, labels = valid.sum(1), batch["transcript"]
            each, feasible = ctc.loss(log_probs, frames, labels, batch["transcript_len"])
            loss, num_targets = losses.masked_mean(each, weight * feasible)
            real = valid & (weight > 0)[:, None]
            silent = (log_probs.argmax(-1) == ctc.BLANK) & real

        metrics = {
            "loss": (loss * num_targets, num_targets),
            "infeasible": ((weight * ~feasible).sum(), weight.sum()),
            # 1 while only the blank is predicted, as is common early in training
            "blank_share": (silent.sum(), real.sum()),
        }
        return Output(loss, num_targets, metrics, extra, moved=moved)

    def _answer(self, params: Tree, hidden_states: Array, streams: Streams | None = None) -> Array:
        """hidden_states (N, B, S, D) -> log-probabilities of the tokens (B, S, V)."""
        variables = {"params": params["head"]}
        rngs = None if streams is None else {"dropout": streams.for_step("head")}
        logits: Any = self.head.apply(variables, hidden_states, bool(rngs), rngs=rngs)
        return jax.nn.log_softmax(logits)
