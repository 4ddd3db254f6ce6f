"""Many hosts: how processes find each other, check that they run the same thing, and end."""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from ssl_jax.core import atomic, compile_time, lock, progress, stop, terminal
from ssl_jax.core import config as config_lib

HEARTBEAT = 100
"""Seconds without a message after which a host counts as lost."""
LOST = (
    "another host, or a message between hosts, was lost (see above); start the same command again, "
    "on any number of hosts: it goes on from the newest checkpoint"
)
FORESEEN = (ValueError, OSError, ImportError, ArithmeticError, RuntimeError)
_ENVIRONMENT = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "processes": "JAX_NUM_PROCESSES",
    "process": "JAX_PROCESS_ID",
}
_OWN = ("data.workers", "data.threads")  # every host may have its own
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `connect` reads; none is needed where the cluster is known to JAX."""
    group = parser.add_argument_group(
        "many hosts", "not needed on TPU pods, GKE, Slurm and Open MPI; or $JAX_COORDINATOR_ADDRESS"
    )
    group.add_argument("--coordinator", help="address:port of process 0")
    group.add_argument("--processes", help="how many there are, or $JAX_NUM_PROCESSES")
    group.add_argument("--process", help="number of this one, from 0, or $JAX_PROCESS_ID")
    group.add_argument(
        "--heartbeat", type=int, default=HEARTBEAT, help="seconds after which a host is lost"
    )


@contextlib.contextmanager
def session(flags: argparse.Namespace) -> Iterator[None]:
    """Runs a command as one process of a run; `flags` are those of `add_flags`.

    An error that this package foresees becomes one line, without a traceback. On one of many hosts
    any error ends its process at once: the usual exit of Python would wait for the others, which
    wait for this one inside a step. They notice that it is gone, and end too.
    """
    terminal.forgive()
    terminal.hush()
    terminal.no_tpu()
    compile_time.listen()
    try:
        connect(flags.coordinator, flags.processes, flags.process, flags.heartbeat)
        if is_first() and not getattr(flags, "worker", None):  # of a program that has told it
            progress.tell(devices())
        yield
    except BaseException as error:
        progress.clear()
        if isinstance(error, KeyboardInterrupt | stop.Stopped):
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends at once
        if isinstance(error, KeyboardInterrupt) and not jax.distributed.is_initialized():
            progress.tell("Ctrl-C: ended; the same command goes on from what is complete")
            stop.leave_soon(stop.INTERRUPTED)
            sys.exit(stop.INTERRUPTED)
        full = "" if _ours(error) else atomic.full(error)
        foreseen = isinstance(error, FORESEEN) and (_ours(error) or bool(full))
        message: str | BaseException = f"error: {error}" if foreseen else error
        if full:
            message = f"error: {error}. Make room or mend the storage, and the same command goes on"
        if isinstance(error, stop.Stopped) and not jax.distributed.is_initialized():
            stop.leave_soon(int(error.code or 0))  # many hosts wait for each other at their end
        if jax.distributed.is_initialized() and not _is_success(error):
            _leave(message)
        if foreseen:
            sys.exit(str(message))
        raise


def devices() -> str:
    """Returns the first line of a command: "8 devices: TPU v5 lite, on 2 hosts"."""
    found = jax.devices()
    kinds = ", ".join(sorted({each.device_kind for each in found}))
    many = f", on {jax.process_count()} hosts" if jax.process_count() > 1 else ""
    cores = f" ({os.cpu_count()} cores)" if found[0].platform == "cpu" else ""
    return f"{len(found)} device{'s' * (len(found) > 1)}: {kinds}{cores}{many}"


def _ours(error: BaseException) -> bool:
    """Returns whether an error was raised by this package itself."""
    frames = traceback.extract_tb(error.__traceback__)
    return Path(__file__).parents[1] in Path(frames[-1].filename).parents


def _is_success(error: BaseException) -> bool:
    return isinstance(error, SystemExit) and not error.code


def _leave(message: str | BaseException) -> None:
    """Prints an error and exits at once, without cleanup."""
    if isinstance(message, str):
        print(message, file=sys.stderr)
    elif isinstance(message, SystemExit):
        print(message.code, file=sys.stderr)
    else:
        traceback.print_exception(message)
    if isinstance(message, jax.errors.JaxRuntimeError):
        print(f"error: process {jax.process_index()}: {LOST}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def connect(
    coordinator: str | None = None,
    processes: str | int | None = None,
    process: str | int | None = None,
    heartbeat: int = HEARTBEAT,
) -> None:
    """Joins the processes of a run; call it before any other use of jax.

    Without arguments the environment decides: the variables JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID, else what JAX finds on TPU pods, GKE, Slurm and Open MPI;
    if that is nothing, this process is alone. Raises ConfigError if only some of the three are
    given.
    """
    if jax.distributed.is_initialized():
        return
    values = zip(_ENVIRONMENT.items(), (coordinator, processes, process), strict=True)
    found = {
        name: os.environ.get(variable, "") if value is None else str(value)
        for (name, variable), value in values
    }
    given = {name: value for name, value in found.items() if value}
    if given:
        address, count, index = _checked(given)
        if count > 1:
            jax.distributed.initialize(address, count, index, heartbeat_timeout_seconds=heartbeat)
    elif os.environ.get("SLURM_NTASKS") != "1":  # detection would give the only task one GPU
        _detect(heartbeat)


def _checked(given: Mapping[str, str]) -> tuple[str, int, int]:
    """Returns (address, processes, process); raises ConfigError if they do not agree."""
    use = "give --coordinator=10.0.0.1:8476 --processes=2 --process=0 (1 on the other host)"
    missing = [f"--{name} (or ${_ENVIRONMENT[name]})" for name in _ENVIRONMENT if name not in given]
    if missing:
        raise config_lib.ConfigError(f"many hosts need {' and '.join(missing)} too: {use}")
    for name in ("processes", "process"):
        if not given[name].isdigit():
            raise config_lib.ConfigError(f"--{name} is {given[name]!r}, not a number: {use}")
    count, index = int(given["processes"]), int(given["process"])
    if index >= count:
        raise config_lib.ConfigError(f"--process is {index} of --processes={count}: {use}")
    host, _, port = given["coordinator"].rpartition(":")
    if not host or not port.isdigit():
        raise config_lib.ConfigError(f"--coordinator is {given['coordinator']!r}: {use}")
    return given["coordinator"], count, index


def _detect(heartbeat: int) -> None:
    """Joins the cluster that JAX finds, if it finds one."""
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat)
    except ValueError as error:
        if "coordinator_address" not in str(error):
            raise
    except RuntimeError as error:
        # a process that has used jax already, such as a notebook, is alone
        if "before any JAX calls" not in str(error).replace("\n", " "):
            raise


def check_same(what: Mapping[str, str]) -> None:
    """Raises ConfigError on every host, naming what differs, unless `what` is equal on all.

    `what` maps names to texts. Every host has to call it.
    """
    if jax.process_count() == 1:
        return
    texts = _gather(json.dumps(dict(what)))
    first = json.loads(texts[0])
    for process, text in enumerate(texts[1:], 1):
        other = json.loads(text)
        wrong = [n for n in sorted({*first, *other}) if first.get(n) != other.get(n)]
        if wrong:
            lines = [
                f"  {n}: {first.get(n, 'absent')} on process 0, {other.get(n, 'absent')} on "
                f"process {process}"
                for n in wrong[:10]
            ]
            more = f"\n  and {len(wrong) - 10} more" if len(wrong) > 10 else ""
            raise config_lib.ConfigError(
                "the hosts do not run the same thing:\n" + "\n".join(lines) + more + "\n"
                "start the same command, from the same code, on every one of them"
            )


def _gather(text: str) -> list[str]:
    """Returns the text of every process."""
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(data)))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(data)] = data
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


def all_of(good: bool) -> bool:
    """Returns whether `good` holds on all hosts; each has to call it, and waits for the others."""
    if not jax.distributed.is_initialized():
        return good
    return bool(multihost_utils.process_allgather(np.int32(good)).min())


def of_first(value: int) -> int:
    """Returns the value of process 0 on every host; each has to call it."""
    if not jax.distributed.is_initialized():
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Keeps other runs out of a folder, which process 0 holds for all; raises Busy on each."""
    with contextlib.ExitStack() as stack:
        error: Exception | None = None
        if is_first():
            try:
                stack.enter_context(lock.hold(folder, within=True))
            except (lock.Busy, OSError) as reason:
                error = reason
        if not all_of(error is None):
            raise error or lock.Busy(f"process 0 could not lock {folder}: see its error")
        yield


def is_first() -> bool:
    """Returns whether this is process 0, which writes for all; starts no device if alone."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def check_same_run(config: ConfigDict, method: str | None) -> None:
    """Raises ConfigError on every host unless all have this config, code and packages.

    `method` is the file of the method's module, which may be one of the user's own.
    """
    if jax.process_count() > 1:
        check_same(_identity(config, method))


def _identity(config: ConfigDict, method: str | None) -> dict[str, str]:
    """Returns what must be equal on all hosts: the config, the code, the versions under it."""
    flat = config_lib.flatten(config)
    found = {f"config.{key}": repr(value) for key, value in flat.items() if key not in _OWN}
    root = Path(__file__).resolve().parents[1]
    files = set(root.rglob("*.py"))
    if method:
        own = Path(method).resolve()
        files |= set(own.parent.rglob("*.py")) if own.name == "__init__.py" else {own}
    for path in sorted(files):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        inside = root in path.parents
        name = f"ssl_jax/{path.relative_to(root)}" if inside else f"{path.parent.name}/{path.name}"
        found[f"code {name}"] = digest
    found |= {f"package {name}": metadata.version(name) for name in _PACKAGES}
    return found | {"python": platform.python_version()}
