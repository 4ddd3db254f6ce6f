"""The compute and memory traffic of a traced program, kernel by kernel, assuming good fusion.

A model of how XLA compiles a step, from the jaxpr alone:
- A matrix product, a convolution, a sort or a gather is a kernel of its own, which reads its
  operands from memory and writes its result.
- Everything between two of these is fused into one kernel that reads each of its inputs once.
  A reduction over the last axis (softmax, norms) is fused too; one over other axes ends a kernel.
- A result of a fused kernel that a later kernel needs is written to memory, unless it is cheap to
  recompute from no more bytes than it has itself (masks, broadcasts, casts of weights).
- Reshapes and transposes are free. A loop costs its body times its length; its inputs and outputs
  are in memory. An unrolled loop is treated as straight-line code.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.extend import core

from ssl_jax.engine import flops as flops_lib

Jaxpr = Any
Equation = Any

VIEWS = {"reshape", "squeeze", "expand_dims", "transpose", "stop_gradient", "copy", "name"}
VIEWS |= {"sharding_constraint", "optimization_barrier", "pvary", "reduce_precision"}
REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_and", "reduce_or", "reduce_prod"}
REDUCTIONS |= {"argmax", "argmin"}
PRODUCTS = {"dot_general", "conv_general_dilated"}
OWN_KERNEL = {"sort", "top_k", "cumsum", "cumlogsumexp", "cummax", "cumprod", "gather", "scatter"}
OWN_KERNEL |= {
    "scatter-add",
    "scatter_add",
    "scatter-mul",
    "fft",
    "cholesky",
    "dynamic_update_slice",
}
OWN_KERNEL |= {"reduce_window_sum", "reduce_window_max", "select_and_scatter_add"}
# elementwise operations that one element costs; a primitive not named here costs one
COSTS = {"exp": 8, "exp2": 8, "log": 10, "log1p": 12, "expm1": 12, "tanh": 20, "logistic": 12}
COSTS |= {"erf": 25, "erf_inv": 40, "erfc": 40, "div": 8, "rem": 8, "sqrt": 8, "rsqrt": 4}
COSTS |= {"pow": 20, "sin": 20, "cos": 20, "random_bits": 75, "threefry2x32": 75}
COSTS |= {"broadcast_in_dim": 0, "convert_element_type": 0, "iota": 0, "slice": 0}
ONE_KERNEL = "one_kernel"  # the name of functions that compile to one kernel, see nn.attention
LONGEST_ROW = 16_384  # a longer row is not reduced inside a fused kernel
Shares = Mapping[tuple[int, ...], float]
# operations that take as long as writing and reading a byte: costlier values are not recomputed
WORTH = 24


@dataclasses.dataclass
class Kernel:
    """One kernel of a chip: dot, conv, attention, fused, or move (sort, gather, ...).

    flops: operations in products, exact. simple: operations outside products. bytes: read and
    written. sizes: (m, n, k) of a product, or of one of its groups. wide: the operands are float32.
    exact: it asks for full float32 precision. groups: of a convolution. times: runs per step.
    """

    kind: str
    bytes: float = 0.0
    flops: float = 0.0
    simple: float = 0.0
    sizes: tuple[float, float, float] = (1, 1, 1)
    wide: bool = False
    exact: bool = False
    groups: int = 1
    times: float = 1.0
    scope: str = ""


@dataclasses.dataclass(frozen=True)
class Flow:
    """All kernels of a step, and the lifetimes of its values."""

    kernels: list[Kernel]
    region: "_Region"
    loops: dict[int, "Flow"]  # equation of the region -> the flow of its body

    def peak(self, in_place: int = 0, share: Shares | None = None) -> float:
        """Returns the most bytes alive at once, besides the arguments.

        in_place: this many of the first results are written in place of arguments. share: shape ->
        the fraction of arrays of that shape that a chip holds, such as gradients of sharded
        parameters.
        """
        inner = {j: flow.peak(0, share) for j, flow in self.loops.items()}
        return self.region.peak(inner, in_place, share or {})


@dataclasses.dataclass
class _Node:
    """An equation of a flat program; inputs and outputs are indices of values.

    joins: it only stacks the outputs of an unrolled loop.
    """

    eqn: Equation
    reads: list[int]
    makes: list[int]
    joins: bool = False

    @property
    def kind(self) -> str:
        return "concatenate" if self.joins else self.eqn.primitive.name

    @property
    def fused(self) -> bool:
        """Whether it is fused with its neighbours."""
        own = self.kind in PRODUCTS | OWN_KERNEL | {"scan"}
        return self.joins or not (own or _is_attention(self.eqn))

    @property
    def ends(self) -> bool:
        """Whether consumers of its results are in a later kernel."""
        if self.kind not in REDUCTIONS:
            return not self.fused
        shape, axes = self.eqn.invars[0].aval.shape, self.eqn.params["axes"]
        last = tuple(axes) == (len(shape) - 1,)
        return not (last and shape[-1] <= LONGEST_ROW) and math.prod(shape) > 1


def of(closed: core.ClosedJaxpr) -> Flow:
    """Returns the kernels of a traced program, without its unused equations."""
    return _Region(flops_lib.without_unused(closed)).flow()


class _Region:
    """A straight-line program: the whole program, or the body of a loop."""

    def __init__(self, jaxpr: Jaxpr, sliced: int | None = None):
        """`sliced`: the first input that is a slice of a stacked array; None: there are none."""
        self.nodes: list[_Node] = []
        self.sizes: list[float] = []  # bytes of each value
        self.shapes: list[tuple[int, ...]] = []
        self.stacks: dict[int, list[int]] = {}  # value -> the values that it stacks
        names: dict[Any, int] = {}
        self.inputs = [self._new(v.aval) for v in (*jaxpr.constvars, *jaxpr.invars)]
        names |= dict(zip((*jaxpr.constvars, *jaxpr.invars), self.inputs, strict=True))
        first = len(self.inputs) if sliced is None else sliced + len(jaxpr.constvars)
        self.slices = set(self.inputs[first:])
        self.in_loop = sliced is not None
        outs = self._flatten(jaxpr, names)
        self.outputs, self.results = [i for i in outs if i >= 0], outs
        self._place()

    def _new(self, aval: Any) -> int:
        self.sizes.append(_bytes(aval))
        self.shapes.append(aval.shape)
        return len(self.sizes) - 1

    def _flatten(self, jaxpr: Jaxpr, names: dict[Any, int]) -> list[int]:
        """Adds the equations of `jaxpr`, with calls to other programs inlined."""

        def number(v: Any) -> int:
            return -1 if isinstance(v, core.Literal) else names[v]

        for eqn in jaxpr.eqns:
            reads = [number(v) for v in eqn.invars]
            kind = eqn.primitive.name
            inner = [getattr(j, "jaxpr", j) for j in core.jaxprs_in_params(eqn.params)]
            if kind in VIEWS:
                makes = [i if i >= 0 else self._new(v.aval) for i, v in _pairs(reads, eqn)]
            elif _is_attention(eqn):
                makes = [self._new(v.aval) for v in eqn.outvars]
                # query, key, value, mask and gradient; other inputs are constants
                real = [i for i, v in zip(reads, eqn.invars, strict=True) if v.aval.ndim == 4]
                self.nodes.append(_Node(eqn, real, makes))
            elif kind == "scan" and eqn.params["unroll"] >= eqn.params["length"]:
                makes = self._unroll(eqn, reads)
            elif inner and kind == "cond":
                body = max(inner, key=lambda j: len(j.eqns))
                makes = self._inline(body, reads[1:])
            elif inner and kind not in ("scan", "while", *REDUCTIONS, "scatter-add", "sort"):
                makes = self._inline(inner[0], reads)
            else:
                makes = [self._new(v.aval) for v in eqn.outvars]
                self.nodes.append(_Node(eqn, reads, makes))
            names |= dict(zip(eqn.outvars, makes, strict=True))
        return [number(v) for v in jaxpr.outvars]

    def _unroll(self, eqn: Equation, reads: list[int]) -> list[int]:
        """Adds every iteration of a loop, each with its slices of the stacked arrays."""
        p = eqn.params
        body, steps = p["jaxpr"].jaxpr, range(p["length"])
        num_consts, num_carry = flops_lib.scanned(eqn)
        first = num_consts + num_carry
        consts, carry, stacked = reads[:num_consts], reads[num_consts:first], reads[first:]
        slices = [
            self._slices(i, v.aval, len(steps))
            for i, v in zip(stacked, body.invars[first:], strict=True)
        ]
        outputs: dict[int, list[int]] = {}
        for step in reversed(steps) if p["reverse"] else steps:
            outs = self._inline(body, [*consts, *carry, *(s[step] for s in slices)])
            carry, outputs[step] = outs[:num_carry], outs[num_carry:]
        joined = []
        for place, v in enumerate(eqn.outvars[num_carry:]):
            parts = [outputs[step][place] for step in steps]
            made = self._new(v.aval)
            self.stacks[made] = parts
            self.nodes.append(_Node(eqn, parts, [made], joins=True))
            joined.append(made)
        return [*carry, *joined]

    def _slices(self, stack: int, aval: Any, count: int) -> list[int]:
        """Returns the values that a stacked value holds; those of an argument are in memory."""
        if stack not in self.stacks:
            self.stacks[stack] = [self._new(aval) for _ in range(count)]
            self.inputs += self.stacks[stack]
        return self.stacks[stack]

    def _inline(self, jaxpr: Jaxpr, reads: list[int]) -> list[int]:
        names = {v: self._new(v.aval) for v in jaxpr.constvars}
        for v, i in zip(jaxpr.invars, reads[-len(jaxpr.invars) :], strict=True):
            names[v] = i if i >= 0 else self._new(v.aval)
        return [
            i if i >= 0 else self._new(v.aval)
            for i, v in zip(self._flatten(jaxpr, names), jaxpr.outvars, strict=True)
        ]

    def _place(self) -> None:
        """Finds the kernel (a level) of every fused equation and which values are in memory."""
        level: dict[int, int] = defaultdict(int)
        self.at: list[int] = []
        for node in self.nodes:
            here = max((level[i] for i in node.reads if i >= 0), default=0)
            self.at.append(here)
            for i in node.makes:
                level[i] = here + node.ends
        consumers: dict[int, list[int]] = defaultdict(list)
        for j, node in enumerate(self.nodes):
            for i in node.reads:
                consumers[i].append(j)
        self.stored = set(self.inputs) | {
            i for i, size in enumerate(self.sizes) if size <= 64
        }  # small values are free
        self.roots: dict[int, frozenset[int]] = {}
        kept, work = set(self.outputs), dict.fromkeys(range(len(self.sizes)), 0.0)
        for j, node in enumerate(self.nodes):
            below = frozenset().union(*(self._roots(i) for i in node.reads if i >= 0))
            again = sum(self.sizes[r] for r in below)
            own = _work(node)
            own += max((work[i] for i in node.reads if i not in self.stored and i >= 0), default=0)
            for i in node.makes:
                later = any(self.at[c] > self.at[j] for c in consumers[i])
                into = any(not self.nodes[c].fused for c in consumers[i])
                worth = own > WORTH * self.sizes[i] or again >= 2 * self.sizes[i]
                if not node.fused or i in kept or into or (later and worth):
                    self.stored.add(i)
                else:
                    self.roots[i], work[i] = below, own

    def _roots(self, i: int) -> frozenset[int]:
        """Returns the values in memory that a fused kernel reads to compute value i."""
        return frozenset((i,)) if i in self.stored else self.roots.get(i, frozenset())

    def flow(self) -> Flow:
        """Returns the kernels of the region and of its loops."""
        fused: dict[int, Kernel] = defaultdict(lambda: Kernel("fused"))
        reads: dict[int, set[int]] = defaultdict(set)
        made_at: dict[int, set[int]] = defaultdict(set)
        kernels, loops = [], {}
        for j, node in enumerate(self.nodes):
            eqn, at = node.eqn, self.at[j]
            if node.kind == "scan":
                loops[j] = _loop(eqn)
                kernels += loops[j].kernels
            elif not node.fused:
                kernels.append(_own_kernel(eqn, self._copies(node)))
            else:
                fused[at].simple += _work(node)
                fused[at].scope = fused[at].scope or _scope(eqn)
                made = [i for i in node.makes if i in self.stored]
                made_at[at].update(made)
                fused[at].bytes += sum(self.sizes[i] for i in made)
                for i in node.reads if made else ():
                    reads[at] |= self._roots(i) if i >= 0 else frozenset()
        for at, values in reads.items():
            values -= made_at[at]  # a kernel does not read what it computes itself
            fused[at].bytes += sum(self.sizes[i] for i in values)
        return Flow(kernels + list(fused.values()), self, loops)

    def _copies(self, node: _Node) -> float:
        """Returns the bytes of copies: a product cannot read or write a slice of a stack."""
        inputs = [i for i in node.reads if i in self.slices]
        outputs = [i for i in node.makes if self.in_loop and i in self.outputs]
        return 2.0 * sum(self.sizes[i] for i in (*inputs, *outputs))

    def peak(self, inner: dict[int, float], in_place: int, share: Shares) -> float:
        """Returns the most bytes alive at once among values that the region's equations made."""
        written = set(self.results[:in_place])
        last: dict[int, int] = {}
        for j, node in enumerate(self.nodes):
            for i in node.reads:
                for root in self._roots(i) if i >= 0 else ():
                    last[root] = j
        born: dict[int, int] = {}
        for j, node in enumerate(self.nodes):
            born |= {i: j for i in node.makes if i in self.stored and i not in born}
        change = np.zeros(len(self.nodes) + 2)
        outputs = set(self.outputs)
        for i, j in born.items():
            end = len(self.nodes) if i in outputs else last.get(i, j)
            size = 0.0 if i in written else self.sizes[i] * share.get(self.shapes[i], 1.0)
            change[j] += size
            change[end + 1] -= size
        alive = np.cumsum(change)
        for j, more in inner.items():
            alive[j] += more
        return float(alive.max())


