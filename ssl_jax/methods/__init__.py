"""Methods, one file each; `config.method.name` names a file here, or a module of your own."""

import importlib
import importlib.util
import pkgutil
from types import ModuleType

from ssl_jax.core import config as config_lib


def find(name: str) -> ModuleType:
    """Returns the module that `config.method.name` names: a file of this folder by its name.

    Else one of yours that Python can import, such as `my_method` for my_method.py beside a notebook
    or in a folder of PYTHONPATH. Raises ConfigError where there is neither, and for a module
    without `make(config, *, precision, sample_rate, num_classes) -> Method`.
    """
    known = sorted(m.name for m in pkgutil.iter_modules(__path__))
    if name in known:
        return importlib.import_module(f"{__name__}.{name}")
    if not _importable(name):
        hint = config_lib.suggest(name, known)
        raise config_lib.ConfigError(
            f"config.method.name is {name!r}: {hint}, or a module of yours on PYTHONPATH"
        )
    module = importlib.import_module(name)
    if not hasattr(module, "make"):
        raise config_lib.ConfigError(
            f"config.method.name is {name!r}, and the module {module.__file__} has no function "
            f"make: write make(config, *, precision, sample_rate, num_classes) -> Method there"
        )
    return module


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # no parent of a dotted name; an empty or relative name
        return False
