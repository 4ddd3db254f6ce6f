"""Read speech: disjoint texts and voices, phones with the times of the audio."""

import numpy as np
import pytest

from ssl_jax.data.readers import alignments, sources
from ssl_jax.data.synthetic import read_speech

VARIANTS = [f"v{chr(97 + i)}" for i in range(20)]


def test_splits_share_no_text_and_no_voice():
    clips = {"train": 300, "valid": 40, "test": 60}
    found = read_speech.plan(VARIANTS, "digits", clips, seed=0)
    assert len(found) == 400 and len({u.name for u in found}) == 400
    for what in ("text", "speaker"):
        parts = [{getattr(u, what) for u in found if u.split == s} for s in clips]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert {w for u in found for w in u.text.split()} == set(read_speech.DIGITS)


def test_sentences_are_plain_words_of_every_part():
    rng = np.random.default_rng(0)
    found = {read_speech.draw_text("sentences", rng) for _ in range(500)}
    assert len(found) > 450
    assert all(set(text) <= set("abcdefghijklmnopqrstuvwxyz ") for text in found)
    assert all("  " not in text and text == text.strip() for text in found)


def test_a_recording_tells_where_the_speech_begins():
    speech = np.random.default_rng(0).normal(size=8000)
    for seed in range(8):
        sound, before = read_speech.record(speech, np.random.default_rng(seed))
        assert sound.dtype == np.int16 and len(sound) >= before + 8000
        # where it correlates most with the speech; echoes and noise are weaker
        likeness = np.correlate(sound.astype(float), speech, "valid")
        assert np.abs(likeness).argmax() == before


def test_an_unknown_kind_and_split_are_named(tmp_path):
    with pytest.raises(ValueError, match="use one of sentences, digits"):
        read_speech.corpus(tmp_path, clips={"train": 1}, kind="poems")
    with pytest.raises(ValueError, match=r"dev.*use train, valid and test"):
        read_speech.corpus(tmp_path, clips={"dev": 4})


def hiss(sound, window=80):
    """The share of high frequencies around each sample: large in fricatives."""
    smooth = np.ones(window) / window
    fast = np.convolve(np.abs(np.diff(sound, prepend=0.0)), smooth, "same")
    return fast / (np.convolve(np.abs(sound), smooth, "same") + 50)


@pytest.mark.slow
def test_phones_are_where_they_sound_and_equal_seeds_give_equal_files(tmp_path):
    pytest.importorskip("espeakng_loader")
    clips = {"train": 12, "valid": 2, "test": 2}
    folder = read_speech.corpus(tmp_path / "a", clips=clips)
    again = read_speech.corpus(tmp_path / "b", clips=clips)
    for path in sorted(folder.iterdir()):
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name
    table = {"kind": "table", "path": str(folder), "where": {"split": "train"}}
    source = sources.open_source("train.read", table)
    assert len(source) == 12 and set(source.columns) == {"split", "speaker", "text", "phones"}
    phones = alignments.read_ctm(folder / "phones.ctm")
    found = []
    for i in range(len(source)):
        sound, rate = source.read(i)
        name = alignments.name_of(source.key(i))
        assert phones.phones(name) == str(source.columns["phones"][i]).split()
        ends = phones.rows[name][1]
        assert 0 < len(sound) / rate - ends[-1] < 0.4
        fricative = np.isin(phones.names, ("s", "S", "z", "Z", "tS", "f"))
        level, gaps = hiss(sound.astype(float)), {}
        for shift in range(-480, 481, 80):
            at = fricative[phones.at(name, (np.arange(len(sound)) + 0.5) / rate)]
            if not at.any():
                continue
            moved = np.roll(level, -shift)
            gaps[shift] = moved[at].mean() - moved[~at].mean()
        if gaps:
            found.append(max(gaps, key=gaps.get))
    assert len(found) > 8
    # within 5 ms, the step of the search
    assert abs(np.median(found)) <= 80
