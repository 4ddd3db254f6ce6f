"""Reads torch files without torch: a zip archive of tensors, or the format before it.

Nothing in a file is run. An archive is a zip with `data.pkl`, the data of tensors under `data/` and
a few small members, all uncompressed. TorchScript programs, other or compressed members and tar
files are refused before any of their content is read.
"""

import io
import math
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from ssl_jax.hub.pickles import MAX_BYTES, Machine, Named, PickleError
from ssl_jax.hub.table import WeightsError

Storage = np.ndarray
"""The data that tensors are views of: (N,)."""

_TYPES: dict[str, Any] = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_MAGIC = 0x1950A86A20F9469CFC6C  # the first value of the older format
_START = b"\x80\x02\x8a\n" + _MAGIC.to_bytes(10, "little")
_MEMBER = re.compile(
    r"data\.pkl|data/\d+|version|byteorder|\.format_version|\.storage_alignment|"
    r"\.data/serialization_id"
)
_PROGRAM = re.compile(r"code/|constants(\.pkl|/)|extra/|.*\.py$")
_MAX_MEMBERS = 200_000
_REPEATS = 8  # all tensors together may be this many times as large as the file


def read(path: Path) -> Any:
    """Returns the content of a file: dicts and lists, arrays for tensors, stubs for other objects.

    Raises WeightsError, naming the file and why, for a file that is refused or damaged.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_START))
            file.seek(0)
            if start == _START:
                return _read_older(file, path.stat().st_size)
            if start.startswith(b"PK\x03\x04"):
                return _read_zip(file, path.stat().st_size)
        raise PickleError(
            "it is neither an archive of torch.save nor in the format of torch before 1.6"
        )
    except (PickleError, zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError) as error:
        raise WeightsError(f"{path} is not a torch checkpoint: {error}") from error


def as_numpy(tensor: Any, name: str, where: Any) -> np.ndarray:
    """Returns a tensor of a file, floats as float32; raises WeightsError for other objects."""
    if not isinstance(tensor, np.ndarray):
        raise WeightsError(f"{where}: {name} is {_kind(tensor)}, not a plain tensor")
    integers = tensor.dtype.kind in "iub"
    return tensor.astype(tensor.dtype.newbyteorder("=") if integers else np.float32, copy=False)


def _kind(value: Any) -> str:
    return getattr(value, "name", "") or type(value).__name__


class _Tensors:
    """Checks the descriptions of tensors in a pickle and makes arrays from them."""

    def __init__(self, size: int) -> None:
        self._left = _REPEATS * size
        self._bytes: dict[str, tuple[Any, Storage]] = {}
        self.calls = {
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_parameter": lambda args: args[0],
            "torch._utils._rebuild_parameter_with_state": lambda args: args[0],
        }

    def storage(self, given: Sequence[Any]) -> Storage:
        """Returns the data that ("storage", type, key, place, count, ...) names."""
        tag, kind, key, _, count, *view = given
        name = kind.name.rpartition(".")[2] if isinstance(kind, Named) else str(kind)
        if tag != "storage" or name not in _TYPES or not isinstance(key, str):
            raise PickleError(f"it has data of the type {name!r}, which is not supported")
        if type(count) is not int or count < 0 or any(v is not None for v in view):
            raise PickleError(f"the data {key!r} are given in a form that is not supported")
        dtype = self.order(np.dtype(_TYPES[name]))
        if key not in self._bytes:
            self._bytes[key] = (dtype, self.values(key, dtype, count))
        known, found = self._bytes[key]
        if known != dtype or len(found) != count:
            raise PickleError(f"the data {key!r} are named twice, with different types or sizes")
        return found

    def order(self, dtype: np.dtype) -> np.dtype:
        """Returns the dtype in the byte order of the file."""
        return dtype

    def values(self, key: str, dtype: np.dtype, count: int) -> Storage:
        """Returns `count` values of the file."""
        raise NotImplementedError

    def _tensor(self, args: Sequence[Any]) -> np.ndarray:
        storage, offset, shape, steps = args[:4]
        integers = [offset, *shape, *steps]
        if not isinstance(storage, np.ndarray) or len(shape) != len(steps) or len(shape) > 16:
            raise PickleError("it has a tensor in a form that is not supported")
        if any(type(n) is not int or n < 0 for n in integers):
            raise PickleError("it has a tensor with a size or stride below 0")
        count = math.prod(shape)
        last = offset + sum((n - 1) * s for n, s in zip(shape, steps, strict=True))
        if count and (last >= len(storage) or count > len(storage)):
            raise PickleError(f"it has a tensor of {count} values over data of {len(storage)}")
        self._left -= count * storage.itemsize
        if self._left < 0:
            raise PickleError(
                f"its tensors repeat: they are over {_REPEATS} times as large as the file"
            )
        if not count:
            return np.ndarray(shape, storage.dtype)
        strides = [s * storage.itemsize for s in steps]
        return np.ndarray(shape, storage.dtype, storage, offset * storage.itemsize, strides)


class _ZipTensors(_Tensors):
    def __init__(self, archive: zipfile.ZipFile, root: str, size: int, big: bool) -> None:
        super().__init__(size)
        self._archive, self._root, self._big = archive, root, big

    def order(self, dtype: np.dtype) -> np.dtype:
        if self._big and dtype == jnp.bfloat16:
            raise PickleError("it holds big-endian bfloat16, which is not supported")
        return dtype.newbyteorder(">") if self._big and dtype.itemsize > 1 else dtype

    def values(self, key: str, dtype: np.dtype, count: int) -> Storage:
        name = f"{self._root}data/{key}"
        held = self._archive.getinfo(name).file_size
        if count * dtype.itemsize != held:
            raise PickleError(
                f"{name} holds {held} bytes, where its pickle claims {count * dtype.itemsize}"
            )
        return np.frombuffer(self._archive.read(name), dtype)


def _read_zip(file: BinaryIO, size: int) -> Any:
    with zipfile.ZipFile(file) as archive:
        root = _check_members(archive, size)
        names = set(archive.namelist())
        order = archive.read(f"{root}byteorder") if f"{root}byteorder" in names else b"little"
        if order not in (b"little", b"big"):
            raise PickleError(f"its byteorder is {order[:20]!r}, not little or big")
        tensors = _ZipTensors(archive, root, size, order == b"big")
        data = io.BytesIO(archive.read(f"{root}data.pkl"))
        return Machine(tensors.calls, tensors.storage).load(data)


def _check_members(archive: zipfile.ZipFile, size: int) -> str:
    """Returns the folder of all members; raises PickleError unless they are plain tensors."""
    members = archive.infolist()
    if len(members) > _MAX_MEMBERS:
        raise PickleError(f"it has {len(members)} members: up to {_MAX_MEMBERS} are read")
    names = [m.filename for m in members]
    root = next((n.removesuffix("data.pkl") for n in names if n.endswith("/data.pkl")), None)
    inside = [n.removeprefix(root or "") for n in names]
    program = next((n for n in inside if _PROGRAM.match(n)), None)
    if program is not None:
        raise PickleError(
            f"it is a TorchScript archive ({program!r}), a program and not weights alone: save "
            f"its state_dict() with torch.save"
        )
    if root is None or root.count("/") != 1:
        raise PickleError("it is a zip without a data.pkl in a single folder")
    if len(set(names)) < len(names):
        raise PickleError("it has two members with the same name")
    odd = next((n for n in names if not n.startswith(root)), None)
    odd = odd or next((n for n in inside if not _MEMBER.fullmatch(n)), None)
    if odd is not None:
        raise PickleError(f"it has the member {odd!r}, which torch.save does not write")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise PickleError(
                f"{member.filename} is compressed or encrypted: torch.save writes neither"
            )
    if sum(m.file_size for m in members) > size:
        raise PickleError("its members claim more bytes than the file has")
    if archive.getinfo(f"{root}data.pkl").file_size > MAX_BYTES:
        raise PickleError(f"its data.pkl has more than {MAX_BYTES:,} bytes")
    return root


class _OlderTensors(_Tensors):
    """The tensors of the older format, whose data follow the pickles and are read at the end."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._free = size
        self.waiting: dict[str, Storage] = {}

    def values(self, key: str, dtype: np.dtype, count: int) -> Storage:
        self._free -= count * dtype.itemsize
        if self._free < 0:
            raise PickleError("its tensors claim more bytes than the file has")
        self.waiting[key] = np.zeros(count, dtype)
        return self.waiting[key]


def _read_older(file: BinaryIO, size: int) -> Any:
    start = io.BytesIO(file.read(MAX_BYTES))
    tensors = _OlderTensors(size)
    machine = Machine(tensors.calls, tensors.storage)
    _, version, system, found, keys = (machine.load(start) for _ in range(5))
    little = isinstance(system, dict) and system.get("little_endian") is True
    if version != 1001 or not little or not isinstance(keys, list):
        raise PickleError("it is of a version or byte order that is not supported")
    file.seek(start.tell())
    for key in keys:
        if key not in tensors.waiting:
            raise PickleError(f"it has data {key!r} that no tensor uses")
        into = tensors.waiting.pop(key)
        count = int.from_bytes(file.read(8), "little", signed=True)
        data = file.read(into.nbytes) if count == len(into) else b""
        if count != len(into) or len(data) != into.nbytes:
            raise PickleError(f"the data {key!r} do not have the size that its pickle claims")
        into[:] = np.frombuffer(data, into.dtype)
    if tensors.waiting:
        raise PickleError(f"the data {min(tensors.waiting)!r} are missing")
    return found
