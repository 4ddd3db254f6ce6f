"""Predicts the cost of a run: python -m ssl_jax.plan --config C --topology v5e:16x16

Traces the real train step, without data or chips, and prints the number of parameters, memory per
chip against its limit, FLOPs, communication, predicted time, and the cost of the whole run. For a
TPU the step is also compiled if the package libtpu is installed, which needs no TPU. Change keys
with --config.data.batch_size=64, as for ssl_jax.train. See docs/plan.md.
"""

import argparse
import functools
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from ssl_jax import methods, train
from ssl_jax.core import chips, progress, terminal
from ssl_jax.core import config as config_lib
from ssl_jax.core.types import Method
from ssl_jax.engine import limits, turnover
from ssl_jax.planning import aot, batch_shapes, budget, estimate, rescale, tpu_dump


def program(
    config: ConfigDict, topology: str, devices: Sequence[Any] | None = None, classes: int = 0
) -> aot.Program:
    """Returns the train step of `config` for a topology such as v5e:16x16, h100:8 or cpu:8.

    A TPU topology needs the package libtpu but no TPU. For the others, `devices` or as many
    devices of this process (XLA_FLAGS=--xla_force_host_platform_device_count=8) stand in for the
    chips. Raises ConfigError for a topology that does not exist, a mesh that does not cover it or
    a batch that does not divide over it.
    """
    asked = chips.topology(topology)
    found = aot.devices_of(asked) if devices is None else devices
    method = functools.partial(make_method, config, classes)
    return aot.build(config, method, found, asked.chip.platform)


def make_method(config: ConfigDict, classes: int = 0) -> Method:
    """Returns the method of a config; `classes`: their number, if the config does not name them."""
    return train.make_method(
        config, batch_shapes.classes_of(config) or classes or batch_shapes.CLASSES
    )


def step(config: ConfigDict, topology: str, compiles: bool = False) -> estimate.Estimate:
    """Returns the estimate of one step of `config` on a topology; see `program` for devices."""
    asked = chips.topology(topology)
    return estimate.of_step(config, make_method, asked, stand_ins(asked, compiles), compiles)


def stand_ins(topology: chips.Topology, compiles: bool) -> list[Any]:
    """Returns the devices of a topology; for a TPU without compiling, devices of this process."""
    if not compiles and topology.chip.platform == "tpu":
        topology = chips.topology(f"cpu:{topology.chips}")
    return aot.devices_of(topology)


def answer(options: argparse.Namespace, config: ConfigDict) -> str:
    """Returns the text that the command prints; the process must have a device for every chip."""
    asked = chips.topology(options.topology)
    make = functools.partial(make_method, classes=options.classes)
    estimated = functools.partial(estimate.of_step, make=make, flows={})
    run = budget.whole_run(config, options.examples, options.hours)
    notes = assumptions(config, options.classes)
    if asked.slices > 1 and config.mesh.slice != asked.slices:
        raise config_lib.ConfigError(
            f"config.mesh.slice is {config.mesh.slice} and {asked.name} has {asked.slices} slices: "
            f"set --config.mesh.slice={asked.slices}"
        )
    if options.chips:
        return on_fewer(options, config, chips.smaller(asked, options.chips), estimated)
    devices = stand_ins(asked, options.compiles)
    if asked.chips > 1:  # the estimate traces the work of one chip
        program(config, options.topology, devices, options.classes).check()
    found = estimated(config, topology=asked, devices=devices, compiles=options.compiles)
    spun = turnover.line(make(config), run.steps) if run.steps else ""
    lines = [budget.text(options.config, config, asked, found, run, notes, spun)]
    if options.search:
        tried = []
        whole = bool(make(config).couples)  # such a method refuses micro-batches
        for changes in rescale.variants(config, asked.chips, whole):
            one = config_lib.change(config, changes)
            tried.append((changes, estimated(one, topology=asked, devices=devices)))
        head = "other settings, estimated from shapes, by predicted time:"
        lines += ["", head, budget.table(tried)]
    return "\n".join(lines)


