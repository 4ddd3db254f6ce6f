"""Runs the sweep of a config: python -m ssl_jax.sweep --config configs/x.py

    python -m ssl_jax.sweep --config C                    # the runs, their signatures and costs
    python -m ssl_jax.sweep --config C --run 3            # one of the runs, in this process
    python -m ssl_jax.sweep --config C --launch local --parallel 2
    python -m ssl_jax.sweep --config C --status           # a live table
    python -m ssl_jax.sweep --config C --report --metric valid/loss

The config file defines sweep(s), see docs/sweeps.md; --config.optim.lr=1e-3 changes a key of every
run. Repeat the command to continue: finished runs are kept, interrupted ones resume from their
newest checkpoint, failed ones are retried. The signature of its config identifies a run and names
its folder below --workdir. Once a sweep has begun, --workdir alone is enough.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from ssl_jax import methods, plan, train
from ssl_jax.core import chips, code, orphans, paths, progress, terminal
from ssl_jax.core.config import ConfigError
from ssl_jax.engine import hosts
from ssl_jax.sweeps import clusters, costs, local, report, run_folders, status
from ssl_jax.sweeps import sweep as sweep_lib
from ssl_jax.sweeps.sweep import Run


def notify(text: str) -> None:
    """Prints a line to stderr; uses no device, which a launcher would take from its runs."""
    progress.tell(text)


def execute(run: Run, any_code: bool = False) -> bool:
    """Trains one run in its folder unless it is done; returns whether it trained.

    Raises Busy if another process holds the folder, ConfigError if other code began the run, and
    whatever the training raises.
    """
    if run_folders.state(run.folder) == "done":
        notify(f"run {run.index} ({run.label}) is done and is kept")
        return False
    before = run_folders.code(run.folder)
    if before and before[-1] != code.version() and not any_code:
        raise ConfigError(
            f"{run.folder} was begun by code {before[-1]}, and this is {code.version()}: check out "
            f"that version to continue, pass --any-code to continue with this one, or give another "
            f"--workdir; nothing was changed"
        )
    if jax.process_index() != 0:  # the first host locks the folder for all of them
        train.run(run.config, run.folder)
        return True
    return run_folders.once(run.folder, lambda: train.run(run.config, run.folder))


def execute_here(run: Run, args: argparse.Namespace) -> None:
    """Trains one run as one of its hosts; exits with `local.BUSY` if the run is in use."""
    orphans.end_command()
    with hosts.session(args):
        try:
            execute(run, args.any_code)
        except run_folders.Busy as error:
            notify(f"error: {error}")
            sys.exit(local.BUSY)


def start(found: Sequence[Run], root: Path, args: argparse.Namespace, extra: list[str]) -> None:
    """Launches the runs that are not done; extra: the overrides of the command line."""
    flags = ["--any-code"] if args.any_code else []
    own = {run.config.method.name for run in found if not methods.is_part(run.config.method.name)}
    flags += [word for name in sorted(own) for word in ("--method", name)]
    options = clusters.parsed(args.option)

    def words(run: Run) -> list[str]:
        return ["-m", "ssl_jax.sweep", "--workdir", str(root), "--run", run.signature, *flags]

    def here(run: Run) -> list[str]:
        # by its folder, so that the config file may change meanwhile
        return [sys.executable, *words(run)]

    def there(run: Run) -> list[str]:
        return ["python", *words(run), "--config", args.config, *extra]  # the config of the image

    if args.launch == "local":
        devices = args.devices.split(",") if args.devices else ()
        local.local(found, here, len(devices) or args.parallel, notify, devices)
    elif args.launch == "slurm":
        clusters.slurm(found, here, args.parallel, notify, root, options)
    elif not args.config:
        raise ConfigError("--launch xpk needs --config: the pods read it from their image")
    else:
        clusters.xpk(found, there, notify, root, options)


def _open(args: argparse.Namespace, overrides: Sequence[str]) -> tuple[Path, list[Run]]:
    """Returns the folder and the runs of the sweep named on the command line."""
    if not args.config:
        if not args.workdir:
            raise ConfigError(
                "name a sweep: --config configs/x.py, or the --workdir of one that was begun"
            )
        if overrides:
            raise ConfigError(
                f"{overrides[0]}: give --config too, since the runs of a --workdir are fixed"
            )
        found = sweep_lib.reopen(paths.of(args.workdir))
        for run in found if not (args.status or args.report) else ():
            name = run.config.method.name
            methods.check(name, name if name in args.method else "")
        return paths.of(args.workdir), found
    root = paths.of(args.workdir or sweep_lib.default_root(args.config))
    return root, sweep_lib.read(args.config, overrides, root)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; an expected error is one line, without a traceback."""
    parser = argparse.ArgumentParser(
        prog="python -m ssl_jax.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", default="", help="configs/x.py, or configs/x.py:argument")
    parser.add_argument("--workdir", default="", help="default: runs/<name of the config>")
    parser.add_argument("--run", default="", help="train one run: its number or signature")
    parser.add_argument("--launch", choices=("local", "slurm", "xpk"))
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time")
    parser.add_argument("--devices", default="", help="0,1,2: one GPU for each parallel run")
    parser.add_argument("--option", action="append", default=[], help="name=value, for the cluster")
    parser.add_argument(
        "--topology", default="v5e:2x4", help="chip whose hours are predicted, as for ssl_jax.plan"
    )
    parser.add_argument(
        "--examples", type=int, default=0, help="size of the training data, for lengths in epochs"
    )
    parser.add_argument("--status", action="store_true", help="a table, live on a terminal")
    parser.add_argument("--report", action="store_true", help="a ranking, metrics.csv, report.html")
    parser.add_argument("--metric", default="", help="metric of the report, as in metrics.jsonl")
    parser.add_argument(
        "--best", default="", choices=("max", "min"), help="default: by the name of the metric"
    )
    parser.add_argument(
        "--method", action="append", default=[], help="a module that the runs may import"
    )
    parser.add_argument(
        "--any-code", action="store_true", help="continue runs that other code began"
    )
    hosts.add_flags(parser)
    args, overrides = parser.parse_known_args(argv)
    if not args.run:  # which names its own
        progress.tell(terminal.on_cpu())
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
            report.print_report(root, found, args.metric, args.best)
        elif args.status:
            status.watch(found)
        else:
            jax.config.update("jax_platforms", "cpu")  # runs may be using the chips
            topology = chips.topology(args.topology)
            print(costs.table(found, plan.make_method, topology, args.examples))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: repeat the command to continue")


if __name__ == "__main__":
    main()
