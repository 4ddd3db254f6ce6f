"""Trains one model: python -m ssl_jax.train --config configs/x.py --workdir runs/x

Keys are changed with --config.optim.lr=1e-3; --print in place of --workdir prints every value.
The same command resumes from the newest checkpoint of the run folder, which holds config.json,
signature.txt, code.txt, classes.json, parameters.txt, data-*.npz (fingerprints of its data),
evaluating.txt (the step of an evaluation that was cut off), multiple.txt (what its batch sizes are
a multiple of), environment.jsonl, metrics.jsonl, report.html, skipped.jsonl (files that could not
be used) and checkpoints/. With a longer config.train.duration it goes on to that; its data may lie
elsewhere. If their content has changed since it began, it resumes only with --accept_data_change.
"""

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path

import jax
import optax
from ml_collections import ConfigDict

from ssl_jax import methods
from ssl_jax.core import config as config_lib
from ssl_jax.core import mesh as mesh_lib
from ssl_jax.core import paths, stop
from ssl_jax.core.types import Method, Tree
from ssl_jax.engine import (
    blame,
    held_out,
    hooks,
    hosts,
    log,
    longer,
    loop,
    manifest,
    optim,
    setup,
    splits,
    teachers,
    turnover,
)
from ssl_jax.engine import step as step_lib
from ssl_jax.engine.checkpoint import Checkpoints
from ssl_jax.nn import build
from ssl_jax.reports import run_report
from ssl_jax.stages import evaluations


def run(
    config: ConfigDict,
    workdir: str | Path,
    watchers: Sequence[hooks.Hook] = (),
    source: str = "",
    accept_data_change: bool = False,
    low_turnover: bool = True,
) -> dict[str, float]:
    """Trains `config` in `workdir`, or resumes there, and returns the last value of each metric.

    `watchers` are hooks in addition to those of config.eval: (fn(step, state) -> metrics or None,
    steps between calls). `source`: the --config, which the report compares. `accept_data_change`
    lets a run resume with other data than it began with. `low_turnover` lets its teacher stay
    random; see engine/turnover.py. Raises ValueError, or a subclass, on a config or data that
    cannot be used, NotFiniteError, CollapseError, and Stopped after SIGTERM or Ctrl-C.
    """
    workdir = paths.of(workdir)
    config, notes = held_out.complete(config)
    with contextlib.ExitStack() as opened:  # closed in the reverse order, however the run ends
        setup.occupy(config, workdir, methods.find(config.method.name).__file__, opened)
        mesh = mesh_lib.make_mesh(config.mesh)
        mesh_lib.check_batch(mesh, config.data.batch_size)
        train, plan, multiple = splits.open_train(config, workdir, mesh)
        corpus = train.corpus
        to_steps = splits.durations(config, plan)
        total = to_steps("100%")
        method = teachers.checked(make_method(config, len(corpus.classes)), corpus.classes)
        shapes = splits.batch_shapes(method, plan, corpus)
        train = splits.without_short(train, method)
        found = held_out.open_others(config, workdir, train, notes)
        low = turnover.judge(method, config, total, low_turnover)
        params, _ = jax.eval_shape(method.init, jax.random.key(0), shapes)
        tx, schedule = _optimizer(config, params, total, to_steps)
        checkpoints = Checkpoints(workdir, config)
        opened.callback(checkpoints.close)
        state, shardings = setup.begin(config, method, tx, mesh, shapes, checkpoints)
        first = int(jax.device_get(state.step))
        if resumes := checkpoints.latest() is not None:
            longer.check(config, checkpoints.folder / str(first), plan, first, schedule)
        manifest.check(config, workdir, found, resumes, accept_data_change)
        setup.write_folder(workdir, config, corpus.classes, state)
        splits.keep_multiple(workdir, multiple)
        logger = opened.enter_context(contextlib.closing(log.Logger(workdir, config.log, first)))
        step = step_lib.make_step(method, tx, schedule, mesh, config.train.accumulate)
        compiled = step_lib.compile_step(step, mesh, shardings, (state, shapes))
        asked = [*evaluations.make(config, method, mesh, shardings, found, to_steps), *watchers]
        workers = config.data.workers
        rows = train.rows(plan, method.batch, mesh, start=first, stop=total, workers=workers)
        options = loop.options(config, method, to_steps, total, plan.shapes)
        about = {"step": first, "total": total, **low, **run_report.origin(config, source)}
        report = run_report.updated(workdir, config, method, params, corpus, logger, **about)
        with report, blame.explained(corpus, plan, method.frames):
            done = loop.fit(state, compiled, rows, mesh, options, checkpoints, logger, asked)
            if done.stopped:
                raise stop.Stopped
    # only now has the last save ended, which may fail
    log.detail(
        f"{total} steps are done. Start another run from this one: config.init_from={workdir}"
    )
    return dict(logger.latest)


def make_method(config: ConfigDict, num_classes: int) -> Method:
    """Returns the method of the module that config.method.name names; see `methods.find`."""
    return methods.find(config.method.name).make(
        config.method,
        precision=config.precision,
        sample_rate=config.data.sample_rate,
        num_classes=num_classes,
    )


def _optimizer(
    config: ConfigDict, params: Tree, total: int, to_steps: optim.ToSteps
) -> tuple[optax.GradientTransformation, optim.Schedule]:
    """Returns what `optim.make` does for these parameters, which may be abstract."""
    depth = optim.depth(params)
    return optim.make(config.optim, params, total_steps=total, to_steps=to_steps, depth=depth)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; an error that this package foresees is one line, without a traceback."""
    parser = argparse.ArgumentParser(prog="python -m ssl_jax.train", description=__doc__)
    parser.add_argument("--config", required=True, help="configs/x.py, or configs/x.py:argument")
    folder = parser.add_mutually_exclusive_group(required=True)
    folder.add_argument("--workdir", help="the run folder, new or to resume")
    folder.add_argument("--print", action="store_true", help="print every value and exit")
    parser.add_argument("--profile", default="", help="trace these steps, such as 100:110")
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
        methods.check_file(known.config, config.method, known.method)
        accept = known.accept_data_change
        run(config, known.workdir, source=known.config, accept_data_change=accept)


if __name__ == "__main__":
    main()
