"""Descriptors of music by librosa as a baseline of probes."""

import librosa
import numpy as np
import pytest

from ssl_jax.core.mesh import make_mesh
from ssl_jax.evals import librosa_features
from ssl_jax.evals.baselines import Encoder
from ssl_jax.evals.librosa_features import HOP, describe, octaves
from ssl_jax.evals.pool import pool, pooler
from ssl_jax.stages import embed

RATE = 16000


def chord(seconds=1.0):
    """C major, struck twice a second, as int16."""
    t = np.arange(int(seconds * RATE)) / RATE
    x = sum(np.sin(2 * np.pi * hz * t) for hz in (261.63, 329.63, 392.0)) * np.exp(-6 * (t % 0.5))
    return (8000 * x).astype(np.int16)


@pytest.mark.slow
def test_a_chord_has_the_numbers_of_direct_calls():
    x = chord().astype(np.float32) / 32768
    got = describe(x, RATE)
    chroma, tonnetz = got[:12], got[96:102]
    assert got.shape == (2 * 103 + 1,) and got.dtype == np.float32
    assert set(np.argsort(chroma)[-3:]) == {0, 4, 7}  # C, E, G
    cqt = np.abs(librosa.cqt(x, sr=RATE, hop_length=HOP, tuning=0.0))
    want = librosa.feature.chroma_cqt(C=cqt, sr=RATE, bins_per_octave=12)
    np.testing.assert_allclose(chroma, want.mean(1), atol=1e-5)
    np.testing.assert_allclose(got[103:115], want.std(1), atol=1e-5)
    np.testing.assert_allclose(got[12:96], librosa.amplitude_to_db(cqt).mean(1), atol=1e-3)
    want = librosa.feature.tonnetz(chroma=want, sr=RATE)
    np.testing.assert_allclose(tonnetz, want.mean(1), atol=1e-5)
    onsets = librosa.onset.onset_strength(y=x, sr=RATE, hop_length=HOP)
    np.testing.assert_allclose(got[[102, 205]], [onsets.mean(), onsets.std()], rtol=1e-5)
    tempo = librosa.feature.tempo(onset_envelope=onsets, sr=RATE, hop_length=HOP)
    np.testing.assert_allclose(got[-1], tempo[0], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_short_clips_and_silence_give_finite_numbers():
    noise = np.random.default_rng(0).normal(size=RATE).astype(np.float32)
    clips = [noise[:n] for n in (0, 1, 40, HOP // 2, HOP, 4000)] + [np.zeros(n) for n in (9, RATE)]
    found = np.stack([describe(np.float32(clip), RATE) for clip in clips])
    assert found.shape == (len(clips), 207) and np.isfinite(found).all()
    assert not found[0].any() and found[2].any()


@pytest.mark.slow
def test_padding_changes_nothing_and_each_clip_has_one_frame():
    audio = np.zeros((2, RATE), np.int16)
    audio[0, :8000], audio[1] = chord(0.5), chord()
    given = {"id": np.arange(2), "weight": np.ones(2), "audio": audio}
    raw = librosa_features.encoder(RATE)
    found = raw.prepare(given | {"audio_len": np.array([8000, RATE])})
    assert set(found) == {"id", "weight", "vector"}
    own = describe(audio[0, :8000].astype(np.float32) / 32768, RATE)
    np.testing.assert_array_equal(found["vector"][0], own)


def test_octaves_fit_below_half_of_the_sample_rate():
    assert [octaves(rate) for rate in (48000, 16000, 8000, 1000)] == [7, 7, 6, 3]


def test_batches_are_prepared_on_the_host():
    def prepare(batch):
        assert isinstance(batch["audio"], np.ndarray)
        return {"id": batch["id"], "weight": batch["weight"], "vector": batch["audio"][:, :3] * 1.0}

    features = librosa_features.encoder(RATE).features
    encoder = Encoder("a", features, {}, "a", prepare)
    batch = {"id": np.arange(2), "weight": np.ones(2), "audio": np.arange(8).reshape(2, 4)}
    mesh = make_mesh({"data": 1})
    found = pool(pooler(features, mesh), {}, map(encoder.prepare, [batch]), mesh=mesh)
    np.testing.assert_array_equal(found.features[:, 0], [[0, 1, 2], [4, 5, 6]])


def test_unknown_baselines_and_those_of_another_modality_are_refused():
    embed.check_baselines(("librosa",), "audio")
    embed.check_baselines((), "image")
    with pytest.raises(ValueError, match=r"--baselines has \['mfcc'\]: use some of librosa"):
        embed.check_baselines(("mfcc",), "audio")
    with pytest.raises(
        ValueError, match=r"--baselines is for audio, not for data of kind image: leave"
    ):
        embed.check_baselines(("librosa",), "image")


def test_music_protocols_ask_for_the_descriptors_and_others_do_not():
    from configs.music2vec import marble
    from configs.superb import utterances

    assert marble.get_protocol("gtzan").baselines == ("librosa",)
    assert "baselines" not in utterances.get_protocol("ks")
