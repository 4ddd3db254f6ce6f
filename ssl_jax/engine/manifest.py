"""Checks that a run resumes with the data that it began with.

The fingerprint of each split is in the run folder, as data-train.npz and so on.
"""

from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from ssl_jax.core import config as config_lib
from ssl_jax.data import fingerprint
from ssl_jax.data.corpus import SPLITS
from ssl_jax.data.errors import DataError
from ssl_jax.engine import hosts, log
from ssl_jax.engine.checkpoint import MOVED
from ssl_jax.engine.splits import Split

FLAG = "--accept_data_change"


def check(
    config: ConfigDict, workdir: Path, opened: Mapping[str, Split], resumes: bool, accept: bool
) -> None:
    """Compares the data of a run that resumes with those of its start, and keeps fingerprints.

    Raises DataError on every host, naming what changed, unless that is accepted. Data that
    only moved have not changed. Process 0 compares for all.
    """
    changes = ""
    if hosts.is_first():
        now = {name: fingerprint.of(split.corpus) for name, split in opened.items()}
        changes = _changes(config, workdir, now) if resumes else ""
        if changes and accept:
            log.notify(f"continuing although {changes} ({FLAG})")
            changes = ""
        for name, facts in now.items() if not changes else ():
            facts.save(_file(workdir, name))
    if hosts.of_first(int(bool(changes))):
        changes = changes or "the data are not those that the run began with (see process 0)"
        raise DataError(f"{changes}. Put the data back, or continue with them as they are: {FLAG}")


def check_complete(workdir: Path, accept: bool) -> None:
    """Checks that the files that a complete run was trained on are unchanged, before the run is
    used in place of training again; raises DataError as `check` does.

    Files are checked where they were, without opening a split; missing ones are reported.
    """
    changes = []
    for name in SPLITS if hosts.is_first() else ():
        file = _file(workdir, name)
        if file.exists():
            found, gone = fingerprint.changed_files(fingerprint.load(file))
            if found:
                changes.append(f"config.data.{name} is not what {workdir} was trained on: {found}")
            if gone:
                log.notify(f"{gone} files of config.data.{name} of {workdir} no longer exist")
    if changes and accept:
        log.notify(f"using {workdir} although {'; '.join(changes)} ({FLAG})")
        changes = []
    if hosts.of_first(int(bool(changes))):
        text = "; ".join(changes) or f"the data of {workdir} have changed (see process 0)"
        raise DataError(
            f"{text}. Put the data back, use the run as it is with {FLAG}, or remove {workdir} to "
            f"train it again"
        )


def _changes(config: ConfigDict, workdir: Path, now: Mapping[str, fingerprint.Facts]) -> str:
    """Returns which splits changed, and how."""
    changes, unknown = [], []
    for name, facts in now.items():
        file = _file(workdir, name)
        if not file.exists():
            unknown.append(name)
        elif found := fingerprint.difference(fingerprint.load(file), facts):
            changes.append(f"config.data.{name} is not what {workdir} began with: {found}")
    moved = _moved(config, workdir) if unknown else []
    if moved:
        changes.append(f"{moved[0]} has changed, and {workdir} has no fingerprint of its data")
    elif unknown:
        log.notify(
            f"{workdir} has no fingerprint of the data of {', '.join(unknown)} from when it began: "
            f"one of the data as they are now is written there"
        )
    return "; ".join(changes)


def _moved(config: ConfigDict, workdir: Path) -> list[str]:
    """Returns the keys of paths in which a config differs from that of a run."""
    file = workdir / "config.json"
    if not file.exists():
        return []
    before = config_lib.from_json(file.read_text(encoding="utf-8"))
    return [f"config.{k}" for k in config_lib.diff(before, config) if MOVED.fullmatch(k)]


def _file(workdir: Path, name: str) -> Path:
    return workdir / f"data-{name}.npz"
