"""What a step of a config takes on a topology: memory, operations, exchanged bytes, seconds."""

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
# what works on parameters and not on examples: of these a chip has its pieces only
OF_PARAMETERS = re.compile(r"^(optimizer|update)\b")
_NEEDED = re.compile(r"temporaries \(([\d.]+)([KMGT])\)")


@dataclasses.dataclass(frozen=True)
class Estimate:
    """One step on one chip of a topology; flops are those of all chips together.

    memory: bytes by kind, of which `temporaries` are activations, gradients and buffers.
    compiled: memory is the compiler's, else it follows from shapes. exchange_compiled: so are the
    collectives, else they follow from the sharding rules; they do where the step does not fit.
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
    exchange_compiled: bool

    @property
    def spare(self) -> float:
        """Bytes of a chip that stay free; negative where the step does not fit."""
        return self.limit - sum(self.memory.values())

    def utilization(self, peak: float) -> float:
        """Returns the share of the chips' peak FLOP/s that the products are."""
        return self.flops / self.chips / self.times.total / peak


def of_step(
    config: ConfigDict,
    make: MakeMethod,
    topology: Topology,
    devices: Sequence[Any],
    compiles: bool = False,
    flows: dict[str, kernels_lib.Flow] | None = None,
) -> Estimate:
    """Returns the estimate of a step of `config` over `devices`, which stand for the chips.

    With `compiles` the compiler is asked, which takes minutes for a large model; where it finds
    that the step does not fit, memory is as it says. `flows` keeps what one chip computes, for
    further estimates that differ in the mesh only.
    """
    whole = aot.build(config, lambda: make(config), devices, topology.chip.platform)
    one = of_one_chip(config, whole.mesh)
    flows = {} if flows is None else flows
    if (key := config_lib.sign(one)) not in flows:
        alone = whole  # on a single chip
        if whole.mesh.size > 1:
            alone = aot.build(one, lambda: make(one), devices[:1], topology.chip.platform)
        flows[key] = kernels_lib.of(alone.trace())
    flow, held = flows[key], whole.held()
    pieces = held["parameters"] / aot.whole_bytes(whole.state.params)
    kernels = [_of_chip(k, pieces, whole.mesh.shape["model"]) for k in flow.kernels]
    found, temporaries = None, buffers(flow, whole)
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
        exchange_compiled=found is not None,
    )


def buffers(flow: kernels_lib.Flow, program: aot.Program) -> float:
    """Returns the bytes of activations, gradients and buffers of a chip, as shapes tell.

    The new state is written where the old one lies. Of what is shaped as a parameter that `fsdp`
    cuts, its gradient above all, a chip has a piece.
    """
    state = len(jax.tree.leaves((program.state, program.totals)))
    cut = {x.shape: 1 / program.mesh.shape["fsdp"] for _, x, _ in _pieces(program, "params")}
    return flow.peak(state, cut) / program.mesh.shape["model"] + gathered(program)


def of_one_chip(config: ConfigDict, mesh: Mesh) -> ConfigDict:
    """Returns the config of what one chip computes: its share of the batch, no mesh."""
    one = ConfigDict(copy.deepcopy(config.to_dict()))
    one.data.batch_size = config.data.batch_size // ways(mesh)
    one.mesh = ConfigDict(ONE)
    return one


def ways(mesh: Mesh) -> int:
    """Returns over how many chips, or groups of them, the batch is divided."""
    return math.prod(mesh.shape[axis] for axis in mesh_lib.BATCH_AXES)


def gathered(program: aot.Program) -> float:
    """Returns the bytes of what a chip puts together of pieces over `fsdp`, at the most.

    What stands before and after the blocks is whole for a step; of the blocks one at a time.
    """
    total = 0.0
    for name, x, piece in (*_pieces(program, "params"), *_pieces(program, "extra")):
        whole = piece * program.mesh.shape["fsdp"]
        total += whole / x.shape[0] if step_lib.LAYERED in name else whole - piece
    return total


def expected(
    program: aot.Program, accumulate: int, slices: int = 1
) -> list[collectives.Collective]:
    """Returns the collectives that the sharding rules ask for, without compiling.

    Gradients of whole parameters are summed over all that share the batch, in the type that
    products compute in; those of pieces over `fsdp` are summed into pieces, but whole where
    there is an axis `data` too: XLA (0.10) sums up over both at once. Blocks are put together in
    that type, forward and backward, the rest once. All of it once for each micro-batch. What is
    summed up in a slice goes to the other `slices`, a chip's part of it. Small sums of metrics and
    what `model` exchanges are left out.
    """
    mesh, params, found = program.mesh, program.state.params, []
    share, fsdp, model = ways(mesh), mesh.shape["fsdp"], mesh.shape["model"]
    narrow = 1 if program.platform == "cpu" else 2
    pieces = sum(size for _, _, size in _pieces(program, "params"))
    gather = 0.0
    for part, passes in (("params", 2), ("extra", 1)):
        for name, _, size in _pieces(program, part):
            gather += size * passes / narrow if step_lib.LAYERED in name else size

    def add(kind: str, size: float, group: int, between: bool = False) -> None:
        if size and group > 1:
            one = collectives.Collective(kind, round(size), group, accumulate, between)
            found.append(one)

    def add_sum(size: float, group: int) -> None:
        inside = group // slices
        add("all-reduce", size, inside)
        add("all-reduce", size / inside, slices, between=True)

    add_sum((aot.whole_bytes(params) / model - pieces * fsdp) / narrow, share)
    add("all-gather", gather, fsdp)
    if mesh.shape["data"] > 1:
        add_sum(pieces * fsdp / narrow, share)
    else:
        add("reduce-scatter", pieces * fsdp / narrow, fsdp)
        add_sum(pieces / narrow, share // fsdp)
    return found


def _pieces(program: aot.Program, part: str) -> list[tuple[str, Any, float]]:
    """Returns (name, array, bytes of a chip's piece) of the state's part that `fsdp` cuts."""
    if program.mesh.shape["fsdp"] == 1:
        return []
    arrays = tree_lib.named_leaves(getattr(program.state, part))
    leaves = zip(arrays, jax.tree.leaves(getattr(program.shardings, part)), strict=True)
    return [
        (name, x, math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize)
        for (name, x), s in leaves
        if "fsdp" in s.spec
    ]


def _of_chip(kernel: kernels_lib.Kernel, pieces: float, model: int) -> kernels_lib.Kernel:
    """Returns a kernel of the whole model as one of a chip that holds `pieces` of it."""
    share = pieces if OF_PARAMETERS.search(kernel.scope) else 1 / model
    scaled = {name: getattr(kernel, name) * share for name in ("bytes", "flops", "simple")}
    return dataclasses.replace(kernel, **scaled)


def compiled_or_not(program: aot.Program) -> tuple[aot.Compiled | None, float]:
    """Returns (compiled step, bytes of temporaries), without the first where it does not fit."""
    try:
        found = tpu_dump.compiled(program)
    except jax.errors.JaxRuntimeError as error:
        needed = _NEEDED.search(str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or not needed:
            raise
        return None, float(needed[1]) * 1024 ** (1 + "KMGT".index(needed[2]))
    return found, found.memory["temporaries"] + found.memory["outputs"] + found.memory["code"]
