"""Paths of the local file system and of object stores, such as gs://bucket/run.

A local path is a pathlib.Path. Any other is an etils.epath.Path, whose methods have the same names.
An object store can neither append to an object nor map it into memory, so files that grow are kept
in memory and rewritten, and files to be mapped are copied once.
"""

import contextlib
import errno
import functools
import hashlib
import os
import pathlib
import re
import shutil
import stat
import tempfile
import time
import unicodedata
from collections.abc import Iterator, Sequence
from typing import IO, Any, cast

from ssl_jax.core.progress import Progress

Given = str | os.PathLike
Path = pathlib.Path
"""Or, for an object store, an epath.Path, which is used in the same way."""

WRITE_EVERY = 30.0
"""Seconds between two writes of an object that grows; a store accepts at most one per second."""
_BYTE = re.compile(rb"\\x([89a-f][0-9a-f])")  # one that is not UTF-8, see `shown`
_URL = re.compile(r"([a-z][a-z0-9+.-]+)://")
_MANGLED = re.compile(r"[a-z][a-z0-9+.-]+:/[^/]")
# the name of a scheme in fsspec, and the extra of setup.py that brings it
_SCHEMES = {"gs": ("gcs", "gcs"), "s3": ("s3", ""), "az": ("az", "")}


def is_remote(path: Given) -> bool:
    """Returns whether a path is in an object store."""
    return bool(_URL.match(os.fspath(path)))


def of(path: Given) -> Path:
    """Returns a path to work with: pathlib's for a local one, etils.epath's for an object store's.

    Raises ValueError for an unknown scheme or a URL that went through pathlib, and ImportError if
    the package for the store is missing.
    """
    text = os.fspath(path)
    found = _URL.match(text)
    if not found:
        if _MANGLED.match(text):
            raise ValueError(f"{text!r} has lost a slash: give a URL such as gs://bucket/run")
        return pathlib.Path(path)
    _check(text, found[1])
    from etils import epath  # slow to import, and of no use for local paths

    return cast(Path, epath.Path(path))


def _check(text: str, scheme: str) -> None:
    """Raises an error unless the scheme is known and the package for its store is installed."""
    import fsspec

    if scheme not in _SCHEMES:
        known = ", ".join(f"{name}://" for name in _SCHEMES)
        raise ValueError(f"{text}: use a local path, or one of {known}")
    name, extra = _SCHEMES[scheme]
    # others write the same objects, so listings are never cached
    fsspec.config.conf.setdefault(name, {}).setdefault("use_listings_cache", False)
    try:
        fsspec.get_filesystem_class(name)
    except ImportError as error:
        how = f"pip install 'ssl_jax[{extra}]'" if extra else str(error)
        raise ImportError(f"{text} needs a package that is not installed: {how}") from error


def absolute(path: Given) -> Path:
    """Returns a path that does not depend on the working directory."""
    return of(path) if is_remote(path) else pathlib.Path(path).resolve()


def expanded(path: Given) -> Path:
    """Returns a path with ~ expanded; raises ValueError if there is no home folder."""
    if is_remote(path):
        return of(path)
    try:
        return of(path).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"{os.fspath(path)}: this user has no home folder, and HOME is not set: give the path "
            f"in full"
        ) from error


def local(path: Given, name: str) -> pathlib.Path:
    """Returns a local path; raises ValueError for another, naming the flag or key it came from."""
    if is_remote(path):
        raise ValueError(
            f"{name} is {os.fspath(path)}, but it must be a local folder: write to one, then copy "
            f"it with `gcloud storage cp -r`"
        )
    return of(path)


def join(root: Given, name: str) -> str:
    """Returns the path of a file whose name is relative to `root`, absolute, or a URL."""
    return name if is_remote(name) else os.path.join(root, name)


def shown(name: Given) -> str:
    r"""Returns the name of a local file as text: a byte that is not UTF-8 becomes \xe0.

    The same text on every machine, whatever its locale; `on_disk` finds the file again.
    """
    name = os.fspath(name)
    if name.isascii() or is_remote(name):
        return name
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def on_disk(path: str) -> str:
    """Returns the path of a file on disk from its path as text; that itself if there is none.

    On disk an accent may be a character of its own, as on a Mac, or part of its letter. In the
    text a byte that is not UTF-8 may be written as `shown` writes it.
    """
    if (path.isascii() and "\\x" not in path) or is_remote(path) or os.path.lexists(path):
        return path
    found = os.sep if path.startswith(os.sep) else ""
    for part in filter(None, path.split(os.sep)):
        name = _on_disk(found or os.curdir, part)
        if not name:
            return path
        found = os.path.join(found, name)
    return found


