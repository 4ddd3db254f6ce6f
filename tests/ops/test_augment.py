import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.ops import augment

spec_augment = jax.jit(
    augment.spec_augment,
    static_argnames=("time_masks", "time_width", "time_share", "freq_masks", "freq_width", "fill"),
)
speed = jax.jit(augment.speed)
random_filter = jax.jit(augment.random_filter, static_argnames=("max_db", "bands", "prob"))
mix = jax.jit(augment.mix, static_argnames="voices")
add_noise = jax.jit(augment.add_noise)

SIZE = 2000
LENGTHS = np.array([2000, 1500, 900, 2000], np.int32)


def keys_of(count: int, seed: int = 0) -> jax.Array:
    """Returns random keys, without compiling a split for each count."""
    words = np.random.default_rng(seed).integers(0, 2**32, (count, 2), np.uint32)
    return jax.random.wrap_key_data(words)


def clips(batch: int = 4, seed: int = 0) -> np.ndarray:
    x = 0.1 * np.random.default_rng(seed).standard_normal((batch, SIZE)).astype(np.float32)
    return x * (np.arange(SIZE) < np.resize(LENGTHS, batch)[:, None])


def features(batch: int = 4) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((batch, 98, 40)).astype(np.float32) + 3


IDENTITY = {
    "spec_augment": lambda k, x, n: augment.spec_augment(k, x, time_width=0, freq_width=0),
    "spec_augment_none": lambda k, x, n: augment.spec_augment(k, x, time_masks=0, freq_masks=0),
    "time_shift": lambda k, x, n: augment.time_shift(k, x, n, max_samples=0),
    "gain": lambda k, x, n: augment.gain(k, x, low_db=0, high_db=0),
    "add_noise": lambda k, x, n: augment.add_noise(k, x, n, prob=0.0),
    "mix": lambda k, x, n: augment.mix(k, x, n, prob=0.0),
    "speed": lambda k, x, n: augment.speed(k, x, n, low=1, high=1)[0],
    "random_filter": lambda k, x, n: augment.random_filter(k, x, n, max_db=0),
    "random_filter_never": lambda k, x, n: augment.random_filter(k, x, n, max_db=12, prob=0.0),
}
STRONG = {
    "spec_augment": lambda k, x, n: augment.spec_augment(k, x),
    "time_shift": lambda k, x, n: augment.time_shift(k, x, n, max_samples=500),
    "gain": lambda k, x, n: augment.gain(k, x, low_db=-12, high_db=12),
    "magnitude": lambda k, x, n: augment.magnitude(k, x),
    "roll": lambda k, x, n: augment.roll(k, x, n),
    "add_noise": lambda k, x, n: augment.add_noise(k, x, n),
    "speed": lambda k, x, n: augment.speed(k, x, n, low=0.8, high=1.2)[0],
    "random_filter": lambda k, x, n: augment.random_filter(k, x, n, max_db=12),
}


def inputs(name: str) -> np.ndarray:
    return features() if name.startswith("spec_augment") else clips()


@pytest.mark.parametrize("name", IDENTITY)
def test_zero_strength_is_the_identity(name):
    x = inputs(name)
    np.testing.assert_allclose(jax.jit(IDENTITY[name])(keys_of(4), x, LENGTHS), x, atol=2e-6)


@pytest.mark.parametrize("name", STRONG)
def test_rows_depend_on_their_own_key_and_content_only(name):
    x, keys = inputs(name), keys_of(4)
    change = jax.jit(STRONG[name])
    got = np.asarray(change(keys, x, LENGTHS))
    np.testing.assert_array_equal(got, change(keys, x, LENGTHS))
    words = np.array(jax.random.key_data(keys_of(4, 7)))
    words[2] = jax.random.key_data(keys)[2]
    louder = x.copy()
    louder[[0, 1, 3]] *= 3
    others = np.asarray(change(jax.random.wrap_key_data(words), louder, LENGTHS))
    np.testing.assert_allclose(others[2], got[2], atol=1e-6)
    assert (abs(others[0] - 3 * got[0]) > 1e-4).any()  # another key, another draw
    assert (abs(got - x) > 1e-4).any(axis=(1, *range(2, x.ndim))).all()


@pytest.mark.parametrize("name", ["time_shift", "gain", "roll", "add_noise", "random_filter"])
def test_padding_stays_zero_and_shapes_stay(name):
    got = np.asarray(jax.jit(STRONG[name])(keys_of(4), clips(), LENGTHS))
    assert got.shape == (4, SIZE) and got.dtype == np.float32
    assert not got[2, 900:].any() and not got[1, 1500:].any()


def test_int16_audio_is_accepted():
    x = np.round(clips() * 32768)
    got = augment.gain(keys_of(4), x.astype(np.int16), low_db=0, high_db=0)
    np.testing.assert_array_equal(got, x / 32768)


