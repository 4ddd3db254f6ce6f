"""A digest of the content of a corpus: the bytes of its files, not only their names.

It is the key of caches of what was computed from data, so that a file which is replaced by another
of the same name, length and time is read again.
"""

import concurrent.futures
import hashlib
import io
import os
from collections.abc import Sequence

import numpy as np

from ssl_jax.core import atomic
from ssl_jax.core import paths as paths_lib
from ssl_jax.core.progress import Progress
from ssl_jax.data.errors import Unreadable
from ssl_jax.data.readers import files
from ssl_jax.data.readers.base import Source

_CHUNK = 1 << 22


def of(sources: Sequence[Source]) -> str:
    """Returns a digest (64 hex digits) of the rows of sources and of all files that hold them.

    Every file is read once: digests are cached while the files keep their names, sizes, times and
    inodes. For an object of a store, its version counts instead of its bytes.
    """
    whole = hashlib.sha256()
    for source in sources:
        places = source.places()
        used, file = np.unique(np.asarray(places.file)[source.rows], return_inverse=True)
        named = [name for i in used for name in _held(places.files[i])]
        whole.update(_digest(named, source.name).encode())
        for part in (file, np.asarray(places.start)[source.rows]):
            whole.update(part.astype(np.int64).tobytes())
    return whole.hexdigest()


def _held(name: str) -> list[str]:
    """Returns a file, or all files of the TFDS dataset whose info it is."""
    if os.path.basename(name) != "dataset_info.json":
        return [name]
    folder = paths_lib.fetched(os.path.dirname(name))
    return sorted(str(p) for p in folder.rglob("*") if p.is_file())


def _digest(named: list[str], label: str) -> str:
    """Returns the digest of the contents of files, in their order."""
    kept = paths_lib.cache() / f"contents-{files.fingerprint(named)}.npz"
    found = atomic.read_arrays(kept, ("digest",))
    if found is not None:
        return found["digest"].tobytes().hex()
    digest = hashlib.sha256()
    bar = Progress(f"reading files of {label}", len(named))
    with concurrent.futures.ThreadPoolExecutor(8) as pool, bar:
        for one in pool.map(_of_file, named):
            digest.update(one)
            bar.step()
    files.save_index(kept, digest=np.frombuffer(digest.digest(), np.uint8))
    return digest.hexdigest()


def _of_file(path: str) -> bytes:
    """Returns a digest of the bytes of a file, or a constant for one that cannot be read."""
    digest = hashlib.sha256()
    try:
        if paths_lib.is_remote(path):
            return hashlib.sha256(files.state(path).encode()).digest()
        found = files.opened(path)
        with found if isinstance(found, io.BytesIO) else open(found, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except (OSError, Unreadable) as error:
        return f"unreadable: {type(error).__name__}".encode()
    return digest.digest()
