import json

import numpy as np
import pytest
import soundfile
from PIL import Image

from ssl_jax import convert
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import audio, records
from ssl_jax.data.readers.sources import open_items, open_source


@pytest.fixture
def folder(tmp_path):
    """Seven clips of two words, at two rates and in two formats."""
    rng = np.random.default_rng(0)
    for i in range(7):
        path = tmp_path / "in" / ("no", "yes")[i % 2] / f"{i}.{('wav', 'flac')[i % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = rng.integers(-32768, 32768, 500 + i).astype(np.int16)
        soundfile.write(path, samples, (8000, 16000)[i % 2])
    return tmp_path / "in"


def arguments(folder, to, *more):
    return ["data", "--from", "kind=folder", f"path={folder}", "--to", str(to), *more]


def test_round_trip_is_exact(folder, tmp_path):
    out = tmp_path / "out"
    assert convert.main(arguments(folder, out, "--shards", "3")) == 0
    before = open_source("train.a", {"kind": "folder", "path": str(folder)})
    after = open_source("train.b", {"kind": "array_record", "path": str(out)})
    assert len(list(out.glob("*.array_record"))) == 3 and not list(out.glob("*.part"))
    assert list(after.columns["folder"]) == list(before.columns["folder"])
    assert after.samples.tolist() == before.samples.tolist()
    for i in range(7):
        (a, rate_a), (b, rate_b) = before.read(i), after.read(i)
        assert rate_a == rate_b
        np.testing.assert_array_equal(a, b)


def test_an_interrupted_run_goes_on_with_the_unfinished_shard(folder, tmp_path, monkeypatch):
    out, real, begun = tmp_path / "out", records.write_shard, []

    def stop_at_third(path, rows, names):
        begun.append(path.name)
        if len(begun) == 3:
            path.with_suffix(".part").write_bytes(b"half a shard")
            raise KeyboardInterrupt
        return real(path, rows, names)

    monkeypatch.setattr(records, "write_shard", stop_at_third)
    assert convert.main(arguments(folder, out, "--shards", "4")) == 130  # as after Ctrl-C
    assert convert.main(arguments(folder, out, "--shards", "4")) == 0
    assert [name[5:10] for name in begun] == ["00000", "00001", "00002", "00002", "00003"]
    after = open_source("train.b", {"kind": "array_record", "path": str(out)})
    assert len(after) == 7 and len(after.read(6)[0]) == after.samples[6]


def test_a_shard_appears_only_when_it_is_complete(folder, tmp_path, monkeypatch):
    out, real = tmp_path / "out", audio.encode_flac

    def stop(samples, rate):
        if len(samples) == 505:
            raise KeyboardInterrupt
        return real(samples, rate)

    monkeypatch.setattr(audio, "encode_flac", stop)
    assert convert.main(arguments(folder, out)) == 130
    assert not list(out.glob("*.array_record"))
    monkeypatch.undo()
    assert convert.main(arguments(folder, out)) == 0
    source = open_source("train.b", {"kind": "array_record", "path": str(out)})
    assert len(source) == 7


def test_a_folder_begun_for_something_else_is_refused(folder, tmp_path, capsys):
    assert convert.main(arguments(folder, tmp_path / "out")) == 0
    assert convert.main(arguments(folder, tmp_path / "out", "--shards", "2")) == 1
    assert "begun with other options" in capsys.readouterr().err


def test_bad_files_stop_or_are_listed(folder, tmp_path, capsys):
    (folder / "no" / "2.wav").write_bytes(b"no sound")
    assert convert.main(arguments(folder, tmp_path / "a")) == 1
    assert "no/2.wav, row 2: " in capsys.readouterr().err
    skip = ("--on_bad", "skip", "--max_bad_share", "0.2")
    assert convert.main(arguments(folder, tmp_path / "b", *skip)) == 0
    after = open_source("train.b", {"kind": "array_record", "path": str(tmp_path / "b")})
    assert len(after) == 6
    listed = json.loads((tmp_path / "b" / "skipped.jsonl").read_text())
    assert listed["where"].endswith("no/2.wav, row 2")
    assert convert.main(arguments(folder, tmp_path / "c", "--on_bad", "skip")) == 1
    assert "config.data.max_bad_share=0.01" in capsys.readouterr().err


def test_wrong_options_are_explained(folder, tmp_path, capsys):
    for options, message in [
        (["--to", "x"], "give either --from"),
        (["--from", "folder", "--to", "x"], "expected key=value"),
        (["--from", "kind=folder", "path=nowhere", "--to", "x"], "does not exist"),
        (arguments(folder, tmp_path / "o", "--shards", "9")[1:], "--shards is 9: use 1 to 7"),
    ]:
        assert convert.main(["data", *options]) == 1
        assert message in capsys.readouterr().err


def test_pairs_nest_and_keep_names_as_text():
    pairs = convert._pairs(["kind=table", "where.digit=3", "part=[0.0, 0.5]", "weight=2.0"])
    assert pairs == {"kind": "table", "where": {"digit": "3"}, "part": [0.0, 0.5], "weight": 2.0}


def test_sources_of_a_config_file(folder, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(
        "from configs import common\n"
        "def get_config():\n"
        "    c = common.base()\n"
        f"    c.data.train.a = dict(kind='folder', path={str(folder)!r})\n"
        "    return c\n"
    )
    out = tmp_path / "out"
    assert convert.main(["data", "--config", str(config), "--to", str(out), "--shards", "2"]) == 0
    assert len(open_source("train.b", {"kind": "array_record", "path": str(out)})) == 7


def test_images_keep_their_bytes(tmp_path, capsys):
    for i in range(5):
        path = tmp_path / "in" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (50 * i, 0, 0)).save(path)
    (tmp_path / "in" / "a" / "2.png").write_bytes(b"broken")
    command = ["data", "--modality", "image", "--from", "kind=image_folder"]
    command += [f"path={tmp_path / 'in'}", "--to", str(tmp_path / "out"), "--shards", "2"]
    assert convert.main(command) == 1
    assert "a/2.png, row 2: no image format" in capsys.readouterr().err
    assert convert.main([*command, "--on_bad", "skip", "--max_bad_share", "0.2"]) == 0
    source = {"kind": "array_record", "path": str(tmp_path / "out")}
    after = open_items("train.x", source, "image")
    assert list(after.columns["label"]) == ["a", "a", "b", "b"]
    assert after.where(3).endswith("data-00001-of-00002.array_record, row 3")
    kept = (tmp_path / "in" / "b" / "3.png").read_bytes()
    assert after.reader.image(3) == kept
    with pytest.raises(DataError, match=r"holds no audio: see config.data.modality"):
        open_source("train.x", source)
