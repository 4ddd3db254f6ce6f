"""Methods, one file each; `config.method.name` names a file here, or a module of your own."""

import importlib
import importlib.util
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from ssl_jax.core import config as config_lib
from ssl_jax.core import modules
from ssl_jax.nn import build


def find(name: str) -> ModuleType:
    """Returns the module that `config.method.name` names: a file of ssl_jax/methods.

    Otherwise one of your own that Python can import, such as `my_method` for my_method.py next to a
    notebook or in a folder of PYTHONPATH. Raises ConfigError if there is neither, and for a module
    without `make(config, *, precision, sample_rate, num_classes) -> Method`.
    """
    if is_part(name):
        return importlib.import_module(f"{__name__}.{name}")
    if not modules.importable(name):
        raise _unknown(name)
    module = importlib.import_module(name)
    if not hasattr(module, "make"):
        raise config_lib.ConfigError(
            f"config.method.name is {name!r}, and the module {module.__file__} has no function "
            f"make: write make(config, *, precision, sample_rate, num_classes) -> Method there"
        )
    return module


def is_part(name: str) -> bool:
    """Returns whether a method is a file of ssl_jax/methods."""
    return name in _known()


def check(name: str, named: str = "") -> None:
    """Raises ConfigError where the config of a folder names a module that must not be imported.

    Whoever made the folder chose the name, and importing a module runs it. So it has to be a
    file of ssl_jax/methods, an installed package, or the module that the caller has `named`. Of
    several, by commas, the others are imported: they may be kinds of encoders (nn/build.py).
    """
    trusted = named.split(",")
    for other in trusted:
        if other and other != name:
            modules.imported(other)
    if (name and name in trusted) or is_part(name) or modules.is_installed(name):
        return
    top = name.partition(".")[0]
    if not top or importlib.util.find_spec(top) is None:
        raise _unknown(name)
    raise config_lib.ConfigError(
        f"config.method.name is {name!r}, a module that is neither part of ssl_jax nor installed: "
        f"its name came with the folder, so it is not run by default. If you trust it, name it: "
        f"--method {name}, or ssl_jax.load(..., method={name!r})"
    )


def check_file(path: str, section: Mapping[str, Any], named: str = "") -> None:
    """Does the same for the section config.method of a config file: a .json comes from a run
    folder, a .py runs anyway, so that the kinds of encoders that it names are imported."""
    if path.endswith(".json"):
        check(section["name"], named)
    else:
        build.trust(section)


def _known() -> list[str]:
    return modules.files(__path__)


def _unknown(name: str) -> config_lib.ConfigError:
    hint = config_lib.suggest(name, _known())
    return config_lib.ConfigError(
        f"config.method.name is {name!r}: {hint}, or use a module of yours on PYTHONPATH"
    )
