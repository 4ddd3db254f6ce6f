"""Which code a run was made with."""

import functools
import hashlib
from pathlib import Path

PARTS = ("core", "data", "engine", "methods", "nn", "ops")
"""The packages that decide the numbers of a run; commands, evaluations, stages, planning, reports
and sweeps do not."""
SYNTHETIC = "data/synthetic"  # corpora that are written to files before a run reads them


@functools.cache
def version() -> str:
    """Returns 12 hex digits over the source files of PARTS, the same on every machine."""
    return _hashed(Path(__file__).parents[1])


def _hashed(package: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for part in PARTS for p in (package / part).rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if name.startswith(f"{SYNTHETIC}/"):
            continue
        digest.update(f"{name}\n".encode())
        digest.update(path.read_text(encoding="utf-8").encode())  # line ends as "\n"
    return digest.hexdigest()[:12]
