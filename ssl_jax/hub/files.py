"""The files of transformers: config.json, safetensors, and the older .bin, read without torch."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ssl_jax.core import atomic
from ssl_jax.hub import torch_files, vocabulary
from ssl_jax.hub.speech import Config
from ssl_jax.hub.table import Arrays, WeightsError

WEIGHTS, INDEX, OLD = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
MAX_JSON = 64 * 2**20  # bytes
MAX_SIZE = 1_000_000  # of a width, a depth or a vocabulary
MAX_LAYERS = 1000
# keys of a config: sizes of arrays, and counts that are iterated over
_SIZES = (
    *("hidden_size", "num_attention_heads", "intermediate_size", "vocab_size", "image_size"),
    *("patch_size", "num_conv_pos_embedding_groups", "max_position_embeddings"),
    *("conv_pos_kernel_size", "conv_depthwise_kernel_size", "num_codevectors_per_group"),
    *("num_codevector_groups", "codevector_dim", "proj_codevector_dim", "position_kernel"),
    *("decoder_hidden_size", "decoder_num_attention_heads", "decoder_intermediate_size"),
    *("conv_channels", "position_groups", "num_frames", "tubelet_size"),
)
_LAYERS = (
    *("num_hidden_layers", "decoder_num_hidden_layers", "num_conv_pos_embeddings"),
    *("position_depth", "prenet_depth"),
)
_LISTS = ("conv_dim", "conv_kernel", "conv_stride")
# keys of preprocessor_config.json that are part of the function that the weights compute
_PREPROCESSOR = ("do_normalize", "image_mean", "image_std")


@dataclasses.dataclass(frozen=True)
class Source:
    """Weights under transformers' names, whatever file they came from.

    config: config.json, with the settings of the input from preprocessor_config.json. teacher: the
    moving average under the same names, {} if there is none. moments: Adam's first and second,
    likewise. updates: the number of updates that made the weights, 0 if unknown.
    """

    config: Config
    arrays: Arrays
    where: str
    teacher: Arrays = dataclasses.field(default_factory=dict)
    moments: tuple[Arrays, Arrays] = dataclasses.field(default_factory=lambda: ({}, {}))
    updates: int = 0


def read(path: Path) -> Source:
    """Reads a folder of transformers, or one .safetensors file with a config.json next to it.

    Raises WeightsError, naming the file, if something is missing or damaged.
    """
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise WeightsError(f"{path} does not exist: --from takes a folder or a file of weights")
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise WeightsError(
            f"{folder} has no config.json: put the model's next to its weights; its model_type "
            f"names the family"
        )
    config = _json(config_path)
    if "model_type" not in config:
        raise WeightsError(f"{config_path} has no model_type: add it, for example 'wav2vec2'")
    check_sizes(config, config_path)
    extractor = folder / "preprocessor_config.json"
    if extractor.is_file():
        said = _json(extractor)
        config = {k: said[k] for k in _PREPROCESSOR if k in said} | config
    if config["model_type"] != "data2vec-text":  # whose vocab.json is not a classifier's
        beside = [name for name in vocabulary.FILES if (folder / name).is_file()]
        config["tokenizer"] = {name: _json(folder / name) for name in beside}
    return Source(config, _arrays(path, folder), str(config_path))


def check_sizes(config: Config, where: Path) -> None:
    """Raises WeightsError for a size that no model has, before anything so large is made."""
    limits = dict.fromkeys(_SIZES, MAX_SIZE) | dict.fromkeys(_LAYERS, MAX_LAYERS)
    for key, most in limits.items():
        value = config.get(key)
        if value is not None and (type(value) is not int or not 0 <= value <= most):
            raise WeightsError(f"{where}: {key} is {value!r}: use 1 to {most}")
    for key in _LISTS:
        value = config.get(key, [])
        if not isinstance(value, list) or len(value) > MAX_LAYERS:
            raise WeightsError(f"{where}: {key} is not a list of at most {MAX_LAYERS} numbers")


def _arrays(path: Path, folder: Path) -> Arrays:
    if path.is_file():
        return _load(path)
    if (folder / WEIGHTS).is_file():
        return _load(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        return {k: x for path in _parts(folder / INDEX) for k, x in _load(path).items()}
    if (folder / OLD).is_file():
        return _load(folder / OLD)
    raise WeightsError(f"{folder} has no weights: neither {WEIGHTS} nor {INDEX} nor {OLD}")


def _parts(index: Path) -> list[Path]:
    """Returns the files that an index names, which must all be next to it."""
    found = _json(index).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise WeightsError(f"{index} has no weight_map from arrays to files")
    for name in found.values():
        own = isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors")
        if not own:
            raise WeightsError(f"{index}: {name!r} is not a .safetensors file next to it")
    return [index.parent / name for name in sorted(set(found.values()))]


def _load(path: Path) -> Arrays:
    if not path.is_file():
        raise WeightsError(f"{path} does not exist, but {INDEX} names it")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, ValueError) as error:
            raise WeightsError(f"{path} is not a safetensors file: {error}") from error
    loaded = torch_files.read(path)
    if not isinstance(loaded, dict):
        raise WeightsError(f"{path} holds {type(loaded).__name__}, not weights by name")
    return {str(name): torch_files.as_numpy(x, str(name), path) for name, x in loaded.items()}


def torch_for(path: Path) -> Any:
    """Returns torch; raises WeightsError, naming the file, if it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            f"{path} is in torch's own format: pip install 'ssl_jax[interop]', or save it as "
            f"{WEIGHTS} where torch is installed"
        ) from error
    return torch


def _json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_JSON:
        raise WeightsError(f"{path} has {path.stat().st_size} bytes: up to {MAX_JSON} are read")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{path} holds {type(found).__name__}: it should hold one JSON object")
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
