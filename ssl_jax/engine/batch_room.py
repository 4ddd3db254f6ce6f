"""How many examples an evaluation may process at once, estimated from the arrays of its program."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ssl_jax.core.types import Tree
from ssl_jax.engine import flops

ROOM = 1 << 29  # bytes for one batch on a CPU, and where a device does not tell its memory
SHARE = 4  # an accelerator gives this part of its memory
# an operation reads one large array and writes another, while a third waits to be used
LARGEST = 3


def most_rows(features: Callable[..., Any], params: Tree, example: Mapping[str, Any]) -> int:
    """Returns how many examples fit into the room of a device, 1 or more.

    features(params, batch) -> Features. example: the shapes of a batch of one, in the longest
    bucket. Nothing is computed or compiled.
    """
    return max(1, room() // max(1, bytes_per_row(features, params, example)))


def room() -> int:
    """Returns the bytes of a device that the activations of one batch may take."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return int(stats.get("bytes_limit", SHARE * ROOM)) // SHARE


def bytes_per_row(features: Callable[..., Any], params: Tree, example: Mapping[str, Any]) -> int:
    """Returns about how many bytes of activations an example takes.

    These are its hidden states, which are all kept, and LARGEST times its largest array.
    """

    def sizes(rows: int) -> tuple[np.ndarray, int]:
        batch = {k: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype) for k, x in example.items()}
        closed = jax.make_jaxpr(lambda p, b: features(p, b).hidden_states)(params, batch)
        made = [
            sum(_bytes(x.aval) for x in equation.outvars)
            for equation, _ in flops.walk(flops.without_unused(closed))
        ]
        return np.array(made, np.int64), sum(map(_bytes, closed.out_avals))

    # arrays of parameters are as large in both
    (one, kept), (two, kept_of_two) = sizes(2), sizes(4)
    return int(LARGEST * (two - one).max(initial=0) + kept_of_two - kept) // 2


def _bytes(x: Any) -> int:
    return int(np.prod(x.shape, dtype=np.int64)) * getattr(x.dtype, "itemsize", 1)
