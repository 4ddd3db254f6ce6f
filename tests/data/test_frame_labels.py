"""Frame labels in batches: cropped with the audio, every mismatch named before the first step."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from ssl_jax.core.config import ConfigError
from ssl_jax.data import frame_label_store, loader
from ssl_jax.data.corpus import make_schedule, open_split
from ssl_jax.data.errors import BadFile, DataError
from ssl_jax.engine import splits

SECONDS = (0.5, 1.0, 0.8)


def label(folder, name, rate=100.0, lengths=SECONDS, vocab_size=100, signature="km100", short=0):
    """Writes labels 0, 1, 2, ... of each row; those of 25 ms windows end 15 ms early."""
    path = folder / name
    with frame_label_store.Writer(
        path, rate=rate, vocab_size=vocab_size, signature=signature
    ) as writer:
        for i, seconds in enumerate(lengths):
            count = round(seconds * rate - 1.5) - (short if i == 1 else 0)
            writer.add(f"mine/{i}.wav", np.arange(count) % vocab_size)
    return str(path)


@pytest.fixture
def make(tmp_path, write, data_config):
    """Returns make(**units) -> a data section over three recordings."""
    for i, seconds in enumerate(SECONDS):
        write(tmp_path / "sound" / f"{i}.wav", seconds)
    mine = {"kind": "folder", "path": str(tmp_path / "sound")}

    def build(**units):
        config = data_config({"mine": mine}, units={"train": (), "valid": (), "test": (), **units})
        config["valid"] = {"mine": mine}
        return config

    return build


def test_a_batch_has_the_labels_of_its_crop(make, tmp_path):
    two = label(tmp_path, "km500", vocab_size=500, signature="km500")
    corpus = open_split(make(train=(label(tmp_path, "km100"), two)), "train")
    assert corpus.unit_rate == 100 and corpus.unit_sizes == (100, 500)
    assert corpus.specs(0.5)["units"] == ((2, 50), "int32")
    plan = make_schedule(corpus, {"batch_size": 3}, seed=3)
    moved = set()
    for step, (arrays, _) in enumerate(loader.batches(corpus, plan, 0, 4)):
        units = arrays["units"]
        assert units.shape == (3, 2, 50) and units.dtype == np.int32
        starts = corpus.keys(arrays["id"], plan[step].epoch, 0.5, seed=3)
        for i, start, row in zip(arrays["id"], starts, units, strict=True):
            first, end = round(start / 160), [48, 98, 78][i]
            expected = np.arange(first, first + 50)
            expected[expected >= end] = -1  # the labels end before the audio
            np.testing.assert_array_equal(row, [expected, expected])
            moved.add(first)
    assert len(moved) > 4


@pytest.mark.parametrize(
    ("start", "size", "first", "count"),
    # round(start * 100 / 16000), round(size * 100 / 16000), and what remains of the row's 98
    [(0, 8000, 0, 50), (79, 8000, 0, 50), (81, 8000, 1, 50), (7900, 8000, 49, 49)],
)
def test_start_and_number_are_rounded_and_clipped(make, tmp_path, start, size, first, count):
    corpus = open_split(make(train=label(tmp_path, "km100")), "train")
    out = np.zeros((1, 50), np.int32)
    corpus.units.read_into(1, start, size, out)
    expected = np.full(50, -1)
    expected[:count] = np.arange(first, first + count)
    np.testing.assert_array_equal(out[0], expected)


def test_labels_at_50_hz(make, tmp_path):
    corpus = open_split(make(train=(label(tmp_path, "it1", rate=50.0),)), "train")
    out = np.zeros((1, 25), np.int32)
    corpus.units.read_into(1, 3200, 8000, out)
    np.testing.assert_array_equal(out[0], np.arange(10, 35))


def test_crops_of_labels_in_a_grid_start_at_a_step(make, tmp_path):
    path = tmp_path / "grid"
    with frame_label_store.Writer(path, rate=50.0, vocab_size=100, signature="t", grid=8) as writer:
        for i, seconds in enumerate(SECONDS):  # whole steps of 0.16 s
            writer.add(f"mine/{i}.wav", np.arange(8 * int(seconds / 0.16)) % 100)
    corpus = open_split(make(train=(str(path),)), "train")
    corpus.check()  # the last 0.14 s of a second have no label
    drawn = np.concatenate(
        [corpus.keys(np.array([1, 1, 2]), np.full(3, epoch), 0.5, 3) for epoch in range(9)]
    )
    assert len(set(drawn.tolist())) > 2 and not (drawn % 2560).any()
    out = np.zeros((1, 25), np.int32)
    corpus.units.read_into(1, 2560 * 2, 8000, out)
    np.testing.assert_array_equal(out[0], np.arange(16, 41))
    again = frame_label_store.open_store(path)
    assert again.grid == 8 and frame_label_store.open_store(label(tmp_path, "plain")).grid == 1


def test_no_stores_no_units(make):
    corpus = open_split(make(), "train")
    assert "units" not in corpus.specs(0.5) and corpus.unit_sizes == () and not corpus.unit_rate


@pytest.mark.parametrize(
    ("options", "message"),
    [
        # a row of the corpus that the store lacks
        ({"lengths": SECONDS[:2]}, r"2\.wav, row 3: has no frame labels in .*key 'mine/2.wav'"),
        # 50 Hz labels declared as 100 Hz
        ({"lengths": [s / 2 for s in SECONDS]}, r"0\.wav, row 1: fewer .* 0.240 s for 0.500 s"),
        ({"short": 12}, r"1\.wav, row 2: fewer frame labels than audio: 86 at 100 Hz"),
        ({"short": -14}, r"1\.wav, row 2: more frame labels than audio: 112 at 100 Hz"),
    ],
)
def test_labels_that_do_not_fit_name_the_row(make, tmp_path, options, message):
    config = make(train=(label(tmp_path, "units", **options),))
    with pytest.raises(BadFile, match=message):
        open_split(config, "train")
    config["on_bad"] = "skip"
    corpus = open_split(config, "train")
    plan = make_schedule(corpus, {"batch_size": 3}, seed=0, shuffle=False)
    with_bad = list(loader.batches(corpus, plan))
    bads = [bad for _, found in with_bad for bad in found]
    assert bads and all(arrays["weight"].sum() + len(found) == 3 for arrays, found in with_bad)


def test_a_tenth_of_a_second_is_no_fault(make, tmp_path):
    # 1 s has 98.5 labels by the windows; 8 fewer
    corpus = open_split(make(train=(label(tmp_path, "units", short=8),)), "train")
    assert not corpus.units.unfit(corpus.lengths).any()


def test_an_id_outside_the_vocabulary_names_the_row(make, tmp_path):
    path = label(tmp_path, "units")
    header = tmp_path / "units" / "header.json"
    header.write_text(header.read_text().replace('"vocab_size": 100', '"vocab_size": 70'))
    corpus = open_split(make(train=(path,)), "train")
    arrays = {k: np.zeros((1, *s), d) for k, (s, d) in corpus.shapes(1.0).items()}
    with pytest.raises(BadFile, match=r"1\.wav, row 2: .*label 70 is 70, outside .* of 70 ids"):
        corpus.fill(1, 0, arrays, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"signature": "another"}, "units.valid: .* has signature 'another' and .* one k-means"),
        ({"vocab_size": 99}, "units.valid: .* has vocab_size 99 and .*train 100"),
        ({"rate": 50.0}, "units.valid: .* has rate 50.0 and .*train 100.0"),
    ],
)
def test_train_and_valid_have_one_k_means(make, tmp_path, options, message):
    stores = {"train": (label(tmp_path, "a"),), "valid": (label(tmp_path, "b", **options),)}
    with pytest.raises(DataError, match=message):
        open_split(make(**stores), "valid")
    both = {**stores, "valid": stores["train"]}
    assert open_split(make(**both), "valid").unit_sizes == (100,)
    both["valid"] = stores["train"] * 2
    with pytest.raises(DataError, match=r"valid names 2 sets of labels and .*train 1"):
        open_split(make(**both), "valid")


def test_sets_of_two_rates_and_no_store_are_refused(make, tmp_path):
    slow, fast = label(tmp_path, "slow", rate=50.0), label(tmp_path, "fast")
    with pytest.raises(DataError, match=r"names labels of 50 Hz .* and of 100 Hz"):
        open_split(make(train=(slow, fast)), "train")
    with pytest.raises(DataError, match=r"config.data.units.train: .* holds no frame labels"):
        open_split(make(train=(str(tmp_path),)), "train")


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({"classes": (500,), "rate": 100.0}, r"units.classes is \(500,\), .* have \(100,\) ids"),
        ({"classes": (100,), "rate": 50.0}, r"units.rate is 50.0, .* set it to 100.0"),
    ],
)
def test_the_method_expects_the_labels_that_the_data_have(make, tmp_path, units, message):
    data = ConfigDict(make(train=(label(tmp_path, "units"),), buckets=(0.5,)))
    config = ConfigDict({"method": {"encoder": {}, "units": units}, "data": data})
    with pytest.raises(ConfigError, match=message):
        splits.open_split(config, tmp_path, "train")
    config.method.units = ConfigDict({"classes": (100,), "rate": 100.0})
    assert splits.open_split(config, tmp_path, "train").corpus.unit_rate == 100
    config.data.units.train = ()
    corpus = splits.open_split(config, tmp_path, "train").corpus
    with pytest.raises(ConfigError, match=r"'units' comes from config.data.units.train"):
        splits.check_names(corpus, ("units",), "train")
