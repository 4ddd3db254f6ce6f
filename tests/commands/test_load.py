"""`ssl_jax.load`: features of a run in a notebook."""

import json
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import jax
import numpy as np
import PIL.Image
import pytest
import soundfile
import soxr
from ml_collections import ConfigDict
from run_folder import NAMES, RATE, make_run

import ssl_jax
from ssl_jax import evaluate
from ssl_jax.core import config as config_lib
from ssl_jax.core import rng
from ssl_jax.data import corpus
from ssl_jax.engine import init_from
from ssl_jax.evals.extract import audio_batch


def noise(seconds, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    """The folder of an untrained toy data2vec-KWS run with checkpoints of steps 2 and 4."""
    # in a folder of its own, where no run of another test has its signature
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    return make_run(f"{root}/configs/data2vec/kws.py:toy", folder, steps=(2, 4))


@pytest.fixture(scope="module")
def model(run):
    return ssl_jax.load(run)


@pytest.mark.slow
def test_importing_the_package_imports_no_jax(root):
    code = (
        "import sys, ssl_jax; ssl_jax.load; print([m for m in ('jax', 'flax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_shapes_times_and_attributes(model):
    found = model.features(noise(0.4), RATE)
    # 30 ms windows every 10 ms, two to a token: the first is centred at 20 ms
    frames = ((6400 - 480) // 160 + 1) // 2
    assert [h.shape for h in found.hidden_states] == [(frames, 16)] * 3
    assert all(isinstance(h, np.ndarray) and h.dtype == np.float32 for h in found.hidden_states)
    np.testing.assert_allclose(found.times, 0.020 + 0.020 * np.arange(frames))
    assert (model.step, model.classes) == (4, NAMES)
    assert model.config.method.name == "data2vec"
    assert "step 4" in repr(model)


@pytest.mark.slow
def test_the_best_checkpoint_is_found_by_name(root, run, tmp_path):
    best = ("checkpoint.best_metric='valid/loss'", "checkpoint.best_mode='min'")
    path = f"{root}/configs/data2vec/kws.py:toy"
    scored = make_run(path, tmp_path, (2, 4), best, scores=(1.0, 3.0))
    assert ssl_jax.load(scored, "best").step == ssl_jax.load(scored, "2").step == 2
    assert ssl_jax.load(scored).step == 4
    with pytest.raises(
        FileNotFoundError, match=r"'best'.*\[2, 4\], and none has config.checkpoint"
    ):
        ssl_jax.load(run, "best")


def _features(model, batch):
    """The method's own features, without the processing of `load` before and after."""
    return jax.jit(model.method.features)(model.params, batch)


def test_features_are_those_of_the_method(model):
    audio = (noise(0.5) * 32768).round().astype(np.int16)
    batch = audio_batch(audio[None], np.array([len(audio)], np.int32))
    want = _features(model, batch).hidden_states[:, 0]
    got = model.features(audio, RATE).hidden_states
    np.testing.assert_allclose(np.stack(got), want, atol=1e-5)


def test_one_clip_equals_a_batch_of_different_lengths(model):
    clips = [noise(s, seed=n) for n, s in enumerate((0.5, 0.07, 0.21, 0.33, 0.5, 0.26))]
    batch = model.features(clips, RATE)
    assert len(batch) == len(batch.hidden_states) == len(batch.times) == 6
    for n, clip in enumerate(clips):
        alone = model.features(clip, RATE)
        np.testing.assert_allclose(batch[n].times, alone.times)
        for a, b in zip(alone.hidden_states, batch.hidden_states[n], strict=True):
            # float32 keeps seven digits, and the features reach 25
            np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-6)
    assert np.abs(batch[0].hidden_states[-1][:3] - batch[4].hidden_states[-1][:3]).max() > 1e-3


def test_int16_float_and_channels_are_the_same_sound(model):
    audio = (noise(0.3) * 32768).round().astype(np.int16)
    want = model.features(audio, RATE).hidden_states[-1]
    for same in (
        audio / 32768,
        audio[None],
        np.stack([audio, audio]),
        np.stack([audio, audio], 1),
        np.stack([audio / 32768] * 2),
        np.stack([audio / 32768] * 2, 1),
    ):
        np.testing.assert_array_equal(model.features(same, RATE).hidden_states[-1], want)
    silence = np.stack([audio, np.zeros_like(audio)])
    half = model.features(silence / 32768 * 2, RATE).hidden_states[-1]
    np.testing.assert_allclose(half, want, atol=1e-5)


def test_floats_are_not_rounded_in_arrays_files_or_streams(model, tmp_path):
    quiet = 0.01 * noise(0.3)  # sixteen bits are too few for it
    batch = audio_batch(quiet[None], np.array([len(quiet)], np.int32))
    want = np.asarray(_features(model, batch).hidden_states[-1, 0])
    np.testing.assert_allclose(model.features(quiet, RATE).hidden_states[-1], want, atol=1e-5)
    path = tmp_path / "quiet.wav"
    soundfile.write(path, quiet, RATE, subtype="FLOAT")
    for file in (path, str(path)):
        np.testing.assert_allclose(model.features(file).hidden_states[-1], want, atol=1e-5)
    (part,) = model.stream(path)
    np.testing.assert_allclose(part.hidden_states[-1], want, atol=1e-5)
    rounded = (quiet * 32768).round().astype(np.int16)
    both = model.features([rounded, quiet], RATE)  # int16 and float in one list
    np.testing.assert_allclose(both[1].hidden_states[-1], want, atol=1e-5)
    assert np.abs(both[0].hidden_states[-1] - want).max() > 1e-3
    with pytest.raises(ValueError, match=r"rate is 8000, but .*quiet.wav has 16000 Hz: leave"):
        model.features(path, 8000)


def test_what_was_done_to_a_sound_is_said_once(model, capsys):
    stereo = np.stack([noise(0.2), noise(0.2, 1)])
    model.features(noise(0.1), RATE)
    assert capsys.readouterr().err == ""
    for _ in range(2):
        model.features(stereo, 8000)
    told = "2 channels are averaged and 8000 Hz is resampled to the model's 16000 Hz"
    assert capsys.readouterr().err.count(told) == 1


def test_a_repr_is_short(model):
    found = model.features([noise(0.4)] * 9, RATE)
    assert repr(found[0]) == "Clip(3 hidden states of 19 x 16, up to 0.380 s)"
    assert repr(found).startswith("Clips(9: Clip(3 ") and len(repr(found)) < 200
    assert repr(model) == "ssl_jax.Model(data2vec, step 4)"


def test_another_rate_is_resampled(model):
    time = np.arange(0, 0.4, 1 / 44100)
    wave = 0.3 * np.sin(2 * np.pi * 440 * time)
    got = model.features(wave, 44100)
    want = model.features(soxr.resample(wave.astype(np.float32), 44100, RATE), RATE)
    for a, b in zip(got.hidden_states, want.hidden_states, strict=True):
        np.testing.assert_array_equal(a, b)
    wrong = model.features(wave, 22050)
    assert len(wrong.times) > 1.8 * len(got.times)


def test_layers_that_are_asked_for_are_those_of_all(model):
    clip = noise(0.5)
    whole = model.features(clip, RATE).hidden_states
    some = model.features(clip, RATE, layers=(-1, 0)).hidden_states
    (part,) = model.stream(clip, RATE, layers=(-1, 0))
    assert len(some) == len(part.hidden_states) == 2  # in the order of depth
    for layer, a, b in zip((0, 2), some, part.hidden_states, strict=True):
        np.testing.assert_allclose(a, whole[layer], atol=1e-6)
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"layers has 3, .*not exist: .* use -3 to 2"):
        model.features(clip, RATE, layers=(3,))


def test_a_long_recording_is_joined_from_windows(model):
    long = noise(5.0)
    found = model.features(long, RATE)
    frames = ((80000 - 480) // 160 + 1) // 2
    assert len(found.times) == frames == len(found.hidden_states[0])
    np.testing.assert_allclose(np.diff(found.times), 0.020)
    first = model.features(long[: RATE // 2], RATE).hidden_states[-1]
    np.testing.assert_allclose(found.hidden_states[-1][:20], first[:20], atol=1e-5)
    assert np.isfinite(found.hidden_states[-1]).all()


def test_stream_equals_features_from_a_file_and_an_array(model, tmp_path):
    audio = (noise(5.0) * 32768).round().astype(np.int16)
    want = model.features(audio, RATE)
    path = tmp_path / "long.wav"
    soundfile.write(path, audio, RATE, subtype="PCM_16")
    for source in ((path,), (str(path),), (audio, RATE)):
        parts = list(model.stream(*source))
        assert len(parts) > 1
        times = np.concatenate([p.times for p in parts])
        np.testing.assert_allclose(times, want.times)
        last = np.concatenate([p.hidden_states[-1] for p in parts])
        np.testing.assert_allclose(last, want.hidden_states[-1], atol=1e-5)


def test_stream_resamples_without_a_seam(model):
    time = np.arange(0, 25, 1 / 8000)
    wave = 0.3 * np.sin(2 * np.pi * 440 * time).astype(np.float32)
    want = model.features(wave, 8000)
    parts = list(model.stream(wave, 8000))
    got = np.concatenate([p.hidden_states[-1] for p in parts])
    assert got.shape == want.hidden_states[-1].shape
    np.testing.assert_allclose(got, want.hidden_states[-1], atol=2e-2)


@pytest.mark.slow
def test_ten_minutes_stream_in_bounded_memory(model, tmp_path):
    path, second = tmp_path / "long.wav", noise(1.0)
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for _ in range(600):
            file.write(second)
    next(model.stream(path))  # compiles
    tracemalloc.start()
    frames = sum(len(clip.times) for clip in model.stream(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert frames == ((600 * RATE - 480) // 160 + 1) // 2
    assert peak < 8e6, f"{peak / 1e6:.0f} MB; the recording has {path.stat().st_size / 1e6:.0f}"


def test_another_step_is_another_model(run, model):
    earlier = ssl_jax.load(run, 2)
    assert earlier.step == 2
    a, b = (m.features(noise(0.3), RATE).hidden_states[-1] for m in (model, earlier))
    assert np.abs(a - b).max() > 1e-3


def test_a_wider_window_needs_positions(run):
    with pytest.raises(ValueError, match="max_seconds"):
        ssl_jax.load(run, window=2.0)


def test_a_run_is_reopened_by_its_signature(run, model, monkeypatch):
    monkeypatch.setenv("SSL_JAX_RUNS", str(run.parent))
    sign = config_lib.sign(model.config)
    assert ssl_jax.load(sign[:6], 2).step == 2
    with pytest.raises(FileNotFoundError, match=f"(?s)'{'0' * 8}' is neither a folder.*{sign}"):
        ssl_jax.load("0" * 8)


def test_a_run_of_another_version_is_named(run, tmp_path):
    config = json.loads((run / "config.json").read_text())
    config["method"]["ema"]["begin"] = config["method"]["ema"].pop("start")
    old = tmp_path / "old"
    (old / "checkpoints" / "4").mkdir(parents=True)
    (old / "config.json").write_text(json.dumps(config))
    (old / "code.txt").write_text("0123456789ab 0\n")
    message = r"config.method.ema.begin does not exist.*was made by code 0123456789ab, and this is"
    with pytest.raises(ValueError, match=message):
        ssl_jax.load(old)


def test_what_is_no_run_is_refused(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="no run folder"):
        ssl_jax.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"step 3.*\[2, 4\]"):
        ssl_jax.load(run, 3)
    (tmp_path / "config.json").write_text((run / "config.json").read_text())
    with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
        ssl_jax.load(tmp_path)


@pytest.mark.parametrize(
    ("waveform", "rate", "text"),
    [
        (np.zeros(0, np.float32), RATE, "empty"),
        (np.zeros(100, np.float32), RATE, "shorter than one frame"),
        (np.zeros((80, 8000), np.float32), RATE, r"\(80, 8000\): pass \(n,\), \(n, channels\)"),
        (np.zeros(8000, np.int32), RATE, "int32"),
        (np.full(8000, 20000.0), RATE, "reaches 20000"),
        (np.full(8000, np.nan), RATE, "finite"),
        (np.zeros(8000, np.float32), 0, "rate is 0"),
        ([0.0, 0.1], RATE, "not a list of numbers"),
        ([], RATE, "pass one example"),
        ("a text", None, "reads audio, and 'a text' is not a file"),
        (Path("gone.wav"), None, "gone.wav: No such file"),
        (np.zeros(8000, np.float32), None, "rate is"),
    ],
)
def test_bad_audio_is_an_error(model, waveform, rate, text):
    with pytest.raises(ValueError, match=text):
        model.features(waveform, rate)


def test_only_classifiers_predict(model):
    with pytest.raises(ValueError, match=r"data2vec.*configs/supervised"):
        model.predict(noise(0.3), RATE)


@pytest.mark.slow
def test_probabilities_of_a_classifier(root, tmp_path):
    model = ssl_jax.load(make_run(f"{root}/configs/supervised/kws.py:toy", tmp_path))
    clips = [noise(0.5, 1), noise(0.2, 2), noise(2.0, 3)]
    found = model.predict(clips, RATE)
    for clip, probabilities in zip(clips, found, strict=True):
        assert tuple(probabilities) == NAMES
        np.testing.assert_allclose(sum(probabilities.values()), 1, atol=1e-5)
        alone = model.predict(clip, RATE)
        np.testing.assert_allclose(list(alone.values()), list(probabilities.values()), atol=1e-5)
    windows = model._extractor.windows([(clips[2] * 32768).round().astype(np.int16)])
    parts = [list(model.predict(w.samples, RATE).values()) for w in windows]
    assert len(parts) > 3 and np.std(parts, 0).max() > 1e-3
    np.testing.assert_allclose(list(found[2].values()), np.mean(parts, 0), atol=1e-4)
    loss_sees = _probability_in_the_loss(model, clips[0])
    np.testing.assert_allclose(found[0]["yes"], loss_sees, atol=1e-5)


def _probability_in_the_loss(model, clip):
    """exp(-cross-entropy) of class 1, from the method's own loss in evaluation."""
    audio = (clip * 32768).round().astype(np.int16)
    batch = audio_batch(audio[None], np.array([len(audio)], np.int32)) | {"label": np.array([1])}
    streams = rng.Streams(rng.key_data(0), np.int32(0), batch["id"])
    loss = jax.jit(lambda *args: model.method.loss(*args, False).loss)
    return np.exp(-float(loss(model.params, {}, batch, streams)))


@pytest.mark.slow
def test_images_of_any_kind_are_one_image(root, tmp_path):
    model = ssl_jax.load(make_run(f"{root}/configs/mae/image.py:toy", tmp_path))
    size = model.config.data.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    found = model.features(pixels)
    with model.config.unlocked():  # as with weights of others and the data of a recipe
        model.config.data.image_size = 2 * size
    np.testing.assert_array_equal(model.features(pixels).hidden_states, found.hidden_states)
    with model.config.unlocked():
        model.config.data.image_size = size
    shown = {"image": np.zeros((1, size, size, 3), np.uint8)}
    (tmp_path / "pictures").mkdir()
    PIL.Image.fromarray(pixels).save(tmp_path / "pictures" / "a.png")
    data = model.config.data.copy_and_resolve_references().unlock()
    source = {"kind": "image_folder", "path": str(tmp_path / "pictures")}
    data.train = ConfigDict({"own": source})
    corpus.open_split(data, "train").fill(0, -1, shown, 0)  # as evaluation sees it
    want = _features(model, shown | {"weight": np.ones(1)}).hidden_states[:, 0]
    np.testing.assert_allclose(np.stack(found.hidden_states), want, atol=1e-5)
    assert found.times is None
    for same in (
        pixels / 255,
        PIL.Image.fromarray(pixels),
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
    ):
        np.testing.assert_array_equal(model.features(same).hidden_states, found.hidden_states)
    wide = np.zeros((size, 2 * size, 3), np.uint8)
    both = model.features([wide, pixels])
    assert len(both) == 2 and both[0].hidden_states[-1].shape == found.hidden_states[-1].shape
    np.testing.assert_allclose(both[1].hidden_states, found.hidden_states, atol=1e-5)
    (tmp_path / "b.png").write_text("no picture")
    for bad, text in ((pixels * 1.0, "pass .* uint8"), (tmp_path / "b.png", "b.png: no image")):
        with pytest.raises(ValueError, match=text):
            model.features(bad)
    with pytest.raises(ValueError, match="no rate"):
        model.features(pixels, 16000)
    with pytest.raises(ValueError, match="use features"):
        next(model.stream(pixels))


@pytest.mark.slow
def test_texts_have_a_vector_a_token(root, tmp_path):
    model = ssl_jax.load(make_run(f"{root}/configs/data2vec2/text.py:toy", tmp_path))
    length = model.config.data.block_tokens
    text, long = "caf\u00e9", "x" * (2 * length)
    both = model.features([text, long])
    # bytes, between <s> and </s>
    assert both[0].hidden_states[-1].shape[0] == 2 + 5 and both[0].times is None
    assert both[1].hidden_states[-1].shape[0] == 2 + 2 * length
    alone = model.features(text)
    np.testing.assert_allclose(alone.hidden_states, both[0].hidden_states, atol=1e-5)
    tokens = np.full((1, length), 1, np.int32)
    tokens[0, :7] = [0, *(b + 4 for b in text.encode()), 2]
    batch = {"tokens": tokens, "tokens_len": np.array([7]), "weight": np.ones(1)}
    want = _features(model, batch | {"id": np.zeros(1, np.uint32)})
    np.testing.assert_allclose(alone.hidden_states, want.hidden_states[:, 0, :7], atol=1e-5)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    np.testing.assert_array_equal(
        model.features(tmp_path / "a.txt").hidden_states, alone.hidden_states
    )
    for bad in ("", 3, b"bytes"):
        with pytest.raises(ValueError, match="not empty"):
            model.features(bad)


def test_damaged_weights_are_named_by_whatever_reads_them(run, tmp_path):
    """With a bit flipped in a file, nothing returns numbers; every error names the checkpoint."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    kept = folder / "checkpoints" / "4" / "params"
    path = max((p for p in kept.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    told = "checkpoints/4 is damaged: params/"
    with pytest.raises(ValueError, match=told):
        ssl_jax.load(folder)
    with pytest.raises(SystemExit, match=told):
        evaluate.main(["--run", str(folder)])
    with pytest.raises(ValueError, match=told):
        init_from.load(folder, {}, {})
    assert ssl_jax.load(folder, 2).step == 2
