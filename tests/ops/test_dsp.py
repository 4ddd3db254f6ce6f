import functools

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from ssl_jax.ops import dsp

BEATS, AUDIOMAE = dsp.CONVENTIONS["beats"], dsp.CONVENTIONS["audiomae"]


def chirp() -> np.ndarray:
    n = np.arange(16000, dtype=np.float64)
    x = 0.3 * np.sin(2 * np.pi * (200 * n / 16000 + 1500 * (n / 16000) ** 2))
    return (x + 0.05 * np.cos(1.7 * n * n / 1000)).astype(np.float32)


def noise(batch: int, size: int, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal((batch, size)).astype(np.float32)


def kaldi_by_hand(x: np.ndarray, window: np.ndarray, num_mels: int) -> np.ndarray:
    """Float64 loops that follow the definition step by step, not the implementation."""
    mel = lambda f: 1127 * np.log(1 + f / 700)  # noqa: E731
    low, step = mel(20), (mel(8000) - mel(20)) / (num_mels + 1)
    rows = []
    for t in range(1 + (len(x) - 400) // 160):
        y = x[160 * t : 160 * t + 400].astype(np.float64)
        y = y - y.mean()
        y = np.array([y[j] - 0.97 * y[max(j - 1, 0)] for j in range(400)]) * window
        power = np.abs(np.fft.rfft(np.pad(y, (0, 112)))) ** 2
        row = []
        for m in range(num_mels):
            left, centre, right = low + m * step, low + (m + 1) * step, low + (m + 2) * step
            energy = 0.0
            for k in range(256):
                at = mel(k * 31.25)
                if left < at <= centre:
                    energy += power[k] * (at - left) / (centre - left)
                elif centre < at < right:
                    energy += power[k] * (right - at) / (right - centre)
            row.append(np.log(max(energy, 1.1920929e-7)))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("dft", ["rfft", "matmul"])
def test_fbank_matches_the_golden_values_of_beats(dft):
    y = np.asarray(jax.jit(lambda a: dsp.fbank(a, dft=dft, **BEATS))(chirp()[None]))[0]
    assert y.shape == (98, 128)
    summary = [y.mean(), y.std(), y.min(), y.max()]
    np.testing.assert_allclose(summary, [-0.32612, 0.61061, -2.39169, 0.98009], atol=2e-4)
    at = [0, 3, 20, 40, 60, 100, 127]
    first = [-0.25456, -2.39169, -0.06296, 0.17389, 0.36897, -0.8017, -1.39369]
    last = [-0.53424, -2.39169, -1.0444, -0.99109, -0.7708, -0.60841, 0.66331]
    for row, want in ((y[0, at], np.array(first)), (y[97, at], np.array(last))):
        # quiet cells lie 80 to 135 dB below the loudest: float32 rounding shows in any transform
        loud = (want > -0.7) | (want == -2.39169)
        np.testing.assert_allclose(row[loud], want[loud], atol=1e-4)
        np.testing.assert_allclose(row, want, atol=4e-3)


def test_fbank_matches_the_definition_with_a_hann_window():
    x = noise(1, 4000)[0] + 0.2
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)
    want = kaldi_by_hand(x - x.mean(dtype=np.float64), hann, 80)
    fbank = functools.partial(dsp.fbank, num_mels=80, window="hann", remove_clip_mean=True)
    got = jax.jit(fbank)(x[None])
    np.testing.assert_allclose(got[0], want, atol=2e-3)


def test_audiomae_pads_the_log_mel_before_normalizing():
    silence = np.zeros((1, 1600), np.float32)
    fbank = functools.partial(dsp.fbank, **AUDIOMAE)
    y = np.asarray(jax.jit(functools.partial(fbank, num_frames=16))(silence))
    assert y.shape == (1, 16, 128)
    np.testing.assert_allclose(y[0, :8], -1.27759, atol=1e-5)
    np.testing.assert_allclose(y[0, 8:], 0.46703, atol=1e-5)
    assert jax.eval_shape(functools.partial(fbank, num_frames=3), silence).shape[1] == 3


def test_fbank_of_digital_silence_is_the_floor():
    y = jax.jit(functools.partial(dsp.fbank, **BEATS))(np.zeros((1, 800), np.int16))
    np.testing.assert_allclose(y, -2.39169, atol=1e-5)


@pytest.mark.parametrize("options", [BEATS, AUDIOMAE])
def test_fbank_ignores_what_lies_past_the_length(options):
    x = noise(2, 3200) + 0.1
    fbank = jax.jit(functools.partial(dsp.fbank, **options))
    alone = np.asarray(fbank(x[:1, :2000]))
    padded = np.asarray(fbank(x, np.array([2000, 3200])))
    count = dsp.frames(2000, 400, 160)
    assert alone.shape[1] == count == 11
    np.testing.assert_allclose(padded[0, :count], alone[0], atol=1e-4)
    pad = -options["mean"] / options["divisor"]
    np.testing.assert_allclose(padded[0, count:], pad, atol=1e-6)


def test_int16_equals_float_and_other_integers_are_refused():
    x = np.round(noise(1, 2000) * 32768).astype(np.int16)
    fbank = jax.jit(functools.partial(dsp.fbank, **BEATS))
    np.testing.assert_array_equal(fbank(x), fbank(x.astype(np.float32) / 32768))
    with pytest.raises(TypeError, match="int16"):
        dsp.to_float(jnp.zeros((1, 4), jnp.int32))


def test_frames_counts_windows_inside_the_signal():
    sizes = np.array([0, 399, 400, 559, 560, 16000, 160000])
    want = [0, 0, 1, 1, 2, 98, 998]
    assert [dsp.frames(int(n), 400, 160) for n in sizes] == want
    np.testing.assert_array_equal(jax.jit(lambda n: dsp.frames(n, 400, 160))(sizes), want)
    assert jax.jit(dsp.fbank)(np.zeros((2, 399), np.float32)).shape == (2, 0, 128)


@pytest.mark.parametrize(("size", "window", "hop"), [(1000, 400, 160), (97, 10, 25), (50, 50, 7)])
def test_split_frames_is_a_sliding_window(size, window, hop):
    x = noise(2, size)
    view = np.lib.stride_tricks.sliding_window_view(x, window, axis=1)[:, ::hop]
    split = jax.jit(dsp.split_frames, static_argnums=(1, 2))
    np.testing.assert_array_equal(split(x, window, hop), view)


def test_matmul_dft_equals_rfft_and_unknown_names_are_refused():
    x = noise(3, 400)
    spectrum = jax.jit(dsp.power_spectrum, static_argnums=(1, 2))
    fast, slow = spectrum(x, 512, "matmul"), spectrum(x, 512, "rfft")
    np.testing.assert_allclose(fast, slow, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="'rfft'"):
        dsp.power_spectrum(x, 512, "fft")
    with pytest.raises(ValueError, match="'povey'"):
        dsp.window_of("blackman", 4)


@pytest.mark.parametrize(
    ("mels", "n_fft", "low", "high"), [(80, 480, 20, 7600), (40, 512, 0, 8000)]
)
def test_slaney_filters_equal_librosa(mels, n_fft, low, high):
    want = librosa.filters.mel(sr=16000, n_fft=n_fft, n_mels=mels, fmin=low, fmax=high).T
    np.testing.assert_allclose(dsp.slaney_mel(mels, n_fft, 16000, low, high), want, atol=1e-7)


def test_kaldi_filters_have_the_known_hole():
    filters = dsp.kaldi_mel(128, 512, 16000, 20.0, 8000.0)
    assert filters.shape == (257, 128)
    assert np.flatnonzero(filters.sum(0) == 0).tolist() == [3]
    assert not filters[256].any()


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("fmin", [0.0, 20.0])
def test_mfcc_equals_librosa(center, fmin):
    x = np.stack([chirp(), noise(1, 16000)[0] * np.linspace(0, 1, 16000, dtype=np.float32) ** 4])
    got = np.asarray(jax.jit(lambda a: dsp.mfcc(a, fmin=fmin, center=center))(x))
    for row, y in zip(x, got, strict=True):
        want = librosa.feature.mfcc(
            y=row, sr=16000, n_mfcc=40, n_fft=480, win_length=480, hop_length=160,
            center=center, n_mels=80, fmin=fmin, fmax=7600,
        ).T  # fmt: skip
        assert y.shape == ((101, 40) if center else (98, 40))
        np.testing.assert_allclose(y, want, atol=1e-3)


def test_log_mel_without_a_limit_equals_librosa():
    x = chirp()
    power = librosa.feature.melspectrogram(
        y=x, sr=16000, n_fft=400, hop_length=100, n_mels=64, center=False, fmax=8000
    )
    want = librosa.power_to_db(power, top_db=None).T
    log_mel = functools.partial(dsp.log_mel, n_fft=400, hop=100, n_mels=64, fmax=8000, top_db=None)
    got = jax.jit(log_mel)(x[None])
    loud = want > want.max() - 80  # below, float32 rounding of the transform shows
    np.testing.assert_allclose(np.asarray(got[0])[loud], want[loud], atol=2e-3)


def test_mfcc_of_a_clip_does_not_depend_on_padding():
    x = np.zeros((2, 8000), np.float32)
    x[:, :4000] = noise(2, 4000)
    x[:, :2000] *= 1e-3  # clipped at 80 dB below the maximum, so it reveals the maximum
    x[0, 3900:4300] = 50 * noise(1, 400)  # louder, and beyond the length of row 0
    mfcc = jax.jit(dsp.mfcc)
    got, alone = np.asarray(mfcc(x, np.array([3900, 4000]))), mfcc(x[:1, :3900])
    np.testing.assert_allclose(got[0, : alone.shape[1]], alone[0], atol=1e-3)


def kaldi_mfcc_by_hand(x: np.ndarray, num_ceps: int = 13, num_mels: int = 23) -> np.ndarray:
    """Sums written out in float64: DCT, lifter, then slopes with the end frames repeated."""
    povey = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    level = kaldi_by_hand(x, povey, num_mels)
    rows = []
    for row in level:
        cepstra = []
        for i in range(num_ceps):
            scale = np.sqrt((1 if i == 0 else 2) / num_mels)
            angles = np.pi * i * (np.arange(num_mels) + 0.5) / num_mels
            cepstra.append(scale * (row * np.cos(angles)).sum() * (1 + 11 * np.sin(np.pi * i / 22)))
        rows.append(cepstra)
    parts = [np.array(rows)]
    for _ in range(2):
        y, slope = parts[-1], np.zeros_like(parts[-1])
        for t in range(len(y)):
            for n in (1, 2):
                after, before = y[min(t + n, len(y) - 1)], y[max(t - n, 0)]
                slope[t] += n * (after - before) / 10
        parts.append(slope)
    return np.concatenate(parts, axis=1)


def test_kaldi_mfcc_equals_its_definition():
    x = noise(1, 4000, seed=3) + chirp()[None, :4000]
    got = np.asarray(jax.jit(dsp.kaldi_mfcc)(x))[0]
    assert got.shape == (23, 39)
    np.testing.assert_allclose(got, kaldi_mfcc_by_hand(x[0]), rtol=1e-4, atol=2e-3)


def test_kaldi_mfcc_of_a_clip_does_not_depend_on_padding():
    x = noise(2, 4000, seed=4)
    x[0, 3000:] = 0
    got = np.asarray(jax.jit(dsp.kaldi_mfcc)(x, np.array([3000, 4000])))
    alone = np.asarray(dsp.kaldi_mfcc(x[:1, :3000]))
    assert alone.shape[1] == 17
    np.testing.assert_allclose(got[:1, :17], alone, rtol=1e-4, atol=1e-3)


def test_deltas_equal_librosa_inside_and_are_flat_on_a_ramp():
    x = np.random.default_rng(0).standard_normal((1, 20, 3)).astype(np.float32)
    want = librosa.feature.delta(x[0].T, width=5, mode="nearest").T
    np.testing.assert_allclose(np.asarray(dsp.deltas(x))[0], want, atol=1e-5)
    ramp = np.arange(12, dtype=np.float32)[None, :, None] * 3
    np.testing.assert_allclose(np.asarray(dsp.deltas(ramp))[0, 2:-2], 3, atol=1e-5)


def test_normalize_audio_uses_real_samples_only():
    x = noise(2, 1000) + 0.5
    normalize = jax.jit(dsp.normalize_audio)
    got = np.asarray(normalize(x, np.array([600, 1000])))
    row = x[0, :600].astype(np.float64)
    np.testing.assert_allclose(
        got[0, :600], (row - row.mean()) / np.sqrt(row.var() + 1e-5), atol=1e-5
    )
    assert not got[0, 600:].any()
    np.testing.assert_allclose(got[1:], normalize(x[1:]), atol=1e-6)


def test_front_ends_have_finite_gradients_at_silence():
    x = jnp.zeros((1, 800))
    for front in (lambda a: dsp.fbank(a, **BEATS), dsp.mfcc, dsp.normalize_audio):
        assert np.isfinite(jax.jit(jax.grad(lambda a, f=front: f(a).sum()))(x)).all()
