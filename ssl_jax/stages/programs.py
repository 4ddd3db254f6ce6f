"""Programs of many stages: Python files with `OPTIONS`, a dict of defaults, and `main(pipe)`."""

import functools
import importlib.util
import pathlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from ssl_jax.core import config as config_lib
from ssl_jax.core import paths
from ssl_jax.data.errors import DataError

_KEY = re.compile(r"(?:--)?config\.data\.\w+\.\w+(\.(\w+))?")


def read(
    path: str, workdir: str, overrides: Sequence[str]
) -> tuple[ModuleType, dict[str, Any], pathlib.Path]:
    """Returns a program, imported, its options and its folder, by default runs/<name>.

    The name is that of the file, or of its folder for a program.py or pipeline.py. Raises
    ConfigError for a missing file, an option that the program does not have, and one of its `DATA`
    that is not there.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise config_lib.ConfigError(
            f"no program {path}: name a Python file with OPTIONS and main(pipe)"
        )
    folder = file.resolve().parent
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    name = file.stem if file.stem not in ("program", "pipeline") else folder.name
    spec = importlib.util.spec_from_file_location(f"program_{name}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    options = config_lib.override(ConfigDict(module.OPTIONS), overrides)
    layouts = getattr(module, "DATA", {})
    _check_data(options, layouts)
    own = {name: options[name] for name in layouts}
    vars(module)["main"] = _in_own_words(vars(module)["main"], own)
    return module, options.to_dict(), paths.local(workdir or f"runs/{name}", "--workdir")


def _check_data(options: ConfigDict, layouts: Mapping[str, str]) -> None:
    """Raises ConfigError, which names the program's own option, for data that are not there."""
    for name, layout in layouts.items():
        folder = paths.expanded(options[name])
        file = "train.tar" if layout == "cifar10" else "index.tsv"
        if options[name] and not (folder.is_file() or (folder / file).is_file()):
            raise config_lib.ConfigError(
                f"--{name}={options[name]} has no {file} (looked from {pathlib.Path.cwd()}): make "
                f"it of the published data by python -m ssl_jax.convert index --layout {layout} "
                f"--from DOWNLOAD --to {options[name]}"
            )


def _in_own_words(main: Callable[..., None], given: Mapping[str, str]) -> Callable[..., None]:
    """Returns the main function of a program, whose errors of data name its own options.

    given: the folders of data by option. Keys of config.data are those of a config that the program
    makes, and that its user cannot change.
    """

    @functools.wraps(main)
    def run(*args: Any) -> None:
        try:
            main(*args)
        except DataError as error:
            text = _KEY.sub(lambda found: found[2] or "a source", str(error))
            used = {name: path for name, path in given.items() if path}
            named = {name: path for name, path in used.items() if path in text} or used
            words = " ".join(f"--{name}={path}" for name, path in named.items())
            raise config_lib.ConfigError(f"{words}: {text}" if words else str(error)) from error

    return run