def on_fewer(
    options: argparse.Namespace,
    config: ConfigDict,
    fewer: chips.Topology,
    estimated: Any,
) -> str:
    """Returns the changes for options.chips chips, and the plan with them."""
    devices = stand_ins(fewer, False)

    def fits(one: ConfigDict) -> bool:
        return estimated(one, topology=fewer, devices=devices).spare >= 0

    whole = bool(make_method(config, options.classes).couples)  # it refuses micro-batches
    changes = rescale.for_chips(config, options.chips, fits, whole)
    one = config_lib.change(config, changes)
    found = estimated(one, topology=fewer, devices=devices)
    run = budget.whole_run(one, options.examples, options.hours)
    notes = assumptions(one, options.classes)
    spun = turnover.line(make_method(one, options.classes), run.steps) if run.steps else ""
    plan = budget.text(options.config, one, fewer, found, run, notes, spun)
    flags = " ".join(f"--config.{k}={v!r}" for k, v in changes.items()) or "no change"
    kind = "the same updates" if "data.batch_size" not in changes else "the closest updates"
    return f"{kind} on {options.chips} chips: {flags}\n\n{plan}"


def assumptions(config: ConfigDict, classes: int) -> list[str]:
    """Returns the assumptions of the plan about what the config leaves open."""
    found = []
    if not batch_shapes.classes_of(config) and config.method.name in (
        "supervised",
        "ctc",
        "speaker",
    ):
        found.append(
            f"assumes {classes or batch_shapes.CLASSES} classes, as the data are not read; give "
            f"--classes N"
        )
    if len(config.data.buckets) > 1:
        found.append(
            f"every batch counts as one of the longest bucket, {config.data.buckets[-1]} s"
        )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command in a child process that has a device for every chip."""
    parser = argparse.ArgumentParser(prog="python -m ssl_jax.plan", description=__doc__)
    parser.add_argument("--config", required=True, help="configs/x.py, or configs/x.py:argument")
    parser.add_argument("--topology", default="v5e:2x4", help=f"one of {chips.listing()}")
    parser.add_argument("--search", action="store_true", help="try remat, fsdp and micro-batches")
    parser.add_argument("--chips", type=int, default=0, help="plan the same updates on N chips")
    parser.add_argument("--examples", type=int, default=0, help="size of the training data")
    parser.add_argument("--hours", type=float, default=0.0, help="hours of audio in that data")
    parser.add_argument("--classes", type=int, default=0, help="if the config names none")
    parser.add_argument("--no-compile", dest="compiles", action="store_false")
    parser.add_argument("--method", default="", help="the module that a .json config may import")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options, overrides = parser.parse_known_args(arguments)
    terminal.forgive()
    arguments = sys.argv[1:] if arguments is None else arguments
    if not options.inside:
        progress.tell(terminal.on_cpu())
    try:
        asked = chips.topology(options.topology)
        compiles = asked.chip.platform == "tpu" and bool(importlib.util.find_spec("libtpu"))
        options.compiles &= compiles and not options.chips
        config = config_lib.load(options.config, overrides)
        limits.check(config)
        if options.inside:
            print(answer(options, config), flush=True)
            if options.compiles:
                os._exit(0)  # without waiting for machine code
            return
        methods.check_file(options.config, config.method, options.method)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    try:
        sys.exit(inside(arguments, options.chips or asked.chips, options.compiles))
    except KeyboardInterrupt:
        progress.clear()
        sys.exit(130)


def inside(arguments: Sequence[str], count: int, compiles: bool) -> int:
    """Runs the command in a new process with `count` devices, or libtpu's if it compiles."""
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    env["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # no chip is used
    command = [sys.executable, "-m", "ssl_jax.plan", "--inside", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        # libtpu exits if it is given flags of the CPU compiler
        cpu = f"--xla_force_host_platform_device_count={count}"
        env["XLA_FLAGS"] = tpu_dump.flags(folder) if compiles else cpu
        with progress.Waiting("planning the step"):
            given: dict[str, Any] = {"encoding": "utf-8", "errors": "replace"}
            done = subprocess.run(command, env=env, capture_output=True, **given)
    progress.clear()
    print(done.stdout, end="", flush=True)
    if done.returncode:
        # libtpu logs to stderr before the error
        lines = done.stderr.strip().splitlines()
        known = [line for line in lines if line.startswith("error: ")]
        print("\n".join(known[-1:] or lines), file=sys.stderr)
    return done.returncode


if __name__ == "__main__":
    main()
