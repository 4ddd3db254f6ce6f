"""Faults: damaged checkpoints, a full disk, a step that never ends."""

import functools
import os
import resource
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_method as toy

from ssl_jax.core import config as config_lib
from ssl_jax.core import pulse
from ssl_jax.engine import checkpoint, integrity, log, loop, setup, watchdog
from ssl_jax.engine import step as step_lib
from ssl_jax.engine.checkpoint import Checkpoints, SaveError
from ssl_jax.engine.integrity import CorruptCheckpoint


@pytest.fixture(scope="module")
def large(started):
    """Returns a state with an array that is stored in its own file."""
    host, shardings, _ = started
    noise = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
    rule = shardings.replace(params=shardings.params | {"noise": shardings.step})
    return jax.device_put(host.replace(params=host.params | {"noise": noise}), rule), rule


def go(folder, mesh, started, total, first=0, hooks=(), config=None, compiled=None, **changes):
    """Trains the toy in a folder up to `total`, from its checkpoint unless `first` is 0."""
    host, shardings, usual = started
    checkpoints = Checkpoints(folder, config or toy.make_config())
    state = jax.device_put(host, shardings)
    if first:
        state = checkpoints.restore(state, shardings)
    logger = toy.open_logger(folder, first)
    batches, options = toy.stream(first, total), toy.options(total, **changes)
    try:
        step = compiled or usual
        return loop.fit(state, step, batches, mesh, options, checkpoints, logger, hooks)
    finally:
        logger.close()
        checkpoints.close()


def _largest(folder):
    files = [p for p in folder.rglob("*") if p.is_file() and p.parent.name == "d"]
    return max(files, key=lambda p: p.stat().st_size)


def truncate(folder):
    path = _largest(folder / "params")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(folder):
    path = _largest(folder / "params")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def lose_the_index(folder):
    (folder / "rest" / "manifest.ocdbt").unlink()


def cut_the_text(folder):
    path = folder / "about" / "metadata"
    path.write_text(path.read_text()[:50])


def change_a_number(folder):
    """Writes a valid checkpoint of other numbers, which only the checksums detect."""
    (folder / "params").rename(folder / "old")
    arrays = checkpoint._arrays(folder / "old")
    arrays["noise"][3, 7] += 1
    args = checkpoint.ocp.args.StandardSave(arrays)
    with checkpoint.ocp.Checkpointer(checkpoint.ocp.StandardCheckpointHandler()) as writer:
        writer.save(folder / "params", args=args)


DAMAGES = (truncate, flip_a_bit, lose_the_index, cut_the_text, change_a_number)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_logged_and_the_one_before_is_used(damage, tmp_path, large, capfd):
    state, shardings = large
    with_step = functools.partial(jnp.full_like, state.step)
    first = Checkpoints(tmp_path, toy.make_config())
    for step in (3, 6):
        first.save(step, state.replace(step=with_step(step)))
    first.close()
    damage(tmp_path / "checkpoints" / "6")
    second = Checkpoints(tmp_path, toy.make_config())
    found = second.restore(state, shardings)
    assert int(found.step) == 3 and toy.bits(found.params) == toy.bits(state.params)
    told = capfd.readouterr().err
    assert "checkpoints/6" in told and "is damaged: " in told
    assert f"moved to {tmp_path / 'damaged' / '6'}; going on from step 3" in told
    assert (tmp_path / "damaged" / "6" / "about").is_dir() and second.latest() == 3
    second.save(6, state.replace(step=with_step(6)))  # its path is free
    second.close()
    third = Checkpoints(tmp_path, toy.make_config())
    assert int(third.restore(state, shardings).step) == 6
    third.close()


def test_where_all_are_damaged_nothing_is_moved(tmp_path, large):
    state, shardings = large
    checkpoints = Checkpoints(tmp_path, toy.make_config())
    for step in (3, 6):
        checkpoints.save(step, state)
    checkpoints.wait()
    for step in (3, 6):
        truncate(tmp_path / "checkpoints" / str(step))
    with pytest.raises(
        CorruptCheckpoint, match=r"(?s)no checkpoint in .* read:\n  6: .*\n  3: .*anew"
    ):
        checkpoints.restore(state, shardings)
    assert checkpoints.latest() == 6 and not (tmp_path / "damaged").exists()
    with pytest.raises(CorruptCheckpoint, match=r"checkpoints/6 is damaged: "):
        checkpoint.restore_params(tmp_path)
    checkpoints.close()


