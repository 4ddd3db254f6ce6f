"""Runs a program of many stages: `python -m ssl_jax.pipeline experiments/quickstart.py`.

A program is a Python file with `OPTIONS`, a dict of defaults, and `main(pipe)`, which runs stages
by calling methods of the pipe. Completed stages are skipped, so a killed program is simply started
again.
"""

import argparse
import importlib.util
import os
import pathlib
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

import ssl_jax
from ssl_jax import train as train_command
from ssl_jax.core import config as config_lib
from ssl_jax.core import paths
from ssl_jax.core.progress import clock_text
from ssl_jax.data.corpus import SPLITS
from ssl_jax.engine import hosts, log, manifest
from ssl_jax.stages.graph import Graph, Stage


class Pipe:
    """The interface of a program: its options, its folder and its stages."""

    def __init__(
        self, root: pathlib.Path, options: dict[str, Any], accept_data_change: bool = False
    ) -> None:
        """Opens the program's folder; accept_data_change: see `engine.manifest`."""
        self.root = root
        self.accept_data_change = accept_data_change
        self.options = options
        self.notify: Callable[[str], None] = log.notify
        self.graph = Graph(root, self.notify)
        self._stage_seconds = 0.0  # including those of skipped stages, from when they ran
        self._expected: dict[str, float] = {}
        self._actual = self._predicted = 0.0

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Sets the expected seconds of each stage, by name, on two cores, and logs the time left.

        The time left is corrected by the ratio of actual to expected time of the stages so far.
        """
        self._expected = dict(seconds)
        self._log_time_left()

    def train(
        self,
        name: str,
        config: ConfigDict,
        needs: Sequence[Stage] = (),
        start: Stage | None = None,
        labels: Sequence[Stage] = (),
        teachers: Mapping[str, Stage] | None = None,
    ) -> Stage:
        """Trains a resolved config; `start`: the run whose parameters initialize it.

        labels: stages whose folders hold frame-label stores, named by the splits of config.data;
        each stage is one set of labels. teachers: the runs of config.method.teachers, by name; they
        count in the signature of the stage, and their folders do not.
        """
        teachers = teachers or {}
        needs = (
            *needs,
            *((start,) if start else ()),
            *labels,
            *(teachers[k] for k in sorted(teachers)),
        )
        stage = Stage("train", name, config_lib.flatten(config), needs)
        config = config.copy_and_resolve_references()
        with config.unlocked():
            if start:
                config.init_from = str(self.folder(start))
            for key, run in teachers.items():
                config.method.teachers[key] = str(self.folder(run))
            for split in SPLITS if labels else ():
                if len(config.data[split]):
                    stores = tuple(str(self.folder(each) / split) for each in labels)
                    config.data.units[split] = stores
        if self.graph.done(stage):
            manifest.check_complete(self.folder(stage), self.accept_data_change)
        accept = self.accept_data_change
        return self._run(stage, lambda folder: _train(config, folder, accept))

    def stage(
        self,
        kind: str,
        name: str,
        config: dict[str, Any],
        work: Callable[[pathlib.Path], None],
        needs: Sequence[Stage] = (),
    ) -> Stage:
        """Runs any other work once, as work(folder)."""
        return self._run(Stage(kind, name, config, tuple(needs)), work)

    def folder(self, stage: Stage) -> pathlib.Path:
        """Returns the folder of a stage."""
        return self.graph.folder(stage)

    def load(self, stage: Stage) -> ssl_jax.Model:
        """Returns the model of a training stage."""
        return ssl_jax.load(self.folder(stage))

    def machine(self) -> dict[str, Any]:
        """Returns the context of the results: seconds of all stages, cores, versions."""
        return {
            "seconds": round(self._stage_seconds),
            "cores": os.cpu_count(),
            "device": jax.devices()[0].device_kind,
            "python": platform.python_version(),
            "jax": jax.__version__,
        }

    def _run(self, stage: Stage, work: Callable[[pathlib.Path], None]) -> Stage:
        skipped = self.graph.done(stage)
        self.graph.run(stage, work)
        self._stage_seconds += self.graph.seconds(stage)
        expected = self._expected.pop(stage.name, 0.0)
        if expected and not skipped:
            self._predicted += expected
            self._actual += self.graph.seconds(stage)
        self._log_time_left()
        return stage

    def _log_time_left(self) -> None:
        pace = self._actual / self._predicted if self._predicted else 1.0
        left = pace * sum(self._expected.values())
        if left:
            self.notify(f"{len(self._expected)} stages to go, about {clock_text(left)}")


def _train(config: ConfigDict, folder: pathlib.Path, accept: bool) -> None:
    train_command.run(config, folder, accept_data_change=accept)


def run(
    path: str, workdir: str = "", overrides: Sequence[str] = (), accept_data_change: bool = False
) -> pathlib.Path:
    """Runs the program in `path` and returns its folder (runs/<name of the file or folder>).

    overrides: "option=value" or "--option=value"; a value is parsed by the type of the default.
    accept_data_change: train on, and use completed trainings, even if their data have changed.
    Raises ConfigError for a missing file or an option that the program does not have.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise config_lib.ConfigError(
            f"no program {path}: name a Python file with OPTIONS and main(pipe)"
        )
    sys.path.insert(0, str(file.resolve().parent))
    named = file.stem not in ("program", "pipeline")
    name = file.stem if named else file.resolve().parent.name
    spec = importlib.util.spec_from_file_location(f"program_{name}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    options = config_lib.override(ConfigDict(module.OPTIONS), overrides)
    root = paths.local(workdir or f"runs/{name}", "--workdir")
    module.main(Pipe(root, options.to_dict(), accept_data_change))
    return root


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line and runs the program."""
    parser = argparse.ArgumentParser(prog="python -m ssl_jax.pipeline", description=__doc__)
    parser.add_argument("program", help="a program, such as experiments/quickstart.py")
    parser.add_argument("--workdir", default="", help="default: runs/<program>")
    parser.add_argument(
        manifest.FLAG, action="store_true", help="use trainings though their data changed"
    )
    hosts.add_flags(parser)
    known, rest = parser.parse_known_args(argv)
    with hosts.session(known):
        try:
            run(known.program, known.workdir, rest, known.accept_data_change)
        except config_lib.ConfigError as e:
            sys.exit(f"error: {e}")


if __name__ == "__main__":
    main()
