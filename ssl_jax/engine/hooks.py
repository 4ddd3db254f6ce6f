"""What the loop does besides stepping: validation, and guards against wasted hours."""

import math
from collections.abc import Callable, Iterable, Mapping
from operator import length_hint
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ssl_jax.core import atomic, stop
from ssl_jax.core import mesh as mesh_lib
from ssl_jax.core.types import TrainState
from ssl_jax.engine import hosts, prefetch

HookFn = Callable[[int, TrainState], Mapping[str, float] | None]
Hook = tuple[HookFn, int]
"""(fn, every): fn(step, state) runs after each `every` steps and after the last; the metrics that
it returns are logged under their names."""

OF_TRAINING = ("ema_decay", "temperature", "used_rows")
"""Metrics of a training step, which mean nothing in an evaluation: it is drawn as for step 0."""
CEILING = 1000
PARTS = {"target": "the targets", "prediction": "the predictions", "frontend": "the front end"}
PARTS |= {"unit": "the labels of the tokenizer", "code": "the codebook"}
PARTS["instance_variance_ratio"] = "the targets, to the position alone,"
REMEDIES = {
    "instance_variance_ratio": "Set config.method.targets.center='batch', raise the EMA decay, "
    "lower config.optim.lr, or use fewer position convolutions",
    "unit_entropy": "Use a tokenizer with a higher code_perplexity, or for random labels set "
    "config.method.random.normalize_patches=True",
    "code_perplexity": "Set config.method.codebook.restart=True, use a larger "
    "config.data.batch_size, or fewer config.method.codebook.codes",
}
REMEDY = "Lower config.optim.lr, lengthen the warm-up, or raise the EMA decay"


class NotFiniteError(FloatingPointError):
    """The loss, or the norm of the gradient or the parameters, became infinite or NaN.

    steps: it happened in one of these, counted from 1.
    """

    steps = range(0)


class CollapseError(RuntimeError):
    """A part of the model gives the same output for every input; noticed at `step`."""

    step = 0


def not_finite(bad: int, last_good: str) -> NotFiniteError:
    """Returns the error of a run that has not been finite since step `bad`."""
    error = NotFiniteError(
        f"the loss, or the norm of its gradient or of the parameters, is not finite at step "
        f"{bad}. Last good checkpoint, kept: {last_good}. Lower config.optim.lr, lengthen "
        f"config.optim.warmup, set config.optim.clip=1.0, or config.precision='float32'"
    )
    error.steps = range(bad, bad + 1)
    return error


def check_ceiling(step: int, loss: float, before: list[float], every: int = 1) -> None:
    """Raises NotFiniteError when a mean loss is CEILING times the median of those `before`.

    The mean is over the `every` steps up to `step`. The median counts as at least 1, so that a
    loss near 0 may jump.
    """
    limit = CEILING * max(1.0, float(np.median(before))) if before else math.inf
    if loss > limit:
        error = NotFiniteError(
            f"the loss is {loss:.3g} up to step {step}, above {limit:.3g}, {CEILING} times what it "
            f"was: the run has diverged. Lower config.optim.lr, lengthen config.optim.warmup, set "
            f"config.optim.clip=1.0, or look at the targets of these steps; config.guard.nan=False "
            f"trains on"
        )
        error.steps = range(max(1, step - every + 1), step + 1)
        raise error


def check_floors(step: int, metrics: Mapping[str, float], floors: Mapping[str, float]) -> None:
    """Raises CollapseError when a metric is below its floor, ValueError for an unknown metric.

    Keys of `floors` are names of metrics such as `target_std`; PARTS has the part of the model that
    each describes.
    """
    for name, floor in floors.items():
        if name not in metrics:
            raise ValueError(
                f"config.guard.floors.{name}: the method has no such metric, it has "
                f"{', '.join(sorted(metrics))}"
            )
        value = metrics[name]
        if math.isnan(value) or value < floor:
            part = next((text for key, text in PARTS.items() if name.startswith(key)), name)
            error = CollapseError(
                f"{part} collapsed: {name} is {value:.3g} at step {step}, below its floor "
                f"{floor:g} (config.guard.floors.{name}). {REMEDIES.get(name, REMEDY)}; "
                f"config.guard.after=1000000000 trains on"
            )
            error.step = step
            raise error


def validation(
    evaluate: Callable,
    batches: Callable[[], Iterable[dict[str, np.ndarray]]],
    mesh: Mesh,
    split: str = "valid",
) -> HookFn:
    """Returns a hook that gives the method's metrics over all `batches()`, named <split>/<metric>.

    Those of OF_TRAINING are left out. `evaluate` is a jitted (state, batch) -> metrics of
    (sum, count).
    """
    sharding = mesh_lib.batch_sharding(mesh)
    add = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b))

    def hook(step: int, state: TrainState) -> dict[str, float]:
        del step
        total = None
        found = prefetch.prefetch(batches(), sharding)
        for device_batch in stop.between(found, f"evaluating {split}", length_hint(batches)):
            metrics = evaluate(state, device_batch.batch)
            total = metrics if total is None else add(total, metrics)
        if total is None:
            raise ValueError(f"config.data.{split} gives no batch: name a source with rows in it")
        told = {k: v for k, v in jax.device_get(total).items() if k not in OF_TRAINING}
        return means(told, f"{split}/")

    return hook


def means(pairs: Mapping[str, tuple], prefix: str = "") -> dict[str, float]:
    """Returns sum / count of every pair whose count is not 0."""
    return {prefix + k: float(s) / float(n) for k, (s, n) in pairs.items() if n > 0}


class PendingEvaluation:
    """The step whose evaluation has begun and not ended; a run that resumes from it repeats it.

    It is kept by the first process, in evaluating.txt of the run folder.
    """

    def __init__(self, folder: Path):
        self._file = folder / "evaluating.txt"

    def step(self) -> int:
        """Returns the step, -1 for none; every host has to call it."""
        there = hosts.is_first() and self._file.exists()
        return hosts.of_first(int(self._file.read_text(encoding="utf-8")) if there else -1)

    def begin(self, step: int) -> None:
        """Notes that the evaluation of a step begins."""
        if hosts.is_first():
            atomic.write_text(self._file, f"{step}\n")

    def end(self) -> None:
        """Notes that it has ended, and its metrics are written."""
        if hosts.is_first() and self._file.exists():
            self._file.unlink()
