"""HuBERT by command line: labels in a store, checks before the first step, units are learned."""

import json

import numpy as np
import pytest
import train_corpus as corpora
from ml_collections import ConfigDict

from ssl_jax import train
from ssl_jax.core import config as config_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.data import frame_label_store
from ssl_jax.data.corpus import open_split
from ssl_jax.data.errors import BadFile, DataError
from ssl_jax.engine import log

UNITS = {"low": 1, "mid": 4, "high": 6}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return corpora.write_corpus(tmp_path_factory.mktemp("corpus") / "tones")


def load(corpus, units, **changes):
    """Returns the toy config over tones, with the stores <units>/<split> as its labels."""
    config = config_lib.load(str(corpora.CONFIGS / "hubert" / "audio.py") + ":toy")
    source = {"kind": "speech_commands", "path": str(corpus)}
    with config.unlocked():
        config.data.test = ConfigDict({})
        for split in ("train", "valid"):
            config.data[split] = ConfigDict({"sc": source})
            config.data.units[split] = (str(units / split),)
        for key, value in changes.items():
            config.update_from_flattened_dict({key: value})
    return config


def label(config, **header):
    """Labels every frame of a recording with the index of its word."""
    bare = config.data.copy_and_resolve_references().unlock()
    bare.units = ConfigDict({})
    for split in ("train", "valid"):
        about = {"rate": 100.0, "vocab_size": 8, "signature": "words"} | header
        rows = open_split(bare, split)
        with frame_label_store.Writer(config.data.units[split][0], **about) as writer:
            for i, samples in enumerate(rows.lengths):
                count = round(samples * about["rate"] / corpora.RATE) - 1
                writer.add(rows.key(i), np.full(count, UNITS[rows.classes[rows.labels[i]]]))


def test_contracts_are_checked_before_the_first_step(tmp_path, corpus):
    config = load(corpus, tmp_path / "slow")
    with pytest.raises(DataError, match=r"config.data.units.train: .* make the labels first"):
        train.run(config, tmp_path / "run")
    label(config, rate=50.0)
    with pytest.raises(ConfigError, match=r"config.method.units.rate is 100.0, .* set it to 50.0"):
        train.run(config, tmp_path / "run")
    other = load(corpus, tmp_path / "other")
    label(other, vocab_size=500)
    with pytest.raises(ConfigError, match=r"units.classes is \(8,\), .* set it to \(500,\)"):
        train.run(other, tmp_path / "run")
    few = load(corpus, tmp_path / "few")
    with frame_label_store.Writer(
        few.data.units.train[0], rate=100.0, vocab_size=8, signature=""
    ) as w:
        w.add("sc/low/00000004_nohash_0.wav", np.zeros(47, int))
    with pytest.raises(BadFile, match="has no frame labels in"):
        train.run(few, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_a_run_learns_its_units_and_goes_on(tmp_path, corpus):
    changes = {
        "train.duration": "150 steps",
        "eval.every": "150 steps",
        "checkpoint.every": "100 steps",
    }
    config = load(corpus, tmp_path, **changes, **{"optim.lr": 5e-3})
    label(config)
    last = train.run(config, tmp_path / "run")
    rows = log.read(tmp_path / "run" / "metrics.jsonl")
    first = next(r for r in rows if "train/masked_loss" in r)
    assert last["valid/masked_loss"] < 0.6 * first["train/masked_loss"]
    assert last["valid/masked_accuracy"] > 0.8
    assert {"valid/unit_entropy", "valid/prediction_entropy", "valid/frontend_std"} < set(last)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["method"]["name"] == "hubert"
    again = train.run(config, tmp_path / "run")
    assert again["valid/masked_loss"] == pytest.approx(last["valid/masked_loss"])
