"""Values that follow the step: learning rates, and the decay of an EMA teacher.

Each function returns a schedule, step -> value, that runs inside jit. Step 0 is the first
update; after the last step of a schedule its value is constant.
"""

from collections.abc import Callable

import jax.numpy as jnp
import optax

from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import Array

Schedule = Callable[[Array | int], Array | float]


def _join(*parts: tuple[int, Schedule]) -> Schedule:
    """Runs schedules one after the other, each for its number of steps; the last has no end."""
    kept = [(n, part) for n, part in parts[:-1] if n > 0] + [parts[-1]]
    ends = [sum(n for n, _ in kept[: i + 1]) for i in range(len(kept) - 1)]
    return optax.join_schedules([part for _, part in kept], ends)


def _line(start: float, end: float, length: int) -> tuple[tuple[int, Schedule], ...]:
    """A line, then exactly its end: rounding inside jit can leave the line just beyond it."""
    return (length, optax.linear_schedule(start, end, length)), (0, optax.constant_schedule(end))


def _check_warmup(total: int, warmup: int) -> None:
    if not 0 <= warmup < total:
        raise ConfigError(
            f"config.optim.warmup is {warmup} of {total} steps: use fewer than the run has, "
            f"such as {max(total // 10, 0)}"
        )


def warmup_cosine(lr: float, total: int, warmup: int = 0, end_lr: float = 0.0) -> Schedule:
    """Linear from 0 to `lr` over `warmup` steps, then half a cosine to `end_lr` at `total`."""
    _check_warmup(total, warmup)
    cosine = optax.cosine_decay_schedule(lr, total - warmup, alpha=end_lr / lr)
    return _join((warmup, optax.linear_schedule(0.0, lr, warmup)), (0, cosine))


def warmup_linear(lr: float, total: int, warmup: int = 0, end_lr: float = 0.0) -> Schedule:
    """Linear from 0 to `lr` over `warmup` steps, then linear to `end_lr` at `total`."""
    _check_warmup(total, warmup)
    return _join(
        (warmup, optax.linear_schedule(0.0, lr, warmup)),
        *_line(lr, end_lr, total - warmup),
    )


def constant(lr: float, warmup: int = 0) -> Schedule:
    """Linear from 0 to `lr` over `warmup` steps, then `lr`."""
    up = optax.linear_schedule(0.0, lr, warmup)
    return _join((warmup, up), (0, optax.constant_schedule(lr)))


def inverse_sqrt(lr: float, warmup: int) -> Schedule:
    """Linear from 0 to `lr` over `warmup` steps, then lr * sqrt(warmup / step)."""
    if warmup < 1:
        raise ConfigError(
            f"config.optim.warmup is {warmup}: config.optim.schedule 'inverse_sqrt' starts to "
            f"fall where the warm-up ends; use at least '1 steps', such as '4k steps'"
        )

    def down(count: Array | int) -> Array:
        # the branch not taken is computed too, at counts below zero
        return lr * jnp.sqrt(warmup / (warmup + jnp.maximum(count, 0)))

    return _join((warmup, optax.linear_schedule(0.0, lr, warmup)), (0, down))


def tri_stage(
    lr: float,
    total: int,
    stages: tuple[float, float, float],
    start_factor: float,
    end_factor: float,
) -> Schedule:
    """Linear from start_factor * lr to lr, hold, exponential decay to end_factor * lr, constant.

    `stages` are the shares of warm-up, hold and decay in `total`; the stages end at the nearest
    steps. As in fairseq, wav2vec 2.0 and data2vec.
    """
    if len(stages) != 3 or min(stages) < 0 or abs(sum(stages) - 1) > 1e-6:
        raise ConfigError(
            f"config.optim.stages is {tuple(stages)}: use three shares with the sum 1, "
            f"such as (0.1, 0.4, 0.5)"
        )
    if not (start_factor >= 0 and 0 < end_factor <= 1):
        raise ConfigError(
            f"config.optim.start_factor is {start_factor} and config.optim.end_factor "
            f"{end_factor}: use factors of lr such as 0.01 and 0.05"
        )
    up = round(total * stages[0])
    hold = round(total * (stages[0] + stages[1])) - up
    decay = total - up - hold
    end = lr * end_factor
    fall = optax.exponential_decay(lr, decay, end_factor, end_value=end)
    return _join(
        (up, optax.linear_schedule(lr * start_factor, lr, up)),
        (hold, optax.constant_schedule(lr)),
        (decay, fall),
        (0, optax.constant_schedule(end)),
    )


def one_cycle(lr: float, total: int) -> Schedule:
    """Half a cosine from lr/25 to `lr` over 30 % of the run, another down to lr/250,000.

    The peak is at step 0.3 * total - 1 and the end at total - 1, as in PyTorch's OneCycleLR
    (whose cycling of the first beta is left out).
    """
    peak, last = 0.3 * total - 1, total - 1
    if peak <= 0:
        raise ConfigError(
            f"config.train.duration is {total} steps: config.optim.schedule 'one_cycle' needs "
            f"at least 4, such as '100 steps'"
        )

    def schedule(step: Array | int) -> Array:
        up = jnp.clip(step / peak, 0.0, 1.0)
        down = jnp.clip((step - peak) / (last - peak), 0.0, 1.0)
        rising = lr + (lr / 25 - lr) * (1 + jnp.cos(jnp.pi * up)) / 2
        falling = lr / 2.5e5 + (lr - lr / 2.5e5) * (1 + jnp.cos(jnp.pi * down)) / 2
        return jnp.where(step < peak, rising, falling)

    return schedule


def cosine_decay(start: float, end: float, steps: int) -> Schedule:
    """Returns n -> end - (end - start) * (1 + cos(pi * n / steps)) / 2, and `end` from there on.

    The decay of the momentum encoder of MoCo v3 and BYOL at update n, counted from 0.
    """
    if steps <= 0:
        return optax.constant_schedule(end)

    def schedule(step: Array | int) -> Array:
        done = jnp.minimum(jnp.asarray(step, jnp.float32) / steps, 1.0)
        return end - (end - start) * (1 + jnp.cos(jnp.pi * done)) / 2

    return schedule


def ema_decay(start: float, end: float, anneal_steps: int) -> Schedule:
    """Returns n -> end - (end - start) * (1 - n / anneal_steps), and `end` from there on.

    The decay of the data2vec teacher after n updates; with `anneal_steps` 0 it is `end`.
    """
    if anneal_steps <= 0:
        return optax.constant_schedule(end)
    return _join(*_line(start, end, anneal_steps))