def _on_disk(folder: str, part: str) -> str:
    """Returns the name in a folder that is written as `part`, "" if there is none."""
    data = _BYTE.sub(lambda m: bytes([int(m[1], 16)]), part.encode("utf-8", "surrogateescape"))
    raw = os.fsdecode(data)
    for name in (part, raw, *(unicodedata.normalize(form, raw) for form in ("NFC", "NFD"))):
        if os.path.lexists(os.path.join(folder, name)):
            return name
    try:
        names = _composed_names(folder, os.stat(folder).st_mtime_ns)
    except OSError:
        return ""
    return names.get(unicodedata.normalize("NFC", part), "")


@functools.lru_cache(maxsize=16)
def _composed_names(folder: str, changed: int) -> dict[str, str]:
    """Returns the names in a folder by their composed text; `changed` is when it last changed."""
    del changed
    return {unicodedata.normalize("NFC", shown(n)): n for n in sorted(os.listdir(folder))}


def files_below(root: Given) -> dict[str, str]:
    """Returns the files below a folder of an object store: relative name -> `state`.

    One listing, whatever the number of folders. Sorted by name.
    """
    import fsspec

    store, top = fsspec.core.url_to_fs(os.fspath(of(root)))
    found = store.find(top, detail=True)
    start = len(top.rstrip("/")) + 1
    return {name[start:]: _state(about) for name, about in sorted(found.items())}


def _state(about: dict[str, Any]) -> str:
    """Returns text that changes when an object does: its size and its version in the store."""
    keys = ("generation", "etag", "ETag", "mtime", "created", "updated")
    version = (about.get(key) for key in keys)
    return f"{about['size']}:" + ":".join(str(value) for value in version if value is not None)


def state(path: Given) -> str:
    """Returns text that changes when a file in an object store does; raises OSError if absent."""
    import fsspec

    store, name = fsspec.core.url_to_fs(os.fspath(of(path)))
    return _state(store.info(name))


def read(path: Given, start: int | None = None, size: int | None = None) -> bytes:
    """Returns an object of a store, or `size` bytes of it from `start`, in one request."""
    import fsspec

    store, name = fsspec.core.url_to_fs(os.fspath(path))
    return store.cat_file(name, start=start, end=None if size is None else (start or 0) + size)


def append(path: Path, text: str) -> None:
    """Appends to a file that seldom grows; an object is rewritten."""
    if is_remote(path):
        before = path.read_bytes() if path.exists() else b""
        path.write_bytes(before + utf8(text))
        return
    with path.open("a+b", buffering=0) as file:
        _whole(file, _end_before(file) + utf8(text))


def utf8(text: str) -> bytes:
    r"""Returns text as UTF-8 on every machine, with half of a surrogate pair as \udcxx.

    JSON reads that back as it was.
    """
    return text.encode("utf-8", "backslashreplace")


