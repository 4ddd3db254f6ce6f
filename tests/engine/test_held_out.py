"""One path serves all splits; what exists and differs is left alone."""

import numpy as np
import pytest
import soundfile
from ml_collections import ConfigDict

from ssl_jax.core import config as config_lib
from ssl_jax.engine import held_out, splits


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty short recordings, and two tables of them: one with a column `fold`, none `split`."""
    folder = tmp_path_factory.mktemp("sound")
    rows = ["path\tlabel\tfold"]
    for i in range(20):
        soundfile.write(folder / f"{i}.wav", 0.1 * np.sin(np.arange(8000) / (5 + i)), 16000)
        rows.append(f"{i}.wav\t{'ab'[i % 2]}\t{i % 5 + 1}")
    (folder / "labels.tsv").write_text("\n".join(rows) + "\n")
    return folder


def given(path, changes=()):
    return config_lib.load(path, changes)


def opened(config, tmp_path, names=("train", "valid")):
    return {name: splits.open_split(config, tmp_path, name) for name in names}


def test_a_validation_path_that_does_not_exist_becomes_a_part_of_train(folder, tmp_path):
    path = f"data.train.librispeech.path={folder}"
    config = given("configs/data2vec2/audio.py:mini", [path]).copy_and_resolve_references()
    for split in ("train", "valid", "test"):
        config.unlock().data[split].librispeech = ConfigDict(
            {"kind": "folder", "path": str(folder) if split == "train" else f"data/{split}"}
        )
    config.data.update({"min_seconds": 0.0, "buckets": (0.5,)})
    found, notes = held_out.complete(config.lock())
    assert found.data.train.librispeech.part == (0.0, 0.9)
    assert found.data.valid.librispeech.to_dict()["part"] == (0.9, 0.95)
    assert found.data.test.librispeech.path == ""
    (note,) = notes
    assert "config.data.valid.librispeech.path='data/valid' does not exist" in note
    assert note.endswith(f"of {folder}, 5% for valid and 5% for test are held out")
    corpora = opened(found, tmp_path, ("train", "valid", "test"))
    assert [len(s.corpus) for s in corpora.values()] == [18, 1, 1]
    splits.check_apart(*corpora.values())
    first, _ = held_out.named(found, corpora)
    assert first.startswith(f"valid: 1 rows of {folder} are held out, the first is {folder}/")
    assert held_out.complete(found) == (found, [])  # the same command again is the same run


def test_what_exists_and_differs_is_left_alone(folder):
    for path, changes in (
        ("configs/data2vec2/audio.py:own", [f"data.train.own.path={folder}"]),
        ("configs/data2vec2/audio.py:mini", []),
    ):
        config = given(path, changes)
        assert held_out.complete(config) == (config, [])
    # kinds with official splits need no part
    found, (note,) = held_out.complete(
        given("configs/data2vec/kws.py:mini", [f"data.train.sc.path={folder}"])
    )
    assert found.data.valid.sc.path == "" and found.data.valid.sc.part == (0.0, 1.0)
    assert note.endswith(f"does not exist: {folder} is used")


def test_another_path_that_does_not_exist_stays_an_error(folder, tmp_path):
    changes = [f"data.train.own.path={folder}", f"data.valid.own.path={tmp_path / 'typo'}"]
    config = given("configs/data2vec2/audio.py:own_toy", changes)
    assert held_out.complete(config) == (config, [])
    with pytest.raises(ValueError, match="typo' does not exist"):
        splits.open_split(config, tmp_path, "valid")


def test_rows_that_train_chooses_by_a_column_are_chosen_so_elsewhere(folder):
    changes = [f"data.train.esc10.path={folder / 'labels.tsv'}"]
    found, notes = held_out.complete(given("configs/mae/spectrogram.py:mini", changes))
    assert found.data.valid.esc10.path == "" and found.data.valid.esc10.where.fold == (5,)
    assert "held out" not in notes[0] and "part" not in found.data.valid.esc10


def test_a_table_of_labels_without_a_column_split_is_divided(folder, tmp_path):
    changes = [f"data.train.own.path={folder / 'labels.tsv'}"]
    found, notes = held_out.complete(given("configs/supervised/own.py:toy", changes))
    assert "labels.tsv has no column 'split'" in notes[0] and "20% for test" in notes[0]
    corpora = opened(found, tmp_path, ("train", "valid", "test"))
    assert [len(s.corpus) for s in corpora.values()] == [12, 4, 4]


def test_the_smallest_folder_still_has_a_held_out_file(folder, tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.wav").write_bytes((folder / f"{i}.wav").read_bytes())
    config = given("configs/data2vec2/audio.py:own_toy", [f"data.train.own.path={tmp_path}"])
    corpora = opened(config, tmp_path)
    assert [len(s.corpus) for s in corpora.values()] == [2, 1]
