import numpy as np
import pytest

from ssl_jax.data import records
from ssl_jax.data.errors import BadFile, DataError
from ssl_jax.data.sources import open_source


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
