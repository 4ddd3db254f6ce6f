"""A table of labels next to recordings: what is read, how it is split, what is refused."""

import os
import shutil

import numpy as np
import pytest
import soundfile

from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import label_files
from ssl_jax.data.readers.lines import read_table


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Twenty short clips: four folders, four formats, four rates, half of them stereo."""
    folder = tmp_path_factory.mktemp("sound")
    draw = np.random.default_rng(0)
    for i in range(20):
        file = folder / f"speaker {i % 4}" / f"{i}.{('wav', 'mp3', 'ogg', 'flac')[i % 4]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        rate = (8000, 44100, 48000, 16000)[i % 4]
        shape = (rate // 5, 2) if i % 2 else (rate // 5,)
        soundfile.write(file, 0.1 * draw.standard_normal(shape), rate)
    return folder


@pytest.fixture
def recordings(written, tmp_path):
    """A copy of them, which a test may change."""
    return shutil.copytree(written, tmp_path / "sound")


def names(recordings):
    return sorted(p.relative_to(recordings).as_posix() for p in recordings.rglob("*.*"))


def write(path, rows, header="path,label"):
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return path


def read(table, recordings, column="label", group=""):
    return label_files.read(table, column, group, [recordings])


def test_every_class_is_divided_alike_and_formats_and_rates_may_differ(recordings, tmp_path):
    rows = [(name, "ab"[i % 2]) for i, name in enumerate(names(recordings))]
    found = read(write(tmp_path / "labels.csv", rows), recordings)
    assert found.labels == [label for _, label in rows]
    for label in "ab":
        own = [s for x, s in zip(found.labels, found.splits, strict=True) if x == label]
        assert [own.count(s) for s in ("train", "valid", "test")] == [6, 2, 2]
    assert set(found.rates.tolist()) == {8000, 44100, 48000, 16000}
    np.testing.assert_allclose(found.samples / found.rates, 0.2, atol=0.06)
    assert read(tmp_path / "labels.csv", recordings).splits == found.splits


def test_rare_classes_train_first_and_are_tested_next():
    labels = ["a"] * 10 + ["b"] * 3 + ["c"] * 2 + ["d"]
    splits = label_files.divide(labels, 0)
    found = {x: sorted(s for y, s in zip(labels, splits, strict=True) if y == x) for x in "bcd"}
    assert found == {"b": ["test", "train", "valid"], "c": ["test", "train"], "d": ["train"]}


def test_a_group_is_in_one_split_and_no_split_is_empty():
    groups = [f"s{i % 7}" for i in range(50)] + ["big"] * 100
    for seed in range(5):
        splits = label_files.divide_groups(groups, seed)
        of = {g: {s for x, s in zip(groups, splits, strict=True) if x == g} for g in set(groups)}
        assert all(len(found) == 1 for found in of.values())
        assert set(splits) == {"train", "valid", "test"} and of["big"] == {"train"}
    splits = label_files.divide_groups([f"s{i}" for i in range(100)], 0)
    assert [splits.count(s) for s in ("train", "valid", "test")] == [60, 20, 20]
    with pytest.raises(DataError, match="three are needed"):
        label_files.divide_groups(["a", "b", "a"], 0)


def test_a_column_of_splits_and_other_names_of_columns(recordings, tmp_path):
    splits = ("train", "val", "test", "train")
    rows = [(n, "xy"[i % 2], splits[i // 2 % 4]) for i, n in enumerate(names(recordings))]
    table = tmp_path / "labels.csv"
    # spreadsheets write a byte order mark
    found = read(write(table, rows, "\ufefffilename,word,split"), recordings, "word")
    assert found.splits[:6] == ["train", "train", "valid", "valid", "test", "test"]


def test_rows_without_a_label_or_a_header_are_left_out_and_noted(recordings, tmp_path):
    every = names(recordings)
    (recordings / every[3]).write_bytes(b"no sound")
    rows = [(name, "" if i in (1, 2) else "ab"[i % 2]) for i, name in enumerate(every)]
    found = read(write(tmp_path / "labels.csv", rows), recordings)
    assert len(found.paths) == 17
    assert "2 of 20 rows" in found.notes[0] and "have no label" in found.notes[0]
    assert found.notes[0].endswith("row 3")
    assert found.notes[1].endswith(f"row 5 ({recordings / every[3]}: Format not recognised.)")


def test_what_is_written_is_a_table_for_sources(recordings, tmp_path):
    rows = [(name, "ab"[i % 2]) for i, name in enumerate(names(recordings))]
    found = read(write(tmp_path / "labels.csv", rows), recordings)
    found.write(tmp_path / "run" / "labels.tsv")
    columns, _ = read_table(tmp_path / "run" / "labels.tsv", "path")
    assert columns["path"] == [str(recordings / name) for name, _ in rows]
    assert columns["split"] == found.splits and columns["label"] == found.labels
    assert columns["rate"] == [str(rate) for rate in found.rates]


@pytest.mark.parametrize(
    ("header", "change", "message"),
    [
        ("path,digit,x", {}, r"labels.csv, row 1: no column 'label' among .* as --label"),
        ("clip,label", {}, r"no column 'path' among .*call that of the sound files 'path'"),
        ("path;label", {}, "a .csv has commas"),
        ("path,label", {4: ("gone.wav", "a")}, r"row 6: there is no gone.wav below .*, nor below"),
        ("path,label", {4: ("gone.wav", "a"), 7: ("so.wav", "b")}, r"row 6 \(and 1 more rows\)"),
        ("path,label", {4: None}, "row 6: .* was listed before, in row 5"),
        ("path,label", dict.fromkeys(range(20), "one"), "has \\['one'\\] for the 20 rows"),
    ],
)
def test_a_table_that_cannot_be_used_says_where(recordings, tmp_path, header, change, message):
    rows = [(name, "ab"[i % 2]) for i, name in enumerate(names(recordings))]
    for i, new in change.items():
        rows[i] = rows[i - 1] if new is None else (rows[i][0], new) if new == "one" else new
    if ";" in header:
        rows = [(";".join(row),) for row in rows]
    rows = [(*row, "x")[: len(header.split(","))] for row in rows]
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / "labels.csv", rows, header), recordings)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (("train", "training"), "row 3: split is 'training': use train, valid or test"),
        (("train", "train"), "no row has the split valid or test"),
        (("test", "valid"), "no row has the split train"),
        (("train", "test"), "class 'b' has no row in train"),
    ],
)
def test_splits_that_cannot_be_used_are_named(recordings, tmp_path, splits, message):
    rows = [(n, "ab"[i % 2], splits[i % 2]) for i, n in enumerate(names(recordings))]
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / "labels.csv", rows, "path,label,split"), recordings)


def test_a_table_that_is_not_there(recordings, tmp_path):
    with pytest.raises(DataError, match=r"--labels .*labels\.csv is not a file"):
        read(tmp_path / "labels.csv", recordings)


def test_a_link_is_the_file_that_was_listed_before(recordings, tmp_path):
    first = names(recordings)[0]
    os.link(recordings / first, recordings / "again.wav")
    rows = [(name, "ab"[i % 2]) for i, name in enumerate(names(recordings))]
    with pytest.raises(DataError, match=r"row \d+: .* was listed before, in row \d+"):
        read(write(tmp_path / "labels.csv", rows), recordings)


def test_the_only_other_column_has_the_classes(recordings, tmp_path):
    rows = [(name, "ab"[i % 2]) for i, name in enumerate(names(recordings))]
    found = read(write(tmp_path / "labels.csv", rows, "file,pitch"), recordings)
    assert found.labels == [label for _, label in rows]
    assert any("no column 'label': the classes are those of 'pitch'" in n for n in found.notes)
    with pytest.raises(DataError, match="no column 'tone' among"):
        read(tmp_path / "labels.csv", recordings, "tone")


def test_a_file_that_is_nowhere_names_the_option_for_its_folder(recordings, tmp_path):
    table = write(tmp_path / "labels.csv", [("gone.wav", "a")])
    with pytest.raises(DataError, match=r"row 2: there is no gone.wav below .* as --root"):
        read(table, recordings)


def test_texts_with_commas_and_lines_are_kept(tmp_path):
    rows = [(f'"a text, {i}\nof two lines"', "ab"[i % 2]) for i in range(10)] + [("", "a")]
    table = write(tmp_path / "labels.csv", rows, "text,label")
    found = label_files.read(table, "label", "", [], modality="text")
    assert found.samples is None and len(found.paths) == 10
    assert any("1 of 11 rows of" in n and "have no text" in n for n in found.notes)
    found.write(tmp_path / "run" / "labels.csv")
    columns, _ = read_table(tmp_path / "run" / "labels.csv", "text")
    assert columns["text"] == [f"a text, {i}\nof two lines" for i in range(10)]
    assert columns["split"] == found.splits
