"""Names and texts in either form of an accent, names that are not UTF-8, and joins by key."""

import ast
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from ssl_jax.core import paths
from ssl_jax.data import shards
from ssl_jax.data.corpus import open_split
from ssl_jax.data.errors import DataError, InvalidRow, SkipCounter
from ssl_jax.data.readers import alignments, label_files
from ssl_jax.data.readers.sources import open_source

NFC, NFD = "caf\u00e9", "cafe\u0301"
LATIN = os.fsdecode(b"mod\xe0 - la notte.wav")

if sys.platform == "darwin":
    pytest.skip("its file systems choose the form of a name", allow_module_level=True)


def opened(kind, path, **options):
    return open_source("train.x", {"kind": kind, "path": str(path), **options})


def test_a_name_that_is_no_utf8_is_read_and_shown(tmp_path, write):
    samples = write(tmp_path / "in" / "a.wav", frequency=300.0)
    os.rename(tmp_path / "in" / "a.wav", tmp_path / "in" / LATIN)
    write(tmp_path / "in" / "b.wav")
    source = opened("folder", tmp_path / "in")
    assert source.key(1) == r"x/mod\xe0 - la notte.wav"
    assert source.where(1).endswith(r"mod\xe0 - la notte.wav, row 2")
    np.testing.assert_array_equal(source.read(1)[0], samples)
    assert shards.write([source], tmp_path / "out", shards=1, what="") == 2


def test_a_folder_of_such_a_name(tmp_path, write):
    samples = write(tmp_path / "in" / "b.wav")
    os.rename(tmp_path / "in", tmp_path / LATIN)
    source = opened("folder", tmp_path / LATIN)
    assert list(source.columns["folder"]) == [r"mod\xe0 - la notte.wav"]
    assert r"mod\xe0 - la notte.wav/b.wav, row 1" in source.where(0)
    np.testing.assert_array_equal(source.read(0)[0], samples)


def test_a_broken_file_of_such_a_name_is_skipped_by_name(tmp_path, write, data_config):
    write(tmp_path / "in" / "b.wav")
    (tmp_path / "in" / LATIN).write_bytes(b"no sound")
    source = opened("folder", tmp_path / "in")
    tally = {"on_bad": "skip", "max_bad_share": 0.5}
    assert shards.write([source], tmp_path / "out", shards=1, what="", **tally) == 1
    row = json.loads((tmp_path / "out" / "skipped.jsonl").read_text(encoding="utf-8"))
    assert r"mod\xe0 - la notte.wav, row 2" in row["where"]


def test_what_is_listed_as_skipped_may_have_any_character(tmp_path):
    for i, name in enumerate(("a\u2028b", "mod\udce0", NFD)):
        SkipCounter(1.0, 9, tmp_path / "s").add([InvalidRow(i, name, "is bad")])
    assert len(SkipCounter(1.0, 9, tmp_path / "s")) == 3


def test_a_table_names_a_file_in_another_form(tmp_path, write):
    samples = write(tmp_path / NFD / f"{NFC}{NFD}.wav")
    (tmp_path / NFD / LATIN).write_bytes((tmp_path / NFD / f"{NFC}{NFD}.wav").read_bytes())
    rows = f"{NFC}/{NFD}{NFC}.wav\n{NFC}/mod\\xe0 - la notte.wav\n"
    (tmp_path / "t.tsv").write_text("path\n" + rows, encoding="utf-8")
    source = opened("table", tmp_path / "t.tsv")
    for row in (0, 1):
        np.testing.assert_array_equal(source.read(row)[0], samples)
    assert os.path.samefile(paths.on_disk(str(tmp_path / NFC)), tmp_path / NFD)
    assert len(opened("folder", tmp_path / NFC)) == 2
    assert paths.on_disk("no/such/\u00e9") == "no/such/\u00e9"


@pytest.mark.slow
@pytest.mark.parametrize("utf8", ["0", "1"])
def test_names_and_texts_are_the_same_in_the_locale_of_c(tmp_path, write, utf8):
    write(tmp_path / NFC / "a.wav")
    os.rename(tmp_path / NFC / "a.wav", tmp_path / NFC / LATIN)
    write(tmp_path / NFC / f"{NFC}.wav")
    (tmp_path / "t.tsv").write_text(f"path\tlabel\n{NFC}/{NFD}.wav\t{NFC}\n", encoding="utf-8")
    program = f"""
from ssl_jax.data.readers.sources import open_source
for kind, path in (("folder", "caf\\u00e9"), ("table", "t.tsv")):
    source = open_source("train.x", {{"kind": kind, "path": {str(tmp_path)!r} + "/" + path}})
    found = [source.key(i) for i in range(len(source))], source.samples.tolist()
    print(ascii((found, {{k: [str(x) for x in v] for k, v in source.columns.items()}})))
"""
    env = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": utf8}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=env, capture_output=True, encoding="ascii", check=True)
    folder, table = (ast.literal_eval(line) for line in done.stdout.splitlines())
    names = [f"x/{NFC}.wav", r"x/mod\xe0 - la notte.wav"]
    assert folder == ((names, [8000, 8000]), {"folder": [NFC, NFC]})
    assert table == (([f"x/{NFC}/{NFD}.wav"], [8000]), {"label": [NFC]})