def _loop(eqn: Equation) -> Flow:
    """Returns the flow of a scan's body, its kernels counted as often as the loop runs."""
    p = eqn.params
    body = _Region(p["jaxpr"].jaxpr, sum(flops_lib.scanned(eqn))).flow()
    for kernel in body.kernels:
        kernel.times *= p["length"]
    return body


def _work(node: _Node) -> float:
    """Returns the operations of an equation that is not a product."""
    if node.joins or not node.fused:
        return 0.0
    size = max(math.prod(v.aval.shape) for v in (*node.eqn.outvars, *_arrays(node.eqn)))
    return float(size * COSTS.get(node.kind, 1))


def _own_kernel(eqn: Equation, copies: float) -> Kernel:
    kind, shapes = eqn.primitive.name, [v.aval for v in _arrays(eqn)]
    out = sum(_bytes(v.aval) for v in eqn.outvars)
    inputs = [a for a in shapes if a.ndim == 4] if _is_attention(eqn) else shapes
    moved = sum(_bytes(a) for a in inputs) + out
    if kind in ("gather", "dynamic_update_slice"):  # only the slice is moved
        moved = 2 * (out if kind == "gather" else _bytes(shapes[1]))
    kernel = Kernel("move", moved + copies, scope=_scope(eqn))
    if _is_attention(eqn):
        kernel.kind, kernel.sizes = "attention", _attention(eqn)
        kernel.flops = flops_lib.total(eqn)
    if kind in PRODUCTS:
        kernel.kind = "dot" if kind == "dot_general" else "conv"
        kernel.flops = flops_lib.equation_flops(eqn)
        kernel.wide = min(a.dtype.itemsize for a in shapes) > 2
        kernel.exact = "HIGHEST" in str(eqn.params["precision"])
        kernel.sizes, kernel.groups = _dot(eqn) if kind == "dot_general" else _conv(eqn)
    return kernel


