"""The train loop: step, and while the device works, write, watch, save, evaluate."""

import collections
import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any, TextIO

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ssl_jax.core import mesh as mesh_lib
from ssl_jax.core import progress, pulse, stop
from ssl_jax.core.types import Method, TrainState
from ssl_jax.engine import flops, turnover
from ssl_jax.engine import hooks as hooks_lib
from ssl_jax.engine import log as log_lib
from ssl_jax.engine import profile as profile_lib
from ssl_jax.engine.checkpoint import Checkpoints
from ssl_jax.engine.prefetch import DeviceBatch, prefetch
from ssl_jax.engine.step import NEVER, TrainStep
from ssl_jax.engine.watchdog import Watchdog

DISPATCHED = 4  # steps dispatched ahead of the device: enough to hide the host, few batches held


@dataclasses.dataclass(frozen=True)
class Options:
    """The loop's durations, in steps, and its guards.

    floors: least values of metrics, checked after `guard_after` steps. best_metric: a name as in
    metrics.jsonl. sample_rate: for the hours of audio per second. peak: FLOP/s of all devices, 0
    where it is not known. profile: "100:110", the steps to trace; their time is reported by
    `scopes`, those of the method. stall_seconds: the longest time without progress, after which the
    process ends with status watchdog.STALLED (0: never). turnover: that of the teacher after each
    step, for the metric `teacher_turnover`; None without a teacher. shapes: how many the batches
    have, each of which is compiled for (0: not known).
    """

    total: int
    log_every: int
    save_every: int
    guard_after: int = 0
    floors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    nan: bool = True
    best_metric: str = ""
    sample_rate: int = 0
    peak: float = 0.0
    profile: str = ""
    scopes: tuple[str, ...] = ()
    stall_seconds: float = 0.0
    turnover: np.ndarray | None = None
    shapes: int = 0


def options(
    config: ConfigDict, method: Method, to_steps: Callable[..., int], total: int, shapes: int = 0
) -> Options:
    """Returns the options that a config and its method give; `shapes`: of the batches."""

    def every(section: str, key: str = "every") -> int:
        return to_steps(config[section][key], f"config.{section}.{key}")

    return Options(
        total=total,
        log_every=every("log"),
        save_every=every("checkpoint"),
        guard_after=every("guard", "after"),
        floors=dict(config.guard.floors),
        nan=config.guard.nan,
        best_metric=config.checkpoint.best_metric,
        sample_rate=config.data.sample_rate,
        peak=flops.peak(config.precision),
        profile=config.log.profile,
        scopes=method.scopes,
        stall_seconds=config.guard.get("stall_seconds", 0.0),  # older runs have no such key
        turnover=turnover.by_step(method, total),
        shapes=shapes,
    )


@dataclasses.dataclass(frozen=True)
class _Given:
    """A dispatched step: what its batch holds, and whether it was compiled first."""

    number: int
    loss: jax.Array
    examples: float
    seconds: float
    flops: float
    compiled: bool


@dataclasses.dataclass(frozen=True)
class Finished:
    """How a loop ended: the state, its step, and whether SIGTERM ended it before all was done."""

    state: TrainState
    step: int
    stopped: bool


def fit(
    state: TrainState,
    step: TrainStep,
    batches: Iterable[Mapping[str, np.ndarray]],
    mesh: Mesh,
    options: Options,
    checkpoints: Checkpoints,
    logger: log_lib.Logger,
    hooks: Sequence[hooks_lib.Hook] = (),
    out: TextIO | None = None,
) -> Finished:
    """Trains from state.step to options.total; `batches` begin at the batch of state.step.

    `state` is donated. Nothing in the loop waits for a number that the device has not computed
    yet, and an implicit transfer between host and device is an error (jax.transfer_guard); only
    hooks and saving may transfer. A checkpoint that is due is saved before the evaluation of its
    step, unless it is to hold its score; an evaluation that was cut off is repeated when the
    run resumes. Raises NotFiniteError and CollapseError, and Stopped where SIGTERM came before the
    first step; a state whose loss is not finite is never saved.
    """
    start = int(jax.device_get(state.step))
    run = _Run(step, options, checkpoints, logger, hooks, start, out or sys.stderr)
    stopped = False
    with ExitStack() as stack:
        stack.enter_context(stop.listening())
        stack.enter_context(run.watch)
        stack.enter_context(run.progress)
        stack.callback(checkpoints.wait)
        stack.callback(run.profile.close)
        run.catch_up(start, state)
        if start >= options.total:
            return Finished(state, start, False)
        sharding = mesh_lib.batch_sharding(mesh)
        ahead = stack.enter_context(closing(prefetch(batches, sharding, options.sample_rate)))
        stack.enter_context(jax.transfer_guard("disallow"))
        done = start
        for done in range(start + 1, options.total + 1):
            device_batch = run.take(done, ahead)
            if device_batch is None:  # asked to end while the data hang
                done, stopped = done - 1, True
                run.save_now(done, state)
                break
            state = run.advance(done, state, device_batch)
            stop.keep()
            stopped = run.look_around(done, state, stop.asked() and done < options.total)
            if stopped:
                break
        if stopped:
            run.progress.note(f"{stop.by()}: saved step {done}; the same command goes on from it")
    return Finished(state, done, stopped)


