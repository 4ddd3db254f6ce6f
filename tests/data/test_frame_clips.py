"""Clips in folders of frames: which frames, one crop for all of them, and what cannot be read."""

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import clips
from ssl_jax.data import corpus as corpus_lib
from ssl_jax.data import inputs
from ssl_jax.data.errors import BadFile, DataError
from ssl_jax.data.synthetic import moving_objects


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six drawn clips of eight frames."""
    return moving_objects.write(tmp_path_factory.mktemp("clips") / "train", 6, seed=0)


def opened(folder, split="train", **changes):
    """Opens the clips of a folder; `changes` are keys of config.data."""
    data = clips.moving_objects(2)
    for name in ("train", "valid"):
        source = {"kind": "table", "path": str(folder), "label": "direction"}
        data[name] = ConfigDict({"clips": source})
    for key, value in changes.items():
        data[key] = value
    return corpus_lib.open_split(data, split)


def filled(corpus, i, key=-1):
    """Returns the clip of row i."""
    shape, kind = corpus.shapes(1.0)["video"]
    arrays = {"video": np.zeros((1, *shape), kind)}
    corpus.fill(i, key, arrays, 0)
    return arrays["video"][0]


def test_a_whole_clip_is_that_which_was_drawn(folder):
    corpus = opened(folder)
    assert len(corpus) == 6 and set(corpus.classes) <= set(moving_objects.DIRECTIONS)
    for i in (0, 5):
        drawn = moving_objects.clip(0, i)
        np.testing.assert_array_equal(filled(corpus, i), drawn.video)
        np.testing.assert_array_equal(filled(corpus, i, 7), drawn.video)
        assert corpus.classes[corpus.labels[i]] == drawn.labels["direction"]


def test_training_draws_the_start_and_evaluation_takes_the_middle(folder):
    corpus = opened(folder, frames=2, stride=3)
    keys = corpus.keys(np.arange(60) % 6, np.arange(60) // 6, 1.0, 0)
    starts = {tuple(corpus.chosen(8, key).tolist()) for key in keys}
    assert starts == {(n, n + 3) for n in range(5)}
    assert corpus.chosen(8, -1).tolist() == [2, 5]
    assert corpus.keys(np.array([1]), np.zeros(1, int), 1.0, None) == [-1]
    assert corpus.chosen(8, 5).tolist() == corpus.chosen(8, 5).tolist()


def test_the_last_frame_of_a_short_video_is_repeated(folder):
    corpus = opened(folder, frames=4, stride=3)
    assert corpus.chosen(8, 3).tolist() == corpus.chosen(8, -1).tolist() == [0, 3, 6, 7]


def test_all_frames_have_the_crop_and_flip_of_their_clip(folder, tmp_path):
    still = tmp_path / "still"
    (still / "a").mkdir(parents=True)
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    for t in range(4):
        Image.fromarray(picture).save(still / "a" / f"{t}.png")
    (still / "index.tsv").write_text("path\tdirection\na\te\n")
    crop = ConfigDict({"random_resized_crop": {"scale": (0.2, 0.6)}, "flip": {}})
    corpus = opened(still, frames=4, transforms=crop)
    one, other = filled(corpus, 0, 1), filled(corpus, 0, 2)
    assert (one == one[0]).all() and (other == other[0]).all()
    assert (one != other).mean() > 0.3


def test_an_array_of_frames_is_what_a_model_reads(folder):
    data, drawn = clips.moving_objects(2), moving_objects.clip(0, 3).video
    np.testing.assert_array_equal(inputs.video_row(drawn, data)["video"], drawn)
    short = inputs.video_row(drawn, {**data, "frames": 2, "stride": 3, "image_size": 16})
    assert short["video"].shape == (2, 16, 16, 3)
    for wrong, message in (
        (drawn[0], r"shape \(32, 32, 3\): pass its frames"),
        ("a.mp4", r"a.mp4: pass the frames of a clip as one array"),
        (drawn.astype(str), r"the clip: "),
    ):
        with pytest.raises(ValueError, match=message):
            inputs.video_row(wrong, data)


def test_a_damaged_frame_is_named(folder, tmp_path):
    made = moving_objects.write(tmp_path / "bad", 2, seed=0)
    (made / "000001" / "03.png").write_bytes(b"no picture")
    with pytest.raises(BadFile, match=r"000001/00.png, row .* frame 3: "):
        filled(opened(made), 1)
    (made / "000001" / "03.png").unlink()
    assert filled(opened(made), 1).shape == (8, 32, 32, 3)


def test_what_is_not_there_is_named(folder, tmp_path):
    (tmp_path / "index.tsv").write_text("path\na\n")
    with pytest.raises(DataError, match=r"a, row 2 of index.tsv: no folder with images"):
        opened(tmp_path)
    with pytest.raises(DataError, match=r"config.data.stride is 0: use 1 or more"):
        opened(folder, stride=0)
    with pytest.raises(DataError, match=r"kind is 'video_folder': use one of table"):
        data = clips.pretraining("k400", 2)
        corpus_lib.open_split(data, "train")
