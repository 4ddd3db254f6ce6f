"""Clips with sound and picture: both are cut at the same seconds, from one file or from two."""

import numpy as np
import pytest
import soundfile
from ml_collections import ConfigDict
from PIL import Image

from configs import pairs
from ssl_jax.data import corpus as corpus_lib
from ssl_jax.data import inputs
from ssl_jax.data.errors import BadFile, DataError

SIDE, RATE, FPS = 16, 8000, 10


def write(folder, seconds=4.0):
    """Writes a clip whose sound and picture grow with time, as a WAV and a folder of frames."""
    (folder / "frames").mkdir(parents=True)
    for i in range(round(seconds * FPS)):
        picture = np.full((SIDE, SIDE, 3), 20 + 5 * i, np.uint8)
        Image.fromarray(picture).save(folder / "frames" / f"{i:03}.png")
    sound = np.arange(round(seconds * RATE)) / (seconds * RATE)
    soundfile.write(folder / "sound.wav", sound.astype(np.float32), RATE)
    (folder / "index.tsv").write_text("path\tvideo\nsound.wav\tframes\n")
    return folder


def data(folder, **more):
    """Returns config.data of clips of one second with 4 frames."""
    found = pairs.pair_data()
    found.train.own = ConfigDict({"kind": "table", "path": str(folder)})
    found.transforms = ConfigDict({"center_crop": {"share": 1.0}})
    found.update({"picture": "video", "image_size": SIDE, "frames": 4, "fps": float(FPS)})
    found.update({"sample_rate": RATE, "buckets": (1.0,), "batch_size": 1} | more)
    return found


def clip(corpus, key):
    """Returns the arrays of the only row."""
    shapes = corpus.shapes(1.0)
    arrays = {name: np.zeros((1, *shape), kind) for name, (shape, kind) in shapes.items()}
    corpus.fill(0, key, arrays, 0)
    return {name: x[0] for name, x in arrays.items()}


def seconds_of(found):
    """Returns the first second of the sound, and the seconds of the frames."""
    numbers = (found["video"].mean((1, 2, 3)) - 20) / 5
    return found["audio"][0] / 32768 * 4, numbers / FPS


def test_sound_and_picture_are_cut_at_the_same_seconds(tmp_path):
    corpus = corpus_lib.open_split(data(write(tmp_path)), "train")
    ids, epochs, starts = np.zeros(12, np.int64), np.arange(12), []
    for key in corpus.keys(ids, epochs, 1.0, 0):
        sound, frames = seconds_of(clip(corpus, key))
        # frames in the middle of quarters of the second
        np.testing.assert_allclose(frames, sound + 0.125 + 0.25 * np.arange(4), atol=0.11)
        starts.append(sound)
    assert np.ptp(starts) > 1
    (key,) = corpus.keys(ids[:1], epochs[:1], 1.0, None)
    assert key == 0 and seconds_of(clip(corpus, key))[0] == 0


def test_the_last_frame_is_held_where_the_picture_ends_first(tmp_path):
    folder = write(tmp_path)
    for path in sorted((folder / "frames").iterdir())[5:]:
        path.unlink()
    corpus = corpus_lib.open_split(data(folder), "train")
    np.testing.assert_allclose(seconds_of(clip(corpus, 0))[1], [0.1, 0.3, 0.4, 0.4], atol=0.01)


def test_a_picture_that_is_missing_names_the_row(tmp_path):
    folder = write(tmp_path)
    (folder / "index.tsv").write_text("path\tvideo\nsound.wav\tnone\n")
    with pytest.raises(BadFile, match=r"sound.wav, row 2 of index.tsv: none: "):
        clip(corpus_lib.open_split(data(folder), "train"), 0)
    (folder / "index.tsv").write_text("path\tvideo\nsound.wav\t\n")
    with pytest.raises(BadFile, match="no picture is named: give the row one, or leave it out"):
        clip(corpus_lib.open_split(data(folder), "train"), 0)
    with pytest.raises(
        DataError, match=r"config.data.picture is 'x', which is no column of .*video"
    ):
        corpus_lib.open_split(data(folder, picture="x"), "train")
    with pytest.raises(DataError, match=r"config.data.fps is 0.0: use frames per second"):
        corpus_lib.open_split(data(folder, fps=0.0), "train")


def test_one_file_may_hold_both(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "clip.mp4"), "w") as out:
        picture = out.add_stream("mpeg4", rate=FPS)
        picture.width = picture.height = SIDE
        picture.pix_fmt = "yuv420p"
        sound = out.add_stream("aac", rate=RATE, layout="mono")
        for i in range(20):
            grey = np.full((SIDE, SIDE, 3), 20 + 10 * i, np.uint8)
            out.mux(picture.encode(av.VideoFrame.from_ndarray(grey, "rgb24")))
        out.mux(picture.encode(None))
        noise = np.random.default_rng(0).normal(0, 0.1, 2 * RATE).astype(np.float32)
        for start in range(0, len(noise), 1024):
            frame = av.AudioFrame.from_ndarray(noise[None, start : start + 1024], "fltp", "mono")
            frame.sample_rate, frame.pts = RATE, start
            out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    own = data(tmp_path, picture="")
    own.train.own.kind = "folder"
    found = clip(corpus_lib.open_split(own, "train"), 0)
    assert found["audio_len"] == RATE and found["audio"].std() > 1000
    assert (np.diff(found["video"].mean((1, 2, 3))) > 10).all()
    row = inputs.pair_row(tmp_path / "clip.mp4", None, own)
    np.testing.assert_array_equal(row["video"], found["video"])
    assert row["audio"].shape == (RATE,) and row["audio_len"] == RATE


def test_a_model_takes_a_waveform_and_frames(tmp_path):
    folder = write(tmp_path)
    given = {"audio": folder / "sound.wav", "video": folder / "frames"}
    row = inputs.pair_row(given, None, data(folder))
    want = clip(corpus_lib.open_split(data(folder), "train"), 0)
    np.testing.assert_array_equal(row["video"], want["video"])
    np.testing.assert_allclose(row["audio"], want["audio"], atol=1)
