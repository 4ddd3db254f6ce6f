"""Corpora in an object store: the same rows and samples as on disk, and few requests."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from ssl_jax.core import paths
from ssl_jax.data import frame_label_store, shards
from ssl_jax.data.errors import DataError, InvalidRow, SkipCounter
from ssl_jax.data.readers.sources import open_items, open_source

ROOT = "gs://bucket/data"


@pytest.fixture
def corpus(tmp_path, write, bucket):
    """Returns a folder of three words by two speakers, and its copy in the store."""
    folder = tmp_path / "corpus"
    for word in ("one", "two", "three"):
        for speaker in ("a", "b"):
            write(folder / word / f"{speaker}_nohash_0.wav", seconds=0.2 + 0.1 * len(word))
    (folder / "validation_list.txt").write_text("one/a_nohash_0.wav\n")
    (folder / "testing_list.txt").write_text("two/b_nohash_0.wav\n")
    (folder / ".hidden.wav").write_text("no sound")
    table = "path\tword\tsamples\trate\none/a_nohash_0.wav\t1\t8000\t16000\n"
    (folder / "index.tsv").write_text(table)
    (folder / "quoted.csv").write_text('path,said\r\none/b_nohash_0.wav,"a, b\r\nc"\r\n')
    (folder / "all.tsv").write_text("../data\none/a_nohash_0.wav\t8000\n")
    (folder / "wav.scp").write_text("u1 one/a_nohash_0.wav\nu2 two/a_nohash_0.wav\n")
    (folder / "text").write_text("u1 one\nu2 two\n")
    write(folder / "ls" / "dev" / "1" / "2" / "1-2-0.flac")
    (folder / "ls" / "dev" / "1" / "2" / "1-2.trans.txt").write_text("1-2-0 SOME WORDS\n")
    paths.put(folder, paths.of(ROOT))
    return folder


def both(corpus, path="", **options):
    """Returns a source on disk and the same from the store."""
    where = (str(corpus / path), f"{ROOT}/{path}".rstrip("/"))
    return [open_source("train.x", {"path": each, **options}) for each in where]


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "folder"},
        {"kind": "speech_commands", "split": "train"},
        {"kind": "table"},
        {"kind": "table", "path": "quoted.csv"},
        {"kind": "kaldi"},
        {"kind": "librispeech", "path": "ls"},
    ],
    ids=lambda options: "-".join(options.values()),
)
def test_a_source_is_the_same_from_a_bucket(corpus, options):
    here, there = both(corpus, **options)
    assert len(here) == len(there) > 0
    np.testing.assert_array_equal(here.samples, there.samples)
    for name, values in here.columns.items():
        np.testing.assert_array_equal(values, there.columns[name])
    for i in range(len(here)):
        assert there.where(i).startswith(f"{ROOT}/") and here.key(i) == there.key(i)
        np.testing.assert_array_equal(here.read(i)[0], there.read(i)[0])


def test_a_table_with_lengths_and_a_manifest_read_no_sound(corpus, bucket):
    for path, options in (("", {"kind": "table"}), ("all.tsv", {"kind": "fairseq_tsv"})):
        bucket.asked.clear()
        more = {"rate": 16000} if path else {}
        source = both(corpus, path, **options, **more)[1]
        assert not [name for how, name in bucket.asked if name.endswith(".wav")]
        assert source.samples.tolist() == [8000]
    bucket.asked.clear()
    rows = open_source("train.x", {"kind": "table", "path": ROOT})
    assert len(rows.read(0)[0]) == 8000 and len(bucket.asked) == 2  # the table, one recording


def test_what_is_not_there_is_named_by_its_url(corpus, bucket):
    with pytest.raises(DataError, match=r"config.data.train.x.path='gs://bucket/no' does not"):
        open_source("train.x", {"kind": "folder", "path": "gs://bucket/no"})
    source = open_source("train.x", {"kind": "table", "path": ROOT})
    del bucket.objects["bucket/data/one/a_nohash_0.wav"]
    with pytest.raises(DataError, match=rf"{ROOT}/one/a_nohash_0.wav"):
        source.read(0)


def test_shards_are_written_to_a_bucket_and_read_from_a_copy(corpus, bucket):
    here = open_source("from", {"kind": "speech_commands", "path": str(corpus), "split": "all"})
    assert shards.write([here], paths.of("gs://bucket/shards"), shards=2, what="test") == 6
    names = [name for name in bucket.objects if name.startswith("bucket/shards/data-")]
    assert sorted(name.rpartition(".")[2] for name in names) == 2 * ["array_record"] + 2 * ["index"]
    for _ in range(2):
        there = open_source("train.x", {"kind": "array_record", "path": "gs://bucket/shards"})
        for i in range(6):
            np.testing.assert_array_equal(here.read(i)[0], there.read(i)[0])
    opened = [name for how, name in bucket.asked if how == "rb" and name in names]
    assert len(opened) == 4  # once each


def test_images_in_a_folder_and_in_a_tar(tmp_path, bucket):
    with tarfile.open(tmp_path / "some.tar", "w") as tar:
        for name in ("cat/0.png", "dog/1.png"):
            data = io.BytesIO()
            Image.linear_gradient("L").resize((8, 8)).save(data, "PNG")
            info = tarfile.TarInfo(name)
            info.size = len(data.getvalue())
            tar.addfile(info, io.BytesIO(data.getvalue()))
            (paths.of("gs://bucket/pictures") / name).write_bytes(data.getvalue())
    paths.put(tmp_path / "some.tar", paths.of("gs://bucket/some.tar"))
    folder = open_items(
        "train.x", {"kind": "image_folder", "path": "gs://bucket/pictures"}, "image"
    )
    packed = open_items("train.x", {"kind": "image_tar", "path": "gs://bucket/some.tar"}, "image")
    assert list(folder.columns["label"]) == list(packed.columns["label"]) == ["cat", "dog"]
    assert [folder.reader.image(i) for i in range(2)] == [packed.reader.image(i) for i in range(2)]


def test_texts_and_frame_labels_are_copied_and_mapped(tmp_path, bucket):
    paths.of("gs://bucket/texts/a.txt").write_text("some words\n\nmore words")
    found = open_items(
        "train.x",
        {"kind": "text_files", "path": "gs://bucket/texts", "documents": "paragraph"},
        "text",
    )
    assert ["".join(found.reader.read(i)) for i in range(2)] == ["some words", "more words"]
    with frame_label_store.Writer(
        tmp_path / "units", rate=50, vocab_size=9, signature="x"
    ) as writer:
        writer.add("a", np.array([1, 2, 3]))
    paths.put(tmp_path / "units", paths.of("gs://bucket/units"))
    assert frame_label_store.open_store("gs://bucket/units").row("a").tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match=r"the folder of the frame labels is gs://bucket/more"):
        frame_label_store.Writer("gs://bucket/more", rate=50, vocab_size=9, signature="x")


def test_skipped_files_are_listed_in_a_bucket(bucket):
    path = paths.of("gs://bucket/run/skipped.jsonl")
    tally = SkipCounter(1.0, 4, path)
    tally.add([InvalidRow(0, "a.wav", "empty")])
    tally.add([InvalidRow(1, "b.wav", "empty"), InvalidRow(0, "a.wav", "empty")])
    assert len(path.read_text().splitlines()) == 2
    assert len(SkipCounter(1.0, 4, path)) == 2
