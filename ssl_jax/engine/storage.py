"""How orbax keeps the checkpoints of a run: which stay, how items are written, what it logs."""

import functools
import json
import logging
import sys
import threading
from pathlib import Path
from types import TracebackType

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers

from ssl_jax.core import paths
from ssl_jax.engine import integrity, log

ITEMS = ("params", "rest", "about", "sums")
METRICS = "metrics"  # the item and its file, as orbax names them
_UNDER_WAY = "orbax-checkpoint-tmp"  # in the name of a checkpoint that is being written
_RAISED = "_SignalingThread.run() raised an exception"  # in another thread, which raises it again
_LOOP_GONE = "Event loop is closed"


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, without its preemption check, which must not compete with the loop's.

    Each host may report the step that it has reached only once, in order; `stop.asked` does so.
    """

    def reached_preemption(self, step: int) -> bool:
        """Returns False: the loop checks by itself."""
        del step
        return False

    def metrics(self, step: int) -> dict[str, float] | None:
        """Returns the metrics of a checkpoint, None if there are none or they are damaged."""
        reported: set[int] = self.__dict__.setdefault("_reported", set())
        try:
            return metrics(paths.of(self.directory / str(step)))
        except integrity.CorruptCheckpoint as error:
            if step not in reported:
                log.notify(f"{error}; it cannot be the best checkpoint")
            reported.add(step)
            return None


def manager(folder: Path, options: ConfigDict | None) -> ocp.CheckpointManager:
    """Opens a folder of checkpoints; without options, for reading only."""
    many = jax.process_count() > 1
    # with named processes the hosts wait for each other by messages; otherwise by a program on
    # their devices, which a background thread could not order among the steps
    everyone = set(range(jax.process_count())) if many else None
    settings = functools.partial(
        ocp.CheckpointManagerOptions,
        create=False,
        save_root_metadata=False,
        multiprocessing_options=ocp.options.MultiprocessingOptions(active_processes=everyone),
    )
    if options is None:
        return _Manager(folder, options=settings(), handler_registry=_handlers())
    if options.best_mode not in ("max", "min"):
        raise ValueError(f"config.checkpoint.best_mode is {options.best_mode!r}: use max or min")
    policies = [checkpoint_managers.LatestN(max(1, options.keep_last))]
    if options.best_metric:
        policies.append(
            checkpoint_managers.BestN(
                get_metric_fn=_metric,
                reverse=options.best_mode == "min",
                n=1,
                keep_checkpoints_without_metrics=False,
            )
        )
    folder.mkdir(parents=True, exist_ok=True)
    silence_echoes()
    return _Manager(
        folder,
        options=settings(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            best_fn=_metric if options.best_metric else None,  # without it no metric is written
            best_mode=options.best_mode,
            cleanup_tmp_directories=True,
        ),
        handler_registry=_handlers(),
    )


def _handlers() -> ocp.handlers.CheckpointHandlerRegistry:
    """Returns how each item is written.

    Arrays are not compressed: for trained floats that saves a twelfth, at four times the work.
    """
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    arrays = ocp.PyTreeCheckpointHandler(use_compression=False)
    text = ocp.JsonCheckpointHandler()
    for item in ITEMS:
        save = ocp.args.JsonSave if item == "about" else ocp.args.PyTreeSave
        registry.add(item, save, text if item == "about" else arrays)
    registry.add(METRICS, ocp.args.JsonSave, ocp.JsonCheckpointHandler(filename=METRICS))
    registry.add(integrity.DIGESTS, ocp.args.JsonSave, integrity.DigestsHandler())  # last
    return registry


def _metric(metrics: dict[str, float]) -> float:
    return metrics["best"]


def metrics(folder: Path) -> dict[str, float] | None:
    """Returns the metrics of a checkpoint, or None; raises CorruptCheckpoint."""
    written = integrity.read_digests(folder)
    if written is not None and any(name.startswith(f"{METRICS}/") for name in written):
        integrity.check_files(folder, METRICS)
    file = folder / METRICS / METRICS
    with integrity.reading(folder):
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def best(manager: ocp.CheckpointManager, mode: str) -> tuple[int, float] | None:
    """Returns (step, metric) of the best checkpoint, None when none has a metric."""
    found = [(step, manager.metrics(step)) for step in manager.all_steps()]
    values = [(_metric(metrics), step) for step, metrics in found if metrics]
    if not values:
        return None
    value, step = max(values) if mode == "max" else min(values)
    return step, value


@functools.cache
def silence_echoes() -> None:
    """Silences what is logged in addition to the error of a failed save, from now on.

    A save writes hundreds of arrays at a time. On a full disk each of them fails, and each failure
    is logged by orbax, by asyncio, and as a traceback of a thread whose event loop is gone. Nothing
    else of these loggers is silenced, and no error of the main thread.
    """
    logging.getLogger("absl").addFilter(_is_no_echo)
    logging.getLogger("asyncio").addFilter(_is_no_echo)
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        beside = threading.current_thread() is not threading.main_thread()
        if not (beside and kind is RuntimeError and str(error) == _LOOP_GONE):
            before(kind, error, trace)

    sys.excepthook = hook


def _is_no_echo(record: logging.LogRecord) -> bool:
    """Returns whether a record is more than the echo of an error that a save raises."""
    text = f"{record.getMessage()} {record.exc_info[1] if record.exc_info else None}"
    return record.levelno < logging.ERROR or not (_UNDER_WAY in text or _RAISED in text)
