"""Runs a program of many stages: `python -m ssl_jax.pipeline experiments/quickstart.py`.

A program is a Python file with `OPTIONS`, a dict of defaults, and `main(pipe)`, which runs stages
by calling methods of the pipe. `DATA`, if it has one, maps its options that are folders of data to
the layouts of `python -m ssl_jax.convert index` that make them. Completed stages are skipped, so a
killed program is simply started again. With --jobs, stages that do not need each other run at the
same time. Each stage is one line; --verbose adds what its commands print.
"""

import argparse
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
from ssl_jax.engine import hosts, log, manifest, turnover
from ssl_jax.stages import programs, side_by_side
from ssl_jax.stages.graph import Graph, Stage
from ssl_jax.stages.time_left import TimeLeft


class Pipe:
    """The interface of a program: its options, its folder and its stages."""

    def __init__(
        self,
        root: pathlib.Path,
        options: dict[str, Any],
        accept_data_change: bool = False,
        verbose: bool = False,
    ) -> None:
        """accept_data_change: see `engine.manifest`. verbose: show all that a stage prints."""
        self.root = root
        self.accept_data_change = accept_data_change
        self.options = options
        self.notify: Callable[[str], None] = log.notify
        self.graph = Graph(root, self.notify, verbose)
        self.runner: side_by_side.Runner = side_by_side.OneByOne(self.graph, self.ended)
        self.left = TimeLeft()
        self._stages: dict[pathlib.Path, Stage] = {}  # by folder

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Sets the expected seconds of each stage on two cores, by name; logs the time left."""
        self.left.expected = dict(seconds)
        self._log_time_left()

    def train(
        self,
        name: str,
        config: ConfigDict,
        needs: Sequence[Stage] = (),
        start: Stage | Mapping[str, Stage] | None = None,
        labels: Sequence[Stage] = (),
        teachers: Mapping[str, Stage] | None = None,
        pseudo_labels: Mapping[str, Stage] | None = None,
    ) -> Stage:
        """Trains a resolved config; `start`: the run whose parameters initialize it, or a map from
        prefixes of parameters to runs, see engine/init_from.py.

        labels: stages whose folders hold frame-label stores, named by the splits of config.data;
        each stage is one set of labels. teachers: the runs of config.method.teachers, by name; they
        count in the signature of the stage, and their folders do not. A teacher that would stay
        random is refused, unless the option `allow_low_turnover` is true; see engine/turnover.py.
        pseudo_labels: the stores that label sources of the training split, by name of the source.
        """
        teachers, labelled = teachers or {}, dict(sorted((pseudo_labels or {}).items()))
        frozen = (teachers[name] for name in sorted(teachers))
        starts = {"": start} if isinstance(start, Stage) else dict(sorted((start or {}).items()))
        needs = (*needs, *starts.values(), *labels, *frozen, *labelled.values())
        about = config_lib.flatten(config)
        if starts and not isinstance(start, Stage):
            about["init_from"] = tuple(starts)
        stage = Stage("train", name, about, needs)
        config = config.copy_and_resolve_references()
        with config.unlocked():
            runs = {prefix: str(self.graph.folder(each)) for prefix, each in starts.items()}
            if isinstance(start, Stage):
                config.init_from = runs[""]
            elif runs:
                with config.ignore_type():
                    config.init_from = ConfigDict(runs)
            for key, run in teachers.items():
                config.method.teachers[key] = str(self.graph.folder(run))
            for source, store in labelled.items():
                config.data.train[source].pseudo_labels = str(self.graph.folder(store))
            for split in SPLITS if labels else ():
                if len(config.data[split]):
                    stores = tuple(str(self.graph.folder(each) / split) for each in labels)
                    config.data.units[split] = stores
        if self.graph.done(stage):
            manifest.check_complete(self.graph.folder(stage), self.accept_data_change)
        given = (self.accept_data_change, bool(self.options.get(turnover.ALLOW)))
        return self._run(stage, lambda folder: _train(config, folder, *given))

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
        """Returns the folder of a stage, as soon as that is complete."""
        self.runner.wait(stage)
        return self.graph.folder(stage)

    def load(self, stage: Stage) -> ssl_jax.Model:
        """Returns the model of a training stage."""
        return ssl_jax.load(self.folder(stage))

    def machine(self) -> dict[str, Any]:
        """Returns the context of the results: seconds of all stages, cores, versions.

        The seconds of a stage that is skipped are those of when it ran.
        """
        for stage in self._stages.values():
            self.runner.wait(stage)
        return {
            "seconds": round(sum(self.graph.seconds(stage) for stage in self._stages.values())),
            "cores": os.cpu_count(),
            "device": jax.devices()[0].device_kind,
            "python": platform.python_version(),
            "jax": jax.__version__,
        }

    def ended(self, stage: Stage) -> None:
        """Tells that a stage has just been done, and the time left, corrected by its own."""
        seconds = self.graph.seconds(stage)
        self.left.count(stage.name, seconds)
        line = f"[{stage.name}] {stage.kind} done in {clock_text(seconds)}"
        self.notify("  ".join(filter(None, [line, self.left.text()])))

    def _run(self, stage: Stage, work: Callable[[pathlib.Path], None]) -> Stage:
        self._stages[self.graph.folder(stage)] = stage
        if self.graph.done(stage):
            self.left.expected.pop(stage.name, None)
        self.runner.run(stage, work)
        return stage

    def _log_time_left(self) -> None:
        if text := self.left.text():
            self.notify(text)


def _train(config: ConfigDict, folder: pathlib.Path, accept: bool, low_turnover: bool) -> None:
    train_command.run(config, folder, accept_data_change=accept, low_turnover=low_turnover)


def run(
    path: str,
    workdir: str = "",
    overrides: Sequence[str] = (),
    accept_data_change: bool = False,
    jobs: int = 1,
    verbose: bool = False,
) -> pathlib.Path:
    """Runs the program in `path` and returns its folder (runs/<name of the file or folder>).

    overrides: "option=value" or "--option=value"; a value is parsed by the type of the default.
    accept_data_change: train on, and use completed trainings, even if their data have changed.
    jobs: how many stages may run at the same time; the results are the same to the bit. verbose:
    show all that a stage prints, not only one line for it.
    Raises ConfigError for a missing file or an option that the program does not have.
    """
    program, options, root = programs.read(path, workdir, overrides)
    pipe = Pipe(root, options, accept_data_change, verbose)
    if jobs == 1:
        with paths.made(root):
            program.main(pipe)
        return root
    command = [sys.executable, "-m", "ssl_jax.pipeline", path, "--workdir", str(root)]
    command += [*overrides, *([manifest.FLAG] if accept_data_change else ())]
    command += [*(["--verbose"] if verbose else ()), "--worker"]
    with side_by_side.working(pipe.graph, jobs, command, pipe.notify, pipe.ended) as workers:
        pipe.runner, pipe.left.jobs = workers, jobs
        program.main(pipe)
    return root


def _work(given: argparse.Namespace, overrides: Sequence[str], folder: str) -> None:
    """Runs the stage of one folder, as a worker of the program."""
    program, options, root = programs.read(given.program, given.workdir, overrides)
    pipe = Pipe(root, options, given.accept_data_change, given.verbose)
    pipe.notify = lambda text: None  # the main process has said it
    pipe.runner = side_by_side.Only(pipe.graph, folder)
    program.main(pipe)


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line and runs the program."""
    parser = argparse.ArgumentParser(prog="python -m ssl_jax.pipeline", description=__doc__)
    parser.add_argument("program", help="a program, such as experiments/quickstart.py")
    parser.add_argument("--workdir", default="", help="default: runs/<program>")
    parser.add_argument("--jobs", type=int, default=1, help="stages that run at the same time")
    parser.add_argument("--worker", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument(
        manifest.FLAG, action="store_true", help="use trainings though their data changed"
    )
    parser.add_argument("--verbose", action="store_true", help="all that the stages print")
    hosts.add_flags(parser)
    known, rest = parser.parse_known_args(argv)
    with hosts.session(known):
        try:
            if known.worker:
                side_by_side.serve(known.worker, lambda folder: _work(known, rest, folder))
            else:
                given = (known.accept_data_change, known.jobs, known.verbose)
                run(known.program, known.workdir, rest, *given)
        except config_lib.ConfigError as e:
            sys.exit(f"error: {e}")


if __name__ == "__main__":
    main()
