"""Builds the train step of a config ahead of time: traced and compiled without data or devices."""

import dataclasses
import functools
import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ssl_jax.core import chips, platform
from ssl_jax.core import config as config_lib
from ssl_jax.core import mesh as mesh_lib
from ssl_jax.core.types import Method, TrainState, Tree
from ssl_jax.engine import flops, optim, teachers
from ssl_jax.engine import step as step_lib
from ssl_jax.planning import batch_shapes, collectives

# assumed where the size of the data is unknown; only the schedule, which costs nothing, uses it
EXAMPLES = 10_000_000


@dataclasses.dataclass(frozen=True)
class Program:
    """A train step over devices that need not exist; every array in it is abstract.

    state and shardings: all training arrays and how they are sharded. batch: one global batch of
    the longest bucket. make_step: returns the step, which is traced when it is first asked for.
    optimizer: the pair that `optim.make` returns, the optimizer and its learning-rate schedule.
    platform: the platform that the step is traced for.
    """

    mesh: Mesh
    state: TrainState
    shardings: TrainState
    batch: dict[str, jax.ShapeDtypeStruct]
    make_step: Callable[[], step_lib.TrainStep]
    optimizer: tuple
    platform: str

    @functools.cached_property
    def totals(self) -> Tree:
        """The shapes of the totals before any step."""
        return jax.eval_shape(self._step.zeros)

    @property
    def jitted(self) -> Any:
        """The function that the loop calls, as run(state, totals, batch)."""
        return self._step.run

    def check(self) -> None:
        """Traces the step over its mesh; raises if it cannot run."""
        self._traced()

    def trace(self) -> Any:
        """Returns the jaxpr of one step over the global batch."""
        return self._traced().jaxpr

    def flops(self) -> float:
        """Returns the floating-point operations of one step, summed over all chips."""
        return flops.count(self.trace())

    def compile(self) -> "Compiled":
        """Compiles the step for the devices of the mesh."""
        with platform.planned(self.platform):
            done = self._traced().lower().compile()
        return Compiled(done, memory(done), self.sent(done.as_text()))

    def sent(self, text: str) -> list[collectives.Collective]:
        """Returns the collectives of the compiled step, parsed from its text."""
        slices = mesh_lib.slices_of(self.mesh.devices.flat)
        return collectives.parse(text, self.mesh.size, slices)

    def held(self) -> dict[str, int]:
        """Returns the bytes of a chip between steps: parameters, optimizer, extra, batch."""
        state = self.state
        places = self.shardings
        parts = {
            "parameters": (state.params, places.params),
            "optimizer": (state.opt_state, places.opt_state),
            "extra": (state.extra, places.extra),
            "batch": (self.batch, mesh_lib.batch_sharding(self.mesh)),
        }
        return {name: chip_bytes(*part) for name, part in parts.items()}

    @functools.cached_property
    def _step(self) -> step_lib.TrainStep:
        with platform.planned(self.platform):
            return self.make_step()

    def _traced(self) -> Any:
        with platform.planned(self.platform):
            return self.jitted.trace(self.state, self.totals, self.batch)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled step, its memory by kind and its collectives, all for one chip."""

    executable: Any
    memory: dict[str, int]
    collectives: list[collectives.Collective]


def build(
    config: ConfigDict,
    make_method: Callable[[], Method],
    devices: Sequence[Any],
    platform_name: str,
    examples: int = EXAMPLES,
) -> Program:
    """Returns the train step of `config` over `devices`, as the train command would compile it.

    make_method: builds the method; called once the target platform is set. platform_name: cpu,
    gpu or tpu, which may differ from that of `devices`. Raises ValueError if the mesh does not
    cover the devices or the batch does not divide over them.
    """
    mesh = mesh_lib.make_mesh(config.mesh, list(devices))
    check_batch(config, mesh)
    with platform.planned(platform_name):
        method = make_method()
        batch = batch_shapes.global_batch(config, method)
        initial = jax.eval_shape(method.init, jax.random.key(0), batch)
        tx, schedule = optimizer = _optimizer(config, initial[0], examples)
        state = step_lib.abstract_state(method, tx, batch, initial)
        shardings = step_lib.state_sharding(state, method.rules, mesh)
        taught = teachers.shapes(method)
        state, shardings = teachers.join(state, shardings, taught, method, mesh)
        step = step_lib.make_step(method, tx, schedule, mesh, config.train.accumulate)
    compiled = functools.partial(step_lib.compile_step, step, mesh, shardings, (state, batch))
    return Program(mesh, state, shardings, batch, compiled, optimizer, platform_name)


def devices_of(topology: chips.Topology) -> list[Any]:
    """Returns the devices of a topology: for a TPU as libtpu describes them, else JAX's own.

    Raises ImportError if libtpu is missing, ConfigError if there are fewer devices than chips.
    """
    chip = topology.chip
    if chip.platform == "tpu":
        if importlib.util.find_spec("libtpu") is None:
            raise ImportError(
                f"to compile for {chip.name}, install the package libtpu, which needs no TPU"
            )
        options: dict[str, Any] = {"num_slices": topology.slices} if topology.slices > 1 else {}
        if chip.name == "v4":  # its two cores are one device
            options["chip_config_name"] = "megacore"
        name = f"{chip.name}:{topology.shape}"
        return list(topologies.get_topology_desc(name, "tpu", **options).devices)
    found = jax.devices()
    if len(found) < topology.chips:
        raise config_lib.ConfigError(
            f"{len(found)} devices cannot stand in for {topology.chips} chips: start with "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={topology.chips}"
        )
    return found[: topology.chips]


def check_batch(config: ConfigDict, mesh: Mesh) -> None:
    """Raises ValueError unless every micro-batch of the global batch divides over the mesh."""
    size, accumulate = config.data.batch_size, config.train.accumulate
    mesh_lib.check_batch(mesh, size)
    ways = math.prod(mesh.shape[axis] for axis in mesh_lib.BATCH_AXES)
    batch_multiple = ways * accumulate
    if size % batch_multiple:
        near = max(batch_multiple, size // batch_multiple * batch_multiple)
        raise config_lib.ConfigError(
            f"config.train.accumulate {accumulate} splits config.data.batch_size {size} into "
            f"micro-batches that do not divide over {ways} data-parallel groups: use "
            f"config.data.batch_size={near}"
        )


def memory(executable: Any) -> dict[str, int]:
    """Returns the bytes of one chip: arguments, outputs not written in place, temporaries, code."""
    found = executable.memory_analysis()
    return {
        "arguments": found.argument_size_in_bytes,
        "outputs": found.output_size_in_bytes - found.alias_size_in_bytes,
        "temporaries": found.temp_size_in_bytes,
        "code": found.generated_code_size_in_bytes,
    }


def chip_bytes(tree: Tree, shardings: Tree) -> int:
    """Returns the bytes of a tree on one chip; `shardings`: a tree, or one for all leaves."""
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    sizes = jax.tree.map(
        lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, tree, shardings
    )
    return sum(jax.tree.leaves(sizes))


def unsharded_bytes(tree: Tree) -> int:
    """Returns the bytes of a tree on a chip that holds all of it."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _optimizer(config: ConfigDict, params: Tree, examples: int) -> tuple:
    seconds = config.data.batch_size * float(config.data.buckets[-1])

    def to_steps(duration: int | str, total: int | None = None) -> int:
        return config_lib.steps(
            duration,
            batch_size=config.data.batch_size,
            examples=examples,
            seconds_per_step=seconds,
            total=total,
        )

    total_steps = to_steps(config.train.duration)
    return optim.make(
        config.optim,
        params,
        total_steps=total_steps,
        to_steps=lambda duration: to_steps(duration, total_steps),
        depth=optim.depth(params),
    )