def test_spec_augment_hides_whole_stripes_of_the_stated_widths():
    rows = 3000
    x = np.ones((rows, 98, 40), np.float32)
    one = np.asarray(spec_augment(keys_of(rows), x, time_masks=1, freq_masks=0, time_width=24))
    hidden = one[..., 0] == 0
    assert (one == one[..., :1]).all()
    widths = hidden.sum(1)
    assert (np.abs(np.diff(np.pad(hidden, ((0, 0), (1, 1))).astype(int))).sum(1) <= 2).all()
    assert widths.min() == 0 and widths.max() == 24
    share = np.bincount(widths, minlength=25) / rows
    assert (abs(share - 1 / 25) < 5 * np.sqrt(0.04 / rows)).all()
    assert hidden[:, 0].any() and hidden[:, 97].any()
    tight = spec_augment(keys_of(rows), x[:, :24], time_masks=1, freq_masks=0, time_width=24)
    full = (np.asarray(tight)[..., 0] == 0).all(1).mean()
    assert abs(full - 1 / 25) < 5 * np.sqrt(0.04 / rows)  # the widest still fits
    both = np.asarray(spec_augment(keys_of(rows), x))
    assert ((both == 0).all(1).sum(1)).max() > 6  # two frequency stripes can be disjoint


def test_stripes_in_time_may_be_up_to_a_share_of_each_row():
    lengths = jnp.where(jnp.arange(400) % 2, 40, 20)
    x = np.ones((400, 50, 4), np.float32)
    given = {"time_masks": 1, "time_share": 0.25, "freq_masks": 0}
    widths = (np.asarray(spec_augment(keys_of(400), x, lengths, **given)) == 0)[..., 0].sum(1)
    assert widths[::2].max() == 5 and widths[1::2].max() == 10 and widths.min() == 0


def test_spec_augment_stays_within_the_length_and_fills_with_the_mean():
    x, lengths = features(50), jnp.full((50,), 30)
    got = np.asarray(spec_augment(keys_of(50), x, lengths, fill="mean"))
    np.testing.assert_array_equal(got[:, 30:], x[:, 30:])
    changed = got != np.asarray(x)
    mean = np.asarray(x)[:, :30].mean((1, 2))
    want = np.broadcast_to(mean[:, None, None], x.shape)
    assert changed.any()
    np.testing.assert_allclose(got[changed], want[changed], rtol=1e-5)
    value = np.asarray(spec_augment(keys_of(50), x, fill=-5.0))
    assert set(np.unique(value[value != np.asarray(x)])) == {-5.0}
    with pytest.raises(ValueError, match="'mean'"):
        augment.spec_augment(keys_of(50), x, fill="zero")


def test_time_shift_moves_by_up_to_the_maximum():
    x = np.zeros((500, 100), np.float32)
    x[:, 50] = 1
    shift = jax.jit(lambda k: augment.time_shift(k, x, max_samples=20))
    got = np.asarray(shift(keys_of(500))).argmax(1)
    assert got.min() == 30 and got.max() == 70 and len(set(got)) == 41


def test_roll_turns_the_real_samples_by_whole_steps():
    x = np.zeros((400, 100), np.float32)
    x[:, :90] = np.arange(90) + 1.0
    lengths = np.full(400, 90)
    roll = jax.jit(lambda k, step: augment.roll(k, x, lengths, samples=step), static_argnums=1)
    got = np.asarray(roll(keys_of(400), 1))
    shifts = got[:, :90].argmin(1)
    assert set(shifts) == set(range(90)) and not got[:, 90:].any()
    for row, shift in zip(got[:5], shifts, strict=False):
        np.testing.assert_array_equal(row[:90], np.roll(np.arange(90) + 1.0, shift))
    coarse = np.asarray(roll(keys_of(400), 40))[:, :90].argmin(1)
    assert set(coarse) == {0, 40, 80}


def test_magnitude_is_a_beta_around_one():
    gain = jax.jit(lambda k: augment.magnitude(k, np.ones((2000, 1), np.float32)))
    got = np.asarray(gain(keys_of(2000)))[:, 0]
    assert 0.5 < got.min() < got.max() < 1.5
    # Beta(10, 10) has the mean 1/2 and the variance 1/84
    assert abs(got.mean() - 1) < 0.01 and abs(got.std() - 84**-0.5) < 0.01


def test_gain_is_uniform_in_decibels():
    gain = jax.jit(lambda k: augment.gain(k, np.ones((2000, 1), np.float32), low_db=-10, high_db=6))
    got = gain(keys_of(2000))
    level = 20 * np.log10(np.asarray(got)[:, 0])
    assert level.min() > -10.01 and level.max() < 6.01
    assert abs(level.mean() + 2) < 0.6 and abs(level.std() - 16 / np.sqrt(12)) < 0.3


