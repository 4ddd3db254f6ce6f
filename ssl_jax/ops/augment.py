"""Augmentation on device, drawn per example from keys (B,): audio (B, N), features (B, T, F).

Audio is float in [-1, 1] or int16 and comes back as float32 of the same shape; samples past
`audio_len` (B,) stay 0. Every function is the identity at zero strength, and a row depends on
its own key only (`mix` also reads other rows). `prob` is the probability that a row changes.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.types import Array
from ssl_jax.ops import dsp


def _per_row(keys: Array, draw: Callable[[Array], Array]) -> Array:
    """Returns draw(key) for every row, on the leading axis."""
    return jax.vmap(draw)(keys)


def _named(keys: Array, index: int) -> Array:
    """Returns the index-th set of keys (B,), for functions with several random draws."""
    return jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)


def _uniform(keys: Array, low: float, high: float) -> Array:
    return _per_row(keys, lambda key: jax.random.uniform(key, (), minval=low, maxval=high))


def _chosen(keys: Array, prob: float) -> Array:
    return _per_row(keys, lambda key: jax.random.bernoulli(key, prob))


def _power(audio: Array, real: Array) -> Array:
    """Returns the mean square of the real samples, (B, 1)."""
    total = jnp.where(real, jnp.square(audio), 0).sum(1, keepdims=True)
    return total / jnp.maximum(real.sum(1, keepdims=True), 1)


def _stripes(key: Array, count: int, width: Array | int, room: Array | int, size: int) -> Array:
    """Returns bool (size,): `count` stripes of 0 to `width` cells within the first `room`."""
    width_key, start_key = jax.random.split(key)
    widths = jnp.minimum(jax.random.randint(width_key, (count, 1), 0, width + 1), room)
    start = jnp.floor(jax.random.uniform(start_key, (count, 1)) * (room - widths + 1))
    offset = jnp.arange(size) - start
    return ((offset >= 0) & (offset < widths)).any(0)


def spec_augment(
    keys: Array,
    features: Array,
    lengths: Array | None = None,
    *,
    time_masks: int = 2,
    time_width: int = 24,
    time_share: float = 0.0,
    freq_masks: int = 2,
    freq_width: int = 6,
    fill: float | str = 0.0,
) -> Array:
    """Masks stripes of features (B, T, F) (SpecAugment, 1904.08779, without warping).

    Each of `time_masks` stripes is 0 to `time_width` frames wide, uniformly, and lies within the
    row's `lengths` (B,) real frames; `freq_masks` and `freq_width` do the same over F. With
    `time_share`, a stripe in time is up to that share of the row's frames wide instead, as in its
    adaptive form (1912.05533). `fill` is a value or "mean", the mean of the row's real cells. The
    defaults are those of data2vec-KWS.
    """
    batch, size, bins = features.shape
    lengths = jnp.full((batch,), size) if lengths is None else lengths
    real = (jnp.arange(size) < lengths[:, None])[..., None]
    if fill == "mean":
        total = jnp.where(real, features, 0).sum((1, 2), keepdims=True)
        value = total / jnp.maximum(lengths * bins, 1)[:, None, None]
    elif isinstance(fill, str):
        raise ValueError(f"SpecAugment fill is {fill!r}: use a number or 'mean'")
    else:
        value = jnp.asarray(fill, features.dtype)

    def hidden(key: Array, length: Array) -> Array:
        time_key, freq_key = jax.random.split(key)
        width = jnp.floor(time_share * length).astype(int) if time_share else time_width
        in_time = _stripes(time_key, time_masks, width, length, size)
        return in_time[:, None] | _stripes(freq_key, freq_masks, freq_width, bins, bins)

    return jnp.where(jax.vmap(hidden)(keys, lengths) & real, value, features)


def time_shift(
    keys: Array, audio: Array, audio_len: Array | None = None, *, max_samples: int
) -> Array:
    """Shifts each clip by a uniform number of samples in [-max, max]; ends are cut, gaps are 0."""
    audio = dsp.to_float(audio)
    real = dsp.valid_samples(audio, audio_len)
    padded = jnp.pad(jnp.where(real, audio, 0), ((0, 0), (max_samples, max_samples)))

    def move(key: Array, row: Array) -> Array:
        start = jax.random.randint(key, (), 0, 2 * max_samples + 1)
        return jax.lax.dynamic_slice_in_dim(row, start, audio.shape[1])

    return jnp.where(real, jax.vmap(move)(keys, padded), 0)


def gain(keys: Array, audio: Array, *, low_db: float, high_db: float) -> Array:
    """Amplifies each clip by a gain in dB, uniform in [low_db, high_db]."""
    gain_db = _uniform(keys, low_db, high_db)[:, None]
    return dsp.to_float(audio) * 10 ** (gain_db / 20)


def magnitude(keys: Array, audio: Array, *, alpha: float = 10.0, low: float = 0.5) -> Array:
    """Multiplies each clip by `low` + Beta(alpha, alpha), near 1 for the defaults (AudioMAE)."""
    share = _per_row(keys, lambda key: jax.random.beta(key, alpha, alpha))
    return dsp.to_float(audio) * (low + share)[:, None]


def roll(keys: Array, audio: Array, audio_len: Array | None = None, *, samples: int = 1) -> Array:
    """Rolls each clip by a uniform multiple of `samples`; what leaves its end enters at its start.

    A clip that is shorter than `samples` stays as it is.
    """
    audio = dsp.to_float(audio)
    batch, size = audio.shape
    length = jnp.full((batch,), size) if audio_len is None else audio_len
    real = dsp.valid_samples(audio, audio_len)

    def move(key: Array, row: Array, length: Array) -> Array:
        steps = jnp.maximum(-(-length // samples), 1)
        shift = samples * jax.random.randint(key, (), 0, steps)
        return row[(jnp.arange(size) - shift) % jnp.maximum(length, 1)]

    return jnp.where(real, jax.vmap(move)(keys, audio, length), 0)


def _add_at_snr(
    keys: Array, audio: Array, noise: Array, real: Array, snr_db: tuple[float, float], prob: float
) -> Array:
    """Adds noise at a uniform SNR over the real samples, to each row with probability `prob`."""
    snr = 10 ** (_uniform(_named(keys, 100), *snr_db)[:, None] / 10)
    noise = jnp.where(real, noise, 0)
    power, noise_power = _power(audio, real), _power(noise, real)
    audible = (power > 0) & (noise_power > 0)
    # the inner `where` keeps the gradient of the root finite for silent rows
    ratio = jnp.where(audible, power, 1) / (snr * jnp.where(audible, noise_power, 1))
    scale = jnp.where(audible, jnp.sqrt(ratio), 0)
    on = _chosen(_named(keys, 101), prob)[:, None]
    return audio + jnp.where(on, scale * noise, 0)


def coloured_noise(keys: Array, size: int, tilt: tuple[float, float]) -> Array:
    """Returns Gaussian noise (B, size) of power 1 / f^a, a uniform in `tilt`: 0 is white, 1 pink.

    The spectrum is flat below 1/256 of the sample rate, so that inaudible rumble does not dominate.
    """
    n_fft = 1 << max(1, size - 1).bit_length()
    frequency = np.maximum(np.arange(n_fft // 2 + 1) / n_fft, 1 / 256).astype(np.float32)

    def draw(key: Array) -> Array:
        tilt_key, noise_key = jax.random.split(key)
        slope = jax.random.uniform(tilt_key, (), minval=tilt[0], maxval=tilt[1])
        white = jnp.fft.rfft(jax.random.normal(noise_key, (n_fft,)))
        return jnp.fft.irfft(white * frequency ** (-slope / 2), n_fft)[:size]

    return _per_row(keys, draw)


def add_noise(
    keys: Array,
    audio: Array,
    audio_len: Array | None = None,
    *,
    snr_db: tuple[float, float] = (0.0, 30.0),
    tilt: tuple[float, float] = (0.0, 2.0),
    prob: float = 1.0,
) -> Array:
    """Adds `coloured_noise` at a uniform signal-to-noise ratio in dB; silence stays silent."""
    audio = dsp.to_float(audio)
    real = dsp.valid_samples(audio, audio_len)
    noise = coloured_noise(_named(keys, 0), audio.shape[1], tilt)
    return _add_at_snr(keys, audio, noise, real, snr_db, prob)


def mix(
    keys: Array,
    audio: Array,
    audio_len: Array | None = None,
    *,
    snr_db: tuple[float, float] = (0.0, 20.0),
    voices: int = 1,
    prob: float = 1.0,
) -> Array:
    """Adds the sum of `voices` other rows of the batch (many: babble) at a uniform SNR in dB.

    A row is never mixed with itself; the same other row may be drawn twice. The other rows are
    those of the global batch, so the result depends on how the batch is made up. A batch of
    one row is left unchanged.
    """
    audio = dsp.to_float(audio)
    batch = audio.shape[0]
    if batch == 1:
        return audio
    real = dsp.valid_samples(audio, audio_len)
    draw = _per_row(_named(keys, 0), lambda key: jax.random.randint(key, (voices,), 1, batch))
    others = (jnp.arange(batch)[:, None] + draw) % batch
    noise = jnp.where(real, audio, 0)[others].sum(1)
    return _add_at_snr(keys, audio, noise, real, snr_db, prob)


def speed(
    keys: Array, audio: Array, audio_len: Array | None = None, *, low: float, high: float
) -> tuple[Array, Array]:
    """Plays each clip `low` to `high` times as fast: -> (audio (B, N), audio_len (B,)).

    Linear interpolation; pitch moves with speed. The shape is kept: a faster clip ends in
    zeros, a slower one is cut off.
    """
    audio = dsp.to_float(audio)
    batch, size = audio.shape
    if audio_len is None:
        audio_len = jnp.full((batch,), size, jnp.int32)
    change = _uniform(keys, low, high)[:, None] - 1
    # sample t is read at t + t * change, in two terms: t * (1 + change) would lose the fraction
    drift = jnp.arange(size) * change
    index = jnp.arange(size) + jnp.floor(drift).astype(jnp.int32)
    share = drift - jnp.floor(drift)
    last = jnp.maximum(audio_len - 1, 0)[:, None]
    left = jnp.take_along_axis(audio, jnp.clip(index, 0, last), axis=1)
    right = jnp.take_along_axis(audio, jnp.clip(index + 1, 0, last), axis=1)
    length = jnp.where(audio_len > 0, (index + share <= last).sum(1), 0).astype(audio_len.dtype)
    real = dsp.valid_samples(audio, length)
    return jnp.where(real, left + share * (right - left), 0), length


def random_filter(
    keys: Array,
    audio: Array,
    audio_len: Array | None = None,
    *,
    max_db: float,
    bands: int = 8,
    prob: float = 1.0,
) -> Array:
    """Filters each clip with a random smooth equalizer, as microphones and rooms do.

    It has `bands` gains, uniform in [-max_db, max_db], equally spaced on the mel-like axis
    log(1 + 22 f / nyquist) and interpolated linearly; zero phase, applied by one padded FFT.
    """
    audio = dsp.to_float(audio)
    size = audio.shape[1]
    real = dsp.valid_samples(audio, audio_len)
    n_fft = 1 << (size + 512).bit_length()
    place = np.log1p(22 * np.linspace(0, 1, n_fft // 2 + 1)) / np.log(23) * (bands - 1)
    hats = np.maximum(0, 1 - np.abs(place - np.arange(bands)[:, None])).astype(np.float32)

    def equalize(key: Array, row: Array) -> Array:
        gain_db = jax.random.uniform(key, (bands,), minval=-max_db, maxval=max_db)
        curve = 10 ** (jnp.matmul(gain_db, hats, precision=dsp.HIGHEST) / 20)
        return jnp.fft.irfft(jnp.fft.rfft(row, n_fft) * curve, n_fft)[:size]

    changed = jax.vmap(equalize)(_named(keys, 0), jnp.where(real, audio, 0))
    on = _chosen(_named(keys, 1), prob)[:, None]
    return jnp.where(real & on, changed, audio)
