import numpy as np
import pytest

from ssl_jax.data.errors import BadFile, DataError
from ssl_jax.data.readers import files
from ssl_jax.data.readers.sources import open_source


def opened(kind, path, split="train", **options):
    return open_source(f"{split}.x", {"kind": kind, "path": str(path), **options})


@pytest.fixture
def speech_commands(tmp_path, write):
    for word in ("yes", "no"):
        for speaker in ("aa", "bb", "cc"):
            write(tmp_path / word / f"{speaker}_nohash_0.wav")
    write(tmp_path / "_background_noise_" / "hum.wav", 3.0)
    (tmp_path / "validation_list.txt").write_text("yes/bb_nohash_0.wav\nno/bb_nohash_0.wav\n")
    (tmp_path / "testing_list.txt").write_text("yes/cc_nohash_0.wav\n")
    return tmp_path


def test_speech_commands_takes_the_split_of_its_place(speech_commands):
    sizes = {
        s: len(opened("speech_commands", speech_commands, s)) for s in ("train", "valid", "test")
    }
    assert sizes == {"train": 3, "valid": 2, "test": 1}


def test_speech_commands_columns(speech_commands):
    source = open_source(
        "train.x", {"kind": "speech_commands", "path": str(speech_commands), "split": "all"}
    )
    assert len(source) == 6 and set(source.columns["label"]) == {"yes", "no"}
    assert set(source.columns["speaker"]) == {"aa", "bb", "cc"}
    assert source.where(0).endswith("no/aa_nohash_0.wav, row 1")


def test_speech_commands_without_lists_names_them(speech_commands):
    (speech_commands / "testing_list.txt").unlink()
    with pytest.raises(DataError, match=r"config.data.train.x.path.*no testing_list.txt"):
        opened("speech_commands", speech_commands)


def test_librispeech(tmp_path, write):
    for split, speaker, chapter in [
        ("clean", "12", "7"),
        ("clean", "13", "8"),
        ("other", "14", "9"),
    ]:
        folder = tmp_path / split / speaker / chapter
        samples = write(folder / f"{speaker}-{chapter}-0000.flac", 0.3)
        (folder / f"{speaker}-{chapter}.trans.txt").write_text(
            f"{speaker}-{chapter}-0000 HELLO {speaker}\n"
        )
    source = opened("librispeech", tmp_path, splits=("clean",))
    assert list(source.columns["text"]) == ["HELLO 12", "HELLO 13"]
    assert list(source.columns["speaker"]) == ["12", "13"]
    np.testing.assert_array_equal(source.read(1)[0], samples)
    assert len(opened("librispeech", tmp_path)) == 3
    with pytest.raises(DataError, match=r"no folder 'dirty'"):
        opened("librispeech", tmp_path, splits=("dirty",))


def test_folder_reads_parts_at_the_native_rate(tmp_path, write):
    samples = write(tmp_path / "cat" / "deep" / "a.flac", 1.0, 8000)
    write(tmp_path / "dog" / "b.wav", 0.25, 22050)
    source = opened("folder", tmp_path)
    assert list(source.columns["folder"]) == ["deep", "dog"]
    assert source.samples.tolist() == [8000, 5512] and source.rates.tolist() == [8000, 22050]
    part, rate = source.read(0, 0.5, 0.75)
    assert rate == 8000
    np.testing.assert_array_equal(part, samples[4000:6000])


@pytest.fixture
def tsv(tmp_path, write):
    for i in range(3):
        write(tmp_path / "wav" / f"{i}.wav", 0.1 * (i + 1))
    rows = "".join(f"{i}.wav\t{1600 * (i + 1)}\n" for i in range(3))
    (tmp_path / "train.tsv").write_text(f"{tmp_path / 'wav'}\n{rows}")
    (tmp_path / "train.km").write_text("1 1 2\n3\n4 4\n")
    return tmp_path / "train.tsv"


