"""Every reader of a checkpoint detects a change in storage, whichever the byte."""

import hashlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_method as toy

from ssl_jax.engine import checkpoint, integrity
from ssl_jax.engine.checkpoint import Checkpoints
from ssl_jax.engine.integrity import CorruptCheckpoint

BEST = {"checkpoint.best_metric": "valid/accuracy", "checkpoint.keep_last": 3}


@pytest.fixture(scope="module")
def saved(tmp_path_factory, started):
    """Returns (a run folder with checkpoints 3 and 6, the best of which is 3; the state of 6)."""
    folder = tmp_path_factory.mktemp("saved")
    host, shardings, _ = started
    state = jax.device_put(host, shardings)
    checkpoints = Checkpoints(folder, toy.make_config(**BEST))
    for step, metric in ((3, 0.9), (6, 0.4)):
        state = state.replace(step=jnp.full_like(state.step, step))
        checkpoints.save(step, state, metric)
    checkpoints.close()
    return folder, jax.device_get(state)


@pytest.fixture
def run(saved, tmp_path):
    shutil.copytree(saved[0], tmp_path / "run")
    return tmp_path / "run"


def flip(path, position, bit=1):
    data = bytearray(path.read_bytes())
    data[position] ^= bit
    path.write_bytes(data)


def age(folder):
    """Rewrites a checkpoint in the form of earlier versions: with sums and without digests."""
    shutil.rmtree(folder / integrity.DIGESTS)
    about = json.loads((folder / "about" / "metadata").read_text())
    del about[integrity.DIGESTS]
    (folder / "about" / "metadata").write_text(json.dumps(about))


def swap(folder):
    """Swaps two numbers of an array and rewrites it, which keeps their sum."""
    arrays = checkpoint._arrays(folder / "params")
    kernel = np.array(arrays["encoder"]["kernel"])
    assert kernel[0, 0] != kernel[1, 1]
    kernel[0, 0], kernel[1, 1] = kernel[1, 1], kernel[0, 0]
    arrays["encoder"]["kernel"] = kernel
    shutil.rmtree(folder / "params")
    args = checkpoint.ocp.args.StandardSave(arrays)
    with checkpoint.ocp.Checkpointer(checkpoint.ocp.StandardCheckpointHandler()) as writer:
        writer.save(folder / "params", args=args)


def resume(folder, started):
    host, shardings, _ = started
    checkpoints = Checkpoints(folder, toy.make_config(**BEST))
    try:
        return checkpoints.restore(host, shardings)
    finally:
        checkpoints.close()


