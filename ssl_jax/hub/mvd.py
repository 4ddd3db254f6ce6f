"""Checkpoints of MVD as its authors publish them: the student, and a decoder for each teacher.

A file has `model`, whose encoder has timm's names; query and value have a bias, and the key has
none. What the arrays do not tell is as published: 16 frames of 224 x 224 pixels, and the heads of
each width. Positions are fixed and, where a file has them, not read.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.hub import torch_files
from ssl_jax.hub.files import Source, check_sizes
from ssl_jax.hub.moco import timm_rows
from ssl_jax.hub.speech import Config, Options
from ssl_jax.hub.table import Arrays, Row, WeightsError, linear, norm

MODEL_TYPE, SIDE, FRAMES = "mvd", 224, 16
HEADS = {384: 6, 768: 12, 1024: 16, 1280: 16}
DECODER_HEADS = {384: 6, 768: 12, 512: 8, 640: 8}
TEACHERS = {"image": "img", "video": "vid"}
_QKV, _KERNEL = "attn.qkv.weight", "patch_embed.proj.weight"


def is_checkpoint(loaded: Any) -> bool:
    """Returns whether the content of a file is a checkpoint of MVD."""
    model = loaded.get("model") if isinstance(loaded, dict) else None
    return isinstance(model, dict) and any(f"down_{n}.weight" in model for n in TEACHERS.values())


def source(loaded: dict[str, Any], path: Path) -> Source:
    """Returns the weights of a checkpoint; raises WeightsError where they are not as expected."""
    model = {str(n): torch_files.as_numpy(x, str(n), path) for n, x in loaded["model"].items()}
    config = _config_of(model, path)
    check_sizes(config, path)
    return Source(config, _apart(model), str(path))


def _apart(model: Arrays) -> Arrays:
    """Returns the arrays with query, key and value apart, and without positions."""
    found = {}
    for name, x in model.items():
        start, own, _ = name.partition(_QKV)
        if own:
            for part, weight in zip("qkv", np.split(x, 3), strict=True):
                found[f"{start}attn.{part}.weight"] = weight
        elif not name.startswith("pos_embed"):
            for part in "qv":
                name = name.replace(f"attn.{part}_bias", f"attn.{part}.bias")
            found[name] = x
    if found[_KERNEL].ndim == 5:
        kernel = found[_KERNEL].transpose(0, 2, 3, 4, 1)
        found[_KERNEL] = kernel.reshape(len(kernel), -1)
    return found


def _config_of(model: Arrays, path: Path) -> Config:
    """Returns what the shapes of the arrays tell, as a config of ours."""
    for name in (_KERNEL, "blocks.0.mlp.fc1.weight"):
        if name not in model:
            raise WeightsError(f"{path} has no {name}: it is no checkpoint of MVD")
    kernel = model[_KERNEL]
    if kernel.ndim != 5:
        raise WeightsError(f"{path}: {_KERNEL} has the shape {kernel.shape}: five axes are read")
    width = len(kernel)
    config: Config = {
        "model_type": MODEL_TYPE,
        "hidden_size": width,
        "num_hidden_layers": _depth(model, "blocks."),
        "num_attention_heads": HEADS.get(width, max(1, width // 64)),
        "intermediate_size": len(model["blocks.0.mlp.fc1.weight"]),
        "patch_size": kernel.shape[-1],
        "tubelet_size": kernel.shape[2],
        "image_size": SIDE // kernel.shape[-1] * kernel.shape[-1],
        "num_frames": FRAMES,
        "teachers": [name for name, own in TEACHERS.items() if f"down_{own}.weight" in model],
    }
    own = TEACHERS[config["teachers"][0]]
    inner = len(model[f"down_{own}.weight"])
    hidden = model.get(f"decoder_{own}.blocks.0.mlp.fc1.weight")
    if hidden is None:
        raise WeightsError(f"{path} has down_{own}, but no decoder_{own}.blocks.0.mlp.fc1.weight")
    config["decoder"] = {
        "width": inner,
        "depth": _depth(model, f"decoder_{own}.blocks."),
        "heads": DECODER_HEADS.get(inner, max(1, inner // 64)),
        "mlp_width": len(hidden),
    }
    return config


def _depth(model: Arrays, start: str) -> int:
    numbers = {n.removeprefix(start).split(".")[0] for n in model if n.startswith(start)}
    return len(numbers)


def options(config: Config, arrays: Arrays, where: str) -> Options:
    """Returns the keys of config.method.encoder that the weights determine."""
    del arrays, where
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    found = dict(zip(("width", "depth", "heads", "mlp_width"), map(config.get, names), strict=True))
    found |= {"image_size": config["image_size"], "patch_size": config["patch_size"]}
    found |= {"frames": config["num_frames"], "tubelet": config["tubelet_size"]}
    return found | {"norm": "pre", "eps": 1e-6, "positions": "space_time", "key_bias": False}


def section(config: Config) -> Options:
    """Returns the keys of config.method of MVD that the weights determine."""
    return {"decoder": dict(config["decoder"])}


def rows(o: Any) -> list[Row]:
    """Returns the map of the encoder."""
    return [
        Row(_KERNEL, "encoder/frontend/projection/kernel", "reverse"),
        Row(_KERNEL.replace("weight", "bias"), "encoder/frontend/projection/bias"),
        *timm_rows("blocks.{i}", "encoder/blocks", o.depth, key_bias=False),
        *norm("norm", "encoder/final_norm"),
    ]


def decoder_rows(method: Any) -> list[Row]:
    """Returns the map of the decoders."""
    found: list[Row] = []
    for name, own in TEACHERS.items():
        ours, theirs, part = f"decoders/{name}", f"decoder_{own}", f"decoder of {name}s"
        depth = method["decoder"]["depth"]
        found += [
            *linear(f"down_{own}", f"{ours}/embed", part=part),
            Row(f"mask_token_{own}", f"{ours}/mask", "token", part=part),
            *timm_rows(f"{theirs}.blocks.{{i}}", f"{ours}/blocks", depth, part, key_bias=False),
            *norm(f"{theirs}.norm", f"{ours}/final_norm", part=part),
            *linear(f"{theirs}.head", f"{ours}/predict", part=part),
        ]
    return found


def tidy(arrays: Arrays, config: Config) -> Arrays:
    """Returns the arrays, which `source` has brought to the form of the map."""
    del config
    return arrays
