"""Runs tiny configs on 1 and on 16 forced CPU devices; test_devices.py starts it as a process.

It reads one job per line, JSON [path of a config, name of the job], and answers each with a line.
The job 'memory' compiles the step of a deep model whose parameters are sharded over eight devices,
as for a TPU; 'tpu' compiles for eight TPU chips, which needs libtpu and no TPU.
"""

import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import resume
import two_encoders

from ssl_jax.core import config as config_lib
from ssl_jax.core import mesh as mesh_lib
from ssl_jax.core import platform, tree
from ssl_jax.core.types import Batch, TrainState
from ssl_jax.engine import step, teachers
from ssl_jax.nn import batch_norm
from ssl_jax.ops import contrast, losses
from ssl_jax.planning import aot

STEPS = 3
ALL_AXES = {"slice": 2, "data": 2, "fsdp": 2, "model": 2}
# A bias on all keys leaves softmax unchanged: its gradient is rounding, which Adam magnifies.
NOISE = ("attention/key/bias",)
# So does one on all rows that a batch norm reads. A slow wave of relative positions, which hardly
# changes along these short clips, is almost a bias on all keys.
OFFSET = ("attention/offset/kernel",)
NOISE_OF = {
    "configs/best_rq/speech.py": OFFSET,
    "configs/moco_v3/image.py": ("encoder/final_norm/bias",),
    "configs/transducer/speech.py": OFFSET,
}


