"""The content of a corpus is its bytes: a file replaced by one of the same name, length and time is
different content, and the indices in the cache folder detect it too."""

import os

import numpy as np
import pytest
import soundfile

from ssl_jax.data.readers import content, files, records
from ssl_jax.data.readers.sources import open_items, open_source


def put(path, seed, samples=800):
    """Writes a clip; clips with equally many samples have equally many bytes."""
    noise = np.random.default_rng(seed).integers(-9000, 9000, samples).astype(np.int16)
    soundfile.write(path, noise, 8000, subtype="PCM_16")


def replace(path, write):
    """Replaces a file by another of the same name, size and modification time."""
    before = os.stat(path)
    fresh = path.with_name("fresh" + path.suffix)
    write(fresh)
    os.utime(fresh, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(fresh, path)
    after = os.stat(path)
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)


def overwrite(path, data):
    """The same, in place."""
    before = os.stat(path)
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(path).st_size == before.st_size


@pytest.fixture
def folder(tmp_path, cache_folder):
    (tmp_path / "clips").mkdir()
    for i in range(3):
        put(tmp_path / "clips" / f"{i}.wav", i)
    return tmp_path / "clips"


def sound(path):
    return content.of([open_source("train.x", {"kind": "folder", "path": str(path)})])


def test_a_file_of_the_same_name_length_and_time_is_other_content(folder):
    first = sound(folder)
    assert first == sound(folder) and len(first) == 64
    replace(folder / "1.wav", lambda path: put(path, 9))
    second = sound(folder)
    assert second != first
    data = bytearray((folder / "1.wav").read_bytes())
    data[-1] ^= 1
    overwrite(folder / "1.wav", data)
    assert sound(folder) not in (first, second)


def test_the_same_bytes_at_another_time_are_the_same_content(folder):
    first = sound(folder)
    for path in folder.iterdir():
        os.utime(path, ns=(5, 5))
    assert sound(folder) == first


def test_files_are_read_once_while_they_stay(folder, monkeypatch):
    first, read = sound(folder), []
    monkeypatch.setattr(content, "_of_file", read.append)
    assert sound(folder) == first and not read


def test_a_file_that_cannot_be_read_is_content_too(folder):
    first = sound(folder)
    source = open_source("train.x", {"kind": "folder", "path": str(folder)})
    (folder / "2.wav").unlink()
    assert content.of([source]) != first


def test_every_layout_names_its_files(folder, tmp_path):
    from PIL import Image

    rows = [(np.arange(800, dtype=np.int16) + i, 8000, {}) for i in range(2)]
    shard = tmp_path / "shards" / "a-00000-of-00001.array_record"
    shard.parent.mkdir()
    records.write_shard(shard, rows, [])
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "rows.tsv").write_text("text\none\n")
    pictures = tmp_path / "pictures"
    (pictures / "x").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(pictures / "x" / "b.png")
    opened = {
        shard: open_source("train.x", {"kind": "array_record", "path": str(shard.parent)}),
        pictures / "x" / "b.png": open_items(
            "train.x", {"kind": "image_folder", "path": str(pictures)}, "image"
        ),
        tmp_path / "text" / "a.txt": open_items(
            "train.x", {"kind": "text_files", "path": str(tmp_path / "text")}, "text"
        ),
    }
    for path, source in opened.items():
        first = content.of([source])
        data = bytearray(path.read_bytes())
        data[-2] ^= 1
        overwrite(path, data)
        assert content.of([source]) != first, path


def test_lengths_kept_in_the_cache_are_those_of_the_files_there_are(folder, monkeypatch):
    monkeypatch.setattr(files, "CACHE_FROM", 1)
    names = np.array(["1.wav"])
    assert files.headers(str(folder), names)[1].tolist() == [8000]
    data = bytearray((folder / "1.wav").read_bytes())
    data[24:28] = (16000).to_bytes(4, "little")  # the rate of its header
    overwrite(folder / "1.wav", data)
    assert files.headers(str(folder), names)[1].tolist() == [16000]


def test_a_slice_changes_with_its_archive(tmp_path):
    archive = tmp_path / "a.zip"
    archive.write_bytes(b"0123456789")
    first = files.fingerprint([f"{archive}:2:4"])
    overwrite(archive, b"01X3456789")
    assert files.fingerprint([f"{archive}:2:4"]) != first
    assert files.fingerprint([f"{archive}:2:4"]) != files.fingerprint([f"{archive}:3:4"])
