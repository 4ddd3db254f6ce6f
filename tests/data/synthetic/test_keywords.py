"""The synthesized keyword corpus: disjoint voices, balanced words, equal seeds give equal files."""

import hashlib
import wave

import numpy as np
import pytest

from ssl_jax.data.synthetic import keywords

VARIANTS = [f"v{chr(97 + i)}" for i in range(20)] + ["edward", "edward2", "f1", "f2", "robosoft3"]
CLIPS = {"train": 40, "valid": 20, "test": 20}


def _digest(folder):
    files = sorted(folder.rglob("*.wav")) + sorted(folder.glob("*.txt"))
    return hashlib.sha256(b"".join(f.name.encode() + f.read_bytes() for f in files)).hexdigest()


def test_splits_share_no_voice_and_no_family():
    parts = keywords.split_voices(VARIANTS, np.random.default_rng(0))
    owners = {}
    for split, names in parts.items():
        assert names
        for name in names:
            assert owners.setdefault(name, split) == split
    assert "robosoft3" not in owners
    assert owners["edward"] == owners["edward2"]
    assert len(owners) == len(VARIANTS) - 1


def test_every_word_is_said_equally_often_and_paths_are_unique():
    clips = keywords.plan_clips(VARIANTS, keywords.WORDS, CLIPS, seed=1)
    assert len({c.path for c in clips}) == len(clips) == sum(CLIPS.values())
    for split in CLIPS:
        words = [c.word for c in clips if c.split == split]
        counts = {words.count(w) for w in keywords.WORDS}
        assert counts == {CLIPS[split] // len(keywords.WORDS)}


def test_another_seed_draws_other_clips():
    first, second = (keywords.plan_clips(VARIANTS, keywords.WORDS, CLIPS, seed=s) for s in (1, 2))
    assert first != second


def test_a_recording_is_one_second_and_holds_the_speech():
    speech = np.sin(np.arange(6000) / 5) * 8000
    clip = keywords.record(speech, np.random.default_rng(0))
    assert clip.shape == (keywords.RATE,) and clip.dtype == np.int16
    assert np.abs(clip).max() < 32767
    spectrum = np.abs(np.fft.rfft(clip.astype(float)))
    assert abs(spectrum[100:].argmax() + 100 - keywords.RATE / (10 * np.pi)) < 10


def test_noise_has_unit_power_and_falls_with_its_tilt():
    noise = keywords.coloured_noise(16000, 2.0, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(noise)) ** 2
    assert np.mean(noise**2) == pytest.approx(1)
    assert power[100:200].mean() > 50 * power[2000:4000].mean()


def test_an_unknown_split_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"dev.*use train, valid and test"):
        keywords.keywords(tmp_path, clips={"dev": 4})


@pytest.mark.slow
def test_equal_seeds_give_equal_files_and_the_second_call_makes_none(tmp_path):
    pytest.importorskip("espeakng_loader")
    seen = []
    request = {"clips": {"train": 24, "valid": 6, "test": 6}, "words": ["yes", "no", "go"]}
    first = keywords.keywords(tmp_path / "a", **request, progress=lambda *x: seen.append(x))
    second = keywords.keywords(tmp_path / "b", **request)
    assert _digest(first) == _digest(second)
    assert seen[-1] == (36, 36)
    again = keywords.keywords(
        tmp_path / "a", **request, progress=lambda *x: pytest.fail("made anew")
    )
    assert again == first
    other = keywords.keywords(tmp_path / "a", **request, seed=1)
    assert _digest(other) != _digest(first)
    with wave.open(str(next(first.rglob("*.wav")))) as f:
        assert (f.getframerate(), f.getnchannels(), f.getnframes()) == (16000, 1, 16000)
    speakers = {
        split: {line.split("/")[1].split("_")[0] for line in (first / name).read_text().split()}
        for split, name in (("valid", "validation_list.txt"), ("test", "testing_list.txt"))
    }
    assert not speakers["valid"] & speakers["test"]