def test_fairseq_manifest_with_labels(tsv):
    source = opened("fairseq_tsv", tsv, labels=("km",))
    assert source.samples.tolist() == [1600, 3200, 4800]
    assert list(source.columns["km"]) == ["1 1 2", "3", "4 4"]
    assert len(source.read(2)[0]) == 4800
    assert source.where(1).endswith("wav/1.wav, row 3 of train.tsv")


def test_fairseq_manifest_with_a_rate_touches_no_file(tsv):
    for file in (tsv.parent / "wav").iterdir():
        file.unlink()
    source = opened("fairseq_tsv", tsv, rate=16000)
    assert source.samples.tolist() == [1600, 3200, 4800]
    with pytest.raises(BadFile, match=r"0.wav, row 2 of train.tsv: .*No such file|System error"):
        source.read(0)
    with pytest.raises(DataError, match=r"none of its first 3 files can be opened.*rate=16000"):
        opened("fairseq_tsv", tsv)


def test_fairseq_label_file_of_another_length_names_the_row(tsv):
    (tsv.parent / "train.km").write_text("1 1 2\n3\n")
    with pytest.raises(DataError, match=r"train.km has 2 rows and .*train.tsv 3: row 3"):
        opened("fairseq_tsv", tsv, labels=("km",))
    with pytest.raises(DataError, match=r"train.ltr does not exist"):
        opened("fairseq_tsv", tsv, labels=("ltr",))


def test_fairseq_bad_row_is_named(tsv):
    tsv.write_text(tsv.read_text() + "3.wav 1600\n")
    with pytest.raises(DataError, match=r"train.tsv, row 5: expected 'path<tab>samples'"):
        opened("fairseq_tsv", tsv)


def test_fairseq_slices_of_stored_archives(tmp_path, write):
    samples = write(tmp_path / "a.wav", 0.2)
    data = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "all.zip").write_bytes(b"head" + data + b"tail")
    (tmp_path / "t.tsv").write_text(f"{tmp_path}\nall.zip:4:{len(data)}\t3200\n")
    np.testing.assert_array_equal(opened("fairseq_tsv", tmp_path / "t.tsv").read(0)[0], samples)


def test_another_rate_than_the_manifest_is_a_bad_file(tsv, write):
    write(tsv.parent / "wav" / "1.wav", 0.4, 8000)
    with pytest.raises(BadFile, match=r"has 8000 samples per second, not 16000"):
        opened("fairseq_tsv", tsv).read(1)


def test_a_file_longer_than_its_manifest_is_named(tsv):
    tsv.write_text(tsv.read_text().replace("4800\n", "800\n"))
    with pytest.raises(DataError, match=r"row 4 of train.tsv: it has 4800 samples, .* states 800"):
        opened("fairseq_tsv", tsv)


def test_a_file_shorter_than_its_manifest_is_a_bad_file(tsv, write):
    write(tsv.parent / "wav" / "2.wav", 0.1)
    with pytest.raises(BadFile, match=r"2.wav, row 4 .*: ends 3200 samples before its stated"):
        opened("fairseq_tsv", tsv).read(2)


