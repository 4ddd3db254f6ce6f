"""Modules that a config names: files of a package of ssl_jax, or modules of the user's own."""

import importlib
import importlib.util
import pkgutil
import sysconfig
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from types import ModuleType


def files(places: Iterable[str]) -> list[str]:
    """Returns the modules in the folders of a package, its __path__, by name."""
    return sorted(m.name for m in pkgutil.iter_modules(places))


def importable(name: str) -> bool:
    """Returns whether Python finds a module; imports the parents of a dotted name."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # no parent of a dotted name; an empty or relative name
        return False


def imported(name: str) -> ModuleType | None:
    """Imports a module that Python finds, and returns it; None where there is none."""
    return importlib.import_module(name) if importable(name) else None


def is_installed(name: str) -> bool:
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
