"""A stage, a conversion and a save, killed at every change of files: the next one continues."""

import itertools
import shutil
import wave

import kill
import numpy as np
import pytest
from herd import Herd

from ssl_jax.core import atomic
from ssl_jax.data import shards
from ssl_jax.data.readers.sources import open_source
from ssl_jax.stages.graph import Graph, Stage

pytestmark = pytest.mark.filterwarnings("ignore:os.fork")


def content(folder):
    """Returns the bytes of every file, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_stage_killed_anywhere_goes_on(tmp_path):
    stage = Stage("data", "one", {"a": 1})

    def work(folder):
        atomic.write_json(folder / "result.json", {"a": 1})

    def run():
        Graph(tmp_path / "now", lambda text: None).run(stage, work)

    run()
    whole = content(tmp_path / "now")
    for number in itertools.count():
        shutil.rmtree(tmp_path / "now")
        if not kill.forked(number, tmp_path, run):
            break
        run()
        # killed last, when the stage is done, it leaves its lock, which blocks nothing
        names = {name for name in content(tmp_path / "now") if not name.endswith("/lock")}
        assert names == whole.keys(), f"killed at change {number}"
    assert number > 10


@pytest.mark.slow
def test_a_conversion_killed_anywhere_goes_on_to_the_same_bytes(tmp_path):
    (tmp_path / "wav").mkdir()
    for i in range(4):
        with wave.open(str(tmp_path / "wav" / f"{i}.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes((np.arange(800) % (i + 50) * 99).astype("<i2").tobytes())
    source = open_source("train.a", {"kind": "folder", "path": str(tmp_path / "wav")})
    target = tmp_path / "to"

    def run():
        shards.write([source], target, shards=2, what="these", on_bad="skip")

    run()
    whole = content(target)
    assert len(whole) >= 5
    for number in itertools.count():
        shutil.rmtree(target)
        if not kill.forked(number, target, run):
            break
        run()
        assert content(target) == whole, f"killed at change {number}"
    assert number > 15


@pytest.mark.slow
def test_a_run_killed_at_changes_of_its_folder_goes_on_to_the_same_bits(tmp_path):
    points = (0, 9, 40, 80, 140)
    with Herd(tmp_path) as herd:
        whole = herd.start(tmp_path / "whole", 3, toy=True)
        assert whole.wait() == 0, whole.text()
        killed = {n: herd.start(tmp_path / str(n), 3, n, toy=True) for n in points}
        assert {n: child.wait() for n, child in killed.items()} == dict.fromkeys(
            points, kill.STATUS
        )
        again = {n: herd.start(tmp_path / str(n), 3, toy=True) for n in points}
        assert {n: child.wait() for n, child in again.items()} == dict.fromkeys(points, 0)
    bits = (tmp_path / "whole" / "bits.txt").read_text()
    for n in points:
        assert (tmp_path / str(n) / "bits.txt").read_text() == bits
        left = [p.name for p in (tmp_path / str(n)).rglob("*") if "tmp" in p.name]
        assert not left, f"killed at change {n}"
