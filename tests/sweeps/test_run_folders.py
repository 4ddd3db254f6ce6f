"""Run folders: work is done once, states, locks, and finding a run by its signature."""

import json

import pytest

from ssl_jax.core import config as config_lib
from ssl_jax.core import lock
from ssl_jax.sweeps import run_folders


def folder_of(root, name, seed, code="aaaa00001111"):
    """Writes the files by which a run folder identifies itself."""
    config = config_lib.from_json(json.dumps({"seed": seed}))
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config_lib.to_json(config))
    (folder / "code.txt").write_text(f"{code} 0\n")
    return config_lib.sign(config)


def test_work_is_done_once_and_a_failure_is_kept_and_tried_again(tmp_path):
    calls = []

    def breaks():
        calls.append("breaks")
        assert run_folders.state(tmp_path) == "running"
        raise ValueError("no such clip")

    assert run_folders.state(tmp_path) == "waiting"
    with pytest.raises(ValueError, match="no such clip"):
        run_folders.once(tmp_path, breaks)
    assert run_folders.state(tmp_path) == "failed"
    assert run_folders.failure(tmp_path) == "ValueError: no such clip"
    assert "in breaks" in json.loads((tmp_path / "FAILED").read_text())["trace"]
    assert run_folders.once(tmp_path, lambda: calls.append("works"))
    assert run_folders.state(tmp_path) == "done" and run_folders.failure(tmp_path) == ""
    assert not run_folders.once(tmp_path, breaks)
    assert calls == ["breaks", "works"]


def test_an_interrupted_run_is_stopped_and_goes_on(tmp_path):
    def interrupted():
        raise SystemExit(0)

    with pytest.raises(SystemExit):
        run_folders.once(tmp_path, interrupted)
    assert run_folders.state(tmp_path) == "stopped"
    assert run_folders.once(tmp_path, lambda: None)


def test_a_folder_is_held_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.02)
    with lock.hold(tmp_path):
        assert run_folders.busy(tmp_path)
        with (
            pytest.raises(run_folders.Busy, match=r"process \d+ on .* is using .*: wait for it"),
            lock.hold(tmp_path),
        ):
            raise AssertionError
    assert not run_folders.busy(tmp_path)
    with lock.hold(tmp_path):
        assert run_folders.state(tmp_path) == "running"


def test_a_run_is_found_by_the_beginning_of_its_signature(tmp_path, monkeypatch):
    places = [tmp_path / "a", tmp_path / "b"]
    monkeypatch.setenv("SSL_JAX_RUNS", f"{places[0]}:{places[1]}")
    signs = [folder_of(places[i % 2], f"kws/{i}", seed=i) for i in range(4)]
    (places[0] / "kws/0/checkpoints/4").mkdir(parents=True)
    (places[0] / "kws/0/checkpoints/config.json").write_text("{}")  # belongs to no run
    assert len(list(run_folders.walk(places[0]))) == 2
    for i, sign in enumerate(signs):
        assert run_folders.find(sign[:9]) == places[i % 2] / f"kws/{i}"
    again = folder_of(places[0], "again", seed=3, code="bbbb00001111")
    with pytest.raises(
        ValueError, match=r"the signatures of 2 runs begin with(.|\n)*again(.|\n)*kws/3"
    ):
        run_folders.find(again[:9])
    assert run_folders.find(f"{again[:9]}@bb") == places[0] / "again"
    with pytest.raises(FileNotFoundError, match=r"(?s)'0000'.*SSL_JAX_RUNS.*" + signs[0]):
        run_folders.find("0000")


def test_a_config_that_can_not_be_read_has_no_signature(tmp_path):
    sign = folder_of(tmp_path, "run", 0)
    assert run_folders.signature(tmp_path / "run") == sign
    (tmp_path / "run" / "config.json").write_text("{broken")
    assert [f.signature for f in run_folders.walk(tmp_path)] == [""]