def snr(clean: np.ndarray, noisy: np.ndarray) -> np.ndarray:
    clean, noise = np.asarray(clean, np.float64), np.asarray(noisy, np.float64) - clean
    return 10 * np.log10((clean**2).sum(1) / (noise**2).sum(1))


@pytest.mark.parametrize("tilt", [(0.0, 0.0), (2.0, 2.0)])
def test_noise_has_the_stated_ratio_over_real_samples(tilt):
    x = clips(64)
    lengths = np.resize(LENGTHS, 64)
    got = add_noise(keys_of(64), x, lengths, snr_db=(5, 5), tilt=tilt)
    np.testing.assert_allclose(snr(x, got), 5, atol=0.01)
    spread = snr(x, add_noise(keys_of(64), x, lengths, snr_db=(0, 30), tilt=tilt))
    assert spread.min() > -0.1 and spread.max() < 30.1 and spread.std() > 5


def test_noise_has_the_stated_colour():
    colour = jax.jit(lambda k, tilt: augment.coloured_noise(k, 4096, tilt))
    for tilt in (0.0, 1.0, 2.0):
        noise = colour(keys_of(64), (tilt, tilt))
        power = (np.abs(np.fft.rfft(np.asarray(noise))) ** 2).mean(0)
        k = np.arange(64, 1024)  # above the flat part
        slope = np.polyfit(np.log(k), np.log(power[k]), 1)[0]
        assert abs(slope + tilt) < 0.1


def test_prob_is_the_share_of_changed_rows():
    x = clips(800)
    got = np.asarray(add_noise(keys_of(800), x, prob=0.3))
    assert abs((got != np.asarray(x)).any(1).mean() - 0.3) < 0.08


@pytest.mark.parametrize("voices", [1, 4])
def test_mix_adds_other_rows_at_the_stated_ratio(voices):
    x = clips()
    got = mix(keys_of(4), x, LENGTHS, snr_db=(3, 3), voices=voices)
    np.testing.assert_allclose(snr(x, got), 3, atol=0.01)
    assert not np.asarray(got)[2, 900:].any()
    added = np.asarray(got, np.float64) - x
    for row in range(4):
        n = int(LENGTHS[row])
        weights = np.linalg.lstsq(np.asarray(x, np.float64)[:, :n].T, added[row, :n], rcond=None)[0]
        rest = added[row, :n] - np.asarray(x, np.float64)[:, :n].T @ weights
        assert abs(rest).max() < 1e-5  # only rows of the batch
        assert abs(weights[row]) < 1e-4  # and never the row itself
    alone = mix(keys_of(1), x[:1], snr_db=(3, 3))
    np.testing.assert_array_equal(alone, x[:1])


def test_mixing_with_silence_changes_nothing_and_has_finite_gradients():
    x = clips()
    x[0] = 0
    got = mix(keys_of(2), x[:2], LENGTHS[:2], snr_db=(0, 0))
    np.testing.assert_array_equal(got, x[:2])
    grad = jax.jit(jax.grad(lambda a: augment.add_noise(keys_of(4), a, LENGTHS).sum()))(x)
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_speed_resamples_a_ramp_and_its_length(factor):
    x = np.tile(np.arange(SIZE, dtype=np.float32) / SIZE, (2, 1))
    lengths = np.array([1000, 2000], np.int32)
    got, new = speed(keys_of(2), x, lengths, low=factor, high=factor)
    want = np.minimum(np.floor(np.array([999, 1999]) / factor + 1e-3).astype(int) + 1, SIZE)
    np.testing.assert_array_equal(new, want)
    assert new.dtype == jnp.int32
    for row, n in zip(np.asarray(got), np.asarray(new), strict=True):
        np.testing.assert_allclose(row[:n], np.arange(n) * factor / SIZE, atol=1e-5)
        assert not row[n:].any()
    same, length = speed(keys_of(2), x, np.array([0, 5], np.int32), low=1, high=1)
    np.testing.assert_array_equal(length, [0, 5])
    assert not np.asarray(same)[0].any()


def test_random_filter_is_a_smooth_zero_phase_equalizer():
    click = np.zeros((32, SIZE), np.float32)
    click[:, 1000] = 1
    got = np.asarray(random_filter(keys_of(32), click, max_db=6))
    response = np.abs(np.fft.rfft(got))
    level = 20 * np.log10(response)
    assert -6.3 < level.min() < -3 and 3 < level.max() < 6.3
    assert level.std(0).min() > 1  # every frequency differs between rows
    assert abs(np.diff(level)).max() < 0.6  # 12 dB within one of eight bands
    assert (got.argmax(1) == 1000).all()
    np.testing.assert_allclose(got[:, 1001:1100], got[:, 999:900:-1], atol=1e-5)