@pytest.fixture
def table(tmp_path, write):
    rows = ["path\tdigit\tsplit"]
    for i in range(6):
        write(tmp_path / "audio" / f"{i}.flac", 0.1)
        rows.append(f"audio/{i}.flac\t{i % 2}\t{'train' if i < 4 else 'test'}")
    (tmp_path / "index.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_table_with_where(table):
    source = opened("table", table, where={"split": "train", "digit": (0, 1)})
    assert len(source) == 4 and list(source.columns["digit"]) == ["0", "1", "0", "1"]
    assert source.where(3).endswith("audio/3.flac, row 5 of index.tsv")
    assert len(opened("table", table / "index.tsv", where={"split": "test"})) == 2
    with pytest.raises(DataError, match=r"where.split=\('dev',\): no row is left.*'test', 'train'"):
        opened("table", table, where={"split": "dev"})
    with pytest.raises(DataError, match=r"where.fold is not a column: use one of digit, split"):
        opened("table", table, where={"fold": 1})


def test_table_as_csv_with_lengths_touches_no_file(tmp_path):
    (tmp_path / "t.csv").write_text('path,text,samples,rate\nx.wav,"a, b",1600,8000\n')
    source = opened("table", tmp_path / "t.csv")
    assert source.samples.tolist() == [1600] and source.rates.tolist() == [8000]
    assert list(source.columns["text"]) == ["a, b"]
    (tmp_path / "t.csv").write_text("path,samples,rate\nx.wav,many,8000\n")
    with pytest.raises(DataError, match=r"row 2: samples is 'many'"):
        opened("table", tmp_path / "t.csv")


def test_table_rows_of_another_width_and_missing_header(table):
    (table / "index.tsv").write_text("path\tdigit\na.wav\t1\tx\n")
    with pytest.raises(DataError, match=r"index.tsv, row 2: 3 fields under 2 names"):
        opened("table", table)
    (table / "index.tsv").write_text("file\tdigit\na.wav\t1\n")
    with pytest.raises(DataError, match=r"no column 'path'"):
        opened("table", table)


def test_parts_divide_a_source_for_good(table):
    a = opened("table", table, part=(0.0, 0.5))
    b = opened("table", table, part=(0.5, 1.0))
    assert len(a) == len(b) == 3
    assert sorted([*a.rows, *b.rows]) == list(range(6))
    assert opened("table", table, part=(0.0, 0.5)).rows.tolist() == a.rows.tolist()
    with pytest.raises(DataError, match=r"train.x.part is \(0.5, 0.5\)"):
        opened("table", table, part=(0.5, 0.5))


@pytest.fixture
def kaldi(tmp_path, write):
    write(tmp_path / "audio" / "r1.wav", 1.0)
    write(tmp_path / "audio" / "r2.wav", 2.0, 8000)
    (tmp_path / "wav.scp").write_text(f"r1 audio/r1.wav\nr2 {tmp_path}/audio/r2.wav\n")
    (tmp_path / "text").write_text("r1 HELLO\nr2 GOOD DAY\n")
    (tmp_path / "utt2spk").write_text("r1 ann\nr2 bob\n")
    return tmp_path


def test_kaldi_directory(kaldi):
    source = opened("kaldi", kaldi)
    assert source.samples.tolist() == [16000, 16000]
    assert list(source.columns["text"]) == ["HELLO", "GOOD DAY"]
    assert list(source.columns["speaker"]) == ["ann", "bob"]


def test_kaldi_segments(kaldi, tone):
    (kaldi / "segments").write_text("u1 r2 0.5 1.0\nu2 r1 0.25 -1\n")
    (kaldi / "text").write_text("u1 A\nu2 B\n")
    (kaldi / "utt2spk").write_text("u1 ann\nu2 bob\n")
    source = opened("kaldi", kaldi)
    assert source.samples.tolist() == [4000, 12000] and source.rates.tolist() == [8000, 16000]
    np.testing.assert_array_equal(source.read(0)[0], tone(2.0, 8000)[4000:8000])
    np.testing.assert_array_equal(source.read(1)[0], tone(1.0)[4000:])
    assert source.where(0).endswith("r2.wav, row 1 of segments")
    (kaldi / "segments").write_text("u1 r9 0.5 1.0\n")
    with pytest.raises(DataError, match=r"segments, row 1: expected .* found 'u1 r9"):
        opened("kaldi", kaldi)


def test_a_kaldi_segment_that_ends_after_its_recording_is_named(kaldi):
    (kaldi / "segments").write_text("u1 r2 0.5 2.05\nu2 r1 0.25 1.5\n")
    (kaldi / "text").write_text("u1 A\nu2 B\n")
    (kaldi / "utt2spk").write_text("u1 ann\nu2 bob\n")
    source = opened("kaldi", kaldi)
    assert source.samples.tolist() == [12000, 20000]  # the first is off by rounding
    assert len(source.read(0)[0]) == 12000
    with pytest.raises(DataError, match=r"r1.wav, row 2 of segments: ends 8000 samples before"):
        source.read(1)


def test_kaldi_pipes_are_refused(kaldi):
    (kaldi / "wav.scp").write_text("r1 audio/r1.wav\nr2 sph2pipe x.sph |\n")
    with pytest.raises(DataError, match=r"wav.scp, row 2: .*is a command"):
        opened("kaldi", kaldi)
    (kaldi / "wav.scp").write_text("r1 a.wav\nr1 b.wav\n")
    with pytest.raises(DataError, match=r"row 2: 'r1' was listed before, in row 1"):
        opened("kaldi", kaldi)


def test_config_errors_name_the_key(tmp_path, write):
    write(tmp_path / "a.wav")
    cases = [
        ({"kind": "flac"}, "config.data.train.x.kind is 'flac': use one of speech_commands"),
        ({"wieght": 1.0}, "config.data.train.x.wieght is not a key.*did you mean 'weight'"),
        ({"path": str(tmp_path / "no")}, "config.data.train.x.path=.*does not exist"),
        ({"path": ""}, "config.data.train.x.path='' does not exist"),
        ({"path": 3}, "config.data.train.x.path is 3"),
        ({"weight": 0.0}, "config.data.train.x.weight is 0.0"),
        ({"weight": "much"}, "config.data.train.x.weight is 'much'"),
    ]
    for change, message in cases:
        config = {"kind": "folder", "path": str(tmp_path), **change}
        with pytest.raises(DataError, match=message):
            open_source("train.x", config)


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"config.data.train.x.path=.* it holds nothing"):
        opened("folder", tmp_path)


