"""Clips kept as folders of images, one for each frame, in the order of their names."""

import dataclasses
import os
import pathlib

import numpy as np

from ssl_jax.core import paths
from ssl_jax.data.errors import DataError, Unreadable
from ssl_jax.data.readers import files, identity, manifests
from ssl_jax.data.readers.base import Items, text
from ssl_jax.data.readers.image_files import EXTENSIONS


@dataclasses.dataclass(frozen=True)
class Frames:
    """Reads frames of clips. first: the file of the first frame of each row; names: those of all
    frames of a row, in their folder."""

    first: files.Files
    names: tuple[tuple[str, ...], ...]

    def where(self, row: int) -> str:
        """Names the first frame and the row."""
        return self.first.where(row)

    def row_key(self, row: int) -> str:
        """Returns a permanent name of the row."""
        return self.first.row_key(row)

    def places(self) -> identity.Places:
        """Returns the file of the first frame of each row."""
        return self.first.places()

    def count(self, row: int) -> int:
        """Returns the number of frames of a row."""
        return len(self.names[row])

    def frame(self, row: int, i: int) -> bytes:
        """Returns the bytes of a frame's file; raises Unreadable."""
        path = os.path.join(os.path.dirname(self.first.path(row)), self.names[row][i])
        try:
            return pathlib.Path(path).read_bytes()
        except OSError as e:
            raise Unreadable(f"frame {i}: {e}") from e


def table(path: pathlib.Path, options: dict) -> Items:
    """Reads a table of folders with a header: .csv with commas, else tabs; for a folder, its
    index.tsv. Column `path` is relative to option `root` (default: the folder of the table); every
    other column is kept as text. Raises DataError for a row whose folder has no image."""
    _, listed, columns, numbers = manifests.files_of_table(path, options["root"])
    found, first = [], []
    for row, name in enumerate(listed.paths.tolist()):
        folder = pathlib.Path(listed.path(row))
        names = sorted(n for n in os.listdir(folder) if _is_image(n)) if folder.is_dir() else []
        if not names:
            raise DataError(f"{listed.where(row)}: no folder with images such as 000.png")
        found.append(tuple(names))
        first.append(paths.join(name, names[0]))
    lines = np.array(numbers, np.int32)
    reader = Frames(files.Files(listed.root, text(first), listed.manifest, lines), tuple(found))
    return Items(reader, len(numbers), columns)


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")