def _end_before(file: IO[bytes]) -> bytes:
    """Returns the newline that a last line lacks if it was cut off, else nothing."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return b""
    file.seek(size - 1)
    return b"" if file.read(1) == b"\n" else b"\n"


def _whole(file: IO[bytes], data: bytes) -> None:
    """Writes all of `data` to an unbuffered file, or raises OSError."""
    if file.write(data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)


class Lines:
    """A text file that grows by lines, which others may read at any time.

    `before` are the lines that it already holds. A local file gets every line at once; one that a
    full disk has no room for is not kept for later. An object cannot grow: its lines are kept, and
    all are rewritten on `flush`, on `close`, and by the first line that is added WRITE_EVERY
    seconds after the last write.
    """

    def __init__(self, path: Path, before: Sequence[str] = ()):
        self.path = path
        self._file: IO[bytes] | None = None
        self._lines, self._written, self._at = list(before), len(before), time.monotonic()
        if not is_remote(path):
            self._lines.clear()
            self._file = path.open("a+b", buffering=0)
            _whole(self._file, _end_before(self._file))

    def add(self, line: str) -> None:
        """Adds a line, given without its newline. Raises OSError if not all of it fits."""
        if self._file is not None:
            _whole(self._file, utf8(line + "\n"))
            return
        self._lines.append(line)
        if time.monotonic() - self._at >= WRITE_EVERY:
            self.flush()

    def flush(self) -> None:
        """Makes every line visible to others."""
        if self._file is None and self._written < len(self._lines):
            self.path.write_bytes(utf8("".join(line + "\n" for line in self._lines)))
            self._written, self._at = len(self._lines), time.monotonic()

    def close(self) -> None:
        """Writes what is left."""
        self.flush()
        if self._file is not None:
            self._file.close()


def cache() -> pathlib.Path:
    """Returns where copies and indices are kept: $SSL_JAX_CACHE, or ~/.cache/ssl_jax.

    For a user without a writable home folder it is in the folder of temporary files. Raises
    OSError if that one belongs to somebody else.
    """
    given = os.environ.get("SSL_JAX_CACHE")
    if not given:
        return _in_home() or _temporary()
    if is_remote(given):
        raise ValueError(f"SSL_JAX_CACHE is {given}: files are mapped from it: use a local folder")
    return expanded(given)


def _in_home() -> pathlib.Path | None:
    """Returns ~/.cache/ssl_jax if it is there or can be made."""
    folder = pathlib.Path(os.path.expanduser("~")) / ".cache" / "ssl_jax"
    if not folder.is_absolute():
        return None  # there is no home
    near = next(p for p in (folder, *folder.parents) if os.path.exists(p))
    return folder if os.access(near, os.W_OK | os.X_OK) else None


def _temporary() -> pathlib.Path:
    """Returns a folder for this user alone; nobody else may have made it, or write to it."""
    folder = pathlib.Path(tempfile.gettempdir()) / f"ssl_jax-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise PermissionError(
            f"{folder} is not this user's alone: set SSL_JAX_CACHE to a folder that is"
        )
    return folder


def scratch(folder: Path) -> pathlib.Path:
    """Returns the folder for what is computed from a run: its own, or one in the cache."""
    if not is_remote(folder):
        return of(folder)
    return cache() / "runs" / hashlib.sha256(os.fspath(folder).encode()).hexdigest()[:24]


def fetched(path: Given) -> pathlib.Path:
    """Returns a local copy of a file or folder of an object store, and a local path as it is.

    The copy is made once, in the cache folder, and again when the original changes. Raises OSError
    if the path does not exist, or if the disk has no room for a copy.
    """
    if not is_remote(path):
        return of(path)
    import fsspec

    source = of(path)
    store, top = fsspec.core.url_to_fs(os.fspath(source))
    found = files_below(path) or {"": state(path)}
    sign = hashlib.sha256(repr((str(source), sorted(found.items()))).encode()).hexdigest()[:24]
    target = cache() / "objects" / sign / source.name
    if target.exists():
        return target
    size = sum(int(about.partition(":")[0]) for about in found.values())
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if size > free:
        raise OSError(
            f"{source} has {size / 1e9:.1f} GB, {cache()} only room for {free / 1e9:.1f} GB: set "
            "SSL_JAX_CACHE to a larger disk, or mount the bucket (gcsfuse) and give that path"
        )
    with tempfile.TemporaryDirectory(dir=target.parent) as part:
        copy = pathlib.Path(part) / source.name
        there = [f"{top}/{name}".rstrip("/") for name in found]
        here = [str(copy / name) if name else str(copy) for name in found]
        for name in here:
            os.makedirs(os.path.dirname(name), exist_ok=True)
        with Progress(f"copying files of {source}", len(here)) as bar:
            count = {"bar": lambda size, value, **more: bar.step(value - bar.done)}
            store.get(there, here, callback=fsspec.callbacks.Callback(hooks=count))
        if not target.exists():  # another process may have been faster
            os.replace(copy, target)
    return target


@contextlib.contextmanager
def made(folder: Path) -> Iterator[None]:
    """Makes a folder with its parents; at the end those that it made are removed if empty.

    So a command that is refused leaves none behind.
    """
    new = []
    if not is_remote(folder):
        new = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for each in new:
            with contextlib.suppress(OSError):  # it holds something, or is gone
                each.rmdir()


def put(source: pathlib.Path, target: Path) -> None:
    """Copies a local file, or all files below a local folder, to a folder or object of a store."""
    import fsspec

    store, top = fsspec.core.url_to_fs(os.fspath(of(target)))
    if source.is_file():
        store.put_file(str(source), top)
        return
    for file in sorted(p for p in source.rglob("*") if p.is_file()):
        store.put_file(str(file), f"{top}/{file.relative_to(source).as_posix()}")


def move(source: Path, target: Path) -> None:
    """Renames a folder; in an object store, by copying what is in it."""
    if not is_remote(source):
        source.replace(target)
        return
    import fsspec

    store, top = fsspec.core.url_to_fs(os.fspath(source))
    names = list(files_below(source))
    for name in names:
        store.cp_file(f"{top}/{name}", fsspec.core.url_to_fs(os.fspath(target / name))[1])
    store.rm([f"{top}/{name}" for name in names])  # last: a killed move leaves it in both places
