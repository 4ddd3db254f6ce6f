"""Images kept as files on disk, and in tar archives that are read in place."""

import contextlib
import dataclasses
import io
import os
import pathlib
import posixpath
import tarfile
import threading
from collections.abc import Iterator

import numpy as np

from ssl_jax.core import atomic, paths, pulse
from ssl_jax.core.progress import Progress
from ssl_jax.data.errors import DataError, Unreadable
from ssl_jax.data.readers import files, folders, identity, manifests
from ssl_jax.data.readers.base import Items, text

EXTENSIONS = (
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
)
# More archives than this are opened anew for each image, to stay below limits on open files.
_KEPT_OPEN = 128


def image_folder(path: pathlib.Path, options: dict) -> Items:
    """Reads every image below a folder; column `label` is the name of its parent folder."""
    del options
    found = folders.find(path, EXTENSIONS)
    folders.warn_unread_below(path, EXTENSIONS)
    parents = [os.path.basename(os.path.dirname(os.path.join(path, p))) for p in found]
    return Items(files.Files(str(path), text(found)), len(found), {"label": text(parents)})


def image_tar(path: pathlib.Path, options: dict) -> Items:
    """Reads the images of a tar, or of every *.tar in a folder, without unpacking.

    Column `label` is the parent folder inside the tar or, without one, the name of the tar;
    `archive` is that name. The positions of the images are read once and cached.
    """
    del options
    path = paths.fetched(path)
    archives = [path]
    if path.is_dir():
        archives = [path / name for name in folders.beside(path, ".tar")]
    files.check_whole_set([a.name for a in archives], str(path))
    found = _index([str(a) for a in archives])
    names = found.pop("names").tobytes().decode().split("\0")[:-1]
    stems = [paths.shown(archives[a].stem) for a in found["archive"]]
    labels = [os.path.basename(os.path.dirname(n)) or s for n, s in zip(names, stems, strict=True)]
    places = (found["archive"], found["offset"], found["size"])
    reader = Tar(tuple(str(a) for a in archives), text(names), *places)
    return Items(reader, len(names), {"label": text(labels), "archive": text(stems)})


def table(path: pathlib.Path, options: dict) -> Items:
    """Reads a table of images with a header: .csv with commas, else tabs; for a folder, its
    index.tsv. Column `path` is relative to option `root` (default: the folder of the table); every
    other column is kept as text."""
    _, reader, columns, numbers = manifests.files_of_table(path, options["root"])
    return Items(reader, len(numbers), columns)


@dataclasses.dataclass(frozen=True)
class Tar:
    """Reads members of tar archives: `archive` (n,), `offset` (n,) and `size` (n,) in bytes."""

    archives: tuple[str, ...]
    names: np.ndarray
    archive: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    _open: dict[int, io.FileIO] = dataclasses.field(default_factory=dict, repr=False)
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock, repr=False)

    def __reduce__(self) -> tuple:
        # A worker process opens the archives itself.
        return Tar, (self.archives, self.names, self.archive, self.offset, self.size)

    def where(self, row: int) -> str:
        """Names the archive, the file in it and the row."""
        return f"{self.archives[self.archive[row]]}: {self.names[row]}, row {row + 1}"

    def places(self) -> identity.Places:
        """Returns the archive of each row, and the byte at which it begins."""
        return identity.Places(self.archives, self.archive, self.offset)

    def image(self, row: int) -> bytes:
        """Returns the bytes of a member."""
        offset, size = int(self.offset[row]), int(self.size[row])
        try:
            if len(self.archives) <= _KEPT_OPEN:
                # A single call with its own offset, so that threads do not interfere.
                found = os.pread(self._file(int(self.archive[row])).fileno(), size, offset)
            else:
                with open(self.archives[self.archive[row]], "rb", buffering=0) as f:
                    found = os.pread(f.fileno(), size, offset)
        except OSError as e:
            raise Unreadable(str(e)) from e
        if len(found) < size:
            raise Unreadable(f"cut off: the archive has {len(found)} of its {size} bytes")
        return found

    def _file(self, archive: int) -> io.FileIO:
        file = self._open.get(archive)
        if file is None:
            with self._lock:
                if archive not in self._open:
                    # Closed with the reader.
                    self._open[archive] = io.FileIO(self.archives[archive])
                file = self._open[archive]
        return file


def _index(archives: list[str]) -> dict[str, np.ndarray]:
    """Returns the positions of the images in the archives, from the cache or the tar headers."""
    index = paths.cache() / f"tar-2-{files.fingerprint(archives)}.npz"
    kept = atomic.read_arrays(index, ())
    if kept is not None:
        return kept
    names: list[str] = []
    places: list[tuple[int, int, int]] = []
    with Progress("reading tar headers") as bar:
        for number, archive in enumerate(archives):
            for name, offset, size in pulse.along(_members(archive)):
                names.append(paths.shown(name) + "\0")
                places.append((number, offset, size))
                bar.step()
    table = np.array(places, np.int64).reshape(-1, 3)
    found: dict[str, np.ndarray] = {
        "names": np.frombuffer("".join(names).encode(), np.uint8),
        "archive": table[:, 0].astype(np.int32),
        "offset": table[:, 1].copy(),
        "size": table[:, 2].copy(),
    }
    files.save_index(index, **found)
    return found


def _members(archive: str) -> Iterator[tuple[str, int, int]]:
    """Yields (name, offset, size) of the images of one archive, including links to images."""
    links: dict[str, str] = {}
    others = []
    with _tar(archive) as tar:
        for member in _each(archive, tar):
            image = member.name.lower().endswith(EXTENSIONS)
            if image and member.isfile():
                yield member.name, member.offset_data, member.size
            elif image and member.islnk():
                links[member.name] = member.linkname
            elif image and member.issym():
                folder = posixpath.dirname(member.name)
                links[member.name] = posixpath.normpath(posixpath.join(folder, member.linkname))
            elif member.isfile() and posixpath.basename(member.name)[0] != ".":
                others.append(member.name)
    folders.warn_unread(others, f"in {archive}", EXTENSIONS)
    if links:
        yield from _linked(archive, links)


def _linked(archive: str, links: dict[str, str]) -> Iterator[tuple[str, int, int]]:
    """Yields the members to which links, name -> name, point; raises DataError for a link to a
    missing member or to itself."""
    ends = {}
    for name, to in links.items():
        followed = {name}
        while to in links and to not in followed:
            followed.add(to)
            to = links[to]
        ends[name] = to
    wanted = set(ends.values())
    with _tar(archive) as tar:
        found = {
            posixpath.normpath(m.name): (m.offset_data, m.size)
            for m in _each(archive, tar)
            if m.isfile() and (m.name in wanted or posixpath.normpath(m.name) in wanted)
        }
    for name, to in ends.items():
        place = found.get(posixpath.normpath(to))
        if place is None:
            raise DataError(f"{archive}: {name} is a link to {to}, which is not in the archive")
        yield name, *place


@contextlib.contextmanager
def _tar(archive: str) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(archive, "r:", encoding="utf-8") as tar:
            yield tar
    except (tarfile.TarError, OSError) as e:
        raise DataError(f"{archive} is not a complete, uncompressed tar: {e}") from e


def _each(archive: str, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yields every member; raises DataError for a broken one, at which the library would stop."""
    last = ""
    while (member := tar.next()) is not None:
        last = member.name
        yield member
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
    with open(archive, "rb") as file:
        file.seek(tar.offset)
        # Blocks of zeros end an archive; some writers leave them out.
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            after = last or "its start"
            raise DataError(f"{archive} has a broken header after {after}: copy the whole archive")