def _next(batches: Iterator[DeviceBatch], done: int) -> DeviceBatch:
    device_batch = next(batches, None)
    if device_batch is None:
        raise ValueError(f"the batches ended before step {done}: shorten config.train.duration")
    return device_batch


class _Run:
    """What the loop carries from step to step, apart from the state."""

    def __init__(
        self,
        step: TrainStep,
        options: Options,
        checkpoints: Checkpoints,
        logger: log_lib.Logger,
        hooks: Sequence[hooks_lib.Hook],
        start: int,
        out: TextIO,
    ):
        self.step, self.options, self.hooks, self.start = step, options, hooks, start
        self.checkpoints, self.logger = checkpoints, logger
        self.took: dict[int, float] = {}  # seconds of the last call of a hook, by its number
        self.progress = log_lib.Progress(
            start, options.total, out, peak=options.peak, rest=self.rest
        )
        folder = logger.path.parent
        self.profile = profile_lib.Profile(options.profile, folder, options.scopes, options.total)
        self.watch = Watchdog(options.stall_seconds, checkpoints.folder, out)
        self.pending_evaluation = hooks_lib.PendingEvaluation(folder)
        self.losses: list[float] = []  # of previous intervals
        self.averaged = False
        self.totals = step.zeros()
        self.pending: tuple[int, Any] | None = None
        self.running: collections.deque[_Given] = collections.deque()
        self.flops: dict[tuple, float] = {}  # of a step, by the shapes of its batch

    def take(self, done: int, batches: Iterator[DeviceBatch]) -> DeviceBatch | None:
        """Returns the batch of step `done`, None if the run is asked to end before it comes."""
        self.profile.before(done, [given.loss for given in self.running])
        pulse.beat(f"the batch of step {done}")
        try:
            first = done == self.start + 1  # workers start for it
            wait = self.progress.waiting("reading the first batch") if first else None
            with self.profile.waiting(), wait or contextlib.nullcontext():
                return _next(batches, done)
        except stop.Stopped:
            if done - 1 == self.start:
                raise  # there is nothing to save
            return None

    def advance(self, done: int, state: TrainState, device_batch: DeviceBatch) -> TrainState:
        """Dispatches step number `done`; writes the metrics of the previous interval."""
        shapes = tuple(sorted((k, v.shape) for k, v in device_batch.batch.items()))
        new = shapes not in self.flops
        text = " (to be compiled first)" if new else ""
        pulse.beat(f"step {done}{text}, or one of the {DISPATCHED} before it")
        given = (state, self.totals, device_batch.batch)
        with (
            self._compiling(done, device_batch) if new else contextlib.nullcontext(),
            self.profile.running(done, shapes, self.step.run, *given),
        ):
            state, self.totals, loss = self.step.run(*given)
        if new:
            self.flops[shapes] = self.step.flops(*given)
        work = (device_batch.examples, device_batch.seconds, self.flops[shapes])
        self.running.append(_Given(done, loss, *work, compiled=new))
        if len(self.running) > DISPATCHED:
            self.running[0].loss.block_until_ready()
            self._count(self.running[0].number)
        self.drain()
        if table := self.profile.after(done, loss):
            self.progress.note(table)
        if done % self.options.log_every == 0 or done == self.options.total:
            self.pending = (done, self.totals)
            self.totals = self.step.zeros()
        return state

    def _count(self, done: int) -> None:
        """Counts the steps up to `done`, which have ended: the host dispatches several ahead."""
        while self.running and self.running[0].number <= done:
            step = self.running.popleft()
            if self.progress.due() and not self.averaged:  # there is no mean of an interval yet
                self.progress.loss = float(np.asarray(jax.device_get(step.loss)))
            if step.compiled:
                self.progress.restart()
                self.progress.show(step.number)
            else:
                self.progress.update(step.number, step.examples, step.seconds, step.flops)

    @contextlib.contextmanager
    def _compiling(self, done: int, device_batch: DeviceBatch) -> Iterator[None]:
        """Shows that a step is compiled, after the steps before it have ended."""
        for step in list(self.running):
            step.loss.block_until_ready()
            self._count(step.number)
        name, x = max(device_batch.batch.items(), key=lambda item: item[1].size)
        of = f" ({len(self.flops) + 1} of {self.options.shapes} shapes)"
        text = f"compiling step for {name} {x.shape}{of if self.options.shapes > 1 else ''}"
        before = time.monotonic()
        with self.progress.waiting(text):
            yield
        spent = time.monotonic() - before
        self.progress.detail(f"step {done}: compiled for {name} {x.shape} in {spent:.1f} s")

    def drain(self) -> bool:
        """Writes the metrics of the last full interval, waiting for it; False if not finite."""
        if self.pending is None:
            return True
        (done, totals), self.pending = self.pending, None
        totals = jax.device_get(totals)
        self._count(done)
        rates = self.progress.rates()
        healthy = self._check(totals)
        metrics = hooks_lib.means(totals["sums"])
        if self.options.turnover is not None:
            metrics["teacher_turnover"] = float(self.options.turnover[done])
        self.progress.loss, self.averaged = metrics.get("loss", self.progress.loss), True
        self.logger.write(done, {f"train/{k}": v for k, v in (metrics | rates).items()})
        if self.options.nan and "loss" in metrics:
            hooks_lib.check_ceiling(done, metrics["loss"], self.losses, self.options.log_every)
            self.losses.append(metrics["loss"])
        if done > self.options.guard_after:
            hooks_lib.check_floors(done, metrics, self.options.floors)
        return healthy

    def _check(self, totals: Any) -> bool:
        """Returns whether all losses were finite; raises if not where the guard is on."""
        bad = int(totals["bad"])
        if bad != NEVER and self.options.nan:
            self.checkpoints.wait()
            latest = self.checkpoints.latest()
            good = "none yet" if latest is None else str(self.checkpoints.folder / str(latest))
            raise hooks_lib.not_finite(bad, good)
        return bad == NEVER

    def catch_up(self, start: int, state: TrainState) -> None:
        """Runs the evaluation of the step that the run resumes from, if it was cut off there."""
        if self.pending_evaluation.step() != start:
            return
        pulse.beat(f"the evaluation after step {start}, which was cut off")
        with jax.transfer_guard("allow"):
            self._evaluate(start, state, self._due(start))

    def look_around(self, done: int, state: TrainState, stopped: bool) -> bool:
        """Saves after step `done` if a save is due, and runs the hooks that are due.

        Returns whether the run ends here: because it is `stopped`, or was in an evaluation.
        """
        last, due = done == self.options.total, self._due(done)
        save = stopped or last or done % self.options.save_every == 0
        if not (due or save):
            return False
        healthy = self.drain() and self._check(jax.device_get(self.totals))
        self._count(done)
        if last:
            self.progress.close(done)
        with jax.transfer_guard("allow"):
            # a score belongs in the checkpoint, and is known only after the evaluation
            early = healthy and save and not (due and self.options.best_metric and not stopped)
            if due:
                self.pending_evaluation.begin(
                    done
                )  # before the save: a kill must not fall in between
            if early:
                self._save(done, state, None)
            if stopped:
                return True
            self.checkpoints.copied()  # an evaluation may need the room of the copy
            try:
                best = self._evaluate(done, state, due)
            except stop.Stopped:
                if healthy and not early:
                    self._save(done, state, None)
                return True
            better = best is not None and self.checkpoints.beats_best(best)
            if healthy and not early and (save or better):
                self._save(done, state, best)
        return False

    def save_now(self, done: int, state: TrainState) -> None:
        """Saves the state after step `done`, whose other work is done: the run ends there."""
        healthy = self.drain() and self._check(jax.device_get(self.totals))
        with jax.transfer_guard("allow"):
            if healthy:
                self._save(done, state, None)

    def _due(self, done: int) -> list[int]:
        """Returns the numbers of the hooks that are due."""
        last = done == self.options.total
        every = [each for _, each in self.hooks]
        return [i for i, n in enumerate(every) if last or (n > 0 and done % n == 0)]

    def rest(self, done: int) -> tuple[float, bool]:
        """Returns the seconds of the hooks after step `done`, and whether one was never called."""
        total = self.options.total
        calls = [-(-total // n) - done // n if n > 0 else int(done < total) for _, n in self.hooks]
        known = sum(calls[i] * seconds for i, seconds in self.took.items())
        return known, any(count and i not in self.took for i, count in enumerate(calls))

    def _evaluate(self, done: int, state: TrainState, due: Sequence[int]) -> float | None:
        """Runs hooks and writes their metrics; returns the score of the checkpoint, if any."""
        found: dict[str, float] = {}
        for i in due:
            stop.check(f"an evaluation after step {done}")
            before = time.monotonic() - progress.compiling()
            found |= self.hooks[i][0](done, state) or {}
            self.took[i] = time.monotonic() - progress.compiling() - before
        if found:
            self.logger.write(done, found)
            self.progress.detail("  ".join([f"step {done}:", *_show(found)]))
        best = self._best(found, all_ran=len(due) == len(self.hooks))
        if due:
            self.pending_evaluation.end()
            self.progress.restart()
        return best

    def _save(self, done: int, state: TrainState, score: float | None) -> None:
        self.logger.flush()  # before the state: a resumed run drops only what is past it
        pulse.beat(f"the checkpoint of step {done}, or of the save before")
        self.checkpoints.save(done, state, score)

    def _best(self, found: Mapping[str, float], all_ran: bool) -> float | None:
        name = self.options.best_metric
        if not name:
            return None
        if name not in found and all_ran:
            raise ValueError(
                f"config.checkpoint.best_metric {name!r} is not among the metrics of the "
                f"evaluation: {', '.join(sorted(found)) or 'none'}"
            )
        return found.get(name)


def _show(metrics: Mapping[str, float]) -> list[str]:
    return [f"{k} {v:.4g}" for k, v in sorted(metrics.items())]
