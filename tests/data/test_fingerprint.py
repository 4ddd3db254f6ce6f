"""The files of a split are recognized, and changed ones are named."""

import os
import shutil

import pytest

from ssl_jax.core import paths
from ssl_jax.data import fingerprint
from ssl_jax.data.corpus import open_split
from ssl_jax.data.errors import DataError

LABELS = ("yes", "no", "yes", "no")


@pytest.fixture
def data(tmp_path, write, data_config):
    """A table of four files; facts() returns those of the split in its current state."""
    for i in range(4):
        write(tmp_path / "data" / f"{i}.wav", frequency=200.0 + 10 * i)

    def facts(folder="data", names="0123", labels=LABELS):
        table = tmp_path / folder / "index.tsv"
        rows = [f"{n}.wav\t{label}" for n, label in zip(names, labels, strict=True)]
        table.write_text("\n".join(["path\tlabel", *rows]) + "\n")
        source = {"own": {"kind": "table", "path": str(table)}}
        return fingerprint.of(open_split(data_config(source, classes=("no", "yes")), "train"))

    return facts


def test_facts_are_kept(data, tmp_path):
    data().save(paths.of(tmp_path / "data-train.npz"))
    assert fingerprint.difference(fingerprint.load(tmp_path / "data-train.npz"), data()) == ""


def test_damaged_facts_are_named(data, tmp_path):
    file = tmp_path / "data-train.npz"
    data().save(paths.of(file))
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"data-train.npz is damaged .* remove it to go on"):
        fingerprint.load(file)


def test_data_that_were_moved_or_touched_are_the_same(data, tmp_path):
    before = data()
    shutil.copytree(tmp_path / "data", tmp_path / "elsewhere" / "deep")  # with its own times
    assert fingerprint.difference(before, data("elsewhere/deep")) == ""
    os.utime(tmp_path / "data" / "2.wav", (1, 1))
    assert fingerprint.difference(before, data()) == ""


def test_the_first_changed_file_is_named(data, tmp_path, write):
    before = data()
    write(tmp_path / "data" / "2.wav", frequency=999.0)
    os.utime(tmp_path / "data" / "2.wav", ns=(1, int(before.times[2])))
    size = (tmp_path / "data" / "2.wav").stat().st_size
    assert fingerprint.difference(before, data()) == (
        f"1 of 4 files have changed, the first is own/2.wav ({size} bytes then, {size} now)"
    )
    write(tmp_path / "data" / "1.wav", seconds=0.3)
    found = fingerprint.difference(before, data())
    assert found.startswith("2 of 4 files have changed, the first is own/1.wav")


def test_rows_that_are_gone_new_or_in_another_order(data):
    before = data()
    assert fingerprint.difference(before, data(names="013", labels=LABELS[:3])) == (
        "it has 3 rows, and had 4; 1 are gone, the first is row 3, own/2.wav"
    )
    less = data(names="012", labels=LABELS[:3])
    assert fingerprint.difference(less, before) == (
        "it has 4 rows, and had 3; 1 are new, the first is row 4, own/3.wav"
    )
    assert fingerprint.difference(before, data(names="0213")) == (
        "the order of rows differs from row 2 on"
    )


def test_labels_that_changed(data):
    found = fingerprint.difference(data(), data(labels=("yes", "no", "no", "yes")))
    assert found == "2 of 4 rows have other labels, the first is row 3, own/2.wav"


def test_lengths_that_a_table_states(tmp_path, write, data_config):
    def facts(samples):
        write(tmp_path / "0.wav")
        (tmp_path / "t.tsv").write_text(f"path\tsamples\trate\n0.wav\t{samples}\t16000\n")
        source = {"own": {"kind": "table", "path": str(tmp_path / "t.tsv")}}
        return fingerprint.of(open_split(data_config(source), "train"))

    found = fingerprint.difference(facts(8000), facts(7000))
    assert found == "1 of 1 rows have other lengths, the first is row 1, own/0.wav"


def test_large_splits_are_read_in_part(data, tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(fingerprint, "_SAMPLED", 2)
    monkeypatch.setattr(fingerprint, "_PART", 100)
    before = data()
    assert (before.contents > 0).tolist() == [True, False, False, True]
    file = tmp_path / "data" / "1.wav"
    old = file.read_bytes()
    file.write_bytes(old[:5000] + b"\1\2" + old[5002:])
    os.utime(file, ns=(1, int(before.times[1]) + 5))
    # at the same path, the modification time decides
    assert "1 of 4 files have changed, the first is own/1.wav" in fingerprint.difference(
        before, data()
    )
    file.write_bytes(old)
    os.utime(file, ns=(1, int(before.times[1])))
    shutil.copytree(tmp_path / "data", tmp_path / "moved")
    assert fingerprint.difference(before, data("moved")) == ""
    (tmp_path / "moved" / "3.wav").write_bytes(old)
    assert "the first is own/3.wav" in fingerprint.difference(before, data("moved"))


def test_text_of_a_table(tmp_path, text_config):
    def facts(*lines):
        (tmp_path / "t.tsv").write_text("\n".join(["sentence", *lines]) + "\n")
        source = {"own": {"kind": "text_table", "path": str(tmp_path / "t.tsv")}}
        return fingerprint.of(open_split(text_config(source), "train"))

    before = facts("one", "two")
    assert fingerprint.difference(before, facts("one", "two")) == ""
    assert "own/t.tsv" in fingerprint.difference(before, facts("one", "six"))


def test_transcripts_count_as_labels(tmp_path, write, data_config):
    def facts(said):
        write(tmp_path / "0.wav", seconds=0.4)
        (tmp_path / "t.tsv").write_text(f"path\ttext\n0.wav\t{said}\n")
        source = {"own": {"kind": "table", "path": str(tmp_path / "t.tsv"), "transcript": "text"}}
        config = data_config(source, spelling="letters")
        return fingerprint.of(open_split(config, "train"))

    assert fingerprint.difference(facts("ab"), facts("ab")) == ""
    assert "other labels" in fingerprint.difference(facts("ab"), facts("ba"))


def test_a_name_that_is_no_utf8_is_hashed_too(tmp_path, text_config):
    file = os.path.join(os.fsencode(tmp_path), b"caf\xe9.txt")
    with open(file, "wb") as f:
        f.write(b"some text")
    source = {"own": {"kind": "text_files", "path": str(tmp_path)}}
    assert fingerprint.of(open_split(text_config(source), "train")).contents[0] > 0


def test_files_are_looked_at_where_they_were(data, tmp_path, write):
    before = data()
    assert fingerprint.changed_files(before) == ("", 0)
    os.utime(tmp_path / "data" / "1.wav", (1, 1))
    (tmp_path / "data" / "3.wav").unlink()
    assert fingerprint.changed_files(before) == ("", 1)
    write(tmp_path / "data" / "2.wav", frequency=999.0)
    told, gone = fingerprint.changed_files(before)
    assert told.startswith("1 of 4 files have changed, the first is own/2.wav (") and gone == 1
    write(tmp_path / "data" / "0.wav", 0.7)
    assert fingerprint.changed_files(before)[0].startswith("2 of 4 files have changed")
