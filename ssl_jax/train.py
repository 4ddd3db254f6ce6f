"""Trains one model: python -m ssl_jax.train --config configs/x.py --workdir runs/x

Keys are changed with --config.optim.lr=1e-3; --print in place of --workdir prints every value.
The same command goes on from the newest checkpoint of the run folder, which holds config.json,
signature.txt, code.txt, classes.json, parameters.txt, data-*.npz (what its data were),
evaluating.txt (the step of an evaluation that was cut off), multiple.txt (of which the sizes of its
batches are multiples), environment.jsonl, metrics.jsonl, report.html, skipped.jsonl (files that
could not be used) and checkpoints/. Where the data are not those it began with, it goes on with
--accept_data_change only.
"""

import argparse
import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ssl_jax import methods
from ssl_jax.core import config as config_lib
from ssl_jax.core import mesh as mesh_lib
from ssl_jax.core import paths, stop
from ssl_jax.core.types import Method, TrainState
from ssl_jax.data import corpus as corpus_lib
from ssl_jax.engine import (
    blame,
    flops,
    hooks,
    hosts,
    log,
    loop,
    manifest,
    optim,
    setup,
    splits,
    watchdog,
)
from ssl_jax.engine import step as step_lib
from ssl_jax.engine.checkpoint import Checkpoints
from ssl_jax.evals import split_scores
from ssl_jax.evals.monitor import Monitor
from ssl_jax.nn import build
from ssl_jax.reports import run_report


def run(
    config: ConfigDict,
    workdir: str | Path,
    watchers: Sequence[hooks.Hook] = (),
    source: str = "",
    accept_data_change: bool = False,
) -> dict[str, float]:
    """Trains `config` in `workdir`, or goes on there, and returns the last value of each metric.

    `watchers` are (fn(step, state) -> metrics or None, every so many steps), beside those that
    config.eval names. `source` is the config file that `config` was made from, as --config has
    it: the report marks what differs. `accept_data_change` lets a run go on with data that are not
    those it began with. Raises ValueError and its kin on a config or data that
    cannot be used, NotFiniteError, CollapseError, and Stopped (status 0) after SIGTERM.
    """
    workdir = paths.of(workdir)
    seconds = config.guard.get("stall_seconds", 0.0)  # older runs have no such key
    dog = watchdog.Watchdog(seconds, workdir / "checkpoints")
    with stop.listening(), dog, contextlib.ExitStack() as opened:
        return _run(config, workdir, watchers, source, accept_data_change, opened)


def _run(
    config: ConfigDict,
    workdir: Path,
    watchers: Sequence[hooks.Hook],
    source: str,
    accept_data_change: bool,
    opened: contextlib.ExitStack,
) -> dict[str, float]:
    """Does what `run` says, for which SIGTERM and the watchdog are looked after.

    What it opens is closed with `opened`, however it ends.
    """
    setup.use_compilation_cache()
    hosts.check_same_run(config, methods.find(config.method.name).__file__)
    setup.check_writable(workdir)
    opened.enter_context(hosts.holding(workdir))
    mesh = mesh_lib.make_mesh(config.mesh)
    mesh_lib.check_batch(mesh, config.data.batch_size)
    stop.check("config.data.train, to be opened")
    train = splits.open_split(config, workdir, "train")
    stop.check("the first state of the run")
    corpus = train.corpus
    multiple = splits.multiple_of_run(config, mesh, workdir)
    plan = corpus_lib.make_schedule(corpus, config.data, seed=config.seed, multiple=multiple)
    to_steps = splits.durations(config, plan)
    total = to_steps("100%")
    method = step_lib.gather_when_used(make_method(config, len(corpus.classes)), mesh)
    shapes = splits.batch_shapes(method, plan, corpus)
    train = splits.without_short(train, method)
    params, _ = jax.eval_shape(method.init, jax.random.key(0), shapes)
    tx, schedule = optim.make(
        config.optim, params, total_steps=total, to_steps=to_steps, depth=optim.depth(params)
    )
    checkpoints = Checkpoints(workdir, config)
    opened.callback(checkpoints.close)
    state, shardings = setup.begin(config, method, tx, mesh, shapes, checkpoints)
    stop.check("config.data.valid and config.data.test, to be opened")
    found = splits.open_others(config, workdir, train)
    resumes = checkpoints.latest() is not None
    manifest.check(config, workdir, found, resumes, accept_data_change)
    first = int(jax.device_get(state.step))
    setup.write_folder(workdir, config, corpus.classes, state)
    splits.keep_multiple(workdir, multiple)
    logger = opened.enter_context(contextlib.closing(log.Logger(workdir, config.log, first)))
    step = step_lib.make_step(method, tx, schedule, config.train.accumulate)
    compiled = step_lib.compile_step(step, mesh, shardings, (state, shapes))
    every = to_steps(config.eval.every, "config.eval.every")
    asked = [*evaluations(config, method, mesh, shardings, found, every), *watchers]
    part = {"start": first, "stop": total, "workers": config.data.workers}
    rows = train.rows(plan, method.batch, mesh, **part)
    options = loop_options(config, method, to_steps, total)
    about = {"step": first, "total": total, **run_report.origin(config, source)}
    telling = run_report.telling(workdir, config, method, params, corpus, logger, **about)
    with telling, blame.explained(corpus, plan, method.frames):
        done = loop.fit(state, compiled, rows, mesh, options, checkpoints, logger, asked)
        if done.stopped:
            raise stop.Stopped
    opened.close()  # a save that failed is told before the run says that it is done
    log.say(f"{total} steps are done. Start another run from this one: config.init_from={workdir}")
    return dict(logger.latest)


