"""How a run begins: its folder is locked, its first state made, its description written."""

import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ssl_jax.core import atomic, code, paths, progress, stop
from ssl_jax.core import config as config_lib
from ssl_jax.core.types import Method, TrainState, Tree
from ssl_jax.engine import checkpoint, environment, hosts, init_from, log, teachers, watchdog
from ssl_jax.engine import step as step_lib

_WRITTEN = (  # before a run begins
    *("config.json", "signature.txt", "classes.json", "parameters.txt", "code.txt"),
    *("multiple.txt", "metrics.jsonl"),
)
_shown: set[str] = set()
NEVER_KEPT = 1e9  # seconds: no program takes so long to compile


def occupy(
    config: ConfigDict, workdir: Path, method_file: str | None, opened: contextlib.ExitStack
) -> None:
    """Keeps other runs out of a run folder, and handles SIGTERM and stalls, until `opened` closes.

    Raises ConfigError where hosts differ in config or code, or the folder cannot be written, and
    Busy where another run holds it.
    """
    seconds = config.guard.get("stall_seconds", 0.0)  # older runs have no such key
    opened.enter_context(stop.listening())
    opened.enter_context(watchdog.Watchdog(seconds, workdir / "checkpoints"))
    use_compilation_cache()
    hosts.check_same_run(config, method_file)
    opened.enter_context(writable(workdir))
    opened.enter_context(hosts.holding(workdir))
    if hosts.is_first() and not (workdir / "config.json").exists():
        opened.callback(_forget, workdir, _traces(workdir))


def use_compilation_cache() -> None:
    """Keeps compiled programs in $SSL_JAX_CACHE, by default ~/.cache/ssl_jax/xla.

    JAX's own $JAX_COMPILATION_CACHE_DIR comes first; it may name an object store. So does
    $JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS, by default half a second. Where nothing can be
    written, a line on the error stream gives the reason, and programs are compiled anew.
    """
    named = os.environ.get("JAX_COMPILATION_CACHE_DIR") or os.environ.get("SSL_JAX_CACHE")
    least: float | str = os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", 0.5)
    folder: paths.Given = named or ""
    try:
        if not paths.is_remote(folder):
            folder = paths.expanded(folder) if named else paths.cache() / "xla"
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
    except (OSError, ValueError) as error:
        log.notify(
            f"compiled programs are not kept: {error}. Set SSL_JAX_CACHE to a folder for them"
        )
        if not os.path.isdir(folder):
            return
        least = NEVER_KEPT  # it may hold some, which are read
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", float(least))


@contextlib.contextmanager
def writable(workdir: Path) -> Iterator[None]:
    """Makes the run folder; raises ConfigError, before any work, where nothing can be written."""
    probe = workdir / f".writable-{jax.process_index()}"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(paths.made(workdir))
            atomic.write_text(probe, "yes\n")
            probe.unlink()
        except OSError as error:
            raise config_lib.ConfigError(
                f"--workdir {workdir} cannot be written ({error}): give a folder that you may "
                f"write to, on a disk with room, such as --workdir runs/{workdir.name}"
            ) from error
        yield


def _traces(workdir: Path) -> set[Path]:
    """Returns the files of a folder that have names of those that a run begins with."""
    named = {workdir / name for name in _WRITTEN}
    return {file for file in named if file.exists()} | {*workdir.glob("data-*.npz")}


def _forget(workdir: Path, before: set[Path]) -> None:
    """Takes the traces of a new run that was refused before it began out of its folder.

    Files that were there `before` stay, and lists of files that cannot be used: the error names
    them.
    """
    if (workdir / environment.FILE).exists():
        return
    for file in _traces(workdir) - before:
        file.unlink()
    with contextlib.suppress(OSError):  # there is none, or it holds something
        (workdir / "checkpoints").rmdir()


def begin(
    config: ConfigDict,
    method: Method,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    shapes: step_lib.Shapes,
    checkpoints: checkpoint.Checkpoints,
) -> tuple[TrainState, TrainState]:
    """Returns (state, shardings): the newest checkpoint, else config.init_from, else fresh.

    The frozen teachers of the method are in the state.
    """
    stop.check("the first state of the run")
    found, checkpoints.teachers = teachers.load(method)
    state, shardings = _first(config, method, tx, mesh, shapes, checkpoints)
    return teachers.join(state, shardings, found, method, mesh)


def _first(
    config: ConfigDict,
    method: Method,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    shapes: step_lib.Shapes,
    checkpoints: checkpoint.Checkpoints,
) -> tuple[TrainState, TrainState]:
    """Does so without frozen teachers."""
    if checkpoints.latest() is not None:
        abstract = step_lib.abstract_state(method, tx, shapes)
        shardings = step_lib.state_sharding(abstract, method.rules, mesh)
        with progress.Waiting(f"reading the checkpoint of step {checkpoints.latest()}"):
            state = checkpoints.restore(abstract, shardings)
        log.notify(f"resuming {checkpoints.folder.parent} at step {checkpoints.latest()}")
        return state, shardings
    if config.init_from:
        init_from.check_encoders(config)
    with progress.Waiting("initializing the parameters"):
        state, shardings = step_lib.init_state(method, tx, config.seed, mesh, shapes)
    if config.init_from:
        params, extra, loaded, fresh = init_from.load(
            config.init_from, state.params, state.extra, config.init_extra
        )
        state = dataclasses.replace(state, params=params, extra=extra)
        runs, names = init_from.text(config.init_from), ", ".join(fresh) or "none"
        log.detail(f"{len(loaded)} parameters from {runs}; fresh ones: {names}")
    return state, shardings


def _show_once(params: Tree) -> None:
    """Prints the parameters, unless this command has done so."""
    table = log.parameter_table(params, progress.width())
    if table not in _shown:
        _shown.add(table)
        log.detail(table)


def write_folder(
    workdir: Path, config: ConfigDict, classes: Sequence[str], state: TrainState
) -> None:
    """Writes config.json, signature.txt, classes.json and parameters.txt, and prints the last.

    A run that resumes keeps its signature: it is the same run where it is longer, or its data lie
    elsewhere. code.txt gets a line, "<version of the code> <step>", where the code has changed.
    """
    table = log.parameter_table(state.params)
    _show_once(state.params)
    if jax.process_index() != 0:
        return
    workdir.mkdir(parents=True, exist_ok=True)
    step = int(jax.device_get(state.step))
    texts = {
        "config.json": config_lib.to_json(config),
        "signature.txt": config_lib.sign(config) + "\n",
        "classes.json": json.dumps(list(classes), ensure_ascii=False) + "\n",
        "parameters.txt": table + "\n",
    }
    if step and (workdir / "signature.txt").is_file():
        del texts["signature.txt"]
    for name, text in texts.items():
        atomic.write_text(workdir / name, text)
    known = workdir / "code.txt"
    lines = known.read_text(encoding="utf-8").splitlines() if known.exists() else []
    lines = [line for line in lines if line.strip()]  # without one that was cut short
    if not lines or lines[-1].split()[0] != code.version():
        if lines:
            log.notify(f"begun with code {lines[0].split()[0]}, continued with {code.version()}")
        atomic.write_text(known, "\n".join([*lines, f"{code.version()} {step}"]) + "\n")
