"""Paths in object stores and on disk: text, appending to files, copies, helpful errors."""

import pathlib
import shutil

import fsspec
import pytest

from ssl_jax.core import atomic, paths
from ssl_jax.core import config as config_lib


def test_a_local_path_is_pathlibs_and_a_url_keeps_its_slashes(bucket):
    assert type(paths.of("runs/a")) is type(pathlib.Path())
    url = paths.of("gs://bucket/run") / "metrics.jsonl"
    assert str(url) == "gs://bucket/run/metrics.jsonl" and paths.is_remote(url)
    assert str(paths.of(url)) == str(paths.absolute(url)) == str(paths.expanded(url)) == str(url)
    assert paths.absolute("runs") == pathlib.Path.cwd() / "runs"
    assert paths.expanded("~/a") == pathlib.Path.home() / "a"
    assert paths.join("gs://bucket/x", "a/b.wav") == "gs://bucket/x/a/b.wav"
    assert paths.join("data", "gs://bucket/b.wav") == "gs://bucket/b.wav"


def test_a_path_that_cannot_work_says_what_would(bucket, monkeypatch):
    with pytest.raises(ValueError, match=r"lost a slash: give a URL such as gs://bucket/run"):
        paths.of(pathlib.Path("gs://bucket/run"))
    with pytest.raises(ValueError, match=r"use a local path, or one of gs://, s3://, az://"):
        paths.of("ftp://bucket/run")
    with pytest.raises(ValueError, match=r"--workdir is gs://b/x, but it must be a local folder"):
        paths.local("gs://b/x", "--workdir")

    def absent(name):
        raise ImportError(f"no {name}")

    monkeypatch.setattr(fsspec, "get_filesystem_class", absent)
    with pytest.raises(ImportError, match=r"gs://b/x needs .* pip install 'ssl_jax\[gcs\]'"):
        paths.of("gs://b/x")


@pytest.mark.parametrize("root", ["gs://bucket/run", ""])
def test_text_is_replaced_and_appended(bucket, tmp_path, root):
    file = (paths.of(root) if root else tmp_path) / "a.txt"
    atomic.write_text(file, "one\n")
    paths.append(file, "two\n")
    assert file.read_text() == "one\ntwo\n"
    atomic.write_text(file, "new\n")
    assert file.read_text() == "new\n"
    assert [p.name for p in file.parent.iterdir()] == ["a.txt"]


def test_a_growing_object_is_written_now_and_then_and_a_local_file_at_once(
    bucket, tmp_path, monkeypatch
):
    now = [100.0]
    monkeypatch.setattr(paths.time, "monotonic", lambda: now[0])
    here, there = tmp_path / "a", paths.of("gs://bucket/a")
    one, other = paths.Lines(here), paths.Lines(there, ["old"])
    for number in range(4):
        now[0] += paths.WRITE_EVERY / 2 - 1
        for lines in (one, other):
            lines.add(str(number))
        assert here.read_text().splitlines() == [str(n) for n in range(number + 1)]
    assert there.read_text().split() == ["old", "0", "1", "2"]
    other.flush()
    other.flush()
    assert there.read_text().split() == ["old", "0", "1", "2", "3"]
    other.close()
    one.close()
    assert [how for how, _ in bucket.asked].count("wb") == 2


def test_a_copy_is_made_once_and_again_when_the_original_changes(bucket):
    folder = paths.of("gs://bucket/shards")
    for name in ("a", "b/c"):
        (folder / name).write_text(name)
    copy = paths.fetched(folder)
    assert copy.name == "shards" and (copy / "b" / "c").read_text() == "b/c"
    reads = len(bucket.asked)
    assert paths.fetched("gs://bucket/shards") == copy and len(bucket.asked) == reads
    (folder / "a").write_text("A")
    again = paths.fetched(folder)
    assert again != copy and (again / "a").read_text() == "A"
    assert paths.fetched(folder / "a").read_text() == "A"
    assert paths.fetched("local") == pathlib.Path("local")
    assert paths.read("gs://bucket/shards/b/c", 1, 2) == b"/c"
    with pytest.raises(FileNotFoundError):
        paths.fetched("gs://bucket/none")
    assert not [p for p in paths.cache().rglob("*") if p.name.startswith("tmp")]


