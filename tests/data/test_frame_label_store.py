import json
import pickle

import numpy as np
import pytest

from ssl_jax.data import frame_label_store
from ssl_jax.data.corpus import open_split
from ssl_jax.data.errors import DataError, Unreadable

HEADER = {"rate": 50.0, "vocab_size": 500, "signature": "it1-layer6-500"}


def fill(path, rows, **header):
    with frame_label_store.Writer(path, **{**HEADER, **header}) as writer:
        for key, units in rows.items():
            writer.add(key, np.array(units))
    return frame_label_store.open_store(path)


def test_rows_come_back_by_key(tmp_path):
    rows = {f"mine/{i}.wav": np.arange(i + 1) * 7 % 500 for i in range(200)}
    store = fill(tmp_path / "units", rows)
    assert (store.rate, store.vocab_size, store.signature) == (50.0, 500, "it1-layer6-500")
    assert len(store) == 200 and store.dtype == "uint16"
    for key, units in rows.items():
        np.testing.assert_array_equal(store.row(key), units)
    places = store.find(["mine/9.wav", "mine/none.wav"])
    assert places[1] == -1 and store.counts[places[0]] == 10
    np.testing.assert_array_equal(store.read(places[0], 2, 4), [14, 21])
    np.testing.assert_array_equal(store.read(places[0], 8, 100), [56, 63])
    assert store.read(places[0], 30, 40).shape == (0,)
    again = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(again.row("mine/3.wav"), store.row("mine/3.wav"))


def test_a_large_vocabulary_takes_four_bytes_a_label(tmp_path):
    store = fill(tmp_path / "units", {"a": [0, 70_000]}, vocab_size=70_001)
    assert store.dtype == "uint32" and store.row("a").tolist() == [0, 70_000]
    assert (tmp_path / "units" / "units.bin").stat().st_size == 8


def test_what_can_not_be_written_names_the_row(tmp_path):
    writer = frame_label_store.Writer(tmp_path / "units", **HEADER)
    writer.add("mine/a.wav", np.array([0, 499]))
    with pytest.raises(DataError, match=r"'mine/b.wav': label 1 is 500, outside .* 500 ids"):
        writer.add("mine/b.wav", np.array([3, 500]))
    with pytest.raises(DataError, match=r"'mine/b.wav': label 0 is -1, outside"):
        writer.add("mine/b.wav", np.array([-1]))
    with pytest.raises(DataError, match=r"'mine/a.wav' were added before"):
        writer.add("mine/a.wav", np.array([1]))
    for wrong in (np.zeros((2, 2), int), np.array([], int), np.array([0.5])):
        with pytest.raises(DataError, match=r"'mine/c.wav' have shape .* pass \(U,\) integers"):
            writer.add("mine/c.wav", wrong)
    assert "mine/a.wav" in writer and "mine/b.wav" not in writer and len(writer) == 1
    with pytest.raises(DataError, match="vocab_size 0: use positive"):
        frame_label_store.Writer(tmp_path / "none", rate=50.0, vocab_size=0, signature="x")


def test_a_killed_writer_goes_on_where_it_was(tmp_path):
    path, killed = tmp_path / "units", RuntimeError("killed")
    with pytest.raises(RuntimeError), frame_label_store.Writer(path, **HEADER) as writer:
        writer.add("a", np.array([1, 2, 3]))
        writer.add("b", np.array([4, 5]))
        raise killed
    with pytest.raises(DataError, match="its writer did not finish: run it again"):
        frame_label_store.open_store(path)
    # as after a crash of the machine: the labels of b are cut off, and the log too
    part = path.with_name("units.part")
    for name, keep in (("units.bin", 2 * 4), ("rows.bin", 2 * 16)):
        data = (part / name).read_bytes()
        (part / name).write_bytes(data[:keep])
    with frame_label_store.Writer(path, **HEADER) as writer:
        assert "a" in writer and "b" not in writer
        writer.add("b", np.array([6]))
    store = frame_label_store.open_store(path)
    assert store.row("a").tolist() == [1, 2, 3] and store.row("b").tolist() == [6]
    assert not part.exists()
    with pytest.raises(DataError, match="exists already: remove it"):
        frame_label_store.Writer(path, **HEADER)