def _dot(eqn: Equation) -> tuple[tuple[float, float, float], int]:
    (contracted, _), (batch, _) = eqn.params["dimension_numbers"]
    left, out = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    k, b = (math.prod(left[i] for i in axes) for axes in (contracted, batch))
    m = math.prod(left) // max(k * b, 1)
    return (m, math.prod(out) / max(m * b, 1), k), 1


def _attention(eqn: Equation) -> tuple[float, float, float]:
    (_, tokens, _, head), (_, others, *_) = (v.aval.shape for v in eqn.invars[:2])
    return tokens, others, head


def _conv(eqn: Equation) -> tuple[tuple[float, float, float], int]:
    """A convolution as a product: (positions, features of a group, taps * inputs)."""
    p = eqn.params
    numbers, right, out = p["dimension_numbers"], eqn.invars[1].aval.shape, eqn.outvars[0].aval
    groups = p["feature_group_count"] * p["batch_group_count"]
    features = right[numbers.rhs_spec[0]]
    k = math.prod(right) // features
    return (math.prod(out.shape) / features, features / groups, k), groups


def _is_attention(eqn: Equation) -> bool:
    # without inputs it is the loop-invariant part of the function
    named = str(eqn.params.get("name")).startswith(ONE_KERNEL) and len(eqn.invars) > 2
    return named or eqn.primitive.name in flops_lib.CUDNN


def _pairs(reads: list[int], eqn: Equation) -> list[tuple[int, Any]]:
    return list(zip(reads[: len(eqn.outvars)], eqn.outvars, strict=True))


def _arrays(eqn: Equation) -> list[Any]:
    return [v for v in eqn.invars if hasattr(v.aval, "shape")]


def _bytes(aval: Any) -> float:
    if not hasattr(aval, "shape"):
        return 0.0
    width = getattr(aval.dtype, "itemsize", 8)  # a random key is two words
    return float(math.prod(aval.shape) * width)


def _scope(eqn: Equation) -> str:
    return str(eqn.source_info.name_stack)
