"""The teacher of the data2vec family: targets from its layers, and how it follows the student."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from ssl_jax.core import options as options_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import Array, Tree
from ssl_jax.nn.transformer import Encoded, Layers
from ssl_jax.ops import norms, schedules
from ssl_jax.ops.center import Center

NORMS = ("instance", "layer", "none")
CENTER = "config.method.targets.center"


@dataclasses.dataclass(frozen=True)
class TargetOptions:
    """How the teacher's layers become targets (2202.03555, section 3.3)."""

    layers: int  # K: the targets are the mean of the top K layers
    source: str  # ffn: raw output of the MLP | block: output of the whole block
    layer_norm: str  # of each layer: instance (over time) | layer | none
    final_norm: str  # of the mean: instance | layer | none
    include_prefix: bool  # instance norm also counts the class token
    # none | batch | running: minus the mean of each position over examples; see ops/center.py
    center: str
    center_decay: float

    def __post_init__(self) -> None:
        key = "config.method.targets"
        options_lib.choose(f"{key}.source", self.source, ("ffn", "block"))
        for name in ("layer_norm", "final_norm"):
            options_lib.choose(f"{key}.{name}", getattr(self, name), NORMS)
        self.centering.check(CENTER)

    @property
    def centering(self) -> Center:
        """How the targets are centred; `of` returns them as they are before."""
        return Center(self.center, self.center_decay)

    def check_depth(self, depth: int, first: int = 0) -> None:
        """Raises ConfigError unless an encoder of `depth` blocks has enough after the `first`."""
        if not 1 <= self.layers <= depth - first:
            but = f", of which the first {first} give no targets" if first else ""
            raise ConfigError(
                f"config.method.targets.layers is {self.layers}, but the encoder has {depth} "
                f"blocks{but}: use 1 to {depth - first}"
            )

    @property
    def needs(self) -> Layers:
        """The layers that `of` reads: the top K."""
        top = tuple(range(-self.layers, 0))
        return Layers((), top) if self.source == "ffn" else Layers(top, ())

    def of(self, encoded: Encoded) -> Array:
        """Returns the normalized mean of the top K layers without prefix, (B, S, D) float32."""
        prefix, valid = encoded.prefix, encoded.valid
        layers = encoded.ffn if self.source == "ffn" else encoded.hidden_states
        layers = layers[-self.layers :].astype(jnp.float32)
        if not self.include_prefix:
            layers, valid, prefix = layers[:, :, prefix:], valid[:, prefix:], 0
        mean = jax.vmap(lambda y: _norm(y, valid, self.layer_norm))(layers).mean(0)
        return _norm(mean, valid, self.final_norm)[:, prefix:]

    def center_state(self, positions: int, width: int) -> Tree:
        """Returns what `extra` holds for centring, {} or {"center": state}; see `Center.init`."""
        state = self.centering.init(positions, width)
        return {"center": state} if state else {}

    def centred(self, targets: Array, real: Array, extra: Tree) -> tuple[Array, Tree]:
        """Returns (targets (B, S, D) without the part of the position alone, extra).

        real (B, S): the tokens that count.
        """
        targets, state = self.centering.apply(targets, real, extra.get("center", {}))
        return targets, {**extra, "center": state} if state else extra

    def moved(self, extra: Tree) -> Tree:
        """Returns `extra` after an update, with the running mean moved."""
        if "center" not in extra:
            return extra
        return {**extra, "center": self.centering.update(extra["center"])}


@dataclasses.dataclass(frozen=True)
class EmaOptions:
    """How the teacher follows the student: tau rises linearly to `end` over `anneal` updates."""

    start: float
    end: float
    anneal: int
    # ordered (regex, average | copy | absent) on names such as encoder/frontend/...; the first
    # match counts. Absent parameters are the student's own: a teacher without a front end reads
    # the student's unmasked frames.
    rules: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        for name, tau in (("start", self.start), ("end", self.end)):
            if not 0 <= tau <= 1:
                raise ConfigError(f"config.method.ema.{name} is {tau}: use 0 to 1, such as 0.999")

    def decay(self, step: Array) -> Array:
        """Returns tau () of update number `step`, counted from 1."""
        return jnp.asarray(schedules.ema_decay(self.start, self.end, self.anneal)(step))


def has_frontend(modes: Mapping[str, str]) -> bool:
    """Returns whether a teacher of these modes (ops.ema) keeps a front end of its own."""
    return any(m != "absent" for name, m in modes.items() if name.startswith("encoder/frontend/"))


def _norm(y: Array, valid: Array, how: str) -> Array:
    """Normalizes y (B, T, D) without parameters: over time, over D, or not at all."""
    if how == "instance":
        return norms.instance_norm(y, valid)
    return norms.layer_norm(y) if how == "layer" else y
