"""A run that is made longer: the same folder and command with a longer config.train.duration.

Batches, masks and the seed do not depend on the length. A learning rate that ends with the run
does: the steps to come have that of the whole new length.
"""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from ssl_jax.core import config as config_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.data.batch_schedule import BatchSchedule
from ssl_jax.engine import integrity, log, optim, splits
from ssl_jax.ops.schedules import Schedule

_COMPARED = 200  # steps whose learning rates are compared


def check(config: ConfigDict, saved: Path, plan: BatchSchedule, step: int, rate: Schedule) -> None:
    """Compares the length of a run that resumes at `step` with that of its checkpoint `saved`.

    rate: the learning rate of the new length. A longer run is noted, with what becomes of the
    learning rate. Raises ConfigError for a shorter one.
    """
    before = config_lib.from_json(integrity.about(saved)["config"])
    to_steps = splits.durations(before, plan)
    old, new = to_steps("100%"), splits.durations(config, plan)("100%")
    if new < old:
        raise ConfigError(
            f"config.train.duration is {config.train.duration!r}, {new} steps, and the run in "
            f"{saved.parent.parent} has {old}: a run can be made longer, not shorter; use "
            f"{before.train.duration!r} or more, or another --workdir"
        )
    if new > old:
        planned = optim.make_schedule(before.optim, total_steps=old, to_steps=to_steps)
        log.notify(_note(config.optim.schedule, old, new, step, planned, rate))


def _note(name: str, old: int, new: int, step: int, planned: Schedule, rate: Schedule) -> str:
    """Returns what is said of a longer run, whose learning rate was `planned` so far."""
    head = f"the run is made longer: {old} steps before, {new} now."
    done = np.unique(np.linspace(0, step - 1, min(step, _COMPARED)).round().astype(int))
    rates = np.array([[float(planned(i)), float(rate(i))] for i in done])
    if np.allclose(rates[:, 0], rates[:, 1], rtol=1e-5, atol=0):
        return f"{head} The steps done are those of a run planned with {new}"
    last, following = rates[-1, 0], float(rate(step))
    return (
        f"{head} The learning rate of config.optim.schedule {name!r} ends with the run: after step "
        f"{step} it goes from {last:.3g} to {following:.3g}, on the curve of {new} steps. The "
        f"steps done had that of {old}, so the result is not that of a run planned with {new}"
    )
