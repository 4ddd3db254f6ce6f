"""Runs the sweep of a config: python -m ssl_jax.sweep --config configs/x.py

    python -m ssl_jax.sweep --config C                    # the runs, their signatures and cost
    python -m ssl_jax.sweep --config C --run 3            # one of them, here
    python -m ssl_jax.sweep --config C --launch local --parallel 2
    python -m ssl_jax.sweep --config C --status           # a live table
    python -m ssl_jax.sweep --config C --report --metric valid/loss

The config file defines sweep(s), see docs/sweeps.md; keys of every run are changed with
--config.optim.lr=1e-3. The same command goes on: what is done stays, what was interrupted resumes
from its newest checkpoint, what failed is tried again. A run is the signature of its config, and so
is its folder below --workdir. Once begun, --workdir alone names a sweep.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from ssl_jax import methods, plan, train
from ssl_jax.core import chips, code, orphans, paths
from ssl_jax.core import config as config_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.engine import hosts
from ssl_jax.evals.table import text_table
from ssl_jax.planning import estimate
from ssl_jax.sweeps import clusters, local, report, run_folders
from ssl_jax.sweeps import status as status
from ssl_jax.sweeps import sweep as sweep_lib
from ssl_jax.sweeps.sweep import Run

FREE = ("seed", "optim.lr", "init_", "method.ema.", "data.label", "eval.", "log.", "checkpoint.")
"""Keys on which the operations of a step do not depend."""
MESH = ("mesh.slice", "mesh.data", "mesh.fsdp", "mesh.model")


def say(text: str) -> None:
    """Prints a line at once; asks no device, which a launcher would take from its runs."""
    print(text, file=sys.stderr, flush=True)


def costs(found: Sequence[Run], topology: chips.Topology, examples: int = 0) -> str:
    """Returns the table of runs: what each changes, its state, steps, FLOPs and hours.

    FLOPs and hours are those that `plan` predicts for one chip of the topology. What is not known
    is said below the table.
    """
    known: dict[str, estimate.Estimate] = {}
    missing: dict[str, None] = {}
    one = dataclasses.replace(topology, shape="1", slices=1)
    rows = status.table(found)
    for run, row in zip(found, rows, strict=True):
        try:
            steps = config_lib.steps_of(run.config, examples)
            step = _step(run.config, one, known)
        except (ValueError, TypeError, ImportError, OSError) as error:
            missing[f"not planned: {error}"] = None
            row["FLOPs"] = "not planned"
            continue
        row |= {"steps": f"{steps:,}", "FLOPs": f"{steps * step.flops:.3g}"}
        row[f"{one.chip.name} hours"] = f"{steps * step.times.total / 3600:.2g}"
    return "\n".join([text_table(rows), *missing])


def _step(
    config: ConfigDict, one: chips.Topology, known: dict[str, estimate.Estimate]
) -> estimate.Estimate:
    """Returns what a step takes; `known` keeps those of configs that cost the same."""
    flat = config_lib.flatten(config)
    key = repr({k: v for k, v in flat.items() if not k.startswith(FREE)})
    if key not in known:
        alone = config_lib.change(config, dict.fromkeys(MESH, 1))
        known[key] = estimate.of_step(alone, plan.make_method, one, jax.devices()[:1])
    return known[key]


def execute(run: Run, any_code: bool = False) -> bool:
    """Trains one run in its folder unless it is done; says whether it did anything.

    Raises Busy, ConfigError for a run that other code began, and what the training raises.
    """
    if run_folders.state(run.folder) == "done":
        say(f"run {run.index} ({run.label}) is done, and stays as it is")
        return False
    before = run_folders.code(run.folder)
    if before and before[-1] != code.version() and not any_code:
        raise ConfigError(
            f"{run.folder} was begun by code {before[-1]}, and this is {code.version()}: check "
            f"that out to go on, or pass --any-code to go on with this one, or give another "
            f"--workdir; nothing was changed"
        )
    if jax.process_index() != 0:  # the first host keeps the folder for all
        train.run(run.config, run.folder)
        return True
    return run_folders.once(run.folder, lambda: train.run(run.config, run.folder))


def execute_here(run: Run, args: argparse.Namespace) -> None:
    """Trains one run as one of its hosts; exits with `launch.BUSY` where another works on it."""
    orphans.end_command()
    with hosts.session(args):
        try:
            execute(run, args.any_code)
        except run_folders.Busy as error:
            say(f"error: {error}")
            sys.exit(local.BUSY)


def start(found: Sequence[Run], root: Path, args: argparse.Namespace, extra: list[str]) -> None:
    """Launches what is not done; extra: the rest of the command line, that changes configs."""
    go_on = ["--any-code"] if args.any_code else []
    own = {run.config.method.name for run in found if not methods.is_part(run.config.method.name)}
    go_on += [word for name in sorted(own) for word in ("--method", name)]
    options = clusters.parsed(args.option)

    def one(run: Run) -> list[str]:
        return ["-m", "ssl_jax.sweep", "--workdir", str(root), "--run", run.signature, *go_on]

    def here(run: Run) -> list[str]:
        # by its folder: what becomes of the config file meanwhile is no matter
        return [sys.executable, *one(run)]

    def there(run: Run) -> list[str]:
        return ["python", *one(run), "--config", args.config, *extra]  # that of the image

    if args.launch == "local":
        devices = args.devices.split(",") if args.devices else ()
        local.local(found, here, len(devices) or args.parallel, say, devices)
    elif args.launch == "slurm":
        clusters.slurm(found, here, args.parallel, say, root, options)
    elif not args.config:
        raise ConfigError("--launch xpk needs --config: the pods read it from their image")
    else:
        clusters.xpk(found, there, say, root, options)


def _open(args: argparse.Namespace, overrides: Sequence[str]) -> tuple[Path, list[Run]]:
    """Returns the folder and the runs of the sweep that the command line names."""
    if not args.config:
        if not args.workdir:
            raise ConfigError("name a sweep: --config configs/x.py, or --workdir of one begun")
        if overrides:
            raise ConfigError(f"{overrides[0]}: give --config too, or leave the sweep as it is")
        found = sweep_lib.reopen(paths.of(args.workdir))
        for run in found if not (args.status or args.report) else ():
            name = run.config.method.name
            methods.check(name, name if name in args.method else "")
        return paths.of(args.workdir), found
    root = paths.of(args.workdir or sweep_lib.default_root(args.config))
    return root, sweep_lib.read(args.config, overrides, root)


def main(argv: Sequence[str] | None = None) -> None:
    """The command; an error that this package foresees is one line, without a traceback."""
    parser = argparse.ArgumentParser(
        prog="python -m ssl_jax.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", default="", help="configs/x.py, or configs/x.py:argument")
    parser.add_argument("--workdir", default="", help="default: runs/<name of the config>")
    parser.add_argument("--run", default="", help="execute one: its number or signature")
    parser.add_argument("--launch", choices=("local", "slurm", "xpk"))
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time")
    parser.add_argument("--devices", default="", help="0,1,2: a GPU for each run at a time")
    parser.add_argument("--option", action="append", default=[], help="name=value, of the cluster")
    parser.add_argument("--topology", default="v5e:2x4", help="whose hours to plan, as of plan")
    parser.add_argument("--examples", type=int, default=0, help="in the data, to plan epochs")
    parser.add_argument("--status", action="store_true", help="a table, live on a terminal")
    parser.add_argument("--report", action="store_true", help="a ranking, metrics.csv, report.html")
    parser.add_argument("--metric", default="", help="of the report, as in metrics.jsonl")
    parser.add_argument("--best", default="", choices=("max", "min"), help="default: by its name")
    parser.add_argument(
        "--method", action="append", default=[], help="a module that runs of --workdir may import"
    )
    parser.add_argument("--any-code", action="store_true", help="go on with what other code began")
    hosts.add_flags(parser)
    args, overrides = parser.parse_known_args(argv)
    try:
        if args.parallel < 1:
            raise ConfigError(f"--parallel {args.parallel}: use 1 or more")
        if args.launch in ("local", "slurm"):
            paths.local(args.workdir, "--workdir")
        root, found = _open(args, overrides)
        if args.config and (args.run or args.launch):
            sweep_lib.write(root, found, {"config": args.config, "overrides": overrides})
        if args.run:
            execute_here(sweep_lib.pick(found, args.run), args)
        elif args.launch:
            start(found, root, args, overrides)
        elif args.report:
            report.tell(root, found, args.metric, args.best)
        elif args.status:
            status.watch(found)
        else:
            jax.config.update("jax_platforms", "cpu")  # a chip may be at work for a run
            print(costs(found, chips.topology(args.topology), args.examples))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on")


if __name__ == "__main__":
    main()
