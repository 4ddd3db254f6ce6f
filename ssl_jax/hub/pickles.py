"""Reads files of torch without running what they name: unknown classes become empty ones."""

import pickle
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl_jax.hub.files import torch_for
from ssl_jax.hub.table import WeightsError


class Stub:
    """Stands for an object of a class that is not here; keeps what it was made of."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__dict__.setdefault("items", {})[key] = value

    def append(self, item: Any) -> None:
        """Keeps an item of what was a list."""
        self.__dict__.setdefault("list", []).append(item)

    def extend(self, items: Sequence[Any]) -> None:
        """Keeps items of what was a list."""
        self.__dict__.setdefault("list", []).extend(items)


_ALLOWED = {
    "collections": {"OrderedDict", "defaultdict"},
    "argparse": {"Namespace"},
    "torch": {"Size", "device", "bfloat16", "float16", "float32", "float64", "int64"},
    "torch._utils": {"_rebuild_tensor_v2", "_rebuild_tensor", "_rebuild_parameter"},
    "torch.serialization": {"_get_layout"},
    "copyreg": {"_reconstructor"},
    "builtins": {"dict", "list", "tuple", "set", "int", "float", "str", "bool", "object"},
    "__builtin__": {"dict", "list", "tuple", "set", "int", "float", "str", "bool", "object"},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        storage = module in ("torch", "torch.storage") and name.endswith("Storage")
        if storage or name in _ALLOWED.get(module, ()):
            return super().find_class(module, name)
        return Stub


def _load_pickle(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


_PICKLE = types.SimpleNamespace(
    Unpickler=_Unpickler,
    load=_load_pickle,
    __name__="stubs",
    UnpicklingError=pickle.UnpicklingError,
)


def read(path: Path) -> dict[str, Any]:
    """Returns what a file of torch holds, with stubs for objects of classes unknown here."""
    torch = torch_for(path)
    try:
        loaded = torch.load(path, map_location="cpu", pickle_module=_PICKLE, weights_only=False)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise WeightsError(f"{path} is no checkpoint of torch: {error}") from error
    if not isinstance(loaded, dict):
        raise WeightsError(f"{path} holds {type(loaded).__name__}, no checkpoint of fairseq")
    return loaded


def plain(value: Any) -> Any:
    """Turns stubs of omegaconf, enums and namespaces into dicts, lists and values."""
    if isinstance(value, Stub):
        state = getattr(value, "state", None)
        if isinstance(state, dict) and "_content" in state:
            return plain(state["_content"])
        if isinstance(state, dict) and "_val" in state:
            return plain(state["_val"])
        if value.args:
            return plain(value.args[0])
        return plain(getattr(value, "list", getattr(value, "items", state)))
    if hasattr(value, "__dict__") and type(value).__name__ == "Namespace":
        value = vars(value)
    if isinstance(value, dict):
        return {plain(k): plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value
