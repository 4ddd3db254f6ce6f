"""One file under several names is one row, in one split."""

import os
import tarfile

import numpy as np
import pytest

from ssl_jax.data import split_overlap
from ssl_jax.data.corpus import open_split
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import identity, records
from ssl_jax.data.readers.sources import open_items, open_source


def folder(path, **options):
    return {"own": {"kind": "folder", "path": str(path), **options}}


def named(source):
    return source.reader.paths[source.rows].tolist()


def check(config):
    split_overlap.check(
        {name: open_split(config, name, ()) for name in ("train", "valid", "test") if config[name]}
    )


def test_links_below_a_folder_make_no_rows(tmp_path, write):
    top = tmp_path / "corpus"
    for name in ("b/1.wav", "b/2.wav", "c/3.wav"):
        write(top / name)
    (top / "a.wav").symlink_to(top / "b" / "1.wav")
    os.link(top / "b" / "2.wav", top / "b" / "9.wav")
    (top / "aa").symlink_to("c", target_is_directory=True)
    with pytest.warns(
        UserWarning, match=r"files below .*corpus that repeat a file .* \(2\), the first is "
    ):
        source = open_source("train.own", folder(top)["own"])
    assert named(source) == ["b/1.wav", "b/2.wav", "c/3.wav"]
    assert source.columns["folder"].tolist() == ["b", "b", "c"]


def test_links_that_lead_back_end(tmp_path, write):
    top = tmp_path / "corpus"
    write(top / "a" / "1.wav")
    (top / "a" / "self").symlink_to(top / "a", target_is_directory=True)
    (top / "up").symlink_to(tmp_path, target_is_directory=True)
    (top / "round").symlink_to(top / "round")
    write(tmp_path / "elsewhere" / "2.wav")
    (top / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "back").symlink_to(top, target_is_directory=True)
    assert named(open_source("train.own", folder(top)["own"])) == ["a/1.wav", "more/2.wav"]


