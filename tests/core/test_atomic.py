"""Atomic writes of files: what a kill at any moment leaves, and links."""

import errno
import itertools
import json
import os
import stat

import pytest

from ssl_jax.core import atomic, paths

# the system calls of `writing`, in any order; the test below kills before and after each
CALLS = ("open", "replace", "fsync", "fstat", "unlink", "close")


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def dies_at(number, work):
    """Runs work() in a child killed at its call `number` of CALLS; returns whether it was."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    count = itertools.count()
    for name in CALLS:
        real = getattr(os, name)

        def call(*args, real=real, **kwargs):
            if next(count) == number:
                os._exit(9)
            return real(*args, **kwargs)

        setattr(os, name, call)
    try:
        work()
    finally:
        os._exit(0)


@pytest.mark.filterwarnings("ignore:os.fork")
def test_a_kill_at_any_call_leaves_the_old_or_the_new_file_and_nothing_beside_it(tmp_path):
    file = tmp_path / "a.json"
    atomic.write_json(file, "old")
    seen = set()
    for number in itertools.count():
        if not dies_at(number, lambda: atomic.write_json(file, "new")):
            break
        seen.add(json.loads(file.read_text()))
        atomic.write_json(file, "old")
        assert names(tmp_path) == ["a.json"]
    assert number >= 5 and seen == {"old", "new"}


def test_an_error_leaves_the_old_file_and_names_it(tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    atomic.write_text(file, "old")
    with pytest.raises(ZeroDivisionError), atomic.writing(file) as out:
        out.write(b"half")
        raise ZeroDivisionError
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):

        def full(handle, code=code):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"a\.txt") as told:
            atomic.write_text(file, "new")
        assert told.value.errno == code and told.value.filename == str(file)
        monkeypatch.undo()
    with pytest.raises(FileNotFoundError, match=r"absent/b\.txt"):
        atomic.write_text(tmp_path / "absent/b.txt", "x")
    assert file.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_a_link_is_replaced_and_never_followed(tmp_path, monkeypatch):
    victim, file = tmp_path / "victim", tmp_path / "a.txt"
    victim.write_text("mine")
    file.symlink_to(victim)
    # even for someone who guesses the temporary name
    tokens = iter(["1", "2"])
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda n: next(tokens))
    (tmp_path / ".a.txt.1.tmp").symlink_to(victim)
    with pytest.raises(FileExistsError):
        atomic.write_text(file, "new")
    (tmp_path / ".a.txt.1.tmp").unlink()
    atomic.write_text(file, "new")
    assert victim.read_text() == "mine" and file.read_text() == "new" and not file.is_symlink()


def test_what_another_process_is_writing_is_not_swept_away(tmp_path):
    with atomic.writing(tmp_path / "a") as one:
        one.write(b"one")
        with atomic.writing(tmp_path / "a") as other:
            other.write(b"other")
        atomic.sweep(tmp_path)
    assert (tmp_path / "a").read_bytes() == b"one" and names(tmp_path) == ["a"]
    (tmp_path / ".a.0123456789abcdef.tmp").write_bytes(b"of one that was killed")
    (tmp_path / ".b.0123456789abcdef.tmp").write_bytes(b"the same")
    os.mkfifo(tmp_path / ".c.0123456789abcdef.tmp")
    atomic.sweep(tmp_path, "a")
    assert names(tmp_path) == [".b.0123456789abcdef.tmp", ".c.0123456789abcdef.tmp", "a"]
    atomic.sweep(tmp_path)
    assert names(tmp_path) == [".c.0123456789abcdef.tmp", "a"]


def test_rights_are_those_of_any_new_file_and_text_is_utf8(tmp_path):
    atomic.write_text(tmp_path / "a", "ä\n")
    (tmp_path / "b").write_text("")
    rights = [stat.S_IMODE((tmp_path / n).stat().st_mode) for n in "ab"]
    assert rights[0] == rights[1] and (tmp_path / "a").read_bytes() == b"\xc3\xa4\n"


@pytest.mark.parametrize("damage", [b"", b"\n", b'{"a": 1', b"\xff\xfe{}", b"\x00\x00"])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path, damage):
    file = tmp_path / "state.json"
    file.write_bytes(damage)
    with pytest.raises(ValueError, match=r"state\.json is .*: remove it") as told:
        atomic.read_json(file, "remove it")
    assert "\n" not in str(told.value)


def test_an_object_is_put_whole(bucket):
    file = paths.of("gs://bucket/run/a.json")
    atomic.write_json(file, {"a": 1})
    assert atomic.read_json(file, "remove it") == {"a": 1}
    with pytest.raises(ZeroDivisionError), atomic.writing(file) as out:
        out.write(b"half")
        raise ZeroDivisionError
    assert atomic.read_json(file, "remove it") == {"a": 1}


def test_a_full_disk_is_known_by_whatever_layer_tells_it():
    low = OSError(errno.EDQUOT, "Disk quota exceeded")
    told = ValueError("RESOURCE_EXHAUSTED: Error writing local file [os_error_code='28']")
    for inner, why in ((low, os.strerror(errno.EDQUOT)), (told, os.strerror(errno.ENOSPC))):
        outer = RuntimeError("a save failed")
        outer.__cause__ = inner
        assert atomic.full(inner) == atomic.full(outer) == why
    assert atomic.full(OSError(errno.ENOENT, "absent")) == atomic.full(None) == ""
    assert atomic.full(ValueError("[os_error_code='2']")) == ""


def test_numbers_that_json_does_not_have_become_null(tmp_path):
    atomic.write_json(tmp_path / "x", {"wer": float("nan"), "rows": [(1.5, float("inf"))]})
    assert json.loads((tmp_path / "x").read_text()) == {"wer": None, "rows": [[1.5, None]]}
