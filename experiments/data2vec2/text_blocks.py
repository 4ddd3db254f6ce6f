"""Blocks of text from installed packages, as one table: documentation, and docstrings of code."""

import ast
import hashlib
import os
import pathlib
import warnings
from collections.abc import Iterator

from ssl_jax.core import atomic

HEADER = ("package", "file", "split", "sentence")
PROSE = (".rst", ".md", ".txt")
BYTES = 126  # of a block, which with its two marks fills 128 tokens
PER_FILE = 8  # blocks, so that no file is most of its package
# of 20 parts of a package's files, those of validation and of the test
VALID, TEST = (0, 1), (2, 3, 4, 5)


def write(site: pathlib.Path, table: pathlib.Path, packages: int, blocks: int) -> tuple[str, ...]:
    """Writes `blocks` training blocks of each of the largest packages; returns their names.

    A quarter as many are for validation and as many for the test, of other files: a file's split
    and its place come from the hash of its path. A package with too little text is passed over.
    Raises ValueError where fewer packages have enough.
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
    """Returns the names of packages, those of the most files first."""
    count = {
        p.name: sum(1 for _ in p.rglob("*.py"))
        for p in site.iterdir()
        if (p / "__init__.py").is_file() and p.name.isidentifier()
    }
    return sorted(count, key=lambda name: (-count[name], name))


def _rows(
    site: pathlib.Path, package: str, wanted: dict[str, int]
) -> list[tuple[str, str, str]] | None:
    """Returns (file, split, block) of a package, as many as wanted; None: it has too few."""
    found: dict[str, list[tuple[str, str, str]]] = {split: [] for split in wanted}
    seen: set[str] = set()  # licences and inherited docstrings stand in many files
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
    """Yields the hash of its path below `site`, and the path, of every file of text or code."""
    for base, _, names in os.walk(site / package):
        for name in names:
            path = pathlib.Path(base, name)
            if path.suffix in (".py", *PROSE):
                below = path.relative_to(site).as_posix()
                yield hashlib.sha256(below.encode()).hexdigest(), path


def _text(path: pathlib.Path) -> str:
    """Returns the text of a file, or all docstrings of code; "" where it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix in PROSE:
            return text
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the escapes in other people's strings
            tree = ast.parse(text)
    except (UnicodeDecodeError, SyntaxError, ValueError, RecursionError):
        return ""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(n) for n in ast.walk(tree) if isinstance(n, kinds))
    return "\n".join(filter(None, found))


def _cut(text: str) -> list[str]:
    """Returns whole blocks of BYTES; other than ASCII is left out, white space is one blank."""
    plain = "".join(c for c in " ".join(text.split()) if 32 <= ord(c) < 127)
    return [plain[i : i + BYTES] for i in range(0, len(plain) - BYTES + 1, BYTES)]
