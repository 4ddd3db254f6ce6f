"""Methods, one file each; `config.method.name` names a file here, or a module of your own."""

import importlib
import importlib.util
import pkgutil
import sysconfig
from importlib import metadata
from pathlib import Path
from types import ModuleType

from ssl_jax.core import config as config_lib


def find(name: str) -> ModuleType:
    """Returns the module that `config.method.name` names: a file of ssl_jax/methods.

    Otherwise one of your own that Python can import, such as `my_method` for my_method.py next to a
    notebook or in a folder of PYTHONPATH. Raises ConfigError if there is neither, and for a module
    without `make(config, *, precision, sample_rate, num_classes) -> Method`.
    """
    if is_part(name):
        return importlib.import_module(f"{__name__}.{name}")
    if not _importable(name):
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
    file of ssl_jax/methods, an installed package, or the module that the caller has `named`.
    """
    if (name and name == named) or is_part(name) or _is_installed(name):
        return
    top = name.partition(".")[0]
    if not top or importlib.util.find_spec(top) is None:
        raise _unknown(name)
    raise config_lib.ConfigError(
        f"config.method.name is {name!r}, a module that is neither part of ssl_jax nor installed: "
        f"its name came with the folder, so it is not run by default. If you trust it, name it: "
        f"--method {name}, or ssl_jax.load(..., method={name!r})"
    )


def check_file(path: str, name: str, named: str = "") -> None:
    """Does the same for a config file: a .json comes from a run folder, a .py runs anyway."""
    if path.endswith(".json"):
        check(name, named)


def _known() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def _unknown(name: str) -> config_lib.ConfigError:
    hint = config_lib.suggest(name, _known())
    return config_lib.ConfigError(
        f"config.method.name is {name!r}: {hint}, or use a module of yours on PYTHONPATH"
    )


def _is_installed(name: str) -> bool:
    """Returns whether a module belongs to an installed package; imports nothing.

    Other modules that Python finds, in the working directory or on PYTHONPATH, may be anyone's.
    """
    top = name.partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)  # of a dotted name it would import the parent
    except (ImportError, ValueError):
        return False
    if spec is None or not spec.has_location or not spec.origin:
        return False  # nothing, or a namespace: any folder of that name
    places = [Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib")]
    inside = [place for place in places if place in Path(spec.origin).resolve().parents]
    return any(_lists(place, top) for place in inside)


def _lists(place: Path, top: str) -> bool:
    """Returns whether a distribution installed in a folder provides a module."""
    return any(
        file.parts and file.parts[0] in (top, f"{top}.py")
        for found in metadata.distributions(path=[str(place)])
        for file in found.files or ()
    )


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # no parent of a dotted name; an empty or relative name
        return False