def make_method(config: ConfigDict, num_classes: int) -> Method:
    """Returns the method of the module that config.method.name names; see `methods.find`."""
    return methods.find(config.method.name).make(
        config.method,
        precision=config.precision,
        sample_rate=config.data.sample_rate,
        num_classes=num_classes,
    )


def evaluations(
    config: ConfigDict,
    method: Method,
    mesh: Mesh,
    shardings: TrainState,
    opened: Mapping[str, splits.Split],
    every: int,
) -> list[hooks.Hook]:
    """Returns the hooks that config.eval asks for: validation and monitors each `every` steps,
    the test split once, after the last step."""
    found: list[hooks.Hook] = []
    monitors = tuple(config.eval.monitors)
    unit = splits.unit(config, mesh)
    evaluate = step_lib.compile_eval_step(step_lib.make_eval_step(method), mesh, shardings)

    def judged(split: splits.Split, how_often: int) -> None:
        rows, scores = split.in_order(unit, method.batch, mesh), config.eval.scores
        found.append((hooks.validation(evaluate, rows, mesh, split.name), how_often))
        if scores:
            spoken = split.corpus.classes, config.data.get("spelling", "")
            found.append(
                (split_scores.make(scores, method, rows, mesh, split.name, *spoken), how_often)
            )

    train = opened["train"]
    if "test" in opened:
        judged(opened["test"], 0)
    if "valid" in opened:
        valid = opened["valid"]
        if config.eval.valid:
            judged(valid, every)
        if monitors:
            sides = {"train": train, "valid": valid}
            read = sorted({*method.batch, "id", "weight", "label"})
            batches = {k: v.in_order(unit, read, mesh) for k, v in sides.items()}
            count = len(train.corpus.classes)
            watch = Monitor(monitors, method.features, **batches, classes=count, mesh=mesh)
            found.append((watch, every))
    watched = len(config.data.valid) and (config.eval.valid or monitors)
    if not watched and (monitors or config.checkpoint.best_metric):
        raise config_lib.ConfigError(
            "config.eval.monitors and config.checkpoint.best_metric need an evaluation: name a "
            "source in config.data.valid and keep config.eval.valid=True"
        )
    return found


def loop_options(
    config: ConfigDict, method: Method, to_steps: Callable[..., int], total: int
) -> loop.Options:
    """Returns the durations and guards of the loop, in steps."""

    def every(section: str, key: str = "every") -> int:
        return to_steps(config[section][key], f"config.{section}.{key}")

    return loop.Options(
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
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; an error that this package foresees is one line, without a traceback."""
    parser = argparse.ArgumentParser(prog="python -m ssl_jax.train", description=__doc__)
    parser.add_argument("--config", required=True, help="configs/x.py, or configs/x.py:argument")
    folder = parser.add_mutually_exclusive_group(required=True)
    folder.add_argument("--workdir", help="the run folder, new or to go on in")
    folder.add_argument("--print", action="store_true", help="print every value, start nothing")
    parser.add_argument("--profile", default="", help="trace these steps, 100:110 for one")
    parser.add_argument("--method", default="", help="the module that a .json config may import")
    parser.add_argument(
        manifest.FLAG, action="store_true", help="go on with data that changed since the run began"
    )
    hosts.add_flags(parser)
    known, overrides = parser.parse_known_args(arguments)
    overrides += [f"log.profile={known.profile}"] if known.profile else []
    if known.print:
        print(build.listing(config_lib.load(known.config, overrides)))
        return
    with hosts.session(known):
        config = config_lib.load(known.config, overrides)
        methods.check_file(known.config, config.method.name, known.method)
        accept = known.accept_data_change
        run(config, known.workdir, source=known.config, accept_data_change=accept)


if __name__ == "__main__":
    main()
