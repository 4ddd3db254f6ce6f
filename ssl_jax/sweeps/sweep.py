"""A sweep: the runs of a config file's sweep(), each in a folder named by its signature."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ssl_jax.core import atomic, paths
from ssl_jax.core import config as config_lib
from ssl_jax.core import sweep as algebra
from ssl_jax.core.config import ConfigError, Value
from ssl_jax.sweeps import run_folders


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep.

    values: {dotted name: value} of every key that the sweep changes in any of its runs.
    """

    index: int
    signature: str
    values: dict[str, Value]
    config: ConfigDict
    folder: Path

    @property
    def label(self) -> str:
        """The first digits of the signature."""
        return self.signature[: run_folders.SHORT]


def read(path: str, overrides: Sequence[str], root: Path) -> list[Run]:
    """Returns the runs of a config file's sweep(), with folders below `root`.

    overrides: texts such as "data.train.sc.path=..." for every run; values of the sweep take
    precedence. Raises ConfigError for a key that does not exist, a value of another type, two equal
    runs, and a file without sweep().
    """
    base = config_lib.load(path, overrides)
    points = config_lib.call(path, "sweep", algebra)
    where = f"sweep() of {path}"
    if not _are_points(points):
        raise ConfigError(f"{where} returns {points!r}: return s.product(...) or the like")
    names = list(dict.fromkeys(name for point in points for name in point))
    found: list[Run] = []
    for i, point in enumerate(points):
        try:
            config = config_lib.change(base, point)
        except ConfigError as error:
            raise ConfigError(f"{where}, run {i}: {error}") from error
        flat, sign = config_lib.flatten(config), config_lib.sign(config)
        values = {name: flat[name] for name in names}
        found.append(Run(i, sign, values, config, root / sign[: run_folders.SHORT]))
    _no_run_twice(found, where)
    return found


def _are_points(points: Any) -> bool:
    return isinstance(points, list) and all(isinstance(p, dict) for p in points) and bool(points)


def _no_run_twice(found: Sequence[Run], where: str) -> None:
    seen: dict[str, Run] = {}
    for run in found:
        first = seen.setdefault(run.label, run)
        if first is not run:
            same = ", ".join(f"{name}={value!r}" for name, value in run.values.items())
            raise ConfigError(
                f"{where}: runs {first.index} and {run.index} have the same signature {run.label}: "
                f"both are {same or 'the config unchanged'}; remove one of them"
            )


def default_root(path: str) -> Path:
    """Returns the folder of a sweep: configs/kws/tiny.py:toy -> runs/kws-tiny-toy."""
    name, _, arg = path.partition(".py:")
    file = Path(name).with_suffix("")
    parts = [file.parent.name, file.name, arg]
    return Path("runs") / "-".join(part for part in parts if part and part != "configs")


def write(root: Path, found: Sequence[Run], about: Mapping[str, Any]) -> None:
    """Writes sweep.json and the config.json of every run, which `reopen` reads.

    A run that was begun keeps its files: by its signature they are the same.
    """
    for run in found:
        run.folder.mkdir(parents=True, exist_ok=True)
        file = run.folder / "config.json"
        if not _is_readable(file):
            atomic.write_text(file, config_lib.to_json(run.config))
    rows = [{"signature": run.signature, "values": run.values} for run in found]
    atomic.write_json(root / "sweep.json", {**about, "runs": rows})


def _is_readable(file: Path) -> bool:
    """Returns whether a config exists and is complete; earlier versions could leave it cut off."""
    try:
        return bool(config_lib.from_json(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return False


def reopen(root: Path) -> list[Run]:
    """Returns the runs of a sweep as they were when it was begun, even if its file has changed.

    Raises FileNotFoundError for a folder without a sweep.
    """
    file = root / "sweep.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{root} holds no sweep: give --config, or the --workdir of a sweep that was begun"
        )
    rows = atomic.read_json(file, "give --config, and it is written again")["runs"]
    found = []
    for i, row in enumerate(rows):
        folder = root / row["signature"][: run_folders.SHORT]
        config = config_lib.of_file(folder / "config.json")
        if config_lib.sign(config) != row["signature"]:
            raise ConfigError(
                f"{folder}/config.json does not match the signature {row['signature']} of run {i}: "
                f"it was changed; delete it, and give --config"
            )
        values = {name: config_lib.flatten(config)[name] for name in row["values"]}
        found.append(Run(i, row["signature"], values, config, folder))
    return found


def begun_with(root: Path) -> str:
    """Returns what to repeat to mean the runs of a folder: --config and the overrides."""
    try:
        about = atomic.read_json(root / "sweep.json", "")
        words = [f"--config {about['config']}"]
        words += [f"--config.{text.removeprefix('--config.')}" for text in about["overrides"]]
    except (OSError, ValueError, KeyError):  # of an older version, or not written by the command
        words = ["the --config and the overrides that it was begun with"]
    return f"repeat {' '.join(words)}"


def pick(found: Sequence[Run], name: str) -> Run:
    """Returns the run with an index, or with a signature or its beginning; raises ConfigError."""
    if name.isdigit() and len(name) < run_folders.SHORT:
        if int(name) < len(found):
            return found[int(name)]
        raise ConfigError(f"--run {name}: the sweep has runs 0 to {len(found) - 1}")
    fits = [run for run in found if run.signature.startswith(name)]
    if len(fits) == 1:
        return fits[0]
    known = ", ".join(run.label for run in found[: run_folders.MANY])
    raise ConfigError(f"--run {name!r} matches {len(fits)} signatures: use one of {known}")


def strangers(root: Path, found: Sequence[Run]) -> list[Path]:
    """Returns the run folders below `root` that do not belong to a run of the sweep."""
    own = {paths.absolute(run.folder) for run in found}
    folders = [other.folder for other in run_folders.walk(root)]
    return [folder for folder in folders if paths.absolute(folder) not in own]


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Returns dotted name -> its last two words, or as many as make it unique."""
    names = list(names)

    def end(name: str) -> str:
        words = name.split(".")
        ends = [".".join(words[i:]) for i in range(max(len(words) - 2, 0), -1, -1)]
        alone = (e for e in ends if sum(f".{n}".endswith(f".{e}") for n in names) == 1)
        return next(alone, name)

    return {name: end(name) for name in names}
