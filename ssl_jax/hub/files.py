"""The files of transformers: config.json, safetensors, and the older .bin where torch is there."""

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ssl_jax.core import atomic
from ssl_jax.hub.speech import Config
from ssl_jax.hub.table import Arrays, WeightsError

WEIGHTS, INDEX, OLD = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
# of preprocessor_config.json: what belongs to the function that the weights compute
_PREPROCESSOR = ("do_normalize", "image_mean", "image_std")


@dataclasses.dataclass(frozen=True)
class Source:
    """Weights by the names of transformers, whatever file they came from.

    config: as config.json, with what preprocessor_config.json says of the signal. teacher: of the
    moving average, by the same names, {} where there is none. moments: the first and second of
    Adam, likewise; `updates`: how many made the weights, 0 where that is not known.
    """

    config: Config
    arrays: Arrays
    where: str
    teacher: Arrays = dataclasses.field(default_factory=dict)
    moments: tuple[Arrays, Arrays] = dataclasses.field(default_factory=lambda: ({}, {}))
    updates: int = 0


def read(path: Path) -> Source:
    """Reads a folder of transformers, or one .safetensors file with a config.json beside it.

    Raises WeightsError, naming the file, where something is missing or broken.
    """
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise WeightsError(f"{path} does not exist: --from takes a folder or a file of weights")
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise WeightsError(
            f"{folder} has no config.json: put that of the model beside its weights; its "
            f"model_type says what they are"
        )
    config = _json(config_path)
    if "model_type" not in config:
        raise WeightsError(f"{config_path} has no model_type: add it, such as 'wav2vec2'")
    extractor = folder / "preprocessor_config.json"
    if extractor.is_file():
        said = _json(extractor)
        config = {k: said[k] for k in _PREPROCESSOR if k in said} | config
    units = folder / "vocab.json"
    if units.is_file():
        numbers = _json(units)
        config = {"vocabulary": sorted(numbers, key=numbers.__getitem__)} | config
    return Source(config, _arrays(path, folder), str(config_path))


def _arrays(path: Path, folder: Path) -> Arrays:
    if path.is_file():
        return _load(path)
    if (folder / WEIGHTS).is_file():
        return _load(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        names = sorted(set(_json(folder / INDEX)["weight_map"].values()))
        return {k: x for name in names for k, x in _load(folder / name).items()}
    if (folder / OLD).is_file():
        return _load(folder / OLD)
    raise WeightsError(f"{folder} has no weights: neither {WEIGHTS} nor {INDEX} nor {OLD}")


def _load(path: Path) -> Arrays:
    if not path.is_file():
        raise WeightsError(f"{path} does not exist, but {INDEX} names it")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, ValueError) as error:
            raise WeightsError(f"{path} is no safetensors file: {error}") from error
    torch = torch_for(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(f"{path} is no file of weights of torch: {reason}") from error
    return {name: as_numpy(x) for name, x in loaded.items()}


def torch_for(path: Path) -> Any:
    """Returns torch; raises WeightsError where it is not installed, saying for which file."""
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            f"{path} is in torch's own format: pip install 'ssl_jax[interop]', or save it as "
            f"{WEIGHTS} where torch is installed"
        ) from error
    return torch


def as_numpy(tensor: Any) -> np.ndarray:
    """Returns a tensor of torch as an array, in float32 where it has fractions."""
    return (tensor.float() if tensor.is_floating_point() else tensor).detach().cpu().numpy()


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{path} holds {type(found).__name__}: it should hold one object")
    return found


def write(folder: Path, arrays: Arrays, texts: dict[str, Config]) -> None:
    """Writes a folder that transformers loads: weights, and the JSON files that are not empty."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {k: np.ascontiguousarray(x).reshape(x.shape) for k, x in arrays.items()}
    with atomic.making(folder / WEIGHTS) as part:
        save_file(whole, part, metadata={"format": "pt"})
    for name, value in texts.items():
        if value:
            text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
            atomic.write_text(folder / name, text + "\n")
