"""Speakers in two splits are named; folds of speakers have about equal rates of errors."""

import numpy as np
import pytest

from ssl_jax.data import split_overlap
from ssl_jax.data.corpus import open_split
from ssl_jax.data.errors import DataError
from ssl_jax.data.speaker_folds import folds


def test_speakers_of_training_in_another_split_are_named(tmp_path, write, data_config):
    speakers = {"train": ("ann", "bob", "ann"), "valid": ("eve", ""), "test": ("bob", "cai")}
    sources = {}
    for split, own in speakers.items():
        for i in range(len(own)):
            write(tmp_path / split / f"{i}.wav")
        rows = [f"{i}.wav\t{name}\tA B" for i, name in enumerate(own)]
        (tmp_path / split / "index.tsv").write_text(
            "\n".join(["path\tspeaker\tsaid", *rows]) + "\n"
        )
        sources[split] = {
            "x": {"kind": "table", "path": str(tmp_path / split), "transcript": "said"}
        }
    config = data_config(spelling="phones", **sources)
    corpora = {split: open_split(config, split) for split in speakers}
    (note,) = split_overlap.known_speakers(corpora)
    assert note.startswith(
        "1 of 2 speakers of config.data.test are in config.data.train too, such as 'bob': "
    )
    for split in ("train", "test"):
        sources[split]["x"]["transcript"] = ""
    plain = {s: open_split(data_config(**sources), s, ()) for s in ("train", "test")}
    assert split_overlap.known_speakers(plain) == []


def test_folds_keep_speakers_together_and_share_out_errors():
    draw = np.random.default_rng(0)
    speakers = [f"s{i}" for i in range(20) for _ in range(5)]
    wrong = np.repeat(np.where(np.arange(20) < 6, 6 - np.arange(20), 0), 5)
    found = folds(speakers, wrong, np.full(100, 20), 3)
    assert all(len(set(found[i : i + 5])) == 1 for i in range(0, 100, 5))
    sums = np.bincount(found, wrong)
    assert sums.tolist() == [35, 35, 35] and min(np.bincount(found)) >= 30
    order = draw.permutation(100)
    again = folds([speakers[i] for i in order], wrong[order], np.full(100, 20), 3)
    assert np.array_equal(again, found[order])
    with pytest.raises(DataError, match="3 folds of 2 speakers: use 2 to 2"):
        folds(["a", "b"], [0, 1], [1, 1], 3)
