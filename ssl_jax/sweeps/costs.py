"""The cost of a sweep: steps, FLOPs and hours of every run, predicted by `ssl_jax.planning`."""

import dataclasses
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from ssl_jax.core import chips
from ssl_jax.core import config as config_lib
from ssl_jax.evals.table import text_table
from ssl_jax.planning import estimate
from ssl_jax.sweeps import status
from ssl_jax.sweeps.sweep import Run

FREE = ("seed", "optim.lr", "init_", "method.ema.", "data.label", "eval.", "log.", "checkpoint.")
"""Prefixes of keys that do not change the operations of a step."""
MESH = ("mesh.slice", "mesh.data", "mesh.fsdp", "mesh.model")


def table(
    found: Sequence[Run], make: estimate.MakeMethod, topology: chips.Topology, examples: int = 0
) -> str:
    """Returns the table of runs: their values, states, steps, FLOPs and hours.

    FLOPs and hours are the prediction for one chip of the topology. The reasons why a run could not
    be planned are listed below the table.
    """
    known: dict[str, estimate.Estimate] = {}
    reasons: dict[str, None] = {}
    one = dataclasses.replace(topology, shape="1", slices=1)
    rows = status.table(found)
    for run, row in zip(found, rows, strict=True):
        try:
            steps = config_lib.steps_of(run.config, examples)
            step = _step(run.config, make, one, known)
        except (ValueError, TypeError, ImportError, OSError) as error:
            reasons[f"not planned: {error}"] = None
            row["FLOPs"] = "not planned"
            continue
        row |= {"steps": f"{steps:,}", "FLOPs": f"{steps * step.flops:.3g}"}
        row[f"{one.chip.name} hours"] = f"{steps * step.times.total / 3600:.2g}"
    return "\n".join([text_table(rows), *reasons])


def _step(
    config: ConfigDict,
    make: estimate.MakeMethod,
    one: chips.Topology,
    known: dict[str, estimate.Estimate],
) -> estimate.Estimate:
    """Returns the estimate of a step; `known` caches it for configs of equal cost."""
    flat = config_lib.flatten(config)
    key = repr({k: v for k, v in flat.items() if not k.startswith(FREE)})
    if key not in known:
        single = config_lib.change(config, dict.fromkeys(MESH, 1))
        known[key] = estimate.of_step(single, make, one, jax.devices()[:1])
    return known[key]