def test_text_and_pictures_follow_the_same_rule(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.txt").write_text("one")
    (tmp_path / "deep" / "b.txt").symlink_to("a.txt")
    (tmp_path / "deep" / "again").symlink_to(tmp_path, target_is_directory=True)
    with pytest.warns(UserWarning, match=r"\(1\), the first is deep/b.txt, which is deep/a.txt"):
        found = open_items("train.t", {"kind": "text_files", "path": str(tmp_path)}, "text")
    assert len(found) == 1
    for name in ("x.png", "y.png"):
        (tmp_path / name).write_bytes(b"picture")
    os.link(tmp_path / "x.png", tmp_path / "z.png")
    with pytest.warns(UserWarning, match=r"z.png, which is x.png"):
        found = open_items("train.i", {"kind": "image_folder", "path": str(tmp_path)}, "image")
    assert found.reader.paths.tolist() == ["x.png", "y.png"]


def test_a_broken_link_stays_a_row_that_is_bad(tmp_path, write):
    write(tmp_path / "a.wav")
    (tmp_path / "b.wav").symlink_to("nowhere.wav")
    assert named(open_source("train.own", folder(tmp_path)["own"])) == ["a.wav", "b.wav"]


def test_file_systems_that_list_one_inode_for_all(tmp_path, write, monkeypatch):
    for name in ("a.wav", "b.wav"):
        write(tmp_path / name)
    monkeypatch.setattr(identity, "_key", lambda path: (1, hash(str(path)) % 2**60))
    walk = identity._walk
    monkeypatch.setattr(
        identity, "_walk", lambda *args: (e._replace(key=(1, 0)) for e in walk(*args))
    )
    assert named(open_source("train.own", folder(tmp_path)["own"])) == ["a.wav", "b.wav"]


def test_a_shard_or_archive_is_opened_once(tmp_path):
    rows = [(np.arange(1, 900, dtype=np.int16), 8000, {})]
    records.write_shard(tmp_path / f"a{records.SUFFIX}", rows, [])
    for ending in ("", ".index"):
        source = tmp_path / f"a{records.SUFFIX}{ending}"
        os.link(source, tmp_path / f"b{records.SUFFIX}{ending}")
    with pytest.warns(UserWarning, match=r"\*.array_record below .* left out \(1\)"):
        assert len(open_source("train.own", {"kind": "array_record", "path": str(tmp_path)})) == 1
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("cat/1.png")
        tar.addfile(info)
    (tmp_path / "b.tar").symlink_to("a.tar")
    with pytest.warns(UserWarning, match=r"b.tar, which is a.tar"):
        options = {"kind": "image_tar", "path": str(tmp_path)}
        assert len(open_items("train.t", options, "image")) == 1


@pytest.mark.parametrize("link", (os.symlink, os.link, None))
def test_a_file_in_two_splits_is_an_error_that_names_both(tmp_path, write, data_config, link):
    for name in ("train/1.wav", "train/2.wav", "valid/3.wav"):
        write(tmp_path / name)
    config = data_config(folder(tmp_path / "train"), valid=folder(tmp_path / "valid"))
    check(config)
    if link is None:  # a link to the folder itself
        (tmp_path / "train" / "z").symlink_to(tmp_path / "valid", target_is_directory=True)
    else:
        link(tmp_path / "valid" / "3.wav", tmp_path / "train" / "z.wav")
    with pytest.raises(
        DataError,
        match=r"^config.data.valid holds rows of config.data.train \(1 of 1\), the first is "
        r".*/valid/3.wav, row 1 of config.data.valid.own, which is "
        r".*/train/z.*wav, row 3 of config.data.train.own: keep each file in one",
    ):
        check(config)


def table(path, *names, samples=True):
    rows = ["path\tsamples\trate", *(f"{name}\t8000\t16000" for name in names)]
    path.write_text("\n".join(rows) + "\n")
    return {"own": {"kind": "table", "path": str(path)}}


def test_tables_that_spell_a_file_in_other_ways(tmp_path, write, data_config, monkeypatch):
    write(tmp_path / "a" / "1.wav")
    write(tmp_path / "a" / "2.wav")
    train = table(tmp_path / "train.tsv", "a/1.wav")
    for spelling in ("./a/1.wav", "a/../a/1.wav", str(tmp_path / "a" / "1.wav")):
        test = table(tmp_path / "test.tsv", "a/2.wav", spelling)
        with pytest.raises(DataError, match=r"test.tsv of config.data.test.own, which is .*train"):
            check(data_config(train, test=test))
    monkeypatch.chdir(tmp_path)
    again = {"own": {"kind": "table", "path": "train.tsv"}}
    with pytest.raises(
        DataError, match=r"config.data.valid holds rows of config.data.train \(1 of 1\)"
    ):
        check(data_config(train, valid=again))
    check(data_config(train, valid=table(tmp_path / "test.tsv", "a/2.wav")))


def test_files_that_are_not_there_are_told_apart_by_name(tmp_path, data_config):
    train = table(tmp_path / "train.tsv", "gone/1.wav", "gone/2.wav")
    check(data_config(train, valid=table(tmp_path / "valid.tsv", "gone/3.wav")))
    with pytest.raises(DataError, match=r"config.data.valid holds rows"):
        check(data_config(train, valid=table(tmp_path / "valid.tsv", "gone//2.wav")))


def test_a_table_that_lists_a_file_twice_cannot_be_divided(tmp_path, write, data_config):
    names = [f"{i}.wav" for i in range(6)]
    for name in names:
        write(tmp_path / name)

    def config(*listed):
        def part(lo, hi):
            source = table(tmp_path / "all.tsv", *listed)["own"]
            return {"own": {**source, "part": (lo, hi)}}

        return data_config(part(0.0, 0.5), valid=part(0.5, 1.0))

    check(config(*names))
    with pytest.raises(DataError, match=r"config.data.valid holds rows of config.data.train"):
        check(config(*names, *names))


def test_segments_of_a_recording_may_be_in_two_splits(tmp_path, write, data_config):
    write(tmp_path / "long.wav", seconds=2.0)
    for name, spans in (("train", "u1 long 0 0.5\n"), ("valid", "u2 long 1 1.5\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "wav.scp").write_text(f"long {tmp_path}/long.wav\n")
        (tmp_path / name / "segments").write_text(spans)
    config = data_config(
        {"own": {"kind": "kaldi", "path": str(tmp_path / "train")}},
        valid={"own": {"kind": "kaldi", "path": str(tmp_path / "valid")}},
    )
    check(config)
    whole = {**config, "valid": folder(tmp_path)}
    with pytest.raises(DataError, match=r"long.wav, row 1 of config.data.valid.own, which is .*"):
        check(whole)


def test_files_are_looked_up_once(tmp_path, write, data_config, monkeypatch):
    for i in range(3):
        write(tmp_path / "train" / f"{i}.wav")
    write(tmp_path / "valid" / "9.wav")
    asked = []
    state = identity._state
    monkeypatch.setattr(identity, "_state", lambda name: asked.append(name) or state(name))
    check(data_config(folder(tmp_path / "train"), valid=folder(tmp_path / "valid")))
    assert len(asked) == len(set(asked)) == 4


def test_a_row_in_two_sources_of_one_split_is_reported(tmp_path, write, data_config):
    for i in range(3):
        write(tmp_path / "all" / f"{i}.wav")
    (tmp_path / "few").mkdir()
    os.link(tmp_path / "all" / "1.wav", tmp_path / "few" / "one.wav")
    sources = {name: {"kind": "folder", "path": str(tmp_path / name)} for name in ("all", "few")}
    corpus = open_split(data_config(sources), "train", ())
    assert split_overlap.repeated(corpus) == (
        f"1 rows are in two sources of one split, so they are read twice as often: the first is "
        f"{tmp_path}/few/one.wav, row 1 of config.data.train.few, which is {tmp_path}/all/1.wav, "
        f"row 2 of config.data.train.all"
    )
    halves = {
        name: {**sources["all"], "part": part}
        for name, part in (("a", (0.0, 0.5)), ("b", (0.5, 1.0)))
    }
    assert split_overlap.repeated(open_split(data_config(halves), "train", ())) == ""
