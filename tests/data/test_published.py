"""Data sets as they are published become the tables that the programs in experiments/ read."""

import ast
import io
import json
import pathlib
import pickle
import tarfile

import numpy as np
import PIL.Image
import pytest
import soundfile

from ssl_jax import convert, pipeline
from ssl_jax.core.config import ConfigError
from ssl_jax.data import cifar10, published
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers.lines import read_table
from ssl_jax.data.readers.sources import open_items, open_source

ROOT = pathlib.Path(__file__).resolve().parents[2]


def put(path, content=""):
    """Writes half a second of sound, or a text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() in (".wav", ".flac", ".ogg"):
        kind = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG"}[path.suffix.lower()]
        soundfile.write(path, 0.1 * np.sin(np.arange(8000)), 16000, format=kind)
    else:
        path.write_text(content, encoding="utf-8")


def fsdd(folder):
    for name in ("7_jackson_32", "7_jackson_4", "0_theo_10"):
        put(folder / "recordings" / f"{name}.wav")


def esc50(folder):
    for name in ("1-1-A-0", "5-2-B-1", "2-3-A-20"):
        put(folder / "audio" / f"{name}.wav")
    head = "filename,fold,target,category,esc10,src_file,take"
    rows = ["1-1-A-0.wav,1,0,dog,True,1,A", "5-2-B-1.wav,5,36,vacuum_cleaner,False,2,B"]
    rows.append("2-3-A-20.wav,2,20,crying_baby,True,3,A")
    put(folder / "meta" / "esc50.csv", "\n".join([head, *rows]) + "\n")


def speechocean762(folder):
    names = ("000010035", "000010011", "000010053")
    train = folder / "train"
    for name in names:
        put(folder / "WAVE" / "SPEAKER0001" / f"{name}.WAV")
    put(train / "wav.scp", "".join(f"{n}\tWAVE/SPEAKER0001/{n}.WAV\n" for n in names))
    put(train / "utt2spk", "".join(f"{n}\t0001\n" for n in names))
    put(train / "spk2age", "0001\t6\n")
    put(train / "spk2gender", "0001\tm\n")
    words = [
        {"text": "WE", "phones": ["W", "IY0"], "phones-accuracy": [2.0, 1.6]},
        {"text": "CALL", "phones": "K AO0 L", "phones-accuracy": []},
    ]
    scores = {name: {"text": "WE CALL", "words": words} for name in names}
    put(folder / "resource" / "scores.json", json.dumps(scores))


def timit(folder):
    for path in ("TRAIN/DR1/FCJF0/SA1", "TEST/DR2/MABC0/SX9"):
        put(folder / f"{path}.WAV")
        put(folder / f"{path}.TXT", "0 8000 She had.\n")
        put(folder / f"{path}.WRD", "0 3200 she\n3200 8000 had\n")
        put(folder / f"{path}.PHN", "0 1600 h#\n1600 3200 sh\n")


def nltk(folder):
    for path in ("dr1-fvmh0/sa1", "dr3-falk0/sa1"):
        put(folder / f"{path}.wav")
        for ending in ("txt", "wrd", "phn"):
            put(folder / f"{path}.{ending}", "0 8000 she\n")


def grid(folder):
    align = "0 23750 sil\n23750 29500 bin\n29500 75000 sil\n"
    for i in range(10):
        put(folder / "s1" / f"bbaf{i}n.mpg")
        put(folder / "align" / f"bbaf{i}n.align", align)


def ljspeech(folder):
    rows = [f"LJ001-000{i}|Well, No. {i}|Well, Number one" for i in range(1, 7)]
    put(folder / "metadata.csv", "\n".join(rows) + "\n")
    for i in range(1, 7):
        put(folder / "wavs" / f"LJ001-000{i}.wav")


def librosa(folder):
    for name in ("Kevin_MacLeod_-_Vibe_Ace", "Kevin_MacLeod_-_Vibe_Ace.hq", "pibble"):
        put(folder / "audio" / f"{name}.ogg")


WORDS = {"words": "WE CALL", "phones": "W IY0 | K AO0 L", "phone_scores": "2.0 1.6 | ? ? ?"}
TIMES = "h#:0.000-0.100 sh:0.100-0.200"
# layout: what makes it, its rows, and some columns of the first
CASES = {
    "fsdd": (fsdd, 3, {"digit": "0", "speaker": "theo", "split": "train", "seconds": "0.500"}),
    "esc50": (esc50, 3, {"path": "audio/1-1-A-0.wav", "label": "dog", "fold": "1"}),
    "esc10": (esc50, 2, {"path": "audio/1-1-A-0.wav", "label": "dog_bark"}),
    "speechocean762": (
        speechocean762,
        3,
        {"path": "WAVE/SPEAKER0001/000010011.WAV", "speaker": "0001", "gender": "m", **WORDS},
    ),
    "timit": (
        timit,
        2,
        {"path": "TEST/DR2/MABC0/SX9.WAV", "words": "she had", "text": "She had.", "sex": "m"}
        | {"split": "test", "speaker": "dr2-mabc0", "phone_times": TIMES},
    ),
    "timit of nltk": (nltk, 2, {"speaker": "dr1-fvmh0", "split": "train", "sex": "f"}),
    "grid": (
        grid,
        10,
        {"path": "s1/bbaf0n.mpg", "transcript": "bin", "seconds": "3.00", "frames": "75"}
        | {"word_times": "0.95-1.18", "split": "train"},
    ),
    "ljspeech": (ljspeech, 6, {"words": "well number one", "text": "Well, Number one"}),
    "librosa": (librosa, 2, {"path": "audio/Kevin_MacLeod_-_Vibe_Ace.ogg", "seconds": "0.500"}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_published_layout_becomes_a_table(tmp_path, name):
    make, count, first = CASES[name]
    make(tmp_path)
    layout = name.split()[0]
    assert published.write(layout, tmp_path, tmp_path) == count
    columns, _ = read_table(tmp_path / "index.tsv", "path")
    assert tuple(columns) == published.LAYOUTS[layout].columns
    assert {key: columns[key][0] for key in first} == first
    if layout != "grid":  # a video
        source = open_source("train.x", {"kind": "table", "path": str(tmp_path)})
        assert len(source) == count and source.samples.all()


def test_splits_are_those_of_the_miniatures(tmp_path):
    for name, want in (("grid", {4: "valid", 9: "test"}), ("ljspeech", {5: "test"})):
        CASES[name][0](tmp_path / name)
        published.write(name, tmp_path / name, tmp_path / name)
        splits = read_table(tmp_path / name / "index.tsv")[0]["split"]
        assert splits == [want.get(i, "train") for i in range(len(splits))]


def test_the_command_writes_the_table_that_a_program_reads(tmp_path, capsys):
    speechocean762(tmp_path / "in")
    given = ["--layout", "speechocean762", "--every", "2", "--from", str(tmp_path / "in")]
    assert convert.main(["index", *given, "--to", str(tmp_path / "out")]) == 0
    assert "2 rows in" in (told := capsys.readouterr().out) and "CC BY 4.0" in told
    paths = read_table(tmp_path / "out" / "index.tsv")[0]["path"]
    assert [pathlib.Path(p).stem for p in paths] == ["000010011", "000010053"]
    assert all(pathlib.Path(p).is_file() for p in paths)
    assert set(convert.LAYOUTS) == set(published.LICENCES)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("fsdd", "has no recordings/<digit>_<speaker>_<take>.wav"),
        ("esc50", "there is no .*esc50.csv: give the folder of the unpacked download"),
        ("speechocean762", "there is no .*wav.scp"),
        ("cifar10", "neither data_batch_1.bin nor data_batch_1 in"),
    ],
)
def test_a_folder_of_something_else_is_one_line(tmp_path, capsys, layout, message):
    with pytest.raises(DataError, match=message):
        published.write(layout, tmp_path, tmp_path)
    assert convert.main(["index", "--layout", layout, "--from", str(tmp_path)]) == 1
    devices, error = capsys.readouterr().err.splitlines()
    assert devices.startswith("1 device: ") and error.startswith("error: ")


def batch(number, rows=20):
    """Labels, and images (rows, 3072) of which each has its own colour."""
    labels = np.arange(rows) % 10
    colours = np.random.default_rng(number).integers(0, 256, (rows, 3, 1), np.uint8)
    return labels, np.repeat(colours, 1024, axis=2).reshape(rows, -1)


@pytest.mark.parametrize("form", ["binary", "python"])
def test_images_of_cifar_become_archives_of_both_versions(tmp_path, monkeypatch, form):
    monkeypatch.setattr(cifar10, "TAKEN", {"train": 3, "test": 1})
    names = [name for split in cifar10.FILES.values() for name in split]
    for number, name in enumerate(names):
        labels, images = batch(number)
        if form == "binary":
            rows = np.concatenate([labels[:, None].astype(np.uint8), images], 1)
            (tmp_path / f"{name}.bin").write_bytes(rows.tobytes())
        else:
            found = {b"labels": labels.tolist(), b"data": images}
            (tmp_path / name).write_bytes(pickle.dumps(found, protocol=2))
    assert published.write("cifar10", tmp_path, tmp_path / "out") == 40
    source = open_items(
        "train.x", {"kind": "image_tar", "path": str(tmp_path / "out" / "train.tar")}, "image"
    )
    assert sorted(set(source.columns["label"])) == sorted(cifar10.CLASSES)
    # the third frog is the first of the second batch
    with tarfile.open(tmp_path / "out" / "train.tar") as tar:
        image = PIL.Image.open(io.BytesIO(tar.extractfile("frog/0002.jpg").read()))
    want = batch(1)[1][6].reshape(3, 32, 32)[:, 0, 0]
    np.testing.assert_allclose(np.asarray(image)[0, 0], want, atol=6)


def test_a_batch_of_cifar_runs_nothing(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(DataError, match=r"not a batch of CIFAR-10: it has os\.system"):
        published.write("cifar10", tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("program", "option", "layout"),
    [
        ("kws/program.py", "data", "fsdd"),
        ("wav2vec2/program.py", "data", "speechocean762"),
        ("data2vec2/program.py", "data", "cifar10"),
        ("data2vec2/audio.py", "esc10", "esc10"),
        ("hubert/pipeline.py", "fsdd", "fsdd"),
        ("music2vec/program.py", "real", "librosa"),
    ],
)
def test_a_program_names_its_own_option_for_data_that_are_not_there(
    tmp_path, program, option, layout
):
    path = ROOT / "experiments" / program
    data = next(
        ast.literal_eval(node.value)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "DATA"
    )
    assert data[option] == layout and layout in published.LICENCES
    page = (path.parent / "README.md").read_text()
    assert f"--layout {layout}" in page and f"--{option}=" in page
    tiny = tmp_path / "tiny.py"
    tiny.write_text(
        f"OPTIONS = dict.fromkeys({data!r}, '')\nDATA = {data!r}\ndef main(pipe): 1 / 0"
    )
    message = rf"^--{option}=gone has no (index.tsv|train.tar) .* --layout {layout} --from"
    with pytest.raises(ConfigError, match=message):
        pipeline.run(str(tiny), str(tmp_path / "run"), [f"--{option}=gone"])


def test_a_program_names_its_own_option_for_data_of_another_kind(tmp_path):
    put(tmp_path / "data" / "index.tsv", "path\tword\na.wav\tyes\n")
    put(tmp_path / "data" / "a.wav")
    program = tmp_path / "tiny.py"
    program.write_text(
        "from ssl_jax.data import labels\n"
        "from ssl_jax.data.readers import sources\n"
        "OPTIONS = {'data': ''}\nDATA = {'data': 'fsdd'}\n"
        "def main(pipe):\n"
        "    table = {'kind': 'table', 'path': pipe.options['data']}\n"
        "    source = sources.open_source('train.takes', table)\n"
        "    labels.class_columns([source], [{'label': 'digit'}])\n"
    )
    message = r"^--data=.*data: label is 'digit', not a column: use one of word$"
    with pytest.raises(ConfigError, match=message):
        pipeline.run(str(program), str(tmp_path / "run"), [f"--data={tmp_path / 'data'}"])
