"""Mixup (1710.09412) of labelled images or sounds and CutMix (1905.04899), on the device.

Image i is mixed with image B - 1 - i, as in timm; a clip with any other clip. Partners are rows of
the global batch, so a result depends on how the batch is made up, but not on the number of devices.
"""

import dataclasses

import jax
import jax.numpy as jnp

from ssl_jax.core import options as options_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import Array
from ssl_jax.ops import dsp

MODES = ("batch", "example")


@dataclasses.dataclass(frozen=True)
class MixOptions:
    """The section config.method.mix; 0.0 for both mixup and cutmix mixes nothing."""

    mixup: float  # both parameters of the Beta distribution of the share, 0 = no mixup
    cutmix: float  # the same for the share that is not cut out, 0 = no CutMix
    prob: float  # probability of mixing at all
    switch_prob: float  # probability of CutMix, where both are on
    mode: str  # one draw for the whole batch | example: one for every image

    def __post_init__(self) -> None:
        key = "config.method.mix"
        options_lib.choose(f"{key}.mode", self.mode, MODES)
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"{key}.{name} is {getattr(self, name)}: use 0 or more, such as 0.8"
                )
        for name in ("prob", "switch_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{key}.{name} is {getattr(self, name)}: use 0 to 1, such as 0.5")

    @property
    def active(self) -> bool:
        """Whether anything is ever mixed."""
        return self.prob > 0 and (self.mixup > 0 or self.cutmix > 0)


def mix(
    key: Array,
    images: Array,
    labels: Array,
    num_classes: int,
    options: MixOptions,
    smoothing: float = 0.0,
) -> tuple[Array, Array]:
    """images (B, H, W, C), labels (B,) -> images, float where mixed, targets (B, num_classes).

    Clips (B, T, H, W, C) are mixed like images, with one share or window for all frames. uint8
    images become float32 of the same values, 0 to 255. The targets are shares of the two labels;
    `smoothing` is spread over all classes. A row without a label (-1) has a target of zeros; it and
    its partner are not mixed.
    """
    targets = soft_targets(labels, num_classes, smoothing)
    if not options.active:
        return images, targets
    batch, (height, width) = len(images), images.shape[-3:-1]
    images = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    draws = batch if options.mode == "example" else 1
    share, window = jax.vmap(lambda k: _draw(k, height, width, options))(
        jax.random.split(key, draws)
    )
    both = (labels >= 0) & (labels[::-1] >= 0)
    share = jnp.where(both, share, 1.0)
    window = window & both[:, None, None]
    # CutMix takes the partner inside its window; mixup weighs the two images everywhere
    cut = window.any((1, 2))
    weight = jnp.where(cut, 1.0, share)[:, None, None]
    weight = jnp.where(window, 0.0, weight)[..., None]
    weight = weight[:, None] if images.ndim == 5 else weight
    mixed = images * weight + images[::-1] * (1 - weight)
    share = share[:, None]
    return mixed, targets * share + targets[::-1] * (1 - share)


def mix_audio(
    key: Array, audio: Array, audio_len: Array, targets: Array, known: Array, options: MixOptions
) -> tuple[Array, Array]:
    """audio (B, N), audio_len (B,), targets (B, K), known (B,) bool -> audio float32, targets.

    Clip i becomes share * own + (1 - share) * partner, over its own length, and so do its targets:
    a tag that both have stays 1. Each clip draws its partner uniformly from the other rows, and
    stays as it is where it or its partner is not `known` (AudioMAE, 2207.06405).
    """
    audio, batch = dsp.to_float(audio), len(audio)
    if batch == 1 or not options.active:
        return audio, targets
    partner_key, share_key, on_key = jax.random.split(key, 3)
    partner = jax.random.randint(partner_key, (batch,), 1, batch)
    partner = (jnp.arange(batch) + partner) % batch
    draws = (batch,) if options.mode == "example" else (1,)
    share = jax.random.beta(share_key, options.mixup, options.mixup, draws)
    share = jnp.where(jax.random.bernoulli(on_key, options.prob, draws), share, 1.0)
    share = jnp.where(known & known[partner], share, 1.0)[:, None]
    audio = jnp.where(dsp.valid_samples(audio, audio_len), audio, 0)
    mixed = share * audio + (1 - share) * audio[partner]
    mixed = jnp.where(dsp.valid_samples(audio, audio_len), mixed, 0)
    return mixed, share * targets + (1 - share) * targets[partner]


def soft_targets(labels: Array, num_classes: int, smoothing: float = 0.0) -> Array:
    """labels (B,) -> (B, num_classes) float32; rows of label -1 are zeros."""
    hot = jax.nn.one_hot(labels, num_classes)
    known = (labels >= 0)[:, None]
    return jnp.where(known, hot * (1 - smoothing) + smoothing / num_classes, 0.0)


def _draw(key: Array, height: int, width: int, options: MixOptions) -> tuple[Array, Array]:
    """Returns the share () of an image's own label, and the window (H, W) of CutMix or none."""
    on_key, switch_key, mixup_key, cutmix_key, box_key = jax.random.split(key, 5)
    on = jax.random.bernoulli(on_key, options.prob)
    both = options.mixup > 0 and options.cutmix > 0
    switch = options.switch_prob if both else float(options.cutmix > 0)
    cut = jax.random.bernoulli(switch_key, switch)
    share, window = jnp.float32(1.0), jnp.zeros((height, width), bool)
    if options.mixup > 0:
        share = jax.random.beta(mixup_key, options.mixup, options.mixup)
    if options.cutmix > 0:
        wanted = jax.random.beta(cutmix_key, options.cutmix, options.cutmix)
        box = _window(box_key, height, width, wanted)
        window = box & cut & on
        # the window is cut at the border: the area that it covers counts
        share = jnp.where(cut, 1 - box.mean(), share)
    return jnp.where(on, share, 1.0), window


def _window(key: Array, height: int, width: int, share: Array) -> Array:
    """Returns a window (H, W) of about 1 - `share` of the area around a uniform centre."""
    side = jnp.sqrt(1 - share)
    spans = []
    for size, own in zip((height, width), jax.random.split(key), strict=True):
        half = jnp.floor(size * side).astype(jnp.int32) // 2
        centre = jax.random.randint(own, (), 0, size)
        place = jnp.arange(size)
        spans.append((place >= centre - half) & (place < centre + half))
    return spans[0][:, None] & spans[1][None, :]
