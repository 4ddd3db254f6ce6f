"""One device equals eight, and the step compiles for a TPU; each in a process of its own."""

import importlib.util
import json
import os
import subprocess
import sys

import cases
import pytest

PROGRAM = cases.ROOT / "tests" / "conformance" / "devices_program.py"

FLAGS = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
EIGHT = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": FLAGS}


def program(*args: str, **env: str) -> dict:
    """Runs the program in a new process and returns what it reports."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *args],
        cwd=cases.ROOT,
        env={**os.environ, "PYTHONPATH": str(cases.ROOT), **env},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


# of each method and each kind of encoder one: their updates too, and on two meshes
WHOLE = (
    "configs/ctc/speech.py",
    "configs/data2vec/kws.py",
    "configs/data2vec/text.py",
    "configs/data2vec2/image.py",
    "configs/hubert/audio.py",
    "configs/mae/image.py",
    "configs/superb/verification.py",
    "configs/supervised/kws.py",
    "configs/wav2vec2/conformer.py",
)


def test_every_method_is_compared_whole():
    assert {cases.load(path, "toy").method.name for path in WHOLE} == set(cases.method_names())


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted({*cases.config_paths()} - {*WHOLE}))
def test_the_gradient_of_one_device_is_that_of_eight(path):
    assert program(path, "gradients", **EIGHT)["gradient"][0] < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("path", WHOLE)
def test_one_device_equals_eight(path):
    report = program(path, "compare", **EIGHT)
    assert len(report) == 2
    assert max(row["split"] for row in report.values()) > 0, "no parameter is sharded"
    for mesh, row in report.items():
        assert row["loss"] < 1e-5, (mesh, row)
        assert row["gradient"][0] < 1e-5, (mesh, row)
        assert row["params"][0] < 1e-5, (mesh, row)


@pytest.mark.slow
def test_a_device_holds_one_block_whole_at_a_time():
    found = program("configs/mae/image.py", "memory", **EIGHT)
    assert found["state"] < 0.6 * found["blocks"]  # three copies, each in eight pieces
    assert found["temporaries"] < 0.6 * found["blocks"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
@pytest.mark.parametrize("path", cases.config_paths())
def test_step_compiles_for_a_tpu_slice(path):
    # libtpu ends the process at a flag of the CPU compiler, which conftest sets
    env = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "XLA_FLAGS": ""}
    report = program(path, "tpu", **env)
    assert report["bytes"] > 0
