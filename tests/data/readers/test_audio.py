import io

import numpy as np
import pytest
import soundfile
import soxr

from ssl_jax.data import inputs
from ssl_jax.data.readers import audio


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_lossless_formats_are_read_to_the_bit(tmp_path, write, name):
    samples = write(tmp_path / name)
    found, rate = audio.read(str(tmp_path / name))
    assert rate == 16000 and found.dtype == np.int16
    np.testing.assert_array_equal(found, samples)
    np.testing.assert_array_equal(audio.read(str(tmp_path / name), 100, 300)[0], samples[100:300])


@pytest.mark.parametrize(
    "name,options",
    [
        ("a.ogg", {"subtype": "VORBIS"}),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
        ("a.mp3", {}),
    ],
)
def test_lossy_formats_are_close_and_seek_exactly(tmp_path, write, name, options):
    samples = write(tmp_path / name, 1.0, **options)
    found, rate = audio.read(str(tmp_path / name))
    assert rate == 16000 and abs(len(found) - len(samples)) < 1600
    lag = np.argmax(np.correlate(found[4000:8000].astype(float), samples[4000:7900].astype(float)))
    error = found[4000 + lag : 7900 + lag] - samples[4000:7900].astype(float)
    assert np.sqrt(np.mean(error**2)) < 800  # of a tone of 5,700
    part = audio.read(str(tmp_path / name), 5000, 6000)[0]
    np.testing.assert_allclose(part, found[5000:6000], atol=1)


def test_loud_floats_are_clipped_not_wrapped(tmp_path):
    path = str(tmp_path / "a.wav")
    soundfile.write(path, np.array([0.0, 0.5, 1.5, -1.5], np.float32), 16000, subtype="FLOAT")
    assert audio.read(path)[0].tolist() == [0, 16384, 32767, -32768]


def test_channels_are_averaged(tmp_path):
    path = str(tmp_path / "a.wav")
    soundfile.write(path, np.array([[100, 300], [-32768, 32767]], np.int16), 16000)
    assert audio.read(path)[0].tolist() == [200, 0]


def test_decodes_into_the_given_array(tmp_path, write):
    samples = write(tmp_path / "a.flac")
    out = np.zeros(9000, np.int16)
    found, _ = audio.read(str(tmp_path / "a.flac"), 0, None, out)
    assert np.shares_memory(found, out)
    np.testing.assert_array_equal(out[:8000], samples)
    assert not out[8000:].any()


def test_broken_missing_and_truncated_files_say_why(tmp_path, write):
    (tmp_path / "a.wav").write_bytes(b"this is no sound")
    with pytest.raises(audio.Unreadable, match=r"Format not recognised"):
        audio.read(str(tmp_path / "a.wav"))
    with pytest.raises(audio.Unreadable):
        audio.read(str(tmp_path / "none.wav"))
    write(tmp_path / "b.flac", 2.0)
    whole = (tmp_path / "b.flac").read_bytes()
    (tmp_path / "b.flac").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(audio.Unreadable):
        audio.read(str(tmp_path / "b.flac"))
    assert audio.header(str(tmp_path / "a.wav")) == (0, 0)
    write(tmp_path / "c.mp3", 5.0)
    whole = (tmp_path / "c.mp3").read_bytes()
    (tmp_path / "c.mp3").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(audio.Unreadable, match=r"cut off: its length frame states \d+ frames"):
        audio.read(str(tmp_path / "c.mp3"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path, value):
    samples = np.linspace(-0.5, 0.5, 800)
    samples[[300, 310]] = value
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    path = str(tmp_path / "a.wav")
    with pytest.raises(audio.Unreadable, match=f"2 of 800 samples are not .* first is {value}"):
        audio.read(path)
    assert len(audio.read(path, 0, 300)[0]) == 300
    for rate in (16000, 8000):
        with pytest.raises(ValueError, match=r"a.wav: .* samples are not finite"):
            list(inputs.blocks(inputs.open_sound(path), rate))


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_a_crop_equals_the_part_of_the_whole_resampled(tone, rate):
    rng = np.random.default_rng(0)
    whole = tone(2.0, rate) + rng.integers(-3000, 3000, 2 * rate).astype(np.int16)
    resampled = soxr.resample(whole.astype(np.float64) / 32768, rate, 16000) * 32768
    asked = []

    def read(first, last):
        asked.append((first, min(last, len(whole))))
        return whole[first:last], rate

    for start, length in [(0, 1000), (12345, 4321), (30000, 2000)]:
        crop = audio.read_crop(read, rate, 16000, start, length)
        assert len(crop) == length
        np.testing.assert_allclose(crop, resampled[start : start + length], atol=1)
    # only the neighbourhood of the crop was decoded
    assert all(b - a < rate * (4321 / 16000 + 0.25) for a, b in asked)


def test_resampling_is_the_same_every_time(tone):
    whole = tone(1.0, 22050)
    crops = [
        audio.read_crop(lambda a, b: (whole[a:b], 22050), 22050, 16000, 50, 9000) for _ in range(3)
    ]
    assert (crops[0] == crops[1]).all() and (crops[0] == crops[2]).all()


def test_flac_bytes_hold_every_sample():
    samples = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    packed = audio.encode_flac(samples, 22050)
    found, rate = audio.read(io.BytesIO(packed))
    assert rate == 22050
    np.testing.assert_array_equal(found, samples)
