"""One step on 1 and on 8 devices, and real processes that are killed and go on."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MESHES = """
    import jax, numpy as np, pathlib, sys
    import toy_method as toy
    from ssl_jax.core.mesh import make_mesh
    from ssl_jax.engine.checkpoint import Checkpoints

    folder = pathlib.Path(sys.argv[1])

    def steps(state, compiled, first, last):
        losses = []
        totals = compiled.zeros()
        for n in range(first, last):
            state, totals, loss = compiled.run(state, totals, toy.rows(n))
            losses.append(float(loss))
        return state, losses, jax.device_get(totals["sums"])

    def whole(state):
        return [np.asarray(x) for x in jax.tree.leaves(jax.device_get(state))]

    assert len(jax.devices()) == 8
    one = make_mesh({"data": -1}, jax.devices()[:1])
    expected = {}
    for accumulate in (1, 2):
        state, _, compiled, _ = toy.start(one, accumulate)
        expected[accumulate] = [whole(state), *steps(state, compiled, 0, 6)]
    meshes = [{"data": 8}, {"fsdp": 8}, {"data": 2, "fsdp": 2, "model": 2}, {"slice": 2, "data": 4}]
    for number, sizes in enumerate(meshes):
        accumulate = 1 + number % 2
        born, after, losses, sums = expected[accumulate]
        mesh = make_mesh(sizes)
        state, shardings, compiled, _ = toy.start(mesh, accumulate)
        for a, b in zip(whole(state), born, strict=True):
            np.testing.assert_array_equal(a, b)  # initialized alike, to the bit
        moments = state.opt_state[1][0].mu
        for tree in (state.params, moments, state.extra["teacher"]):
            kernel = tree["encoder"]["kernel"]
            local = kernel.addressable_shards[0].data.size
            assert local == kernel.size // (mesh.shape["fsdp"] * mesh.shape["model"])
        state, found, _ = steps(state, compiled, 0, 3)
        checkpoints = Checkpoints(folder / str(number), toy.make_config())
        checkpoints.save(3, state)
        state, rest, _ = steps(state, compiled, 3, 6)
        np.testing.assert_allclose(found + rest, losses, rtol=1e-5)
        for a, b in zip(whole(state), whole(after), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        other = make_mesh(meshes[number - 1])
        state, shardings, compiled, _ = toy.start(other, accumulate)
        state = checkpoints.restore(state, shardings)
        _, resumed, _ = steps(state, compiled, 3, 6)
        np.testing.assert_allclose(resumed, rest, rtol=1e-5)
        checkpoints.close()
        print("equal on", sizes)
"""


def environment(devices: int = 1) -> dict[str, str]:
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": path}


def start(folder: Path, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, str(HERE / "toy_process.py"), str(folder), *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen) -> str:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    return out


def wait_for(process: subprocess.Popen, ready, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.0005)


@pytest.mark.slow
def test_eight_devices_equal_one(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(MESHES), str(tmp_path)]
    done = subprocess.run(command, env=environment(8), capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("equal on") == 4


@pytest.mark.slow
def test_a_run_killed_while_saving_goes_on_to_the_same_bits(tmp_path):
    finish(start(tmp_path / "whole", 40))
    folder = tmp_path / "killed"
    saves = folder / "checkpoints"
    for wanted in (3, 9, 15):
        while True:
            process = start(folder, 40, 0.02)

            def half(process=process, wanted=wanted):
                if not saves.is_dir():
                    return False
                names = [p.name for p in saves.iterdir()]
                return (
                    any(not n.isdigit() for n in names) and len(names) > 1 and _far(names, wanted)
                )

            wait_for(process, half)
            process.kill()
            process.communicate()
            left = [p.name for p in saves.iterdir()]
            if any(not name.isdigit() for name in left):
                break  # killed in the middle of a save, as meant
        assert _far(left, wanted)
    finish(start(folder, 40))
    assert (folder / "bits.txt").read_text() == (tmp_path / "whole" / "bits.txt").read_text()
    assert sorted(p.name for p in saves.iterdir()) == ["39", "40"]
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == len({row.split(",")[0] for row in rows}) == 20


def _far(names: list[str], step: int) -> bool:
    return max((int(n) for n in names if n.isdigit()), default=0) >= step


@pytest.mark.slow
def test_sigterm_saves_and_ends_with_success(tmp_path):
    process = start(tmp_path / "asked", 100_000, 0.05)
    saves = tmp_path / "asked" / "checkpoints"
    wait_for(process, lambda: saves.is_dir() and any(p.name.isdigit() for p in saves.iterdir()))
    process.send_signal(signal.SIGTERM)
    out = finish(process)
    assert "SIGTERM: saved step" in out
    step = int(out.split("SIGTERM: saved step ")[1].split(";")[0])
    assert (saves / str(step)).is_dir()
