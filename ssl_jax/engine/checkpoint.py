"""Checkpoints of a run: asynchronous, sharded, complete or absent, and never of another run.

A save copies the state on the devices (`engine.snapshot`), which the loop does not wait for; a
thread moves the copy to the host and writes it.

A checkpoint is a folder <workdir>/checkpoints/<step> with the items `params`, `rest` (the other
fields of TrainState, without frozen teachers), `about` (config, signature, shapes, what identifies
each frozen teacher), `sums` (a checksum of each array),
`metrics` where there are any, and `digests` (of every file of the others). It is written under a
temporary name and renamed when complete, so a killed process leaves no partial one. Damage by
storage is noticed when a checkpoint is read (`engine.integrity`): a run then resumes from the one
before.
"""

import contextlib
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from ssl_jax.core import atomic, paths
from ssl_jax.core import config as config_lib
from ssl_jax.core import tree as tree_lib
from ssl_jax.core.types import TrainState, split_frozen
from ssl_jax.engine import hosts, integrity, log, snapshot, storage
from ssl_jax.engine.integrity import CorruptCheckpoint

Tree = Any

FREE_TO_CHANGE = (
    "log.",  # what is logged does not feed back into the run
    "checkpoint.",  # nor does the time of a save
    "guard.stall_seconds",  # nor the time that it may stall
    "eval.",  # nor do evaluations, which never touch the state
    "data.workers",  # a batch is a function of (seed, step), whoever reads it
    "data.threads",
    "data.max_megapixels",  # a row that it refuses is an error, or is counted
    "mesh.",  # the layout of the same arrays; equal up to the order of sums
    "train.accumulate",  # nor do micro-batches, except that their dropout is drawn anew
    "method.teachers.",  # a folder may move; its parameters are compared by their checksum
    "method.encoder.remat",  # recomputed values are the same
    "method.encoder.unroll",
)
"""Keys that may differ on resume because they cannot change the numbers of a run."""
FREE_OF_EACH = re.compile(r"method\.encoders\.[^.]+\.(remat|unroll)")
"""The same of each of several encoders."""
MOVED = re.compile(r"data\.(train|valid|test)\.[^.]+\.path|data\.units\.(train|valid|test)")
"""Keys that may differ on resume where the data are the same; see engine/manifest.py."""
LONGER = "train.duration"
"""The key that may grow on resume; see engine/longer.py."""

NEWER = {
    "optim.eps_inside": False,
    "optim.lr_rules": (),
    "guard.floors.instance_variance_ratio": 0.1,
}
"""Keys that older runs lack, and the values that these runs had."""


class SaveError(OSError):
    """A checkpoint could not be written; those before it are as they were."""


@dataclasses.dataclass(frozen=True)
class Teacher:
    """What a checkpoint records of a frozen teacher: the signature of its run, the checksum of its
    parameters, and the folder that they came from."""

    signature: str
    checksum: str
    folder: str