def test_a_copy_that_has_no_room_is_refused_before_it_is_made(bucket, monkeypatch):
    paths.of("gs://bucket/big").write_text("x" * 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 10))
    with pytest.raises(OSError, match=r"room for 0.0 GB: set SSL_JAX_CACHE .* mount the bucket"):
        paths.fetched("gs://bucket/big")
    monkeypatch.setenv("SSL_JAX_CACHE", "gs://bucket/cache")
    with pytest.raises(ValueError, match=r"SSL_JAX_CACHE is gs://bucket/cache: .* a local folder"):
        paths.cache()


def test_what_is_kept_of_a_run_lies_in_it_or_in_the_cache(bucket, tmp_path):
    assert paths.scratch(tmp_path) == tmp_path
    kept = paths.scratch(paths.of("gs://bucket/run"))
    assert kept.parent == paths.cache() / "runs"
    assert kept != paths.scratch(paths.of("gs://bucket/run2"))


def test_put_copies_a_folder_or_a_file(bucket, tmp_path):
    (tmp_path / "x" / "y").mkdir(parents=True)
    (tmp_path / "x" / "y" / "f").write_text("f")
    paths.put(tmp_path / "x", paths.of("gs://bucket/to"))
    paths.put(tmp_path / "x" / "y" / "f", paths.of("gs://bucket/one"))
    assert sorted(bucket.objects) == ["bucket/one", "bucket/to/y/f"]


@pytest.mark.parametrize("root", ["gs://bucket/run", ""])
def test_a_folder_is_moved(bucket, tmp_path, root):
    top = paths.of(root) if root else tmp_path
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "b" / "f").write_text("f")
    (top / "aside").mkdir()
    paths.move(top / "a", top / "aside" / "a")
    assert (top / "aside" / "a" / "b" / "f").read_text() == "f" and not (top / "a").exists()


def test_a_config_is_read_from_a_bucket(bucket, root, monkeypatch):
    monkeypatch.chdir(root)  # its imports from configs are those of the working directory
    text = (root / "configs" / "supervised" / "kws.py").read_text()
    paths.of("gs://bucket/my/kws.py").write_text(text)
    found = config_lib.load("gs://bucket/my/kws.py:toy", ["optim.lr=0.5"])
    here = config_lib.load(str(root / "configs/supervised/kws.py") + ":toy", ["optim.lr=0.5"])
    assert found == here
    paths.of("gs://bucket/run/config.json").write_text(config_lib.to_json(here))
    assert config_lib.load("gs://bucket/run/config.json") == here
    for missing in ("gs://bucket/my/none.py", "gs://bucket/none.json"):
        with pytest.raises(config_lib.ConfigError, match=f"no config file {missing}"):
            config_lib.load(missing)


@pytest.mark.parametrize("home", ["/nonexistent", "not writable", ""])
def test_a_user_without_a_home_has_a_cache_of_its_own(tmp_path, monkeypatch, home):
    monkeypatch.delenv("SSL_JAX_CACHE")
    monkeypatch.setattr(paths.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(paths.os.path, "expanduser", lambda path: home or path)
    monkeypatch.setattr(paths.os, "access", lambda path, mode: False)
    own = tmp_path / f"ssl_jax-{paths.os.getuid()}"
    for _ in range(2):
        assert paths.cache() == own
        assert own.stat().st_mode & 0o777 == 0o700
    own.chmod(0o777)
    with pytest.raises(PermissionError, match="set SSL_JAX_CACHE"):
        paths.cache()
    own.rmdir()
    own.symlink_to(tmp_path)
    with pytest.raises(PermissionError, match="is not this user's alone"):
        paths.cache()


def test_a_path_below_a_home_that_is_not_there_is_named(monkeypatch):
    def absent(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(paths.pathlib.Path, "expanduser", absent)
    with pytest.raises(ValueError, match=r"~/data: .* give the path in full"):
        paths.expanded("~/data")


def test_a_folder_that_stays_empty_is_removed_with_the_parents_that_were_made(tmp_path):
    with pytest.raises(ValueError, match="refused"), paths.made(tmp_path / "a" / "b"):
        raise ValueError("refused")
    assert list(tmp_path.iterdir()) == []
    with paths.made(tmp_path / "a" / "b"):
        (tmp_path / "a" / "file").write_text("")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]
    (tmp_path / "there").mkdir()
    with paths.made(tmp_path / "there"):
        pass
    assert (tmp_path / "there").is_dir()  # it was there before
