"""Clips of moving objects: their labels are exact, and drawn clips are equal in every process."""

import collections
import zlib

import numpy as np
import pytest
from PIL import Image

from ssl_jax.data.synthetic import moving_objects as clips


@pytest.fixture(scope="module")
def drawn():
    """The first clips of a corpus."""
    return [clips.clip(0, i) for i in range(240)]


def test_a_clip_is_a_function_of_seed_and_number(drawn):
    again, other = clips.clip(0, 5), clips.clip(1, 5)
    np.testing.assert_array_equal(again.video, drawn[5].video)
    assert again.labels == drawn[5].labels
    assert (other.video != drawn[5].video).mean() > 0.5
    assert drawn[5].video.shape == (8, 32, 32, 3) and drawn[5].video.dtype == np.uint8


def test_labels_are_spread_and_independent_of_each_other(drawn):
    counts = {name: collections.Counter(c.labels[name] for c in drawn) for name in clips.LABELS}
    assert set(counts["object"]) == set(counts["faster"]) == set(clips.SHAPES)
    assert set(counts["direction"]) == set(clips.DIRECTIONS)
    assert min(counts["order"].values()) > 90 and min(counts["playback"].values()) > 90
    same = sum(c.labels["faster"] == c.labels["object"] for c in drawn)
    assert 90 < same < 150
    pairs = collections.Counter((c.labels["order"], c.labels["playback"]) for c in drawn)
    assert min(pairs.values()) > 35


@pytest.mark.parametrize("direction", [0, 3, 6])
def test_paths_keep_their_direction_and_slow_down_forwards(direction):
    for backwards in (0, 1):
        path = clips._path(np.random.default_rng(0), direction, 1.6, backwards)
        steps = np.diff(path, axis=0)
        length = np.hypot(*steps.T)
        np.testing.assert_allclose(length.mean(), 1.6, rtol=1e-6)
        assert (np.diff(length) < 0).all() if not backwards else (np.diff(length) > 0).all()
        angle = np.arctan2(-steps[:, 0], steps[:, 1]) % (2 * np.pi)
        np.testing.assert_allclose(angle, direction * np.pi / 4, atol=1e-6)


def test_lights_go_on_in_their_order_and_never_in_the_middle(monkeypatch):
    lit = [clips.clip(0, i) for i in range(20)]
    monkeypatch.setattr(clips, "SLOTS", ())
    for i, one in enumerate(lit):
        change = one.video.astype(int) - clips.clip(0, i).video
        times = np.flatnonzero(change.any((1, 2, 3)))
        assert times.tolist() == [1, 2, 5, 6]
        assert (change != 0).any(-1).sum((1, 2)).max() <= clips.SPOT**2
        # red less blue, of what the early and the late light add
        early, late = (change[list(t), ..., 0] - change[list(t), ..., 2] for t in ((1, 2), (5, 6)))
        first = "red_first" if early.sum() > late.sum() else "blue_first"
        assert first == one.labels["order"]


def test_every_shape_differs_from_the_others():
    shapes = [clips._shape(name, clips.LARGE) for name in clips.SHAPES]
    for i, one in enumerate(shapes):
        assert one.shape == (14, 14) and 0.2 < one.mean() < 0.9
        assert all((one != other).mean() > 0.08 for other in shapes[:i])


def test_pictures_take_the_place_of_shapes():
    images = np.stack([np.full((32, 32, 3), value, np.uint8) for value in (0, 0, 255, 255)])
    pictures = clips.Pictures(images, ("cat", "cat", "dog", "dog"))
    for i in range(6):
        one = clips.clip(0, i, pictures)
        assert {one.labels["object"], one.labels["faster"]} <= {"cat", "dog"}
        large = 0 if one.labels["object"] == "cat" else 255
        assert all((frame == large).all(-1).sum() >= 14 * 14 - 9 * 9 - 18 for frame in one.video)


def test_a_corpus_is_written_once_and_anew_for_another_request(tmp_path):
    folder = clips.write(tmp_path / "train", 3, seed=0)
    frame = np.asarray(Image.open(folder / "000002" / "07.png"))
    np.testing.assert_array_equal(frame, clips.clip(0, 2).video[7])
    lines = (folder / "index.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["path", *clips.LABELS] and len(lines) == 4
    assert lines[3].split("\t")[0] == "000002"
    before = (folder / "000000" / "00.png").stat().st_mtime_ns
    clips.write(folder, 3, seed=0)
    assert (folder / "000000" / "00.png").stat().st_mtime_ns == before
    clips.write(folder, 2, seed=1)
    assert not (folder / "000002").exists()
    assert not folder.with_name("train.part").exists()


def test_clips_are_the_same_on_every_machine():
    assert zlib.crc32(clips.clip(3, 1).video.tobytes()) == 3285283172
