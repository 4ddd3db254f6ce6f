"""Lengths that a header lacks or states wrongly; impossible scales and rates."""

import io
import struct
import sys

import numpy as np
import pytest
import soundfile

from ssl_jax.data import inputs
from ssl_jax.data.corpus import open_split
from ssl_jax.data.errors import BadFile, DataError, Unreadable
from ssl_jax.data.readers import audio, containers, ffmpeg
from ssl_jax.data.readers.sources import open_source

RATE = 16000
# name -> (format, subtype) of formats that state their length in bytes
STATED = {
    "a.wav": ("WAV", "PCM_16"),
    "b.wav": ("WAVEX", "PCM_24"),
    "a.rf64": ("RF64", "PCM_16"),
    "a.w64": ("W64", "PCM_16"),
    "a.aif": ("AIFF", "PCM_16"),
    "a.au": ("AU", "PCM_16"),
    "a.caf": ("CAF", "PCM_16"),
    "a.sph": ("NIST", "PCM_16"),
}


def patched(path, fields):
    data = bytearray(path.read_bytes())
    for at, value in fields.items():
        data[at : at + len(value)] = value
    path.write_bytes(data)
    return str(path)


def after(path, mark):
    return path.read_bytes().index(mark) + len(mark)


@pytest.mark.parametrize("name", STATED)
def test_a_container_shorter_than_its_header_says_is_named(tmp_path, write, name):
    form, subtype = STATED[name]
    samples = write(tmp_path / name, format=form, subtype=subtype)
    path = tmp_path / name
    np.testing.assert_array_equal(audio.read(str(path))[0], samples)
    assert audio.header(str(path)) == (8000, RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert audio.header(str(path)) == (0, 0)
    for part in ((0, None), (0, 0), (10, 20)):
        with pytest.raises(Unreadable, match=r"cut off: its header states \d+ bytes of sound, and"):
            audio.read(str(path), *part)
    with pytest.raises(ValueError, match=rf"{name}: cut off"):
        list(inputs.blocks(inputs.open_sound(path), RATE))
    (tmp_path / name).unlink()
    soundfile.write(path, samples[:0], RATE, format=form, subtype=subtype)
    assert audio.header(str(path)) == (0, RATE)  # zero is not unknown


UNKNOWN = {
    "a.wav": lambda p: [
        {4: struct.pack("<I", outer), after(p, b"data"): struct.pack("<I", inner)}
        for outer, inner in [
            *((0, 0), (36, 0), (0xFFFFFFFF, 0), (0xFFFFFFFF, 0xFFFFFFFF), (0x80000024, 0x80000000)),
            *((0x7FFFF024, 0x7FFFF000), (2000000036, 2000000000)),
        ]
    ],
    "a.rf64": lambda p: [{after(p, b"ds64") + 4: bytes(16)}],
    "a.w64": lambda p: [
        {16: bytes(8), p.read_bytes().index(b"data") + 16: struct.pack("<Q", n)} for n in (0, 24)
    ],
    "a.aif": lambda p: [
        {4: struct.pack(">I", 46), after(p, b"SSND"): struct.pack(">I", n), 22: bytes(4)}
        for n in (0, 8, 0xFFFFFFFF, 0x7F000008)
    ],
    "a.au": lambda p: [{8: struct.pack(">I", n)} for n in (0, 0xFFFFFFFF, 0x7FFFFFFF)],
    "a.caf": lambda p: [{after(p, b"data"): struct.pack(">q", n)} for n in (-1, 0)],
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_a_pipe_or_a_killed_recorder_wrote_has_the_length_of_its_bytes(tmp_path, write, name):
    path = tmp_path / name
    samples = write(path, format=STATED[name][0], subtype=STATED[name][1])
    for fields in UNKNOWN[name](path):
        file = patched(path, fields)
        assert audio.header(file) == (8000, RATE)
        np.testing.assert_array_equal(audio.read(file)[0], samples)
        np.testing.assert_array_equal(audio.read(io.BytesIO(path.read_bytes()))[0], samples)
        np.testing.assert_array_equal(audio.read(file, 7000, 8000)[0], samples[7000:])


@pytest.mark.parametrize(
    "around", [(b"", b""), (b"ID3\3\0\0\0\0\1\0" + bytes(128), b"TAG" + bytes(125))]
)
def test_a_flac_of_unknown_length_ends_with_its_last_frame(tmp_path, write, around):
    path = tmp_path / "a.flac"
    samples = write(path, 1.7)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    path.write_bytes(around[0] + data + around[1])
    assert audio.header(str(path)) == (len(samples), RATE)
    np.testing.assert_array_equal(audio.read(str(path))[0], samples)
    np.testing.assert_array_equal(audio.read(str(path), 27000, 27200)[0], samples[27000:])
    corpus = open_source("train.x", {"kind": "folder", "path": str(tmp_path)})
    np.testing.assert_array_equal(corpus.read(0)[0], samples)
    path.write_bytes(data[:-1000])
    with pytest.raises(Unreadable, match="cut off: its header states no length"):
        audio.read(str(path))


def test_a_header_of_two_to_the_36_samples_makes_no_room_for_them(tmp_path, write, data_config):
    path = tmp_path / "in" / "a.flac"
    samples = write(path)
    (tmp_path / "x.tsv").write_text(f"{tmp_path / 'in'}\na.flac\t{1 << 36}\n")
    config = data_config({"t": {"kind": "fairseq_tsv", "path": str(tmp_path / "x.tsv")}})
    corpus = open_split(config, "train")
    with pytest.raises(BadFile, match=r"a.flac, row 2 .*: ends \d+ samples before its stated"):
        corpus.read(0)
    np.testing.assert_array_equal(corpus.read(0, 100, 50), samples[100:150])
    data = bytearray(path.read_bytes())
    data[21] |= 0x0F
    patched(path, {21: data[21:22], 22: b"\xff" * 4})
    assert audio.header(str(path)) == (0, 0)
    with pytest.raises(Unreadable, match=r"states 68719476735 samples, more than its .* bytes"):
        audio.read(str(path))


def test_long_recordings_have_their_length_without_an_overflow():
    samples = np.array([1 << 36, 1 << 52, 44101], np.int64)
    rates = np.array([44100, 8000, 44100], np.int32)
    exact = [int(s) * RATE // int(r) for s, r in zip(samples, rates, strict=True)]
    assert audio.resampled_length(samples, rates, RATE).tolist() == exact
    assert audio.resampled_length(samples[2:].astype(np.int32), rates[2:], RATE)[0] == 16000


def frame(code, rate=0):
    """A frame of silence of MPEG 1, layer III, mono, at a bit rate and 44,100 Hz."""
    kbps = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)[code]
    return bytes([0xFF, 0xFB, code << 4 | rate << 2, 0xC0]).ljust(144 * kbps * 1000 // 44100, b"\0")


@pytest.mark.parametrize("codes", [(3, 11), (11, 3), (9, 9)])
def test_an_mp3_without_a_length_frame_is_measured(tmp_path, codes):
    path = tmp_path / "a.mp3"
    data = frame(codes[0]) * 300 + frame(codes[1]) * 100
    path.write_bytes(data)
    assert audio.header(str(path)) == (400 * 1152, 44100)
    assert len(audio.read(str(path))[0]) == 400 * 1152
    for start in (0, 200_000, 400 * 1152 - 3000):
        assert len(audio.read(str(path), start, start + 3000)[0]) == 3000
    path.write_bytes(data + b"TAG" + bytes(125))  # a tag is not audio
    assert audio.header(str(path)) == (400 * 1152, 44100)


def test_an_mp3_that_was_appended_to_another_is_read_completely(tmp_path, write):
    for name, seconds in (("a.mp3", 1.0), ("b.mp3", 4.0)):
        write(tmp_path / name, seconds, 44100)
    both = tmp_path / "c.mp3"
    both.write_bytes((tmp_path / "a.mp3").read_bytes() + (tmp_path / "b.mp3").read_bytes())
    samples = audio.header(str(both))[0]
    assert abs(samples - 5 * 44100) < 4 * 1152
    assert len(audio.read(str(both), samples - 9000, samples)[0]) == 9000


@pytest.mark.parametrize("rate", [1, 10_000_000])
def test_impossible_rates_are_named(tmp_path, write, rate):
    path = tmp_path / "a.wav"
    write(path)
    file = patched(path, {24: struct.pack("<I", rate)})
    assert audio.header(file) == (0, 0)
    with pytest.raises(Unreadable, match=f"sampling rate of {rate} Hz is impossible"):
        audio.read(file)
    with pytest.raises(ValueError, match=rf"rate is {rate}: .*such as 16000"):
        inputs.open_sound(np.zeros(100, np.float32), rate)


def test_a_table_that_gives_a_rate_of_none_is_a_bad_row(tmp_path, write, data_config):
    write(tmp_path / "a.wav")
    for rate, why in ((0, "its length is unknown"), (7, "rate of 7 Hz is impossible|has 16000")):
        (tmp_path / "index.tsv").write_text(f"path\tsamples\trate\na.wav\t8000\t{rate}\n")
        config = data_config({"t": {"kind": "table", "path": str(tmp_path)}}, on_bad="skip")
        with pytest.raises(BadFile, match=rf"a.wav, row 2 of index.tsv: .*{why}"):
            open_split(config, "train").read(0)


@pytest.mark.parametrize("peak", [5.0, 32767.0])
def test_floats_on_another_scale_are_refused_by_files_streams_and_arrays_alike(
    tmp_path, peak, tone
):
    x = (tone() / 8200 * peak).astype(np.float32)
    path = str(tmp_path / "a.wav")
    soundfile.write(path, x, RATE, subtype="FLOAT")
    with pytest.raises(Unreadable, match=r"reaches .*, and floats have full scale 1.0"):
        audio.read(path)
    with pytest.raises(ValueError, match=r"a.wav: reaches .*, and floats have full scale 1.0"):
        list(inputs.blocks(inputs.open_sound(path), RATE))
    with pytest.raises(ValueError, match=r"reaches .*, and floats have full scale 1.0"):
        inputs.open_sound(x, RATE)
    loud = x / peak * 1.5  # merely too loud
    soundfile.write(path, loud, RATE, subtype="FLOAT")
    found = audio.read(path)[0]
    assert found.max() == 32767 and audio.clipped(found) > 1000
    for sound in (inputs.open_sound(path), inputs.open_sound(loud, RATE)):
        heard = inputs.waveform(sound, RATE)
        assert heard.dtype == np.float32 and heard.max() == 1
        np.testing.assert_array_equal(audio.to_int16(heard), found)


def test_nearly_silent_recordings_are_named(tmp_path, tone):
    x = (tone() / 8200 * 10).astype(np.int16)
    assert "nearly silent: its 8000 samples span" in audio.silence(x)
    assert audio.silence(x * 4) == ""
    assert audio.silence(np.zeros(9, np.int16)) == "silent: all 9 samples are 0"


@pytest.mark.parametrize(
    "content,why",
    [
        (b"", "empty: 0 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"NIST_1A\n   1024\nsample_coding -s26 pcm,embedded-shorten-v2.00\n", "sph2pipe"),
        (b"<html>404</html>", "Format not recognised"),
        (b"RIFF\0\0\0\0WAVE", "No 'data' chunk"),
    ],
)
def test_what_is_no_sound_says_what_it_is(tmp_path, content, why):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    assert audio.header(str(path)) == (0, 0)
    with pytest.raises(Unreadable, match=why):
        audio.read(str(path))


def test_random_bytes_never_break_the_reader():
    draw = np.random.default_rng(0)
    starts = [b"RIFF", b"RF64", b"riff", b"FORM", b".snd", b"caff", b"NIST_1A\n", b"fLaC", b"ID3"]
    for i in range(90):
        body = draw.integers(0, 256, 300, np.uint8).tobytes()
        kind = b"\0\0\0\0WAVE" if i % 2 else b""
        file = io.BytesIO(starts[i % 9] + kind + body)
        assert isinstance(containers.look(file).fault, str)
        assert isinstance(audio.header(file), tuple)


def encoded(path, form, codec, rate=RATE, seconds=3):
    """Writes a tone with FFmpeg and returns its int16 samples."""
    av = pytest.importorskip("av")
    t = np.arange(rate * seconds) / rate
    x = np.rint(9000 * np.sin(2 * np.pi * 300 * t) * np.sin(2 * np.pi * 0.7 * t)).astype(np.int16)
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = "mono"
        if codec == "wmav2":
            stream.bit_rate = 64000
        frame = av.AudioFrame.from_ndarray(x[None], format="s16", layout="mono")
        frame.sample_rate = rate
        size = stream.codec_context.frame_size or 1024
        to = av.AudioResampler(stream.format.name, "mono", rate, frame_size=size)
        for part in [*to.resample(frame), *to.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return x


@pytest.mark.parametrize(
    "name,form,codec,rate",
    [
        ("a.m4a", "ipod", "aac", 16000),
        ("a.mp4", "mp4", "alac", 16000),
        ("a.aac", "adts", "aac", 16000),
        ("a.webm", "webm", "libopus", 48000),
        ("a.wma", "asf", "wmav2", 16000),
    ],
)
def test_other_formats_are_read_by_the_extra(tmp_path, name, form, codec, rate):
    x = encoded(tmp_path / name, form, codec, rate)
    source = open_source("train.x", {"kind": "folder", "path": str(tmp_path)})
    whole, own = source.read(0)
    assert own == rate and len(whole) == source.samples[0] and abs(len(whole) - len(x)) < 4096
    if codec == "alac":
        np.testing.assert_array_equal(whole, x)
    assert abs(np.abs(whole.astype(int)).max() - np.abs(x).max()) < 900
    part = source.read(0, 2.25, 2.75)[0]
    np.testing.assert_array_equal(part, whole[round(2.25 * rate) : round(2.75 * rate)])
    joined = np.concatenate(list(inputs.blocks(inputs.open_sound(tmp_path / name), rate)))
    np.testing.assert_array_equal(audio.to_int16(joined), whole)


def test_a_file_that_needs_the_extra_is_one_error_without_it(tmp_path, monkeypatch):
    (tmp_path / "a.M4A").write_bytes(b"\0\0\0\x20ftypM4A ")
    options = {"kind": "folder", "path": str(tmp_path)}
    assert ffmpeg.kind((tmp_path / "a.M4A").read_bytes()) == "mov"
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"1 of 1 files, .*a.M4A.*pip install 'ssl_jax\[audio\]'"):
        open_source("train.x", options)
