"""Blocks of text from installed packages, in one table: documentation, and docstrings of code."""

import ast
import hashlib
import os
import pathlib
import warnings
from collections.abc import Iterator

from ssl_jax.core import atomic

HEADER = ("package", "file", "split", "sentence")
PROSE = (".rst", ".md", ".txt")
BYTES = 126  # per block, which with its two special tokens fills 128 tokens
PER_FILE = 8  # blocks, so that no file dominates its package
# of the 20 parts of a package's files, those for validation and for the test
VALID, TEST = (0, 1), (2, 3, 4, 5)


def write(site: pathlib.Path, table: pathlib.Path, packages: int, blocks: int) -> tuple[str, ...]:
    """Writes `blocks` training blocks of each of the largest packages; returns their names.

    Validation and test each get a quarter as many, from other files: the hash of its path decides
    the split and order of a file. A package with too little text is skipped. Raises ValueError if
    too few packages have enough text.
    """
    wanted = {"train": blocks, "valid": blocks // 4, "test": blocks // 4}
    names: list[str] = []
    lines = ["\t".join(HEADER)]
    for package in _by_size(site):
        if len(names) == packages:
            break
        rows = _rows(site, package, wanted)
        if rows:
            names.append(package)
            lines += ["\t".join((package, *row)) for row in rows]
    if len(names) < packages:
        raise ValueError(
            f"{site} has {len(names)} packages with {blocks} blocks of text: use "
            f"--packages={len(names)}, fewer --blocks, or another --site"
        )
    atomic.write_text(table, "\n".join(lines) + "\n")
    return tuple(names)


def _by_size(site: pathlib.Path) -> list[str]:
    """Returns the names of packages, those with the most files first."""
    count = {
        p.name: sum(1 for _ in p.rglob("*.py"))
        for p in site.iterdir()
        if (p / "__init__.py").is_file() and p.name.isidentifier()
    }
    return sorted(count, key=lambda name: (-count[name], name))


def _rows(
    site: pathlib.Path, package: str, wanted: dict[str, int]
) -> list[tuple[str, str, str]] | None:
    """Returns as many (file, split, block) of a package as wanted; None: it has too few."""
    found: dict[str, list[tuple[str, str, str]]] = {split: [] for split in wanted}
    seen: set[str] = set()  # licences and inherited docstrings occur in many files
    for digest, path in sorted(_files(site, package)):
        part = int(digest, 16) % 20
        split = "valid" if part in VALID else "test" if part in TEST else "train"
        room = wanted[split] - len(found[split])
        if room > 0:
            new = [b for b in _cut(_text(path)) if b not in seen][: min(room, PER_FILE)]
            seen.update(new)
            found[split] += [(str(path.relative_to(site)), split, block) for block in new]
        if all(len(found[s]) == n for s, n in wanted.items()):
            return [row for rows in found.values() for row in rows]
    return None


def _files(site: pathlib.Path, package: str) -> Iterator[tuple[str, pathlib.Path]]:
    """Yields (hash of the path relative to `site`, path) of every file of text or code."""
    for base, _, names in os.walk(site / package):
        for name in names:
            path = pathlib.Path(base, name)
            if path.suffix in (".py", *PROSE):
                below = path.relative_to(site).as_posix()
                yield hashlib.sha256(below.encode()).hexdigest(), path


def _text(path: pathlib.Path) -> str:
    """Returns the text of a file, or all docstrings of code; "" if it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix in PROSE:
            return text
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in other people's strings
            tree = ast.parse(text)
    except (UnicodeDecodeError, SyntaxError, ValueError, RecursionError):
        return ""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(n) for n in ast.walk(tree) if isinstance(n, kinds))
    return "\n".join(filter(None, found))


def _cut(text: str) -> list[str]:
    """Returns full blocks of BYTES, without non-ASCII characters and repeated white space."""
    plain = "".join(c for c in " ".join(text.split()) if 32 <= ord(c) < 127)
    return [plain[i : i + BYTES] for i in range(0, len(plain) - BYTES + 1, BYTES)]
