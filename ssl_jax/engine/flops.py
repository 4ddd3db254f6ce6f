"""Floating-point operations of a traced program: its products and convolutions, exactly.

A multiplication and its addition count as 2. The body of a scan counts as often as it runs, and
recomputation in the backward pass counts again. In a convolution only taps that fall on
real values count, not those on padding or on the holes of a dilated input. Everything else
(norms, softmax, the optimizer) counts as nothing: it costs memory traffic, see `roofline`.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval

from ssl_jax.core import chips
from ssl_jax.core import precision as precision_lib

Jaxpr = Any
Equation = Any

# products inside; the backward kernel computes the scores again
CUDNN = {"dot_product_attention_fwd_wrapper": 2, "dot_product_attention_bwd_wrapper": 5}


def of(fn: Any, *args: Any) -> float:
    """Returns the operations of one call fn(*args); the arguments may be abstract."""
    return count(jax.make_jaxpr(fn)(*args))


def count(closed: core.ClosedJaxpr) -> float:
    """Returns the operations of a traced program without what it computes and never uses."""
    return sum(times * equation_flops(eqn) for eqn, times in walk(without_unused(closed)))


def without_unused(closed: core.ClosedJaxpr) -> Jaxpr:
    """Returns the program without equations whose results are not used, inside loops too."""
    jaxpr, _ = partial_eval.dce_jaxpr(
        closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True
    )
    return jaxpr


def walk(jaxpr: Jaxpr, times: float = 1.0) -> Iterator[tuple[Equation, float]]:
    """Yields (equation, how often it runs) of a program and of all programs inside.

    Of the branches of a `cond` the costliest counts; a `while` of unknown length counts once; what
    each device computes for itself (`shard_map`) counts for every device.
    """
    for eqn in jaxpr.eqns:
        yield eqn, times
        inner = [_open(x) for x in core.jaxprs_in_params(eqn.params)]
        if eqn.primitive.name == "scan":
            yield from walk(inner[0], times * eqn.params["length"])
        elif eqn.primitive.name == "shard_map":  # its body is one device's part
            yield from walk(inner[0], times * eqn.params["mesh"].size)
        elif eqn.primitive.name == "cond":
            yield from walk(max(inner, key=_total), times)
        else:
            for body in inner:
                yield from walk(body, times)


def scanned(eqn: Equation) -> tuple[int, int]:
    """Returns how many constants a scan has, and how many values its iterations carry.

    Found by their ranks, since stacked values lose an axis inside; the names of the equation's
    parameters depend on the version of JAX.
    """
    body = eqn.params["jaxpr"].jaxpr

    def same(outside: list[Any], inside: list[Any]) -> int:
        pairs = zip(outside, inside, strict=True)
        return sum(a.aval.ndim == b.aval.ndim for a, b in pairs)

    carried = same(eqn.outvars, body.outvars)
    return same(eqn.invars, body.invars) - carried, carried


def equation_flops(eqn: Equation) -> float:
    """Returns the operations of one equation, without those of programs inside it."""
    if eqn.primitive.name == "dot_general":
        return dot_flops(eqn)
    if eqn.primitive.name == "conv_general_dilated":
        return conv_flops(eqn)
    return attention_flops(eqn) if eqn.primitive.name in CUDNN else 0.0


def total(eqn: Equation) -> float:
    """Returns the operations of one equation and of the programs inside it."""
    inner = (_total(_open(x)) for x in core.jaxprs_in_params(eqn.params))
    return equation_flops(eqn) + sum(inner)


def attention_flops(eqn: Equation) -> float:
    """Returns the operations of attention in one kernel: query (B, T, H, E), key (B, S, H, E)."""
    query, key = eqn.invars[0].aval.shape, eqn.invars[1].aval.shape
    return CUDNN[eqn.primitive.name] * 2.0 * math.prod(query) * key[1]


def dot_flops(eqn: Equation) -> float:
    """Returns 2 * (size of the output) * (length of the contracted axes)."""
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left = eqn.invars[0].aval.shape
    return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)


def conv_flops(eqn: Equation) -> float:
    """Returns 2 * (taps that fall on real values) * (channels of each tap), over all outputs."""
    p = eqn.params
    numbers = p["dimension_numbers"]
    left, right = (v.aval.shape for v in eqn.invars)
    out = eqn.outvars[0].aval.shape
    flops = 2.0 * out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * right[numbers.rhs_spec[1]]
    axes = zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)
    for i, (a, b, c) in enumerate(axes):
        flops *= _taps(
            left[a],
            right[b],
            out[c],
            p["window_strides"][i],
            p["padding"][i][0],
            p["lhs_dilation"][i],
            p["rhs_dilation"][i],
        )
    return flops


@functools.lru_cache(maxsize=4096)
def _taps(size: int, taps: int, places: int, stride: int, pad: int, holes: int, spread: int) -> int:
    """Returns how many (output, tap) pairs of one axis fall on a real value of the input."""
    total, few, many = 0, min(taps, places), max(taps, places)
    steps = (spread, stride) if taps <= places else (stride, spread)
    for i in range(few):
        at = i * steps[0] + np.arange(many) * steps[1] - pad
        total += int(((at >= 0) & (at <= (size - 1) * holes) & (at % holes == 0)).sum())
    return total


def peak(precision: str) -> float:
    """Returns the FLOP/s that all devices can do together at config.precision; 0 where that is
    not known, as on a CPU."""
    chip = chips.of_device(jax.devices()[0].device_kind)
    if chip is None:
        return 0.0
    half = precision_lib.compute_dtype(precision) == jnp.bfloat16
    return jax.device_count() * (chip.flops if half else chip.flops32)


def _total(jaxpr: Jaxpr) -> float:
    return sum(times * equation_flops(eqn) for eqn, times in walk(jaxpr))


def _open(jaxpr: Any) -> Jaxpr:
    return getattr(jaxpr, "jaxpr", jaxpr)