def test_sums_do_not_depend_on_the_layout_and_see_every_bit(large):
    state, _ = large
    whole = np.asarray(integrity.checksums(state.params))
    again = np.asarray(integrity.checksums(jax.device_get(state.params)))
    np.testing.assert_array_equal(whole, again)
    words = np.ravel(np.asarray(state.params["noise"])).view(np.uint32)
    names = sorted(state.params)
    position = [n for n, _ in checkpoint.tree_lib.named_leaves(state.params)].index("noise")
    assert whole[position] == words.sum(dtype=np.uint32) and "noise" in names
    odd = {"b": jnp.asarray([True, False, True]), "h": jnp.asarray([1.0, -2.0], jnp.bfloat16)}
    expected = [2, (0x3F80 + 0xC000) % 2**32]
    np.testing.assert_array_equal(integrity.checksums(odd), expected)


@pytest.mark.parametrize("keep", [1, 2])
def test_a_save_that_fails_leaves_those_before_and_the_run_goes_on(tmp_path, mesh, started, keep):
    """A limit on file size simulates a full disk: writing an array fails."""
    whole = go(tmp_path / "whole", mesh, started, 12)
    config = toy.make_config(**{"checkpoint.keep_last": keep})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    folder = tmp_path / "full"

    def fill(step, state):
        if step == 8:
            while not (folder / "checkpoints" / "5").is_dir():  # it is written in the background
                time.sleep(0.01)
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))

    try:
        with pytest.raises(SaveError, match=r"could not be written to .*Kept: 5\. Make room"):
            go(folder, mesh, started, 12, hooks=[(fill, 1)], config=config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    while list(folder.rglob("*.__lock")):  # of other arrays, still being written
        time.sleep(0.01)
    done = go(folder, mesh, started, 12, first=5, config=config)
    assert toy.bits(done.state) == toy.bits(whole.state)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_metrics_on_a_full_disk_name_the_file(tmp_path):
    logger = toy.open_logger(tmp_path)
    logger.write(1, {"train/loss": 1.0})
    logger._file.close()
    with Path("/dev/full").open("ab", buffering=0) as logger._file._file:
        with pytest.raises(OSError, match=r"cannot write to .*metrics.jsonl: .*No space left"):
            logger.write(2, {"train/loss": 1.0})
        logger.close()
    assert [row["step"] for row in log.read(tmp_path / "metrics.jsonl")] == [1]


def test_a_folder_that_cannot_be_written_is_named_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    named = pytest.raises(
        config_lib.ConfigError, match=r"--workdir .*file/run cannot be written \("
    )
    with named, setup.writable(tmp_path / "file" / "run"):
        pass
    with setup.writable(tmp_path / "new" / "run"):
        assert list((tmp_path / "new" / "run").iterdir()) == []


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("first", "step 1 (to be compiled first), or one of the 4 before"),
        ("step", "step 3, or one of the 4 before"),
        ("hook", "an evaluation after step 3"),
    ],
)
def test_a_run_that_stands_still_ends_with_a_message(
    where, expected, tmp_path, mesh, started, capfd, monkeypatch
):
    stuck, left = threading.Event(), []

    def leave(status):
        left.append(status)
        stuck.set()

    monkeypatch.setattr(loop, "Watchdog", functools.partial(watchdog.Watchdog, leave=leave))
    real = started[2]
    calls = []

    def run(state, totals, batch):
        calls.append(1)
        if (where, len(calls)) in (("first", 1), ("step", 3)):
            assert stuck.wait(30)
        return real.run(state, totals, batch)

    def hook(step, state):
        if where == "hook" and step == 3:
            assert stuck.wait(30)

    compiled = step_lib.TrainStep(run, real.zeros)
    options = {"hooks": [(hook, 1)], "compiled": compiled, "stall_seconds": 1.5}
    go(tmp_path, mesh, started, 5, **options)
    assert left == [watchdog.STALLED]
    told = capfd.readouterr().err
    assert f"error: nothing has moved for 1.5 s; waiting for {expected}" in told
    assert "config.guard.stall_seconds" in told and str(tmp_path / "checkpoints") in told
    assert "Current thread" in told  # the stack of every thread


def test_the_watchdog_is_silent_while_the_run_moves():
    left = []
    with watchdog.Watchdog(0.8, "", leave=left.append):
        for _ in range(24):
            pulse.beat("a step")
            time.sleep(0.05)
    with watchdog.Watchdog(0, "", leave=left.append):
        time.sleep(0.02)
    assert not left
    assert not [t for t in threading.enumerate() if t.name == "watchdog"]
