import json

import numpy as np
import pytest
import soundfile

from ssl_jax.data import shards as shards_lib
from ssl_jax.data.errors import BadFile, DataError
from ssl_jax.data.readers import records
from ssl_jax.data.readers.sources import open_source


def clip(n, seed):
    return np.random.default_rng(seed).integers(-32768, 32768, n).astype(np.int16)


@pytest.fixture
def shards(tmp_path):
    """Two shards with 3 and 2 rows of noise."""
    for shard, count in ((0, 3), (1, 2)):
        rows = [
            (clip(1000 + i, 10 * shard + i), 8000 + i, {"word": f"w{shard}{i}"})
            for i in range(count)
        ]
        records.write_shard(tmp_path / f"data-{shard}{records.SUFFIX}", rows, ["word"])
    return tmp_path


def test_shards_hold_every_bit(shards):
    source = open_source("train.x", {"kind": "array_record", "path": str(shards)})
    assert len(source) == 5 and list(source.columns["word"]) == ["w00", "w01", "w02", "w10", "w11"]
    for i, (shard, row) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]):
        audio, rate = source.read(i)
        assert rate == 8000 + row == source.rates[i]
        np.testing.assert_array_equal(audio, clip(1000 + row, 10 * shard + row))
    part, _ = source.read(3, 0.05, 0.1)
    np.testing.assert_array_equal(part, clip(1000, 10)[400:800])
    assert source.where(4).endswith("data-1.array_record, row 2")


def test_a_missing_index_and_an_empty_folder_are_named(shards, tmp_path_factory):
    (shards / "data-1.array_record.index").unlink()
    with pytest.raises(DataError, match=r"train.x.path.*data-1.array_record.index is missing"):
        open_source("train.x", {"kind": "array_record", "path": str(shards)})
    with pytest.raises(DataError, match=r"has no .*array_record files"):
        open_source("train.x", {"kind": "array_record", "path": str(tmp_path_factory.mktemp("no"))})


def test_a_shard_that_vanishes_is_named(shards):
    source = open_source("train.x", {"kind": "array_record", "path": str(shards)})
    source.read(0)
    (shards / "data-1.array_record").unlink()
    source.read(1)
    with pytest.raises(BadFile, match=r"data-1.array_record, row 2: .*No such file"):
        source.read(4)


def converted(tmp_path, count=4, shards=2):
    """A folder of shards as `convert data` writes it."""
    for i in range(count):
        soundfile.write(tmp_path / "in" / f"{i}.wav", clip(9000 + i, i), 16000)
    source = open_source("train.x", {"kind": "folder", "path": str(tmp_path / "in")})
    shards_lib.write([source], tmp_path / "out", shards=shards, what="test")
    return tmp_path / "out"


@pytest.mark.parametrize(
    "harm,message",
    [
        (lambda out, last: last.unlink(), r"lacks 1 of the 3 parts .*data-00002-of-00003"),
        (
            lambda out, last: (
                [p.unlink() for p in out.glob("data-*")]
                + [records.write_shard(out / "one.array_record", [], [])]
            ),
            r"holds 1 of the 3 shards that its convert.json names: run the same",
        ),
        (
            lambda out, last: last.rename(out / "data-00002-of-00004.array_record"),
            r"several sets, such as data-\*-of-0000\d.array_record",
        ),
        (
            lambda out, last: last.write_bytes(last.read_bytes()[:9000]),
            r"data-00002-of-00003.array_record is broken or cut off: copy it again",
        ),
        (
            lambda out, last: (out / f"{last.name}.index").write_bytes(b"\x81\xa1"),
            r"data-00002-of-00003.array_record.index is broken: copy it with its shard",
        ),
        (
            lambda out, last: records.write_shard(
                last, [(clip(9000, 0), 16000, {"folder": "in"})], ["folder"]
            ),
            "holds 3 rows, but its convert.json names 4: copy it again",
        ),
        (lambda out, last: (out / "convert.json").write_text("{"), r"convert.json is damaged"),
    ],
)
def test_a_set_of_shards_that_is_not_whole_is_named_when_it_is_opened(tmp_path, harm, message):
    (tmp_path / "in").mkdir()
    out = converted(tmp_path, shards=3)
    opened = {"kind": "array_record", "path": str(out)}
    assert len(open_source("train.x", opened)) == 4
    harm(out, out / "data-00002-of-00003.array_record")
    with pytest.raises(DataError, match=message):
        open_source("train.x", opened)


def test_what_training_skips_conversion_skips_and_what_is_clipped_is_listed(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "silent.wav", np.zeros(9000, np.int16), 16000)
    loud = np.clip(clip(9000, 1).astype(int) * 2, -32768, 32767).astype(np.int16)
    soundfile.write(tmp_path / "in" / "loud.wav", loud, 16000)
    with pytest.raises(BadFile, match="silent: all 9000 samples are 0"):
        converted(tmp_path)
    source = open_source("train.x", {"kind": "folder", "path": str(tmp_path / "in")})
    to = tmp_path / "some"
    more = {"on_bad": "skip", "max_bad_share": 0.5}
    assert shards_lib.write([source], to, shards=2, what="test", **more) == 5
    assert "1 rows are clipped at full scale" in capsys.readouterr().out
    (told,) = (to / "clipped.jsonl").read_text(encoding="utf-8").splitlines()
    assert "loud.wav" in told and 0.4 < json.loads(told)["share"] < 0.6
    again = open_source("train.x", {"kind": "array_record", "path": str(to)})
    assert len(again) == 5
