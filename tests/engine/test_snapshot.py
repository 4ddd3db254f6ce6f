"""A copy of the state on its devices: made if it fits, bit-identical, read by a thread.

test_sharding.py covers many devices.
"""

import threading

import jax
import numpy as np
import pytest
import toy_method as toy

from ssl_jax.engine import checkpoint, integrity, snapshot
from ssl_jax.engine.checkpoint import Checkpoints, SaveError


class Device:
    """A device with 1,000,000 bytes, of which a step used the given share."""

    def __init__(self, used):
        self.used = used

    def memory_stats(self):
        if self.used is None:
            return None
        return {"peak_bytes_in_use": self.used, "bytes_limit": 1_000_000, "bytes_in_use": 0}


def test_a_copy_is_of_other_memory_and_outlives_the_original(mesh, started):
    host, shardings, compiled = started
    state = jax.device_put(host, shardings)
    held, sums = snapshot.copy(state)
    np.testing.assert_array_equal(sums, integrity.checksums(host))
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(held), strict=True):
        assert x.sharding == y.sharding
        assert x.unsafe_buffer_pointer() != y.unsafe_buffer_pointer()
    compiled.run(state, compiled.zeros(), toy.rows(0))  # donates
    assert toy.bits(held) == toy.bits(host)
    read = jax.device_get(held)
    snapshot.free(held)
    assert all(x.is_deleted() for x in jax.tree.leaves(held))
    assert toy.bits(read) == toy.bits(host)


def test_a_copy_fits_where_the_largest_step_leaves_room(monkeypatch, mesh, started):
    host, shardings, _ = started
    state = jax.device_put(host, shardings)
    size = sum(x.nbytes for x in jax.tree.leaves(state))
    room = int(snapshot.FULL * 1_000_000) - size
    for used, fits in ((room, True), (room + 1, False), (None, True)):
        monkeypatch.setattr(jax, "local_devices", lambda used=used: [Device(0), Device(used)])
        assert snapshot.fits(state) is fits


@pytest.mark.parametrize("room", [True, False])
def test_a_save_with_and_without_room_is_of_the_state_that_was_given(
    room, tmp_path, mesh, started, monkeypatch
):
    host, shardings, compiled = started
    monkeypatch.setattr(snapshot, "fits", lambda state: room)
    threads, real = [], checkpoint.ocp.CheckpointManager.save

    def save(self, *args, **kwargs):
        threads.append(threading.current_thread() is threading.main_thread())
        return real(self, *args, **kwargs)

    monkeypatch.setattr(checkpoint.ocp.CheckpointManager, "save", save)
    checkpoints = Checkpoints(tmp_path, toy.make_config())
    state, totals = jax.device_put(host, shardings), compiled.zeros()
    for number in range(3):
        checkpoints.save(number, state)
        state, totals, _ = compiled.run(state, totals, toy.rows(number))
    checkpoints.wait()
    third = checkpoints.restore(host, shardings)
    assert int(third.step) == 2 and checkpoints.latest() == 2
    assert threads == [not room] * 3
    checkpoints.close()


def test_a_save_returns_before_its_bits_are_computed_or_read(tmp_path, started, monkeypatch):
    """The thread is blocked until the call has returned and the next step has donated the state."""
    host, shardings, compiled = started
    back, real = threading.Event(), checkpoint.ocp.CheckpointManager.save

    def save(self, *args, **kwargs):
        assert back.wait(60)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(checkpoint.ocp.CheckpointManager, "save", save)
    checkpoints = Checkpoints(tmp_path, toy.make_config())
    state = jax.device_put(host, shardings)
    checkpoints.save(0, state)
    after, _, _ = compiled.run(state, compiled.zeros(), toy.rows(0))
    back.set()
    assert toy.bits(checkpoints.restore(host, shardings)) == toy.bits(host) != toy.bits(after)
    checkpoints.close()


def test_what_goes_wrong_in_the_thread_is_a_save_error_once(tmp_path, started, monkeypatch):
    host, shardings, _ = started
    state = jax.device_put(host, shardings)
    checkpoints = Checkpoints(tmp_path, toy.make_config())
    checkpoints.save(1, state)
    checkpoints.wait()

    def fail(*args, **kwargs):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.ocp.CheckpointManager, "save", fail)
        checkpoints.save(2, state)
        with pytest.raises(SaveError, match=r"no space left\. Kept: 1\."):
            checkpoints.save(3, state)
    checkpoints.save(3, state)
    checkpoints.close()
    assert Checkpoints(tmp_path, toy.make_config()).latest() == 3


def test_reading_a_run_warns_of_nothing(tmp_path, started, caplog):
    host, shardings, _ = started
    checkpoints = Checkpoints(tmp_path, toy.make_config())
    checkpoints.save(3, jax.device_put(host, shardings))
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path / "host", toy.make_config())
    checkpoints.save(3, host)  # none of it is on a device
    checkpoints.close()
    with caplog.at_level("WARNING"):
        found = checkpoint.restore_params(tmp_path)
        assert toy.bits(checkpoint.restore_params(tmp_path / "host")) == toy.bits(found)
        checkpoint.restore_extra(tmp_path, 3)
    assert not caplog.records
    assert integrity.about(tmp_path / "checkpoints" / "3")["signature"]
