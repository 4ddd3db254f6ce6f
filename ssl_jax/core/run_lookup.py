"""Run folders by name: what identifies a run, and how one is found by its signature.

A run is identified by the signature of its resolved config and the version of its code, which are
in signature.txt and code.txt of its folder.
"""

import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ssl_jax.core import code as code_lib
from ssl_jax.core import config as config_lib
from ssl_jax.core import paths
from ssl_jax.core.config import ConfigError

MANY = 12  # candidates that an error lists
PREFIX = re.compile(r"[0-9a-f]{2,16}(@[0-9a-f]*)?")


@dataclasses.dataclass(frozen=True)
class Found:
    """A run folder, its signature (16 digits), and the versions of the code that worked on it."""

    folder: Path
    signature: str
    code: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.signature}  code {' then '.join(self.code) or 'unknown'}  {self.folder}"


def roots() -> list[Path]:
    """Returns the folders to search for runs: $SSL_JAX_RUNS (a:b), by default `runs`."""
    named = re.split(r":(?!//)", os.environ.get("SSL_JAX_RUNS", ""))
    return [paths.expanded(name) for name in named if name] or [Path("runs")]


def walk(root: Path) -> Iterator[Found]:
    """Yields the run folders below a folder, ordered by name."""
    for folder in _below(root):
        yield Found(folder, signature(folder), code(folder))


def _below(root: Path) -> Iterator[Path]:
    if paths.is_remote(root):
        names = [name for name in paths.files_below(root) if name.endswith("/config.json")]
        yield from ((root / name).parent for name in names)
        return
    for place, folders, files in os.walk(root):
        folders.sort()
        if "config.json" in files:
            folders.clear()  # a run contains many files but no other run
            yield Path(place)


def signature(folder: Path) -> str:
    """Returns the signature of a run folder's config, '' if the config cannot be read."""
    file = folder / "signature.txt"
    if file.is_file():
        sign = file.read_text(encoding="utf-8", errors="replace").strip()
        if re.fullmatch("[0-9a-f]{16}", sign):
            return sign
    try:
        text = (folder / "config.json").read_text(encoding="utf-8")
        return config_lib.sign(config_lib.from_json(text))
    except (ConfigError, OSError, UnicodeDecodeError):
        return ""


def code(folder: Path) -> tuple[str, ...]:
    """Returns the versions of the code that a run was made with, oldest first; () if unknown."""
    file = folder / "code.txt"
    if not file.is_file():
        return ()
    return tuple(
        line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()
    )


def code_note(folder: Path) -> str:
    """Returns a note to add to an error if other code made the run, else ''."""
    made = code(folder)
    if not made or made[-1] == code_lib.version():
        return ""
    return f" (the run was made by code {made[-1]}, and this is {code_lib.version()})"


def find(prefix: str) -> Path:
    """Returns the one run folder below `roots` whose signature begins with `prefix`.

    "<prefix>@<prefix>" also gives the version of the code. Raises FileNotFoundError if there is
    none, and ValueError with the candidates if there are several.
    """
    start, _, version = prefix.partition("@")
    places = [str(root) for root in roots()]
    known = [found for root in roots() for found in walk(root)]
    fits = [f for f in known if start and f.signature.startswith(start)]
    if version:
        fits = [f for f in fits if f.code and f.code[-1].startswith(version)]
    if len(fits) == 1:
        return fits[0].folder
    if fits:
        lines = "\n".join(f"  {f}" for f in fits[:MANY])
        raise ValueError(
            f"the signatures of {len(fits)} runs begin with {prefix!r}: give more digits, "
            f"signature@code, or the folder\n{lines}"
        )
    near = "\n".join(f"  {f}" for f in known[:MANY]) or "  none"
    raise FileNotFoundError(
        f"{prefix!r} is neither a folder nor the signature of a run below {', '.join(places)}: set "
        f"SSL_JAX_RUNS to the folder of your runs, or give one of\n{near}"
    )


def located(reference: str | Path) -> Path:
    """Returns the run folder of a reference: a folder, or the beginning of a signature; see `find`.

    A folder need not exist, or be a run's. Raises FileNotFoundError and ValueError for a signature.
    """
    folder = paths.of(reference)
    if PREFIX.fullmatch(str(reference)) and not folder.exists():
        return find(str(reference))
    return folder


def complete_steps(folder: Path) -> list[int]:
    """Returns the steps of the complete checkpoints in a run folder, in order."""
    names = (path.name for path in (folder / "checkpoints").glob("*"))
    return sorted(int(name) for name in names if name.isdigit())
