"""A training step of the engine on a fixed batch, and steps that take turns on the clock."""

import importlib
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from ml_collections import ConfigDict

from ssl_jax.core import mesh as mesh_lib
from ssl_jax.engine import optim, step

Name = TypeVar("Name", bound=Hashable)


def engine_step(config: ConfigDict, batch: Mapping[str, np.ndarray]) -> Callable[[], float]:
    """Returns a function that makes one update of `config` on `batch` and returns its loss."""
    module: Any = importlib.import_module(f"ssl_jax.methods.{config.method.name}")
    method = module.make(
        config.method,
        precision=config.precision,
        sample_rate=config.data.sample_rate,
        num_classes=0,
    )
    mesh = mesh_lib.make_mesh({"data": 1}, jax.devices()[:1])
    shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch.items()}
    params, _ = jax.eval_shape(method.init, jax.random.key(0), shapes)
    depth = config.method.encoder.depth
    # what the schedule is does not matter to the time of a step
    tx, schedule = optim.make(
        config.optim, params, total_steps=1_000, to_steps=lambda *_: 1, depth=depth
    )
    state, shardings = step.init_state(method, tx, 0, mesh, shapes)
    update = step.make_step(method, tx, schedule)
    compiled = step.compile_step(update, mesh, shardings, (state, shapes))
    placed = jax.device_put(dict(batch), mesh_lib.batch_sharding(mesh))
    held = {"state": state, "totals": compiled.zeros()}

    def run() -> float:
        held["state"], held["totals"], loss = compiled.run(held["state"], held["totals"], placed)
        jax.block_until_ready((held, loss))
        return float(loss)

    return run


def in_turns(
    runs: Mapping[Name, Callable[[], float]], rounds: int
) -> tuple[dict[Name, list[float]], dict[Name, list[float]]]:
    """Returns ({name: seconds of each round}, the same in core-seconds of this process).

    Each runs twice before, to compile and to fill caches; then they take turns, so that a load on
    the machine meets all alike. Raises SystemExit where a loss is not finite.
    """
    for name, run in runs.items():
        if not np.isfinite([run(), run()]).all():
            raise SystemExit(f"the loss of {name} is not finite")
    seconds: dict[Name, list[float]] = {name: [] for name in runs}
    cores: dict[Name, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start, busy = time.perf_counter(), time.process_time()
            run()
            seconds[name].append(time.perf_counter() - start)
            cores[name].append(time.process_time() - busy)
    return seconds, cores
