"""Videos: which frames make a clip, from files and folders of frames, and what cannot be read."""

import fractions
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import clips
from ssl_jax.data import corpus as corpus_lib
from ssl_jax.data import inputs
from ssl_jax.data.errors import BadFile, DataError
from ssl_jax.data.readers import video_decoding
from ssl_jax.data.synthetic import moving_objects
from ssl_jax.data.videos import Sampling

av = pytest.importorskip("av")
SIDE, RATE = 32, 10


def grey(number):
    """Returns the frame of a number: its brightness says which it is."""
    return np.full((SIDE, SIDE, 3), 20 + 7 * number, np.uint8)


def write(path, count, *, times=None, sound=False):
    """Writes `count` frames, shown at these tenths of a second; key frames are 5 frames apart."""
    with av.open(str(path), "w") as out:
        if sound:
            stream = out.add_stream("aac", rate=16000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 16000, 0
            out.mux([*stream.encode(frame), *stream.encode(None)])
            return path
        options = {"g": "5", "bf": "0", "qmin": "1", "qmax": "2"}
        stream = out.add_stream("mpeg4", rate=RATE, options=options)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(grey(i), "rgb24")
            frame.pts = i if times is None else times[i]
            frame.time_base = fractions.Fraction(1, RATE)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def folder(path, count):
    """Writes frames as images into a folder."""
    path.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(grey(i)).save(path / f"{i:03}.png")
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder with two classes of videos."""
    root = tmp_path_factory.mktemp("videos")
    for label in ("walk", "run"):
        (root / label).mkdir()
        write(root / label / "one.mp4", 30)
    return root


def numbers(images):
    """Returns the numbers of frames."""
    return [round((np.asarray(x).mean() - 20) / 7) for x in images]


def data(path, kind, **more):
    """Returns config.data of one source."""
    found = clips.video_data()
    found.train.own = {"kind": kind, "path": str(path)}
    found.transforms = {"center_crop": {"share": 1.0}}
    found.update({"image_size": SIDE, "frames": 4, "stride": 2, "batch_size": 2} | more)
    return found


def clip(corpus, i, key=-1):
    """Returns the clip of a row."""
    shape, kind = corpus.shapes(1.0)["video"]
    arrays = {"video": np.zeros((1, *shape), kind)}
    corpus.fill(i, key, arrays, 0)
    return arrays["video"][0]


@pytest.mark.parametrize("name", ["one.mp4", "one.avi", "one.mkv", "frames"])
def test_frames_are_those_shown_at_their_times(tmp_path, name):
    made = folder(tmp_path / name, 30) if name == "frames" else write(tmp_path / name, 30)
    with video_decoding.opened(str(made), RATE) as video:
        assert video.rate == RATE and video.seconds == pytest.approx(3.0, abs=0.11)
        # one after the other, twice the same, and beyond a key frame
        times = [0.05, 0.15, 0.15, 0.95, 2.85]
        assert numbers(video.frames(times)) == [0, 1, 1, 9, 28]
        assert numbers(video.frames([1.29, 1.31])) == [12, 13]


def test_a_frame_lasts_until_the_next_one_where_the_rate_varies(tmp_path):
    made = write(tmp_path / "one.mkv", 6, times=[0, 1, 2, 10, 11, 30])
    with video_decoding.opened(str(made), RATE) as video:
        assert numbers(video.frames([0.25, 0.9, 1.05, 2.9, 3.05])) == [2, 2, 3, 4, 5]


def test_clips_are_drawn_from_seed_row_and_epoch(videos):
    corpus = corpus_lib.open_split(data(videos, "video_folder"), "train")
    assert corpus.classes == ("run", "walk") and len(corpus) == 2
    assert numbers(clip(corpus, 0)) == [11, 13, 15, 17]  # from the middle
    ids, epochs = np.zeros(20, np.int64), np.arange(20)
    keys = corpus.keys(ids, epochs, 1.0, 0)
    found = [numbers(clip(corpus, 0, key)) for key in keys]
    assert all(np.array_equal(np.diff(x), [2, 2, 2]) for x in found)
    assert len({x[0] for x in found}) > 8
    assert found == [numbers(clip(corpus, 0, k)) for k in corpus.keys(ids, epochs, 1.0, 0)]


def test_segments_take_a_frame_of_each_part():
    sampling = Sampling(5, 1, 0.0, "segments", "hold")

    class Thirty:
        rate, seconds = 10.0, 3.0

    assert [int(t * 10) for t in sampling.times(Thirty(), -1)] == [3, 9, 15, 21, 27]
    for key in range(20):
        places = [int(t * 10) for t in sampling.times(Thirty(), key)]
        assert [p // 6 for p in places] == [0, 1, 2, 3, 4]


def test_frames_per_second_are_counted_where_they_are_named(videos):
    corpus = corpus_lib.open_split(data(videos, "video_folder", fps=5.0, stride=1), "train")
    assert np.diff(numbers(clip(corpus, 0))).tolist() == [2, 2, 2]


def test_all_frames_have_the_same_crop(tmp_path):
    draw = np.random.default_rng(0)
    (tmp_path / "a" / "x").mkdir(parents=True)
    picture = Image.fromarray(draw.integers(0, 256, (48, 64, 3)).astype(np.uint8))
    for i in range(8):
        picture.save(tmp_path / "a" / "x" / f"{i}.png")
    steps = {"random_resized_crop": {"scale": (0.3, 1.0)}, "flip": {}, "color_jitter": {}}
    own = data(tmp_path, "frame_folder")
    own.transforms = ConfigDict(steps)
    corpus = corpus_lib.open_split(own, "train")
    assert corpus.column("label") == ["a"]
    found = [clip(corpus, 0, key) for key in (3, 4)]
    for x in found:
        assert (x == x[:1]).all()
    assert not np.array_equal(*found)


def test_a_table_and_a_list_name_videos_and_folders(tmp_path, videos):
    folder(tmp_path / "frames", 12)
    rows = f"path\tlabel\nframes\ta\n{videos / 'run' / 'one.mp4'}\tb\n"
    (tmp_path / "index.tsv").write_text(rows)
    own = data(tmp_path, "table")
    own.train.own.fps = 10.0
    corpus = corpus_lib.open_split(own, "train")
    assert [numbers(clip(corpus, i)) for i in (0, 1)] == [[2, 4, 6, 8], [11, 13, 15, 17]]
    (tmp_path / "list.csv").write_text("frames 3\nframes,run fast\n")
    corpus = corpus_lib.open_split(data(tmp_path / "list.csv", "video_list"), "train")
    assert corpus.column("label") == ["3", "run fast"]
    (tmp_path / "list.csv").write_text("frames 3\n\nframes\n")
    with pytest.raises(DataError, match="row 3: 'frames' is not a path and a class"):
        corpus_lib.open_split(data(tmp_path / "list.csv", "video_list"), "train")


def test_a_short_video_holds_its_last_frame_or_is_an_error(tmp_path):
    folder(tmp_path / "a" / "x", 5)
    own = data(tmp_path, "frame_folder")
    assert numbers(clip(corpus_lib.open_split(own, "train"), 0)) == [0, 2, 4, 4]
    own.short = "error"
    with pytest.raises(
        BadFile, match=r"x, row 1.*too short: 0.20 s have 5 frames, and a clip need"
    ):
        clip(corpus_lib.open_split(own, "train"), 0)


def test_a_video_is_turned_as_its_file_says(tmp_path):
    frame = av.VideoFrame.from_ndarray(np.zeros((8, 16, 3), np.uint8), "rgb24")
    assert video_decoding._upright(frame).size == (16, 8)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("text.mp4", "no video format is recognised: use MP4, MOV"),
        ("sound.mp4", "it has no video stream"),
        ("cut.mkv", "although it states 3.00 s"),
        ("missing.mp4", "No such file"),
        ("empty", "the folder has no images: use files such as 0001.jpg"),
    ],
)
def test_what_cannot_be_read_names_the_file(tmp_path, name, error):
    made = tmp_path / name
    if name == "text.mp4":
        made.write_text("not a video")
    elif name == "sound.mp4":
        write(made, 0, sound=True)
    elif name == "cut.mkv":
        whole = write(tmp_path / "whole.mkv", 30).read_bytes()
        made.write_bytes(whole[: len(whole) // 2])
    elif name == "empty":
        made.mkdir()
    (tmp_path / "list.csv").write_text(f"{name} 0\n")
    own = data(tmp_path / "list.csv", "video_list", stride=8)
    with pytest.raises(BadFile, match=error) as caught:
        clip(corpus_lib.open_split(own, "train"), 0)
    assert f"{name}, row 1 of list.csv" in str(caught.value)


def test_damage_in_the_middle_names_the_second(tmp_path):
    whole = bytearray(write(tmp_path / "whole.mkv", 30).read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 400] = bytes(400)
    (tmp_path / "bad.mkv").write_bytes(whole)
    with video_decoding.opened(str(tmp_path / "bad.mkv"), RATE) as video:
        assert numbers(video.frames([0.05])) == [0]
        with pytest.raises(
            video_decoding.Unreadable, match=r"(cannot be decoded|it ends) at 1\.\d\d s"
        ):
            video.frames([k / 10 + 0.05 for k in range(30)])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"frames": 0}, "config.data.frames is 0: use 1 or more, such as 16"),
        ({"fps": -1.0}, "config.data.fps is -1.0: use 0.0"),
        ({"sampling": "x"}, "config.data.sampling is 'x': use one of dense, segments"),
        ({"short": "x"}, "config.data.short is 'x': use one of hold, error"),
    ],
)
def test_values_that_cannot_be_used_name_their_key(videos, change, error):
    with pytest.raises(DataError, match=error):
        corpus_lib.open_split(data(videos, "video_folder", **change), "train")


def test_without_pyav_the_error_names_the_extra(monkeypatch, videos):
    monkeypatch.setitem(sys.modules, "av", None)
    made = video_decoding.opened(str(videos / "run" / "one.mp4"), 1.0)
    error = r"a video file needs PyAV: pip install 'ssl_jax\[video\]'"
    with pytest.raises(DataError, match=error), made:
        pass


def test_a_model_takes_files_folders_and_frames(tmp_path, videos):
    own = data(videos, "video_folder")
    frames = np.stack([grey(i) for i in range(30)])
    given = (videos / "run" / "one.mp4", folder(tmp_path / "frames", 30), frames)
    for video in given:
        assert numbers(inputs.video_row(video, own)["video"]) == [11, 13, 15, 17]
    with pytest.raises(ValueError, match=r"shape \(30, 32, 32\): pass its frames"):
        inputs.video_row(frames[..., 0], own)
    with pytest.raises(ValueError, match=r"missing.mp4: .*No such file"):
        inputs.video_row(tmp_path / "missing.mp4", own)


def test_drawn_clips_are_read_as_they_were_drawn(tmp_path):
    made = moving_objects.write(tmp_path / "train", 3, seed=0)
    own = clips.moving_objects(2)
    own.train.clips.update({"path": str(made), "label": "direction"})
    corpus = corpus_lib.open_split(own, "train")
    for i in range(3):
        drawn = moving_objects.clip(0, i)
        for key in (-1, 7):
            np.testing.assert_array_equal(clip(corpus, i, key), drawn.video)
        assert corpus.classes[corpus.labels[i]] == drawn.labels["direction"]
    assert corpus.content  # of folders too
    (made / "000001" / "03.png").write_bytes(b"no picture")
    with pytest.raises(BadFile, match=r"000001, row 3 of index.tsv: 03.png, at 0.14 s: "):
        clip(corpus, 1)
