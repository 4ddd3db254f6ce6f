"""Every text reader takes its rows from data/readers/lines.py; invalid text is named by row."""

import itertools
import tracemalloc

import pytest

from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import lines


@pytest.fixture
def file(tmp_path):
    """Returns file(bytes, name) -> the path of a file that holds them."""

    def make(data, name="t.tsv"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return make


@pytest.mark.parametrize(
    "data",
    [b"a\tb\nc\td\n", b"\xef\xbb\xbfa\tb\r\nc\td\r\n", b"a\tb\nc\td", b"a\tb\rc\td\r"],
    ids=["unix", "BOM and CRLF", "no last end", "CR alone"],
)
def test_ends_of_rows_and_the_mark_of_an_editor(file, data):
    assert list(lines.rows(file(data))) == [(1, "a\tb"), (2, "c\td")]


@pytest.mark.parametrize("mark", ["\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_no_other_character_ends_a_row(file, mark):
    path = file(f"a{mark}b\nc\n".encode())
    assert [line for _, line in lines.rows(path)] == [f"a{mark}b", "c"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a\nb\ncaf\xe9\n", "row 3: not UTF-8 text.*0xe9.*save the file as UTF-8"),
        (b"a\nb\0\n", "row 2: it has a NUL byte"),
        ("a\nb\n".encode("utf-16"), "is UTF-16: save it as UTF-8"),
    ],
)
def test_what_is_no_text_is_named(file, data, message):
    with pytest.raises(DataError, match=rf"t.tsv.*{message}"):
        list(lines.rows(file(data)))


def test_a_row_of_300_megabytes_is_refused_within_bounds(tmp_path):
    path = tmp_path / "t.tsv"
    with path.open("wb") as f:
        f.write(b"path\n")
        f.truncate(300 << 20)  # zeros that take no space on disk
    tracemalloc.start()
    with pytest.raises(DataError, match=rf"t.tsv, row 2: longer than {lines.LIMIT} bytes"):
        lines.read_table(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * lines.LIMIT


def test_a_long_file_is_read_in_blocks(file, monkeypatch):
    monkeypatch.setattr(lines, "_CHUNK", 7)
    found = [f"row {i} \u00e9" for i in range(50)]
    path = file("\n".join(found).encode())
    assert list(lines.rows(path)) == [*zip(itertools.count(1), found, strict=False)]
    with pytest.raises(DataError, match="row 52: not UTF-8"):
        list(lines.rows(file(("\n".join(found) + "\n\n").encode() + b"\xff\n")))


def test_a_table_with_quotes_and_one_without(file):
    csv = file(b'\xef\xbb\xbfpath,text\r\na.wav,"one, ""two""\r\nthree"\r\nb.wav,x\r\n', "t.csv")
    columns = {"path": ["a.wav", "b.wav"], "text": ['one, "two"\nthree', "x"]}
    assert lines.read_table(csv) == (columns, [2, 4])
    tsv = file(b'path\ttext\na.wav\t"open\nb.wav\t"Ja", sagte er\n')
    assert lines.read_table(tsv)[0]["text"] == ['"open', '"Ja", sagte er']


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.tsv", "path\tlabel\tlabel\na\tb\tc\n", "row 1: columns 2 and 3 are both named 'label'"),
        ("t.csv", "path,e\u0301,\u00e9\na,b,c\n", "row 1: columns 2 and 3 are both named"),
        ("t.tsv", "path\tlabel\na\tb\nc\n", "row 3: 1 fields under 2 names"),
        ("t.csv", 'path,label\na,b\nb,"c\nd,e\n', "row 3: a field opens quotes and does not end"),
        ("t.csv", 'path,label\na,"b" c\n', "row 2: a field opens quotes and does not end"),
        ("t.csv", "path,label\na,b\rc,d\n", "row 2: a carriage return inside a row"),
        ("t.csv", "path;label\na;b\n", "no column 'path' among .*a .csv has commas"),
        ("t.tsv", "", "is empty: expected a header"),
    ],
)
def test_a_table_that_is_none_names_the_row(file, name, text, message):
    with pytest.raises(DataError, match=rf"{name}.*{message}"):
        lines.read_table(file(text.encode(), name), "path")


def test_a_field_may_be_long_and_has_a_limit(file, monkeypatch):
    path = file(b"path,text\na," + b"x" * 200_000 + b"\n", "t.csv")
    assert len(lines.read_table(path)[0]["text"][0]) == 200_000
    monkeypatch.setattr(lines, "LIMIT", 1000)
    monkeypatch.setattr(lines, "_CHUNK", 100)
    quoted = file(b'path,text\na,"' + b"x\n" * 2000 + b'"\n', "t.csv")
    with pytest.raises(DataError, match=r"t.csv, row 2: a field is longer than 1000 bytes"):
        lines.read_table(quoted)


def test_keys_and_what_follows_them(file):
    path = file("u1\tHELLO  WORLD\r\nu2 x\u00a0y\n\ne\u0301 z\n".encode())
    told = {"u1": (1, "HELLO  WORLD"), "u2": (2, "x\u00a0y"), "\u00e9": (4, "z")}
    assert lines.pairs(path, "key rest") == told
    assert lines.pairs(file(b"u1\n"), "utterance [WORDS]") == {"u1": (1, "")}
    with pytest.raises(DataError, match="row 1: expected 'utterance speaker', found 'u1'"):
        lines.pairs(file(b"u1\n"), "utterance speaker")
    with pytest.raises(DataError, match="row 2: 'u1' was listed before, in row 1"):
        lines.pairs(file(b"u1 a\nu1 b\n"), "key rest")
