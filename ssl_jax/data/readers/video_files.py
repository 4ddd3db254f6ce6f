"""Videos kept as files, or as folders of frames."""

import dataclasses
import os
import pathlib
from contextlib import AbstractContextManager

import numpy as np

from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import files, folders, identity, manifests, video_decoding
from ssl_jax.data.readers import lines as lines_lib
from ssl_jax.data.readers.base import Items, text
from ssl_jax.data.readers.video_decoding import Video

EXTENSIONS = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".gif", ".ts")
FPS = {"fps": 25.0}  # of folders of frames


@dataclasses.dataclass(frozen=True)
class Videos:
    """Opens the videos of rows. fps: frames per second of those that are folders of frames."""

    files: files.Files
    fps: float

    def video(self, row: int) -> AbstractContextManager[Video]:
        """Opens the video of a row."""
        return video_decoding.opened(self.files.path(row), self.fps)

    def where(self, row: int) -> str:
        """Names the file and row."""
        return self.files.where(row)

    def row_key(self, row: int) -> str:
        """Returns a permanent name of the row."""
        return self.files.row_key(row)

    def places(self) -> identity.Places:
        """Returns the file of each row, of a folder that of its first frame."""
        found = self.files.places()
        return found._replace(files=[video_decoding.first_file(name) for name in found.files])


def video_folder(path: pathlib.Path, options: dict) -> Items:
    """Reads every video file below a folder; column `label` is the name of its parent folder."""
    del options
    found = folders.find(path, EXTENSIONS)
    folders.warn_unread_below(path, EXTENSIONS)
    return _named(path, found, 1.0)


def frame_folder(path: pathlib.Path, options: dict) -> Items:
    """Reads every folder of images below a folder as a video, its frames in the order of their
    names; column `label` is the name of its parent folder."""
    found = folders.find(path, video_decoding.IMAGES)
    return _named(path, sorted({os.path.dirname(name) for name in found} - {""}), options["fps"])


def table(path: pathlib.Path, options: dict) -> Items:
    """Reads a table with a header: .csv with commas, else tabs; for a folder, its index.tsv.

    Column `path`, of a video file or a folder of frames, is relative to option `root` (default: the
    folder of the table); every other column is kept as text.
    """
    _, reader, columns, numbers = manifests.files_of_table(path, options["root"])
    return Items(Videos(reader, _checked(options["fps"])), len(numbers), columns)


def video_list(path: pathlib.Path, options: dict) -> Items:
    """Reads a list without a header, as recipes of Kinetics-400 and Something-Something have it:
    one line per video with its path and its class, a number or a name, behind a comma or a space.

    Paths are relative to option `root` (default: the folder of the list). Column: label.
    """
    names, labels, numbers = [], [], []
    for number, line in lines_lib.filled(path):
        name, comma, label = line.rpartition(",")
        if not comma:
            name, _, label = line.strip().rpartition(" ")
        if not name.strip() or not label.strip():
            raise DataError(
                f"{path}, row {number}: {line[:60]!r} is not a path and a class, such as "
                f"'clips/one.mp4 12'"
            )
        names.append(name.strip())
        labels.append(label.strip())
        numbers.append(number)
    root = options["root"] or str(path.parent)
    reader = files.Files(root, text(names), path.name, np.array(numbers, np.int32))
    return Items(Videos(reader, _checked(options["fps"])), len(names), {"label": text(labels)})


def _named(path: pathlib.Path, names: list[str], fps: float) -> Items:
    """Returns the videos of these names below a folder, labelled by their parent folders."""
    parents = [os.path.basename(os.path.dirname(os.path.join(path, n))) for n in names]
    reader = Videos(files.Files(str(path), text(names)), _checked(fps))
    return Items(reader, len(names), {"label": text(parents)})


def _checked(fps: float) -> float:
    if not fps > 0:
        raise DataError(f"fps is {fps}: use frames per second, such as 25.0")
    return float(fps)