def recording(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns an optimizer whose state is (the last gradient it was given, the state of `tx`).

    The optimizers divide by the size of the gradient, so a lost or doubled part of it hardly
    shows in their updates.
    """

    def update(gradients, state, params):
        updates, inner = tx.update(gradients, state[1], params)
        return updates, (gradients, inner)

    def init(params):
        return jax.tree.map(jnp.zeros_like, params), tx.init(params)

    return optax.GradientTransformation(init, update)


class Start(NamedTuple):
    """What every mesh begins from; the state was made on one device and lies on the host."""

    toy: cases.Toy
    tx: optax.GradientTransformation
    schedule: optax.Schedule
    shapes: dict[str, jax.ShapeDtypeStruct]
    state: TrainState

    def without_updates(self) -> "Start":
        """Returns a start whose steps record their gradient and move nothing."""
        still = optax.set_to_zero()
        state = dataclasses.replace(
            self.state, opt_state=(self.state.opt_state[0], still.init(self.state.params))
        )
        return self._replace(tx=recording(still), state=state)


class Compiled(NamedTuple):
    """The step of a mesh."""

    mesh: jax.sharding.Mesh
    shardings: TrainState
    step: step.TrainStep

    def update(self, state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        """Returns the next state and the loss; a state on the devices is given away."""
        state = jax.device_put(state, self.shardings)
        batch = jax.device_put(batch, mesh_lib.batch_sharding(self.mesh))
        state, _, loss = self.step.run(state, self.step.zeros(), batch)
        return state, loss


def start(toy: cases.Toy) -> Start:
    """Returns the start of a tiny model, which may be abstract.

    tests/engine/test_sharding.py checks that a mesh makes the same state as one device.
    """
    tx, schedule = toy.optimizer()
    tx = recording(tx)
    shapes = cases.abstract_batch(toy.method, resume.ROWS, toy.samples)
    one = mesh_lib.make_mesh({"data": 1}, jax.devices()[:1])
    state, shardings = step.init_state(toy.method, tx, 5, one, shapes)
    state, _ = teachers.join(state, shardings, teachers.fresh(toy.method), toy.method, one)
    return Start(toy, tx, schedule, shapes, jax.device_get(state))


def compiled(begun: Start, sizes: dict[str, int], devices: list) -> Compiled:
    """Returns the step of a mesh; it is compiled when it first runs."""
    method = begun.toy.method
    mesh = mesh_lib.make_mesh(sizes, devices)
    shardings = step.state_sharding(begun.state, method.rules, mesh)
    update = step.make_step(method, begun.tx, begun.schedule, mesh)
    run = step.compile_step(update, mesh, shardings, (begun.state, begun.shapes))
    return Compiled(mesh, shardings, run)


def train(
    begun: Start, program: Compiled, steps: int = STEPS
) -> tuple[list[float], dict, dict, int]:
    """Returns losses, the first gradient, the last parameters, how many of these are sharded."""
    state, losses, first = begun.state, [], {}
    for i in range(steps):
        state, loss = program.update(state, begun.toy.batch(resume.ROWS, seed=i))
        losses.append(float(loss))
        first = first or _arrays(state.opt_state[0])
    split = sum(not x.sharding.is_fully_replicated for x in jax.tree.leaves(state.params))
    return losses, first, _arrays(state.params), split


def _arrays(params) -> dict[str, np.ndarray]:
    return {name: np.array(x) for name, x in tree.named_leaves(params)}


def _worst(a: dict[str, np.ndarray], b: dict[str, np.ndarray], scale: float) -> tuple[float, str]:
    return max((float(np.abs(a[name] - b[name]).max()) / scale, name) for name in a)


def compare(path: str) -> dict[str, object]:
    """Returns the largest differences between one device and a mesh of all axes, and `resumed`."""
    return compare_toy(cases.abstract_toy(path), NOISE_OF.get(path, ()))


def compare_toy(toy: cases.Toy, noisy: tuple[str, ...] = ()) -> dict[str, object]:
    """Does so for a tiny model. noisy: names of parameters whose gradient is rounding."""
    begun = start(toy)
    one = compiled(begun, {"data": 1}, jax.devices()[:1])
    losses, reference, params, _ = train(begun, one)
    largest = max(float(np.abs(g).max()) for g in reference.values())
    # one device runs the program of a CPU; the mesh that of a TPU: a loop over layers, and
    # convolutions with all their groups
    with platform.planned("tpu"):
        others, there, arrays, split = train(begun, compiled(begun, ALL_AXES, jax.devices()))
    moved = {name: x for name, x in params.items() if not name.endswith(NOISE + noisy)}
    far = max(abs(a - b) / max(abs(a), 1e-6) for a, b in zip(losses, others, strict=True))
    return {
        "loss": far,
        "gradient": _worst(reference, there, largest),
        "params": _worst(moved, arrays, 1.0),
        "split": split,
        "resumed": _resumed(begun, one),
    }


def compare_gradients(path: str) -> dict[str, object]:
    """Returns the largest difference of a gradient between one device and the mesh of all axes.

    And what a resumed run on one device changes: both are asked of every config, so that its step
    is compiled once.
    """
    begun = start(cases.abstract_toy(path))
    one = compiled(begun, {"data": 1}, jax.devices()[:1])
    _, reference, _, _ = train(begun, one, steps=1)
    largest = max(float(np.abs(g).max()) for g in reference.values())
    still = begun.without_updates()
    with platform.planned("tpu"):
        program = compiled(still, ALL_AXES, jax.devices())
        _, there, _, _ = train(still, program, steps=1)
    return {"gradient": _worst(reference, there, largest), "resumed": _resumed(begun, one)}


def _resumed(begun: Start, one: Compiled) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        return resume.report(
            begun.toy,
            begun.state,
            one.shardings,
            lambda *given: one.update(*given)[0],
            Path(folder),
        )


def compile_for_tpu(path: str) -> dict[str, object]:
    """Compiles the step for a slice of eight chips; returns the bytes of its arrays."""
    from jax.experimental import topologies

    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4")
    toy = cases.abstract_toy(path)
    tx, schedule = toy.optimizer()
    shapes = cases.abstract_batch(toy.method, resume.ROWS, toy.samples)
    mesh = mesh_lib.make_mesh({"data": -1, "fsdp": 2}, list(topology.devices))
    state = step.abstract_state(toy.method, tx, shapes)
    shardings = step.state_sharding(state, toy.method.rules, mesh)
    taught = teachers.shapes(toy.method)
    state, shardings = teachers.join(state, shardings, taught, toy.method, mesh)
    update = step.make_step(toy.method, tx, schedule, mesh)
    jitted = jax.jit(update, in_shardings=(shardings, mesh_lib.batch_sharding(mesh)))
    compiled = jitted.lower(state, shapes).compile()
    return {"bytes": compiled.memory_analysis().argument_size_in_bytes}


def memory(path: str) -> dict[str, int]:
    """Returns bytes per device of eight: all blocks unsharded, the state, and temporaries.

    There are many blocks and small examples, so that unsharded blocks would show.
    """
    deep = ("depth=32", "width=128", "mlp_width=512", "heads=4")
    config = config_lib.load(
        str(cases.ROOT / path) + ":toy",
        [*(f"config.method.encoder.{x}" for x in deep), "config.mesh.fsdp=8", "data.batch_size=8"],
    )
    program = aot.build(config, lambda: cases.build(config), jax.devices()[:8], "tpu")
    blocks = program.state.params["encoder"]["blocks"]
    found = program.compile().memory
    return {
        "blocks": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(blocks)),
        "state": found["arguments"],
        "temporaries": found["temporaries"],
    }


def coupled(path: str) -> dict[str, float]:
    """Returns the largest differences between one device and all of rows that depend on all.

    A norm over the whole batch, whose last rows are padding, and a contrast with all other rows.
    """
    del path
    draw = np.random.default_rng(0)
    x = draw.standard_normal((16, 12)).astype(np.float32)
    weight = (np.arange(16) < 13).astype(np.float32)
    norm = batch_norm.BatchNorm()
    given = norm.init(jax.random.key(0), x, weight > 0, True)
    kernel = draw.standard_normal((12, 12)).astype(np.float32)

    def loss(kernel, x, weight):
        y, moved = norm.apply(given, x @ kernel, weight > 0, True, mutable=[batch_norm.STATISTICS])
        rows = contrast.batch_info_nce(contrast.batch_logits(y, x[:, ::-1], weight, 0.2))
        return losses.masked_mean(rows, weight)[0], moved

    found = []
    for devices in (jax.devices()[:1], jax.devices()):
        mesh = mesh_lib.make_mesh({"data": -1}, devices)
        rows = jax.device_put((x, weight), mesh_lib.batch_sharding(mesh))
        with mesh_lib.using(mesh):
            found.append(jax.jit(jax.value_and_grad(loss, has_aux=True))(kernel, *rows))
    (one, slope), (other, there) = jax.device_get(found)
    apart = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), (*one, slope), (*other, there))
    return dict(zip(("loss", "statistics", "gradient"), apart, strict=True))


def streams(path: str) -> dict[str, object]:
    """Compares the throw-away method of two encoders, and the features of both of its streams,
    relative to the largest."""
    del path
    toy = cases.abstract_toy_of(two_encoders.config(), two_encoders)
    batch = toy.batch(resume.ROWS)
    params, _ = jax.jit(toy.method.init)(jax.random.key(0), batch)
    apart = {}
    for name, features in toy.method.streams.items():
        found = []
        for count in (1, resume.ROWS):
            mesh = mesh_lib.make_mesh({"data": -1}, jax.devices()[:count])
            rows = jax.device_put(batch, mesh_lib.batch_sharding(mesh))
            with mesh_lib.using(mesh):
                found.append(np.array(jax.jit(features)(params, rows).hidden_states))
        apart[name] = float(np.abs(found[0] - found[1]).max() / np.abs(found[0]).max())
    return {**compare_toy(toy), "features": apart}


JOBS = {
    "streams": streams,
    "coupled": coupled,
    "tpu": compile_for_tpu,
    "compare": compare,
    "gradients": compare_gradients,
    "memory": memory,
}

if __name__ == "__main__":
    for line in sys.stdin:
        config, job = json.loads(line)
        print(json.dumps(JOBS[job](config)), flush=True)
        jax.clear_caches()  # the next job compiles other programs