def test_a_flip_in_any_file_of_an_item_is_found_and_the_file_is_named(saved):
    folder = saved[0] / "checkpoints" / "6"
    assert integrity.check_files(folder)
    files = [p for p in folder.rglob("*") if p.is_file() and p.parent != folder]
    files.remove(folder / integrity.DIGESTS / "commit_success.txt")  # written after it, never read
    assert {p.relative_to(folder).parts[0] for p in files} == {
        "params", "rest", "about", "sums", "metrics", integrity.DIGESTS,
    }  # fmt: skip
    for path in files:
        kept = path.read_bytes()
        name = path.relative_to(folder).as_posix()
        for position in sorted({0, len(kept) // 3, len(kept) // 2, len(kept) - 1}):
            flip(path, position, bit=1 << position % 8)
            with pytest.raises(CorruptCheckpoint, match="checkpoints/6 is damaged: ") as error:
                integrity.check_files(folder)
            assert name in str(error.value) or integrity.DIGESTS in name
            path.write_bytes(kept)
        path.write_bytes(b"")
        with pytest.raises(CorruptCheckpoint):
            integrity.check_files(folder)
        path.unlink()
        with pytest.raises(CorruptCheckpoint):
            integrity.check_files(folder)
        path.write_bytes(kept)
    assert integrity.check_files(folder)


def test_parameters_are_those_that_were_saved_or_an_error(saved):
    """For load, evaluate, export and init_from, which use restore_params and restore_extra."""
    run, state = saved
    folder = run / "checkpoints" / "6"
    told = 0
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        kept = path.read_bytes()
        flip(path, len(kept) // 2)
        try:
            assert toy.bits(checkpoint.restore_params(run)) == toy.bits(state.params)
            assert toy.bits(checkpoint.restore_extra(run)) == toy.bits(state.extra)
        except CorruptCheckpoint as error:
            assert "checkpoints/6 is damaged" in str(error)
            told += 1
        path.write_bytes(kept)
    assert told >= 10


def test_changes_that_cancel_out_are_found(run, started):
    folder = run / "checkpoints" / "6"
    before = np.asarray(integrity.checksums(checkpoint.restore_params(run)))
    swap(folder)
    changed = checkpoint._arrays(folder / "params")
    np.testing.assert_array_equal(integrity.checksums(changed), before)
    with pytest.raises(CorruptCheckpoint, match=r"checkpoints/6 is damaged: "):
        checkpoint.restore_params(run)
    assert int(resume(run, started).step) == 3


@pytest.mark.parametrize("item", [integrity.DIGESTS, "sums", "metrics"])
def test_a_lost_item_is_damage(item, run, started, capfd):
    shutil.rmtree(run / "checkpoints" / "6" / item)
    assert int(resume(run, started).step) == 3
    assert "checkpoints/6 is damaged: " in capfd.readouterr().err


def test_a_config_that_storage_changed_is_damage_not_another_config(run, started, capfd):
    about = run / "checkpoints" / "6" / "about" / "metadata"
    text = about.read_text()
    assert "0.05" in text
    about.write_text(text.replace("0.05", "0.06", 1))
    assert int(resume(run, started).step) == 3
    assert "about/metadata is not what was written" in capfd.readouterr().err


def test_metrics_that_storage_changed_are_damage(run, started, capfd):
    newest = run / "checkpoints" / "6" / "metrics" / "metrics"
    newest.write_text(newest.read_text().replace("0.4", "0.99"))
    with pytest.raises(CorruptCheckpoint, match="metrics/metrics is not what was written"):
        checkpoint.restore_params(run, "best")
    capfd.readouterr()
    assert int(resume(run, started).step) == 3
    told = capfd.readouterr().err
    assert told.count("it cannot be the best checkpoint") == 1 and "going on from step 3" in told
    oldest = run / "checkpoints" / "3" / "metrics" / "metrics"
    oldest.write_text("0.9}")  # not JSON
    checkpoints = Checkpoints(run, toy.make_config(**BEST))
    assert checkpoints.best() is None and checkpoints.latest() == 3
    checkpoints.close()


def test_a_checkpoint_of_an_earlier_version_is_read_by_its_sums(run, saved, started):
    folder = run / "checkpoints" / "6"
    age(folder)
    assert not integrity.check_files(folder)
    assert toy.bits(checkpoint.restore_params(run)) == toy.bits(saved[1].params)
    assert toy.bits(checkpoint.restore_extra(run)) == toy.bits(saved[1].extra)
    assert toy.bits(resume(run, started)) == toy.bits(saved[1])
    arrays = checkpoint._arrays(folder / "params")
    shutil.rmtree(folder / "params")
    args = checkpoint.ocp.args.StandardSave(jax.tree.map(lambda x: x + 1, arrays))
    with checkpoint.ocp.Checkpointer(checkpoint.ocp.StandardCheckpointHandler()) as writer:
        writer.save(folder / "params", args=args)
    with pytest.raises(CorruptCheckpoint, match=r"params/\S+ is not what was written"):
        checkpoint.restore_params(run)
    shutil.rmtree(folder / "sums")
    with pytest.raises(CorruptCheckpoint, match="its checksums are missing"):
        checkpoint.restore_params(run)


def test_digests_are_those_of_sha256(run):
    folder = run / "checkpoints" / "6"
    written = integrity.read_digests(folder)
    data = (folder / "about" / "metadata").read_bytes()
    assert written["about/metadata"] == hashlib.sha256(data).hexdigest()
