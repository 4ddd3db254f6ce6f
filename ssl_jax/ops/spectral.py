"""Augmentation of log-mel features on device, drawn per example from keys (B,).

Every function takes `log_mel` (B, T, M) in dB and `lengths` (B,), the real frames, and returns the
same shape. They imitate another microphone, vocal tract, background or onset, at a small
fraction of the cost of changing the samples. Each is the identity at zero strength; a row depends
on its own key only (`mix` also reads other rows).
"""

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.types import Array

_QUIET = -200.0  # dB, stands for silence


def _each(keys: Array, shape: tuple[int, ...], low: float, high: float) -> Array:
    """Returns uniform numbers (B, *shape)."""
    return jax.vmap(lambda k: jax.random.uniform(k, shape, minval=low, maxval=high))(keys)


def _power_sum(a: Array, b: Array) -> Array:
    """Adds two levels in dB as powers."""
    nats = 10 / np.log(10)
    return nats * jnp.logaddexp(a / nats, b / nats)


def _mean_db(log_mel: Array, lengths: Array) -> Array:
    """Returns the mean dB of the real frames, (B, 1, 1)."""
    real = (jnp.arange(log_mel.shape[1]) < lengths[:, None])[..., None]
    total = jnp.where(real, log_mel, 0).sum((1, 2), keepdims=True)
    return total / jnp.maximum(real.sum((1, 2), keepdims=True) * log_mel.shape[2], 1)


def shift(keys: Array, log_mel: Array, lengths: Array, *, max_frames: int) -> Array:
    """Moves each clip by up to `max_frames` frames either way; the frame at the edge repeats."""
    size = log_mel.shape[1]
    move = jax.vmap(lambda k: jax.random.randint(k, (), -max_frames, max_frames + 1))(keys)
    last = jnp.maximum(lengths - 1, 0)[:, None]
    index = jnp.clip(jnp.arange(size) - move[:, None], 0, last)
    moved = jnp.take_along_axis(log_mel, index[..., None], axis=1)
    real = jnp.arange(size) < lengths[:, None]
    return jnp.where(real[..., None], moved, log_mel)


def warp(keys: Array, log_mel: Array, lengths: Array, *, max_share: float) -> Array:
    """Stretches the mel axis by a factor uniform in 1 +- max_share: another vocal tract.

    Vocal tract length perturbation (Jaitly and Hinton, 2013), on the mel axis.
    """
    del lengths
    bands = log_mel.shape[2]
    factor = 1 + _each(keys, (1,), -max_share, max_share)
    place = jnp.clip(jnp.arange(bands) * factor, 0, bands - 1)
    low = jnp.floor(place).astype(jnp.int32)
    share = (place - low)[:, None]
    high = jnp.minimum(low + 1, bands - 1)
    left, right = (jnp.take_along_axis(log_mel, i[:, None], axis=2) for i in (low, high))
    return left + share * (right - left)


def equalize(
    keys: Array, log_mel: Array, lengths: Array, *, std_db: float, terms: int = 4
) -> Array:
    """Adds a smooth random curve over the bands: `terms` cosines of normal weights, in dB."""
    del lengths
    bands = log_mel.shape[2]
    angle = np.pi * (np.arange(bands) + 0.5) / bands
    basis = np.cos(np.arange(terms)[:, None] * angle).astype(np.float32)
    weight = std_db * jax.vmap(lambda k: jax.random.normal(k, (terms,)))(keys)
    return log_mel + (weight[..., None] * basis).sum(1)[:, None]


def mix(keys: Array, log_mel: Array, lengths: Array, *, max_share: float) -> Array:
    """Adds the power of the previous row, as a share uniform in [0, max_share] of the sum."""
    del lengths
    share = _each(keys, (1, 1), 0.0, max_share)
    own, other = (10 * jnp.log10(jnp.maximum(x, 1e-20)) for x in (1 - share, share))
    return _power_sum(log_mel + own, jnp.roll(log_mel, 1, axis=0) + other)


def add_floor(
    keys: Array,
    log_mel: Array,
    lengths: Array,
    *,
    below_db: tuple[float, float],
    tilt_db: float = 6.0,
    spread_db: float = 4.0,
    prob: float = 1.0,
) -> Array:
    """Adds noise at a level below the clip's mean by an amount uniform in `below_db`.

    It falls or rises over the bands by up to `tilt_db` either way and varies from cell to cell
    with a standard deviation of `spread_db`. Each row gets it with probability `prob`.
    """
    bands = log_mel.shape[2]

    def draw(key: Array) -> Array:
        below, tilt, cells, on = jax.random.split(key, 4)
        slope = jax.random.uniform(tilt, (), minval=-tilt_db, maxval=tilt_db)
        noise = slope * jnp.linspace(-1, 1, bands)
        noise = noise + spread_db * jax.random.normal(cells, log_mel.shape[1:])
        noise = noise - jax.random.uniform(below, (), minval=below_db[0], maxval=below_db[1])
        return jnp.where(jax.random.bernoulli(on, prob), noise, _QUIET)

    return _power_sum(log_mel, _mean_db(log_mel, lengths) + jax.vmap(draw)(keys))
