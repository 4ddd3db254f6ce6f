"""An in-memory object store for etils.epath and fsspec, as limited as a real one."""

import io
from typing import Any, ClassVar

import fsspec
from etils.epath import backend
from fsspec.registry import _registry


class ObjectStore(fsspec.AbstractFileSystem):
    """Objects by name, written in full; without folders, appending, memory maps or renaming.

    `objects`: name -> (bytes, generation). `asked`: the names read and written, in order.
    """

    protocol = ("gs", "gcs")
    cachable = False
    objects: ClassVar[dict[str, tuple[bytes, int]]] = {}
    asked: ClassVar[list[tuple[str, str]]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(path).split("://")[-1].strip("/")

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """Describes an object, or a prefix that looks like a folder."""
        name = self._strip_protocol(path)
        if name in self.objects:
            data, generation = self.objects[name]
            about = {"size": len(data), "generation": generation}
            return {"name": name, "type": "file", **about}
        if any(other.startswith(name + "/") for other in self.objects):
            return {"name": name, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def ls(self, path: str, detail: bool = True, **options: Any) -> list:
        """Lists the names directly below a name."""
        name = self._strip_protocol(path)
        inside = [n for n in self.objects if n.startswith(name + "/")]
        if not inside and name not in self.objects:
            raise FileNotFoundError(path)
        start = len(name) + 1
        below = {name + "/" + n[start:].split("/")[0] for n in inside} or {name}
        return [self.info(n) if detail else n for n in sorted(below)]

    def mkdir(self, path: str, create_parents: bool = True, **options: Any) -> None:
        """Does nothing, as there are no folders."""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Does nothing, as there are no folders."""

    def rm_file(self, path: str) -> None:
        """Removes an object."""
        del self.objects[self._strip_protocol(path)]

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        """Copies an object."""
        self.objects[self._strip_protocol(path2)] = self.objects[self._strip_protocol(path1)]

    def mv(self, path1: str, path2: str, **options: Any) -> None:
        """Fails, since objects cannot be renamed."""
        raise NotImplementedError(f"an object cannot be renamed: {path1}")

    def _open(self, path: str, mode: str = "rb", **options: Any) -> io.BytesIO:
        name = self._strip_protocol(path)
        self.asked.append((mode, name))
        if mode == "rb":
            if name not in self.objects:
                raise FileNotFoundError(path)
            return io.BytesIO(self.objects[name][0])
        if mode != "wb":
            raise NotImplementedError(f"an object cannot be opened as {mode}: {path}")
        return _Written(self, name)


class _Written(io.BytesIO):
    def __init__(self, store: ObjectStore, name: str):
        super().__init__()
        self.store, self.name = store, name

    def close(self) -> None:
        if not self.closed:
            generation = self.store.objects.get(self.name, (b"", 0))[1] + 1
            self.store.objects[self.name] = self.getvalue(), generation
        super().close()


def install(monkeypatch: Any) -> type[ObjectStore]:
    """Makes gs:// refer to a new empty store until the test ends."""
    own = type("OwnStore", (ObjectStore,), {"objects": {}, "asked": []})
    for name in ("gs", "gcs"):
        monkeypatch.setitem(_registry, name, own)
    # epath caches the first file system that it finds
    one = lambda self, name: own()  # noqa: E731
    monkeypatch.setattr(type(backend.fsspec_backend), "_get_filesystem", one)
    return own
