"""CIFAR-10 as published, as two tar archives of images named class/0000.jpg."""

import codecs
import io
import pathlib
import pickle
import tarfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from ssl_jax.core import atomic
from ssl_jax.data.errors import DataError

NAME = "cifar10"
CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
TAKEN = {"train": 600, "test": 150}  # the first of each class, as in the miniatures
FILES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
_QUALITY = 75  # of JPEG, as in the miniatures
_SIDE = 32


def write(source: pathlib.Path, target: pathlib.Path) -> int:
    """Writes train.tar and test.tar to `target`, and returns how many images they hold.

    source: the unpacked download, of the binary or of the Python version. Raises DataError for a
    file that is missing or of another size.
    """
    target.mkdir(parents=True, exist_ok=True)
    total = 0
    for split, names in FILES.items():
        counts = [0] * len(CLASSES)
        held: dict[str, bytes] = {}
        for label, pixels in (item for name in names for item in _read(source, name)):
            if counts[label] < TAKEN[split]:
                held[f"{CLASSES[label]}/{counts[label]:04d}.jpg"] = _encoded(pixels)
                counts[label] += 1
        with (
            atomic.writing(target / f"{split}.tar") as file,
            tarfile.TarFile(fileobj=file, mode="w") as tar,
        ):
            for name, data in sorted(held.items()):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        total += len(held)
    return total


def _encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _read(source: pathlib.Path, name: str) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (label, pixels (32, 32, 3) uint8) of a batch file."""
    size = 3 * _SIDE * _SIDE
    binary, pickled = source / f"{name}.bin", source / name
    if binary.exists():
        data = np.frombuffer(binary.read_bytes(), np.uint8)
        if not len(data) or len(data) % (size + 1):
            raise DataError(f"{binary} has {len(data)} bytes: copy it again")
        rows = data.reshape(-1, size + 1)
        labels, images = rows[:, 0], rows[:, 1:]
    elif pickled.exists():
        found = _unpickled(pickled)
        labels, images = np.asarray(found[b"labels"]), np.asarray(found[b"data"])
    else:
        raise DataError(
            f"there is neither {binary.name} nor {name} in {source}: give the folder of the "
            f"unpacked download as --from"
        )
    pictures = images.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    yield from zip(labels.tolist(), np.ascontiguousarray(pictures), strict=True)


_KNOWN = {
    ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,
}


class _Arrays(pickle.Unpickler):
    """Reads dicts, lists and arrays; nothing else that a file names is run."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns what rebuilds an array; raises UnpicklingError for anything else."""
        found = _KNOWN.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return found


def _unpickled(path: pathlib.Path) -> dict[bytes, Any]:
    try:
        with path.open("rb") as file:
            return _Arrays(file, encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError, ValueError) as error:
        raise DataError(f"{path} is not a batch of CIFAR-10: it has {error}") from error
