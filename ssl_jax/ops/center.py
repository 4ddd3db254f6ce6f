"""Takes out of regression targets what depends on the position alone.

That part is common to all examples, so it is the first that can be predicted; with a fast teacher
the targets then turn into it (the metric `instance_variance_ratio` falls to 0). An instance norm
over time does not remove it. Targets minus their mean per position over the examples cannot hold
it.
"""

import dataclasses

import jax.numpy as jnp

from ssl_jax.core import options
from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import Array, Tree

KINDS = ("none", "batch", "running")


@dataclasses.dataclass(frozen=True)
class Center:
    """How targets are centred, and the state of a running mean, which a method keeps in `extra`.

    none: not at all. batch: by the mean over the global batch, which couples its rows; a position
    that a single example has becomes 0. running: by the mean over the updates before, with weight
    `decay` on what came earlier; the first update is not centred.
    """

    kind: str
    decay: float  # running: 0.9 is the mean of the last ten updates or so

    def check(self, key: str) -> None:
        """Raises ConfigError, naming config keys `key` and `key`_decay, on values out of range."""
        options.choose(key, self.kind, KINDS)
        if not 0 <= self.decay < 1:
            raise ConfigError(
                f"{key}_decay is {self.decay}: use 0 or more and below 1, such as 0.9"
            )

    def couples(self, key: str) -> dict[str, str]:
        """Returns how the rows of a batch are coupled, for `Method.couples`."""
        if self.kind != "batch":
            return {}
        return {f"{key}='batch' subtracts the mean over the batch": f"{key}='running'"}

    def init(self, positions: int, width: int) -> Tree:
        """Returns the state before any update: {} unless a running mean is kept.

        mean (S, D) and seen (S,), the updates that had each position; total (S, D) and count (S,)
        are summed over the micro-batches of an update. positions: those of the longest example.
        """
        if self.kind != "running":
            return {}
        zeros = {"mean": jnp.zeros((positions, width)), "seen": jnp.zeros(positions)}
        return zeros | {"total": jnp.zeros((positions, width)), "count": jnp.zeros(positions)}

    def apply(
        self, y: Array, weight: Array, state: Tree, ids: Array | None = None, size: int = 0
    ) -> tuple[Array, Tree]:
        """Centres y (B, S, D) -> (centred y, float32, state for `update`).

        weight (B, S), such as which tokens are real: how much each counts in the mean. ids (B, S):
        the positions of the tokens, below `size`; by default token s of an example is at s.
        """
        if self.kind == "none":
            return y, state
        y = y.astype(jnp.float32)
        total, count = _sums(y, weight.astype(jnp.float32), ids, size)
        if self.kind == "batch":
            mean = total / jnp.maximum(count, 1e-9)[:, None]
        else:
            mean = state["mean"]
            if len(count) > len(mean):
                raise ValueError(
                    f"an example has {len(count)} tokens, and the running mean of its targets has "
                    f"{len(mean)}: the last of config.data.buckets must be the longest"
                )
            short = len(mean) - len(count)
            added = {
                "total": state["total"] + jnp.pad(total, ((0, short), (0, 0))),
                "count": state["count"] + jnp.pad(count, (0, short)),
            }
            state, mean = {**state, **added}, mean[: len(count)]
        return y - (mean if ids is None else mean[ids]), state

    def update(self, state: Tree) -> Tree:
        """Moves the running mean after an update; the first ones have equal weights."""
        if self.kind != "running":
            return state
        here = state["count"] > 0
        seen = state["seen"] + here
        rate = jnp.where(here, jnp.maximum(1 - self.decay, 1 / jnp.maximum(seen, 1)), 0)
        new = state["total"] / jnp.where(here, state["count"], 1)[:, None]
        mean = state["mean"] + rate[:, None] * (new - state["mean"])
        zeros = {name: jnp.zeros_like(state[name]) for name in ("total", "count")}
        return {"mean": mean, "seen": seen, **zeros}


def _sums(y: Array, weight: Array, ids: Array | None, size: int) -> tuple[Array, Array]:
    """y (B, S, D), weight (B, S) -> weighted sums (S, D) and weights (S,) at each position."""
    weighted = jnp.where(weight[..., None] > 0, y * weight[..., None], 0)
    if ids is None:
        return weighted.sum(0), weight.sum(0)
    zeros = jnp.zeros((size, y.shape[-1])), jnp.zeros(size)
    return zeros[0].at[ids].add(weighted), zeros[1].at[ids].add(weight)
