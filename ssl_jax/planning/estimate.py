"""The cost of a step of a config on a topology: memory, operations, communication, seconds."""

import copy
import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ssl_jax.core import config as config_lib
from ssl_jax.core import mesh as mesh_lib
from ssl_jax.core import tree as tree_lib
from ssl_jax.core.chips import Topology
from ssl_jax.core.types import Method
from ssl_jax.engine import step as step_lib
from ssl_jax.planning import aot, collectives, roofline, tpu_dump
from ssl_jax.planning import kernels as kernels_lib

MakeMethod = Callable[[ConfigDict], Method]
ONE = {"slice": 1, "data": 1, "fsdp": 1, "model": 1}
# scopes that work on parameters rather than on examples: a chip computes them for its shards only
OF_PARAMETERS = re.compile(r"^(optimizer|update)\b")
_NEEDED = re.compile(r"temporaries \(([\d.]+)([KMGT])\)")


@dataclasses.dataclass(frozen=True)
class Estimate:
    """One step on one chip of a topology; `flops` is the sum over all chips.

    memory: bytes by kind; `temporaries` are activations, gradients and buffers. compiled: memory
    is the compiler's figure, else it follows from shapes. communication_compiled: the collectives
    are those of the compiled step, else, also for a step that does not fit, they follow from the
    sharding rules.
    """

    chips: int
    parameters: int
    memory: dict[str, float]
    limit: float
    flops: float
    moved: float
    collectives: list[collectives.Collective]
    times: roofline.Times
    compiled: bool
    communication_compiled: bool

    @property
    def spare(self) -> float:
        """Bytes of a chip that stay free; negative if the step does not fit."""
        return self.limit - sum(self.memory.values())

    def utilization(self, peak: float) -> float:
        """Returns the fraction of the chips' peak FLOP/s that the products reach."""
        return self.flops / self.chips / self.times.total / peak


def of_step(
    config: ConfigDict,
    make: MakeMethod,
    topology: Topology,
    devices: Sequence[Any],
    compiles: bool = False,
    flows: dict[str, tuple[kernels_lib.Flow, int]] | None = None,
) -> Estimate:
    """Returns the estimate of a step of `config` over `devices`, which stand in for the chips.

    `compiles`: compile the step, which takes minutes for a large model; if it does not fit, memory
    is what the compiler reports. `flows` caches what one chip computes, for estimates that differ
    in the mesh only.
    """
    whole = aot.build(config, lambda: make(config), devices, topology.chip.platform)
    one = of_one_chip(config, whole.mesh)
    flows = {} if flows is None else flows
    if (key := config_lib.sign(one)) not in flows:
        single = whole
        if whole.mesh.size > 1:
            single = aot.build(one, lambda: make(one), devices[:1], topology.chip.platform)
        state = len(jax.tree.leaves((single.state, single.totals)))
        flows[key] = kernels_lib.of(single.trace()), state
    (flow, state), held = flows[key], whole.held()
    sharded = held["parameters"] / aot.unsharded_bytes(whole.state.params)
    kernels = [_of_chip(k, sharded, whole.mesh.shape["model"]) for k in flow.kernels]
    found, temporaries = None, buffers(flow, whole, state)
    if compiles:
        found, temporaries = compiled_or_not(whole)
    sent = expected(whole, config.train.accumulate, topology.slices)
    sent = sent if found is None else found.collectives
    flops = sum(k.flops * k.times for k in flow.kernels) * topology.chips
    return Estimate(
        chips=topology.chips,
        parameters=tree_lib.count(whole.state.params),
        memory={**held, "temporaries": temporaries},
        limit=topology.chip.hbm,
        flops=flops / whole.mesh.shape["model"],
        moved=sum(k.bytes * k.times for k in kernels),
        collectives=sent,
        times=roofline.predict(kernels, sent, topology.chip),
        compiled=compiles,
        communication_compiled=found is not None,
    )


def buffers(flow: kernels_lib.Flow, program: aot.Program, state: int) -> float:
    """Returns the bytes of activations, gradients and buffers of a chip, estimated from shapes.

    The new state, the first `state` arrays, is written in place of the old one. Arrays of the shape
    of a parameter that is sharded over `fsdp`, its gradient above all, are sharded likewise.
    """
    shares = {x.shape: 1 / program.mesh.shape["fsdp"] for _, x, _ in _shards(program, "params")}
    return flow.peak(state, shares) / program.mesh.shape["model"] + gathered(program)