class Checkpoints:
    """The checkpoints of one run folder.

    Keeps the last `config.checkpoint.keep_last`, and the best by `config.checkpoint.best_metric`
    where one is named. `config` is that of the whole run. `teachers`: the frozen teachers of the
    run by name, set before anything is saved or restored.
    """

    def __init__(self, workdir: str | Path, config: ConfigDict):
        self.config = config
        self.teachers: Mapping[str, Teacher] = {}
        self.folder = paths.absolute(workdir) / "checkpoints"
        self._manager = storage.manager(self.folder, config.checkpoint)
        self._best = storage.best(self._manager, config.checkpoint.best_mode)
        self._thread = futures.ThreadPoolExecutor(1, thread_name_prefix="save")
        self._saving: futures.Future[None] | None = None
        self._copies: bool | None = None  # whether devices have room for one, once that is known

    def latest(self) -> int | None:
        """Returns the step of the newest complete checkpoint, None when there is none."""
        return self._manager.latest_step()

    def best(self) -> tuple[int, float] | None:
        """Returns (step, metric) of the best checkpoint, None when none has a metric."""
        return self._best

    def beats_best(self, value: float) -> bool:
        """Returns whether a metric is better than that of every checkpoint so far."""
        if self._best is None or not math.isfinite(value):
            return math.isfinite(value)
        higher = self.config.checkpoint.best_mode == "max"
        return value > self._best[1] if higher else value < self._best[1]

    def save(self, step: int, state: TrainState, metric: float | None = None) -> None:
        """Saves a state while training goes on; does nothing where `step` is saved already.

        `metric` is the value of config.checkpoint.best_metric at this step. The caller may donate
        the arrays. Waits for the previous save, and raises SaveError for either. Every host has
        to call it.
        """
        self.wait()
        if step == self.latest():
            return
        state = dataclasses.replace(state, extra=split_frozen(state.extra)[0])
        about = {
            "config": config_lib.to_json(self.config),
            "signature": config_lib.sign(self.config),
            "arrays": _shapes(state),
            integrity.DIGESTS: "sha256",  # it must not be read without them
            "teachers": {name: dataclasses.asdict(t) for name, t in self.teachers.items()},
        }
        metric = math.nan if metric is None else float(metric)
        finite = math.isfinite(metric)
        metrics = {"best": metric} if finite else None
        state = jax.tree.map(jnp.asarray, state)  # the state may also be on the host
        if self._copies is None:
            self._copies = hosts.all_of(snapshot.fits(state))
        if self._copies:
            held, checksums = snapshot.copy(state)
            self._saving = self._thread.submit(
                self._write, step, held, checksums, about, metrics, True
            )
        else:
            with self._as_save_error():
                self._write(step, state, integrity.checksums(state), about, metrics, False)
        if finite and self.beats_best(metric):
            self._best = (step, metric)

    def _write(
        self,
        step: int,
        state: TrainState,
        checksums: jax.Array,
        about: dict[str, Any],
        metrics: Mapping[str, float] | None,
        ours: bool,
    ) -> None:
        """Copies a state to the host, waiting for it, and begins to write it.

        `ours`: the state is a copy, whose memory is freed once it is on the host.
        """
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.PyTreeSave(state.params),
                rest=ocp.args.PyTreeSave(_rest(state)),
                about=ocp.args.JsonSave(about),
                sums=ocp.args.PyTreeSave({"sums": checksums}),
                digests=ocp.args.JsonSave({}),  # known when all else is written
            ),
            metrics=metrics,
            force=True,
        )
        if ours:
            snapshot.free(state)  # the devices need the room before all is written

    def restore(self, state: TrainState, shardings: TrainState) -> TrainState:
        """Returns the newest state, laid out by `shardings`, whatever mesh it was saved from.

        `state` gives shapes and types, and may be abstract. A damaged checkpoint is reported and
        moved to <workdir>/damaged, and the one before is used. Raises ValueError when the config of
        the run has changed (naming keys and values) or the checkpoint is of another model, and
        CorruptCheckpoint when none can be read.
        """
        self.wait()
        steps = sorted(self._manager.all_steps(), reverse=True)
        if not steps:
            raise FileNotFoundError(f"{self.folder} holds no complete checkpoint to resume from")
        reasons: dict[int, str] = {}
        for step in steps:
            found, reason = self._try(step, state, shardings)
            if hosts.all_of(found is not None) and found is not None:
                self._set_aside(reasons, step)
                return found
            reasons[step] = reason or "another host could not read it"
        lines = "\n".join(f"  {step}: {reason}" for step, reason in reasons.items())
        raise CorruptCheckpoint(
            f"no checkpoint in {self.folder} can be read:\n{lines}\nmove the folder away to begin "
            f"anew, or give another --workdir"
        )

    def _try(
        self, step: int, state: TrainState, shardings: TrainState
    ) -> tuple[TrainState | None, str]:
        """Returns (state, ""), or (None, what is wrong with the checkpoint)."""
        folder = self.folder / str(step)
        found, reason = None, ""
        try:
            integrity.check_files(folder, "about")  # on every host, since each decides by it
            about = integrity.about(folder)
            check_same_config(config_lib.from_json(about["config"]), self.config, self.folder)
            check_same_teachers(about.get("teachers", {}), self.teachers, self.folder)
            check_same_arrays(about["arrays"], _shapes(state), folder)
            integrity.check_files(folder, shared=True)
            target = jax.tree.map(
                lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings
            )
            params = integrity.read(folder / "params", target.params)
            found = TrainState(params=params, **integrity.read(folder / "rest", _rest(target)))
        except CorruptCheckpoint as error:
            reason = str(error)
        if not hosts.all_of(found is not None) or found is None:
            return None, reason  # checksums are a program of all hosts
        try:
            integrity.check_arrays(folder, found)
        except CorruptCheckpoint as error:
            return None, str(error)
        return found, ""

    def _set_aside(self, reasons: dict[int, str], good: int) -> None:
        """Moves damaged checkpoints out of the way of later ones."""
        for step, reason in reasons.items():
            aside = self.folder.parent / "damaged" / str(step)
            log.notify(f"{reason}. It is moved to {aside}; going on from step {good}")
            if jax.process_index() == 0:
                aside.parent.mkdir(exist_ok=True)
                paths.move(self.folder / str(step), _unused(aside))
        if reasons:
            hosts.all_of(True)  # only now has process 0 moved them
            self._manager.reload()
            self._best = storage.best(self._manager, self.config.checkpoint.best_mode)

    def copied(self) -> None:
        """Waits until the last save has left the devices; `wait` raises its error."""
        if self._saving is not None:
            futures.wait([self._saving])

    def wait(self) -> None:
        """Waits until what was saved is complete on disk; raises SaveError."""
        saving, self._saving = self._saving, None
        with self._as_save_error():
            if saving is not None:
                saving.result()
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the last save and closes the folder."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._manager.close()

    @contextlib.contextmanager
    def _as_save_error(self) -> Iterator[None]:
        """Turns an error of saving into a SaveError that lists the checkpoints that are left."""
        try:
            yield
        except Exception as error:  # the layers of storage raise many types
            if isinstance(error, jax.errors.JaxRuntimeError):
                raise  # from the step before, or from another host
            kept = sorted(int(p.name) for p in self.folder.glob("*") if p.name.isdigit())
            why = atomic.full(error) or integrity.first_line(error)
            raise SaveError(
                f"a checkpoint could not be written to {self.folder}: {why}. "
                f"Kept: {', '.join(map(str, kept)) or 'none'}. Make room (config.checkpoint."
                f"keep_last is {self.config.checkpoint.keep_last}) or mend the storage, and the "
                f"same command goes on"
            ) from error