def test_a_part_of_other_labels_is_begun_anew(tmp_path):
    path = tmp_path / "units"
    frame_label_store.Writer(path, **HEADER).add("a", np.array([1]))
    with frame_label_store.Writer(path, **{**HEADER, "signature": "it2"}) as writer:
        assert "a" not in writer
        writer.add("a", np.array([2]))
    assert frame_label_store.open_store(path).row("a").tolist() == [2]


def test_a_store_that_is_none_or_damaged_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no frame labels .* make the labels first"):
        frame_label_store.open_store(tmp_path)
    with pytest.raises(DataError, match="no row was written"):
        fill(tmp_path / "empty", {})
    store = fill(tmp_path / "units", {"a": [1, 2], "b": [3]})
    with pytest.raises(DataError, match="has no labels of 'c' among its 2 rows"):
        store.row("c")
    header = tmp_path / "units" / "header.json"
    text = header.read_text()
    header.write_text(json.dumps({**json.loads(text), "vocab_size": 3}))
    with pytest.raises(DataError, match=r"'b': .*label 0 is 3, outside the vocabulary of 3 ids"):
        frame_label_store.open_store(tmp_path / "units").row("b")
    with pytest.raises(Unreadable, match="label 0 is 3"):
        frame_label_store.open_store(tmp_path / "units").read(int(store.find(["b"])[0]))
    header.write_text(json.dumps({**json.loads(text), "format": 99}))
    with pytest.raises(DataError, match="has format 99"):
        frame_label_store.open_store(tmp_path / "units")
    header.write_text(text)
    with (tmp_path / "units" / "units.bin").open("ab") as f:
        f.write(b"x")
    with pytest.raises(DataError, match="has 7 bytes, not 6"):
        frame_label_store.open_store(tmp_path / "units")


def test_keys_name_source_and_file_in_any_split_and_folder(tmp_path, write, data_config):
    for name in ("a/1.wav", "a/2.wav", "b/1.wav"):
        write(tmp_path / "here" / name, 0.02)
        write(tmp_path / "there" / name, 0.02)
    mine = {"kind": "folder", "path": str(tmp_path / "here")}
    config = data_config({"mine": mine})
    config["valid"] = {"mine": {**mine, "path": str(tmp_path / "there"), "where": {"folder": "b"}}}
    corpus, other = open_split(config, "train"), open_split(config, "valid")
    keys = [corpus.key(i) for i in range(3)]
    assert keys == ["mine/a/1.wav", "mine/a/2.wav", "mine/b/1.wav"]
    assert other.key(0) == keys[2]


def test_segments_of_a_file_have_keys_of_their_own(tmp_path, write, data_config):
    write(tmp_path / "long.wav", 1.0)
    (tmp_path / "wav.scp").write_text("long long.wav\n")
    (tmp_path / "segments").write_text("one long 0.0 0.5\ntwo long 0.5 1.0\n")
    corpus = open_split(data_config({"k": {"kind": "kaldi", "path": str(tmp_path)}}), "train")
    assert [corpus.key(i) for i in range(2)] == ["k/long.wav", "k/long.wav@8000"]


def test_a_link_in_place_of_the_unfinished_store_is_not_followed(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        frame_label_store.Writer(tmp_path / "a", **HEADER) as writer,
    ):
        writer.add("x", np.array([1]))
        raise KeyboardInterrupt
    (tmp_path / "b.part").symlink_to(tmp_path / "a.part")
    with pytest.raises(DataError, match=r"b\.part is a link, which is not followed"):
        frame_label_store.Writer(tmp_path / "b", **HEADER)
