"""The same run on another number of chips: the config changes it needs, and settings to try."""

import bisect
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from ssl_jax.core.config import ConfigError, change, flatten
from ssl_jax.nn import build
from ssl_jax.nn.transformer import REMAT

Changes = dict[str, Any]
"""Dotted config key -> its new value."""


def for_chips(
    config: ConfigDict, chips: int, fits: Callable[[ConfigDict], bool], whole: bool = False
) -> Changes:
    """Returns the changes with which `chips` chips make the same updates as the config's own.

    The global batch is kept and accumulated over as few micro-batches as fit in memory, first with
    the config's own sharding of parameters, then with parameters sharded over all chips. If the
    batch does not divide over the chips, the nearest one that does is used, with the changes of
    `for_batch`, which keep its updates closest. whole: do not split the batch into micro-batches,
    as of a method whose rows are coupled. Raises ConfigError if one example per chip does not fit,
    or the whole batch.
    """
    mesh = config.mesh
    free = chips // mesh.model
    if chips % mesh.model or not free:
        raise ConfigError(f"config.mesh.model {mesh.model} does not divide {chips} chips")
    size = config.data.batch_size
    near = size if size % free == 0 else max(free, round(size / free) * free)
    scaled = for_batch(config, near) | {"mesh.slice": 1, "mesh.data": -1}
    for fsdp in dict.fromkeys((math.gcd(mesh.fsdp, free), free)):
        counts = [1] if whole else divisors(near // free)
        tried = [scaled | {"mesh.fsdp": fsdp, "train.accumulate": n} for n in counts]
        # memory falls with the number of micro-batches; usually the first choice fits
        first = 0
        if not fits(change(config, tried[0])):
            first = bisect.bisect_left(tried, True, 1, key=lambda c: fits(change(config, c)))
        if first < len(tried):
            return _effective(config, tried[first])
    if whole:
        raise ConfigError(
            f"the batch of {near} does not fit on {chips} chips, and config.method.name "
            f"{config.method.name!r} couples its rows, so micro-batches cannot stand in for chips: "
            f"raise --chips, or use a smaller config.data.batch_size"
        )
    raise ConfigError(
        f"one example per chip does not fit on {chips} chips: raise --chips, or add "
        f"config.method.encoder.remat='full'"
    )


def for_batch(config: ConfigDict, size: int) -> Changes:
    """Returns the changes that keep training equivalent with a global batch k times as large.

    The number of examples stays the same, so durations in steps are divided by k. The learning
    rate is multiplied by sqrt(k) for Adam and its relatives (Malladi et al., 2205.10287), else by
    k. The EMA decay of a teacher is raised to the k-th power (Busbridge et al., 2307.13813).
    """
    k = size / config.data.batch_size
    if k == 1:
        return {}
    adaptive = config.optim.name in ("adamw", "adam_l2", "lamb", "adafactor")
    changes: Changes = {"data.batch_size": size}
    changes["optim.lr"] = config.optim.lr * (math.sqrt(k) if adaptive else k)
    for key in ("train.duration", "optim.warmup", "optim.freeze_until"):
        old = flatten(config)[key]
        if steps := _steps(old):
            changes[key] = round(steps / k) if isinstance(old, int) else f"{round(steps / k)} steps"
    if "ema" in config.method:
        ema = config.method.ema
        changes |= {f"method.ema.{name}": ema[name] ** k for name in ("start", "end")}
        changes["method.ema.anneal"] = round(ema.anneal / k)
    return changes


def variants(config: ConfigDict, chips: int, whole: bool = False) -> Iterator[Changes]:
    """Yields the settings that a search tries: remat policies, `fsdp` sizes and micro-batches.

    whole: do not split the batch into micro-batches.
    """
    free = chips // config.mesh.model
    per_chip = config.data.batch_size // free
    sizes = sorted({1, math.gcd(config.mesh.fsdp, free), min(free, 8), free} & set(divisors(free)))
    counts = [1] if whole else [n for n in divisors(per_chip) if n & (n - 1) == 0][:3]
    for remat, fsdp, accumulate in itertools.product(REMAT, sizes, counts):
        yield {
            **{f"method.{key}.remat": remat for key in build.sections(config.method)},
            "mesh.data": -1,
            "mesh.fsdp": fsdp,
            "train.accumulate": accumulate,
        }


def divisors(n: int) -> list[int]:
    """Returns the divisors of n in ascending order."""
    return [d for d in range(1, n + 1) if n % d == 0]


def _effective(config: ConfigDict, changes: Changes) -> Changes:
    """Drops the changes that change nothing, among them a free data axis."""
    old = flatten(config)
    return {k: v for k, v in changes.items() if old.get(k) != v and k != "mesh.data"}


def _steps(duration: Any) -> int:
    """Returns the steps of "8k steps" or 8000, and 0 for any other duration."""
    number, _, unit = str(duration).partition(" ")
    scale = {"k": 1_000, "M": 1_000_000}.get(number[-1:], 1)
    if unit not in ("", "steps", "step") or number.endswith("%"):
        return 0
    return round(float(number.rstrip("kM").replace("_", "")) * scale)