def _unused(path: Path) -> Path:
    """Returns the path, or where it is taken, one with a number appended."""
    others = (path.with_name(f"{path.name}.{n}") for n in range(1, 1000))
    return path if not path.exists() else next(p for p in others if not p.exists())


def _rest(state: TrainState) -> dict[str, Tree]:
    return {
        "step": state.step,
        "key": state.key,
        "extra": state.extra,
        "opt_state": state.opt_state,
    }


def _shapes(state: TrainState) -> dict[str, list]:
    arrays = tree_lib.named_leaves(state)
    return {name: [list(x.shape), np.dtype(x.dtype).name] for name, x in arrays}


def check_same_config(old: ConfigDict, new: ConfigDict, folder: str | Path) -> None:
    """Raises ValueError when `new` differs from `old` in a key that changes the numbers."""
    changed = {
        key: values
        for key, values in config_lib.diff(old, new).items()
        if not key.startswith(FREE_TO_CHANGE)
        and not FREE_OF_EACH.fullmatch(key)
        and not MOVED.fullmatch(key)
        and key != LONGER
        and values != (config_lib.ABSENT, NEWER.get(key, config_lib.ABSENT))
    }
    if changed:
        lines = [f"  config.{key}: {a!r} before, {b!r} now" for key, (a, b) in changed.items()]
        raise ValueError(
            f"the run in {folder} was made with another config:\n" + "\n".join(lines) + "\n"
            "change these back to resume it, or give a new --workdir (config.init_from starts a "
            "new run from its parameters)"
        )


def check_same_teachers(
    old: Mapping[str, Mapping[str, str]], new: Mapping[str, Teacher], folder: str | Path
) -> None:
    """Raises ValueError naming the first frozen teacher whose parameters are not those of `old`,
    which a checkpoint recorded. An imported run has recorded none."""
    for name, before in old.items():
        now = new.get(name)
        if now is None or now.checksum != before["checksum"]:
            what = f"{now.folder} (checksum {now.checksum})" if now else "missing"
            raise ValueError(
                f"the run in {folder} was taught by another run: config.method.teachers.{name} is "
                f"{what}, and was {before['folder']} (signature {before['signature']}, checksum "
                f"{before['checksum']}): set it to that, or give a new --workdir"
            )


