"""The version of the code: what changes it and what does not."""

from ssl_jax.core import code


def test_the_version_follows_the_code_that_decides_the_numbers(tmp_path):
    others = ("stages", "planning", "reports", "sweeps", "data/synthetic")
    for part in ("core", *others):
        (tmp_path / part).mkdir(parents=True)
        (tmp_path / part / "a.py").write_bytes(b"x = 1\n")
    first = code._hashed(tmp_path)
    for part in others:
        (tmp_path / part / "a.py").write_text("x = 2\n")
    (tmp_path / "core" / "a.py").write_bytes(b"x = 1\r\n")  # a checkout on another system
    assert code._hashed(tmp_path) == first
    (tmp_path / "core" / "a.py").write_text("x = 2\n")
    second = code._hashed(tmp_path)
    (tmp_path / "data" / "readers").mkdir()
    (tmp_path / "data" / "readers" / "a.py").write_text("x = 1\n")
    assert code._hashed(tmp_path) != second
    (tmp_path / "data" / "readers" / "a.py").unlink()
    (tmp_path / "core" / "a.py").rename(tmp_path / "core" / "b.py")
    assert len({first, second, code._hashed(tmp_path)}) == 3


def test_the_version_is_that_of_this_package():
    assert len(code.version()) == 12 and code.version() == code.version()