def of_one_chip(config: ConfigDict, mesh: Mesh) -> ConfigDict:
    """Returns the config for the work of one chip: its share of the batch, without a mesh."""
    one = ConfigDict(copy.deepcopy(config.to_dict()))
    one.data.batch_size = config.data.batch_size // ways(mesh)
    one.mesh = ConfigDict(ONE)
    return one


def ways(mesh: Mesh) -> int:
    """Returns the number of chips, or groups of chips, that the batch is divided over."""
    return math.prod(mesh.shape[axis] for axis in mesh_lib.BATCH_AXES)


def gathered(program: aot.Program) -> float:
    """Returns the most bytes that a chip holds of parameters all-gathered over `fsdp`.

    Parameters outside the blocks stay gathered for the whole step; blocks are gathered one at a
    time.
    """
    total = 0.0
    for name, x, shard in (*_shards(program, "params"), *_shards(program, "extra")):
        full = shard * program.mesh.shape["fsdp"]
        total += full / x.shape[0] if step_lib.LAYERED in name else full - shard
    return total


def expected(
    program: aot.Program, accumulate: int, slices: int = 1
) -> list[collectives.Collective]:
    """Returns the collectives that the sharding rules require, without compiling.

    Gradients of replicated parameters are all-reduced over all chips that share the batch, in the
    type that products compute in. Those of parameters sharded over `fsdp` are reduce-scattered, or
    all-reduced if there is a `data` axis too: XLA (0.10) sums over both at once. Blocks are
    all-gathered in that type, forward and backward, the other parameters once. All of this happens
    once per micro-batch. Sums within a slice are then summed over `slices`, each chip sending its
    part. Small sums of metrics and communication over `model` are left out.
    """
    mesh, params, found = program.mesh, program.state.params, []
    share, fsdp, model = ways(mesh), mesh.shape["fsdp"], mesh.shape["model"]
    narrow = 1 if program.platform == "cpu" else 2
    shards = sum(size for _, _, size in _shards(program, "params"))
    gather = 0.0
    for part, passes in (("params", 2), ("extra", 1)):
        for name, x, size in _shards(program, part):
            less = narrow if x.dtype.itemsize == 4 else 1  # a frozen teacher is narrow already
            gather += size * passes / less if step_lib.LAYERED in name else size

    def add(kind: str, size: float, group: int, between: bool = False) -> None:
        if size and group > 1:
            one = collectives.Collective(kind, round(size), group, accumulate, between)
            found.append(one)

    def add_sum(size: float, group: int) -> None:
        inside = group // slices
        add("all-reduce", size, inside)
        add("all-reduce", size / inside, slices, between=True)

    add_sum((aot.unsharded_bytes(params) / model - shards * fsdp) / narrow, share)
    add("all-gather", gather, fsdp)
    if mesh.shape["data"] > 1:
        add_sum(shards * fsdp / narrow, share)
    else:
        add("reduce-scatter", shards * fsdp / narrow, fsdp)
        add_sum(shards / narrow, share // fsdp)
    return found


def _shards(program: aot.Program, part: str) -> list[tuple[str, Any, float]]:
    """Returns (name, array, bytes of a chip's shard) for arrays of a part sharded over `fsdp`."""
    if program.mesh.shape["fsdp"] == 1:
        return []
    arrays = tree_lib.named_leaves(getattr(program.state, part))
    leaves = zip(arrays, jax.tree.leaves(getattr(program.shardings, part)), strict=True)
    return [
        (name, x, math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize)
        for (name, x), s in leaves
        if "fsdp" in s.spec
    ]


def _of_chip(kernel: kernels_lib.Kernel, sharded: float, model: int) -> kernels_lib.Kernel:
    """Scales a kernel of the whole model to a chip that holds the fraction `sharded` of it."""
    share = sharded if OF_PARAMETERS.search(kernel.scope) else 1 / model
    scaled = {name: getattr(kernel, name) * share for name in ("bytes", "flops", "simple")}
    return dataclasses.replace(kernel, **scaled)


def compiled_or_not(program: aot.Program) -> tuple[aot.Compiled | None, float]:
    """Returns (compiled step, bytes of temporaries); the step is None if it does not fit."""
    try:
        found = tpu_dump.compiled(program)
    except jax.errors.JaxRuntimeError as error:
        needed = _NEEDED.search(str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or not needed:
            raise
        return None, float(needed[1]) * 1024 ** (1 + "KMGT".index(needed[2]))
    return found, found.memory["temporaries"] + found.memory["outputs"] + found.memory["code"]
