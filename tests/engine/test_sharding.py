"""One step on 1 and on 8 devices, and real processes that are killed and resume."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from herd import Herd

HERE = Path(__file__).parent
MESHES = """
    import jax, numpy as np, pathlib, sys
    import toy_method as toy
    from ssl_jax.core.mesh import make_mesh
    from ssl_jax.engine import snapshot
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

    def start(number):  # on one of the meshes; each is compiled once
        if number not in started:
            mesh, accumulate = make_mesh(meshes[number]), 1 + number % 2
            state, shardings, compiled, _ = toy.start(mesh, accumulate)
            abstract = jax.eval_shape(lambda x: x, state)
            started[number] = mesh, state, abstract, shardings, compiled
        return started[number]

    assert len(jax.devices()) == 8
    one = make_mesh({"data": -1}, jax.devices()[:1])
    expected = {}
    for accumulate in (1, 2):
        state, _, compiled, _ = toy.start(one, accumulate)
        expected[accumulate] = [whole(state), *steps(state, compiled, 0, 6)]
    meshes = [{"data": 8}, {"fsdp": 8}, {"data": 2, "fsdp": 2, "model": 2}, {"slice": 2, "data": 4}]
    started = {}
    for number, sizes in enumerate(meshes):
        born, after, losses, sums = expected[1 + number % 2]
        mesh, state, _, _, compiled = start(number)
        for a, b in zip(whole(state), born, strict=True):
            np.testing.assert_array_equal(a, b)  # initialized alike, to the bit
        moments = state.opt_state[1][0].mu
        for tree in (state.params, moments, state.extra["teacher"]):
            kernel = tree["encoder"]["kernel"]
            local = kernel.addressable_shards[0].data.size
            assert local == kernel.size // (mesh.shape["fsdp"] * mesh.shape["model"])
        for a, b in zip(*map(jax.tree.leaves, (state, snapshot.copy(state)[0])), strict=True):
            assert a.sharding == b.sharding
        state, found, _ = steps(state, compiled, 0, 3)
        checkpoints = Checkpoints(folder / str(number), toy.make_config())
        checkpoints.save(3, state)
        state, rest, _ = steps(state, compiled, 3, 6)
        np.testing.assert_allclose(found + rest, losses, rtol=1e-5)
        for a, b in zip(whole(state), whole(after), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        # on another mesh, with as many micro-batches
        _, _, abstract, shardings, compiled = start((number + 2) % 4)
        state = checkpoints.restore(abstract, shardings)
        _, resumed, _ = steps(state, compiled, 3, 6)
        np.testing.assert_allclose(resumed, rest, rtol=1e-5)
        checkpoints.close()
        print("equal on", sizes)
"""


@pytest.fixture
def herd(tmp_path):
    with Herd(tmp_path) as found:
        yield found


@pytest.mark.slow
def test_eight_devices_equal_one(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(MESHES), str(tmp_path)]
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": path}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("equal on") == 4


@pytest.mark.slow
def test_a_run_killed_while_saving_goes_on_to_the_same_bits(tmp_path, herd):
    whole = herd.start(tmp_path / "whole", 40, toy=True)
    assert whole.wait() == 0, whole.text()
    folder = tmp_path / "killed"
    saves = folder / "checkpoints"
    for wanted in (3, 9, 15):
        while True:
            child = herd.start(folder, 40, pause=0.02, toy=True)

            def half(wanted=wanted):
                if not saves.is_dir():
                    return False
                names = [p.name for p in saves.iterdir()]
                return (
                    any(not n.isdigit() for n in names) and len(names) > 1 and _far(names, wanted)
                )

            child.until(half)
            child.signal(signal.SIGKILL)
            child.wait()
            left = [p.name for p in saves.iterdir()]
            if any(not name.isdigit() for name in left):
                break  # killed in the middle of a save, as intended
        assert _far(left, wanted)
    last = herd.start(folder, 40, toy=True)
    assert last.wait() == 0, last.text()
    assert (folder / "bits.txt").read_text() == (tmp_path / "whole" / "bits.txt").read_text()
    assert sorted(p.name for p in saves.iterdir()) == ["39", "40"]
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == len({row.split(",")[0] for row in rows}) == 20


def _far(names: list[str], step: int) -> bool:
    return max((int(n) for n in names if n.isdigit()), default=0) >= step


@pytest.mark.slow
def test_sigterm_saves_and_ends_with_success(tmp_path, herd):
    child = herd.start(tmp_path / "asked", 100_000, pause=0.05, toy=True)
    saves = tmp_path / "asked" / "checkpoints"
    child.until(lambda: saves.is_dir() and any(p.name.isdigit() for p in saves.iterdir()))
    child.signal(signal.SIGTERM)
    assert child.wait() == 0, child.text()
    out = child.text()
    assert "SIGTERM: saved step" in out
    step = int(out.split("SIGTERM: saved step ")[1].split(";")[0])
    assert (saves / str(step)).is_dir()
