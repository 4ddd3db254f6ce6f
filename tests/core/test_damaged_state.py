"""State files that an earlier version, which wrote them in place, left empty or cut short."""

import json
import types

import numpy as np
import pytest

from ssl_jax.core import atomic
from ssl_jax.core import config as config_lib
from ssl_jax.data import frame_label_store, shards
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import files
from ssl_jax.engine import splits
from ssl_jax.stages.graph import Graph, Stage
from ssl_jax.sweeps import run_folders, sweep

DAMAGE = pytest.mark.parametrize("text", ["", '{"a": '], ids=["empty", "cut"])


@DAMAGE
def test_a_stage_whose_done_is_damaged_is_done(tmp_path, text):
    graph, stage = Graph(tmp_path), Stage("data", "one", {})
    graph.run(stage, lambda folder: None)
    (graph.folder(stage) / "DONE").write_text(text)
    assert graph.done(stage) and graph.seconds(stage) == 0.0


@DAMAGE
def test_labels_begun_under_a_damaged_header_are_begun_again(tmp_path, text):
    given = {"rate": 50.0, "vocab_size": 4, "signature": "s"}
    with (
        pytest.raises(ZeroDivisionError),
        frame_label_store.Writer(tmp_path / "a", **given) as writer,
    ):
        writer.add("x", np.zeros(3, int))
        raise ZeroDivisionError
    (tmp_path / "a.part" / "header.json").write_text(text)
    with frame_label_store.Writer(tmp_path / "a", **given) as writer:
        assert len(writer) == 0
        writer.add("x", np.zeros(3, int))
    assert len(frame_label_store.open_store(tmp_path / "a")) == 1
    (tmp_path / "a" / "header.json").write_text(text)
    with pytest.raises(DataError, match=r"header\.json is .*: remove the folder"):
        frame_label_store.open_store(tmp_path / "a")


@DAMAGE
def test_a_conversion_names_its_damaged_note(tmp_path, text):
    (tmp_path / "convert.json").write_text(text)
    with pytest.raises(DataError, match=r"convert\.json is .*: remove it and the shards"):
        shards._begin(tmp_path, {})


@pytest.mark.parametrize("text", ["", "x\n", "0\n", "\n", "-4"])
def test_the_multiple_of_a_run_is_not_guessed(tmp_path, text):
    (tmp_path / "multiple.txt").write_text(text)
    config = config_lib.ConfigDict({"data": {"batch_size": 8}, "train": {"accumulate": 1}})
    mesh = types.SimpleNamespace(shape=dict.fromkeys(splits.mesh_lib.BATCH_AXES, 1))
    with pytest.raises(ValueError, match=r"multiple\.txt .*write 8 to it") as told:
        splits.multiple_of_run(config, mesh, tmp_path)
    assert "\n" not in str(told.value)
    splits.keep_multiple(tmp_path, 4)
    assert splits.multiple_of_run(config, mesh, tmp_path) == 4


@DAMAGE
def test_a_sweep_writes_a_damaged_config_again_and_names_a_damaged_table(tmp_path, text):
    config = config_lib.ConfigDict({"seed": 1})
    sign = config_lib.sign(config)
    run = sweep.Run(0, sign, {"seed": 1}, config, tmp_path / sign[: run_folders.SHORT])
    sweep.write(tmp_path, [run], {})
    (run.folder / "config.json").write_text(text)
    sweep.write(tmp_path, [run], {})
    assert sweep.reopen(tmp_path)[0].config.seed == 1
    (run.folder / "signature.txt").write_text(text)
    assert run_folders.signature(run.folder) == sign
    (run.folder / "FAILED").write_text(text)
    assert "FAILED is " in run_folders.failure(run.folder)
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(ValueError, match=r"sweep\.json is .*: give --config"):
        sweep.reopen(tmp_path)


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "other"])
def test_a_damaged_cache_is_made_again(tmp_path, damage):
    index = tmp_path / "a.npz"
    files.save_index(index, samples=np.arange(1000))
    data = index.read_bytes()
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    index.write_bytes({"empty": b"", "cut": data[:300], "flipped": flipped, "other": b"x"}[damage])
    with pytest.warns(UserWarning, match=r"a\.npz is damaged .*: it will be rebuilt"):
        assert atomic.read_arrays(index, ("samples",)) is None
    files.save_index(index, samples=np.arange(1000))
    assert atomic.read_arrays(index, ("samples",))["samples"].tolist() == list(range(1000))
    with pytest.warns(UserWarning, match=r"a\.npz is damaged"):
        assert atomic.read_arrays(index, ("rates",)) is None
    assert atomic.read_arrays(tmp_path / "absent.npz", ()) is None
    assert json.dumps(sorted(p.name for p in tmp_path.iterdir())) == '["a.npz"]'