def test_labels_beside_files_of_a_mac(tmp_path, write):
    for i in range(4):
        write(tmp_path / "in" / f"{NFD}{i}.wav")
    text = "path,label\n" + "".join(f"{NFC}{i}.wav,{(NFC, 'b', NFD)[i % 3]}\n" for i in range(4))
    (tmp_path / "t.csv").write_text(text, encoding="utf-8-sig")
    found = label_files.read(tmp_path / "t.csv", "label", "", [tmp_path / "in"])
    assert found.labels == [NFC, "b", NFC, NFC]
    found.write(tmp_path / "labels.tsv")
    assert opened("table", tmp_path / "labels.tsv").samples.all()
    with pytest.raises(
        DataError, match=r"with the label 'a\\tb': a table cannot hold a name with a tab"
    ):
        found._replace(labels=["a\tb", *found.labels[1:]]).write(tmp_path / "labels.tsv")


def test_classes_are_one_in_either_form(tmp_path, write, data_config):
    rows = [(f"{i}.wav", (NFC, NFD)[i % 2]) for i in range(4)]
    for name, _ in rows:
        write(tmp_path / name)
    text = "path\tlabel\n" + "".join(f"{a}\t{b}\n" for a, b in rows)
    (tmp_path / "index.tsv").write_text(text, encoding="utf-8")
    source = {"kind": "table", "path": str(tmp_path)}
    corpus = open_split(data_config({"x": source}), "train")
    assert corpus.classes == (NFC,) and corpus.labels.tolist() == [0] * 4
    # a run that was trained on the decomposed form keeps its names
    assert open_split(data_config({"x": source}), "train", (NFD,)).labels.tolist() == [0] * 4
    assert len(opened("table", tmp_path, where={"label": NFD})) == 4
    with pytest.raises(DataError, match=f"config.data.classes has '{NFC}' twice"):
        open_split(data_config({"x": source}, classes=(NFC, NFD)), "train")


@pytest.fixture
def kaldi(tmp_path, write):
    """Returns kaldi(between, mark) -> a Kaldi directory with these separators."""

    def make(between=" ", mark=""):
        write(tmp_path / "a b.wav")
        for name, value in (("wav.scp", "a b.wav"), ("text", "HELLO WORLD"), ("utt2spk", "ann")):
            text = f"{mark}u1{between}{value}\nu2{between}{value}\n"
            (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("between", "mark"), [(" ", ""), ("\t", ""), ("  ", "\ufeff"), ("\t ", "")]
)
def test_kaldi_divided_by_spaces_or_tabs(kaldi, between, mark):
    source = opened("kaldi", kaldi(between, mark))
    found = {k: [str(x) for x in v] for k, v in source.columns.items()}
    assert found == {
        "utterance": ["u1", "u2"],
        "text": ["HELLO WORLD"] * 2,
        "speaker": ["ann", "ann"],
    }
    assert source.samples.all()


@pytest.mark.parametrize("name", ["text", "utt2spk"])
def test_kaldi_without_a_row_of_an_utterance_names_it(kaldi, name):
    path = kaldi()
    (path / name).write_text("u1 A\n")
    message = rf"{name} has no row for 'u2' \(1 of 2 utterances of wav.scp are missing\)"
    with pytest.raises(DataError, match=message):
        opened("kaldi", path)


def test_librispeech_without_a_row_of_a_recording_names_it(tmp_path, write):
    chapter = tmp_path / "clean" / "1" / "2"
    for i in range(2):
        write(chapter / f"1-2-{i}.flac")
    assert "text" not in opened("librispeech", tmp_path).columns
    (chapter / "1-2.trans.txt").write_text("1-2-0 A\u2028B\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"1-2-1.flac has no row in a \*.trans.txt of its folder"):
        opened("librispeech", tmp_path)
    (chapter / "1-2.trans.txt").write_text("1-2-0\tA\n1-2-1\tB C\n")
    assert list(opened("librispeech", tmp_path).columns["text"]) == ["A", "B C"]


def test_common_voice_where_it_lies_and_moved(tmp_path, write):
    for i in range(3):
        write(tmp_path / "clips" / f"{i}.wav")
    said = ['"Ja", sagte er', '"offen', "Nein"]
    text = "client_id\tpath\tsentence\n" + "".join(f"a\t{i}.wav\t{s}\n" for i, s in enumerate(said))
    for folder in (tmp_path, tmp_path / "clips"):
        (folder / "train.tsv").write_text(text)
        source = opened("table", folder / "train.tsv")
        assert source.samples.all() and list(source.columns["sentence"]) == said
        assert source.key(0) == "x/0.wav"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "train.tsv").write_text(text)
    moved = opened("table", tmp_path / "elsewhere" / "train.tsv", root=str(tmp_path / "clips"))
    assert moved.samples.all()


def test_fairseq_with_an_editors_mark_and_labels_on_rows_of_their_own(tmp_path, write):
    write(tmp_path / "a.wav")
    (tmp_path / "t.tsv").write_text(f"{tmp_path}\r\na.wav\t8000\r\n", encoding="utf-8-sig")
    (tmp_path / "t.km").write_text("1 2\x85 3\r\n", encoding="utf-8-sig", newline="")
    source = opened("fairseq_tsv", tmp_path / "t.tsv", labels=("km",))
    assert list(source.columns["km"]) == ["1 2\x85 3"] and source.samples.all()


def test_phones_of_a_recording_in_another_form(tmp_path):
    path = tmp_path / "p.ctm"
    path.write_text(f"{NFD}\t1\t0.0\t0.5\tAA\r\n", encoding="utf-8-sig")
    found = alignments.read_ctm(path)
    assert found.phones(NFC) == found.phones(NFD) == ["AA"]
    with pytest.raises(DataError, match="has no phones of 'b'"):
        found.phones("b")