def check_same_arrays(old: dict[str, list], new: dict[str, list], folder: str | Path) -> None:
    """Raises ValueError naming the first array in which a checkpoint differs from the model."""
    for name in [*new, *(n for n in old if n not in new)]:
        if old.get(name) != new.get(name):
            a, b = (
                "absent" if x is None else f"{x[1]}{tuple(x[0])}"
                for x in (old.get(name), new.get(name))
            )
            raise ValueError(
                f"{folder} is a checkpoint of another model: {name} is {a} there and {b} in this "
                f"run; set config.method as it was, or give a new --workdir"
            )


def restore_params(run_dir: str | Path, step: int | str | None = None) -> Tree:
    """Returns the parameters of a run as numpy arrays, on any machine.

    `step` is a number, "best", or None for the newest. Raises FileNotFoundError listing
    the existing steps.
    """
    return _read_part(_step_folder(run_dir, step), "params", "params")


def param_shapes(run_dir: str | Path, step: int | str | None = None) -> Tree:
    """Returns the shapes of `restore_params` without reading the parameters."""
    arrays = integrity.about(_step_folder(run_dir, step))["arrays"]
    found = {name: jax.ShapeDtypeStruct(*array) for name, array in arrays.items()}
    return tree_lib.nested(found)["params"]


def restore_extra(run_dir: str | Path, step: int | str | None = None) -> Tree:
    """Returns `TrainState.extra` of a run, such as its teacher; see `restore_params`."""
    return _read_part(_step_folder(run_dir, step), "rest", "extra")


def _read_part(folder: Path, item: str, part: str) -> Tree:
    """Reads a part of a state as numpy arrays; raises CorruptCheckpoint."""
    known = integrity.check_files(folder, item, "about")
    with integrity.reading(folder):
        found = _arrays(folder / item, "" if part == item else part)
    if not known:  # of an earlier version, which has only checksums
        integrity.check_arrays(folder, {part: found})
    return found


def best_step(run_dir: str | Path) -> int:
    """Returns the step of the best checkpoint of a run; raises FileNotFoundError without one."""
    return int(_step_folder(run_dir, "best").name)


def _step_folder(run_dir: str | Path, step: int | str | None) -> Path:
    folder = paths.absolute(run_dir) / "checkpoints"
    if not folder.is_dir():
        raise FileNotFoundError(f"{run_dir} is not a run folder: it has no checkpoints/")
    manager = storage.manager(folder, None)
    try:
        steps = sorted(manager.all_steps())
        chosen = _choose(manager, folder, steps, step)
        if chosen not in steps:
            hint = ", and none has config.checkpoint.best_metric" * (step == "best")
            raise FileNotFoundError(f"{folder} has no checkpoint {step!r}: it has {steps}{hint}")
    finally:
        manager.close()
    return folder / str(chosen)


def _arrays(path: Path, part: str = "") -> Tree:
    """Reads the item of a checkpoint, or one part of it, as numpy arrays."""
    handler = ocp.PyTreeCheckpointHandler()
    shapes = handler.metadata(path).tree
    if part:
        shapes = {part: shapes[part]}
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
    how = ocp.args.PyTreeRestore(shapes, restore_args=as_numpy, partial_restore=bool(part))
    found = handler.restore(path, args=how)
    return found[part] if part else found


def _choose(
    manager: ocp.CheckpointManager, folder: Path, steps: list[int], step: int | str | None
) -> int:
    if step == "best" and steps:
        integrity.check_files(folder / str(steps[-1]), "about")
        for each in steps:
            storage.metrics(folder / str(each))  # raises on damage: none is left out silently
        config = config_lib.from_json(integrity.about(folder / str(steps[-1]))["config"])
        best = storage.best(manager, config.checkpoint.best_mode)
        return best[0] if best else -1
    if step is None:
        return steps[-1] if steps else -1
    return int(step) if step != "best" else -1
