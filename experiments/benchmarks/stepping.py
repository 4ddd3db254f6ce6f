"""A training step of the engine on a fixed batch, and timing of steps that take turns."""

import importlib
import multiprocessing
import os
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import jax
import numpy as np
from ml_collections import ConfigDict

from ssl_jax.core import mesh as mesh_lib
from ssl_jax.core.types import TrainState
from ssl_jax.engine import optim, step, teachers

Name = TypeVar("Name", bound=Hashable)


def engine_step(config: ConfigDict, batch: Mapping[str, np.ndarray]) -> Callable[[], float]:
    """Returns a function that makes one update of `config` on `batch` and returns its loss."""
    return engine(config, batch)[0]


def engine(
    config: ConfigDict, batch: Mapping[str, np.ndarray]
) -> tuple[Callable[[], float], dict[str, Any], TrainState]:
    """Returns (run, held, shardings): `run` as in `engine_step`, its state in held["state"]."""
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
    # the schedule does not affect the time of a step
    tx, schedule = optim.make(
        config.optim, params, total_steps=1_000, to_steps=lambda *_: 1, depth=depth
    )
    state, shardings = step.init_state(method, tx, 0, mesh, shapes)
    state, shardings = teachers.join(state, shardings, teachers.fresh(method), method, mesh)
    update = step.make_step(method, tx, schedule, mesh)
    compiled = step.compile_step(update, mesh, shardings, (state, shapes))
    placed = jax.device_put(dict(batch), mesh_lib.batch_sharding(mesh))
    held: dict[str, Any] = {"state": state, "totals": compiled.zeros()}

    def run() -> float:
        held["state"], held["totals"], loss = compiled.run(held["state"], held["totals"], placed)
        jax.block_until_ready((held, loss))
        return float(loss)

    return run, held, shardings


def warm(runs: Mapping[Name, Callable[[], Any]]) -> None:
    """Calls every run of `processes` once, all concurrently: compilation takes minutes."""
    with ThreadPoolExecutor(len(runs)) as pool:
        for done in [pool.submit(run) for run in runs.values()]:
            done.result()


def in_turns(
    runs: Mapping[Name, Callable[[], float]], rounds: int
) -> tuple[dict[Name, list[float]], dict[Name, list[float]]]:
    """Returns ({name: seconds of each round}, the same in core-seconds of its process).

    Each first runs twice, to compile and to fill caches. They then take turns, so that load on the
    machine affects all alike. A turn is two steps, and only the second is timed: the first restores
    memory and caches, which a training run would have kept. A run returns its loss or, like those
    of `processes`, its own (loss, seconds, core-seconds). Raises SystemExit if a loss is not
    finite.
    """
    for name, run in runs.items():
        if not np.isfinite([clocked(run)[0], clocked(run)[0]]).all():
            raise SystemExit(f"the loss of {name} is not finite")
    seconds: dict[Name, list[float]] = {name: [] for name in runs}
    cores: dict[Name, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            run()
            _, took, busy = clocked(run)
            seconds[name].append(took)
            cores[name].append(busy)
    return seconds, cores


def clocked(run: Callable[[], Any]) -> tuple[float, float, float]:
    """Returns the loss, seconds and core-seconds of one call of a run."""
    start, busy = time.perf_counter(), time.process_time()
    answer = run()
    if isinstance(answer, tuple):
        return answer
    return answer, time.perf_counter() - start, time.process_time() - busy


@contextmanager
def processes(
    makers: Mapping[Name, Callable[[], Callable[[], float]]],
) -> Iterator[dict[Name, Callable[[], tuple[float, float, float]]]]:
    """Yields {name: a run for `in_turns`}, each made and called in its own process.

    Two frameworks in one process would share its threads and heap. A maker must be picklable: a
    module-level function, or a `functools.partial` of one. Processes end with the block. On Linux
    they use large pages, without which a step on CPU spends much of its time on page faults.
    """
    context, made = multiprocessing.get_context("spawn"), {}
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    for name, make in makers.items():
        ours, theirs = context.Pipe()
        child = context.Process(target=_serve, args=(make, theirs), daemon=True)
        child.start()
        theirs.close()
        made[name] = (ours, child)
    try:
        yield {name: _asking(name, pipe) for name, (pipe, _) in made.items()}
    finally:
        for pipe, child in made.values():
            pipe.close()
            child.join()


def _asking(name: Name, pipe: Connection) -> Callable[[], tuple[float, float, float]]:
    def run() -> tuple[float, float, float]:
        try:
            pipe.send(None)
            return pipe.recv()
        except (EOFError, OSError):
            raise SystemExit(f"the process of {name} ended: see its error above") from None

    return run


def _serve(make: Callable[[], Callable[[], float]], pipe: Connection) -> None:
    """Runs one step per message, until the other end closes."""
    run = make()
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        pipe.send(clocked(run))
