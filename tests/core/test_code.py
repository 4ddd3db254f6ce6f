"""The version of the code: what changes it and what does not."""

from ssl_jax.core import code


def test_the_version_follows_the_code_that_decides_the_numbers(tmp_path):
    for part in ("core", "stages"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "a.py").write_bytes(b"x = 1\n")
    first = code._hashed(tmp_path)
    (tmp_path / "stages" / "a.py").write_text("x = 2\n")
    (tmp_path / "core" / "a.py").write_bytes(b"x = 1\r\n")  # a checkout on another system
    assert code._hashed(tmp_path) == first
    (tmp_path / "core" / "a.py").write_text("x = 2\n")
    second = code._hashed(tmp_path)
    (tmp_path / "core" / "a.py").rename(tmp_path / "core" / "b.py")
    assert len({first, second, code._hashed(tmp_path)}) == 3


def test_the_version_is_that_of_this_package():
    assert len(code.version()) == 12 and code.version() == code.version()