def test_a_folder_of_other_files_says_what_is_there(tmp_path):
    for name in ("a.txt", "b/c.txt", "b/d.xyz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no sound")
    with pytest.raises(DataError, match=r"no sound file \(.wav, .*it holds 2 .txt, 1 .xyz"):
        opened("folder", tmp_path)


def test_headers_are_read_once_while_nothing_changes(tmp_path, write, monkeypatch, cache_folder):
    for i in range(4):
        write(tmp_path / f"{i}.wav", 0.1)
    monkeypatch.setattr(files, "CACHE_FROM", 1)
    read = []
    real = files._header
    monkeypatch.setattr(files, "_header", lambda p: read.append(p) or real(p))
    assert opened("folder", tmp_path).samples.tolist() == [1600] * 4
    assert opened("folder", tmp_path).samples.tolist() == [1600] * 4
    assert len(read) == 4 and len(list(cache_folder.iterdir())) == 1
    write(tmp_path / "2.wav", 0.2)
    assert opened("folder", tmp_path).samples.tolist() == [1600, 1600, 3200, 1600]
    assert len(read) == 8
    monkeypatch.setenv("SSL_JAX_CACHE", str(tmp_path / "2.wav"))
    with pytest.warns(UserWarning, match=r"set SSL_JAX_CACHE"):
        opened("folder", tmp_path)


def test_every_ending_of_sound_is_read_and_others_are_named_once(tmp_path, write):
    kinds = {"aif": "AIFF", "CAF": "CAF", "sph": "NIST", "W64": "W64", "au": "AU", "aifc": "AIFF"}
    for ending, form in kinds.items():
        write(tmp_path / f"a.{ending}", format=form, subtype="PCM_16")
    for name in ("a.xyz", "b.xyz", "c.docx", "notes.txt", "labels.csv", ".hidden.xyz"):
        (tmp_path / name).write_bytes(b"x")
    options = {"kind": "folder", "path": str(tmp_path)}
    with pytest.warns(
        UserWarning, match=r"3 files below .* extensions .xyz \(2\) .docx \(1\) are not"
    ):
        source = open_source("train.x", options)
    assert len(source) == len(kinds) and (source.samples == 8000).all()
