"""Checkpoints of AudioMAE as its authors publish them: encoder with decoder, or fine-tuned.

A file has `model`, whose encoder has timm's names. The fixed tables of positions tell the grid:
they are those of the true grid of 64 x 8 patches or of one of 8 x 64 (nn/spectrogram.py). The shape
of the decoder's windows is not in a file: it is the published one, 4 x 4.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.hub import torch_files
from ssl_jax.hub.files import Source, check_sizes
from ssl_jax.hub.moco import timm_rows
from ssl_jax.hub.speech import Config, Options
from ssl_jax.hub.table import Arrays, Row, WeightsError, linear, norm, to_theirs
from ssl_jax.ops.patches import sincos_table

MODEL_TYPE, PATCH, MELS, HEAD = "audiomae", 16, 128, 64
_TABLES = ("pos_embed", "decoder_pos_embed")
_QKV = "attn.qkv."
_BLOCK = "decoder_blocks.{i}"


def is_checkpoint(loaded: Any) -> bool:
    """Returns whether the content of a file is a checkpoint of AudioMAE."""
    model = loaded.get("model") if isinstance(loaded, dict) else None
    kernel = model.get("patch_embed.proj.weight") if isinstance(model, dict) else None
    return "cls_token" in (model or ()) and getattr(kernel, "shape", ())[1:] == (1, PATCH, PATCH)


def source(loaded: dict[str, Any], path: Path) -> Source:
    """Returns the weights of a checkpoint; raises WeightsError where they are not as expected."""
    model = {str(n): torch_files.as_numpy(x, str(n), path) for n, x in loaded["model"].items()}
    config = _config_of(model, path)
    check_sizes(config, path)
    tables = [(name, model[name]) for name in _TABLES if name in model]
    try:
        grids = [_pos_grid(name, table, config["rows"]) for name, table in tables]
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    return Source(config | {"pos_grid": grids[0]}, _apart(model), str(path))


def _apart(model: Arrays) -> Arrays:
    """Returns the arrays with query, key and value apart."""
    found = {}
    for name, x in model.items():
        if _QKV not in name:
            found[name] = x
            continue
        for part, own in zip("qkv", np.split(x, 3), strict=True):
            found[name.replace(_QKV, f"attn.{part}.")] = own
    return found


def _config_of(model: Arrays, path: Path) -> Config:
    """Returns what the shapes of the arrays tell, as a config of ours."""
    for name in ("pos_embed", "blocks.0.mlp.fc1.weight"):
        if name not in model:
            raise WeightsError(f"{path} has no {name}: it is no checkpoint of AudioMAE")
    width, columns = model["cls_token"].shape[-1], MELS // PATCH
    size = model["pos_embed"].shape[1] - 1
    if size % columns:
        raise WeightsError(
            f"{path}: pos_embed has {size} patches, which are no rows of {columns}: only models "
            f"whose patches do not overlap can be read"
        )
    config: Config = {
        "model_type": MODEL_TYPE,
        "hidden_size": width,
        "num_hidden_layers": _depth(model, "blocks."),
        "num_attention_heads": max(1, width // HEAD),
        "intermediate_size": len(model["blocks.0.mlp.fc1.weight"]),
        "rows": size // columns,
        "final_norm": "norm.weight" in model,
    }
    if "head.weight" in model:
        config["outputs"] = len(model["head.weight"])
    if "decoder_embed.weight" in model:
        config["decoder"] = _decoder_of(model)
    return config


def _depth(model: Arrays, start: str) -> int:
    return len({n.split(".")[1] for n in model if n.startswith(start)})


def _decoder_of(model: Arrays) -> dict[str, Any]:
    tau = model.get("decoder_blocks.0.attn.tau")
    near = model.get("decoder_blocks.0.attn.meta_mlp.fc1.weight")
    return {
        "width": len(model["decoder_embed.weight"]),
        "depth": _depth(model, "decoder_blocks."),
        # without windows, the shapes do not tell: that of the original
        "heads": 16 if tau is None else int(tau.size),
        "mlp_width": len(model["decoder_blocks.0.mlp.fc1.weight"]),
        "bias_width": 0 if near is None else len(near),
    }


def options(config: Config, arrays: Arrays, where: str) -> Options:
    """Returns the keys of config.method.encoder that the weights determine."""
    del arrays, where
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    found = dict(zip(("width", "depth", "heads", "mlp_width"), map(config.get, names), strict=True))
    found |= {"norm": "pre", "eps": 1e-6, "class_token": True, "embed_norm": False}
    found |= {"features": MODEL_TYPE, "num_mels": MELS, "patch": (PATCH, PATCH)}
    found |= {"frames": PATCH * config["rows"], "positions": "sincos"}
    found |= {"pos_grid": config["pos_grid"]}
    return found | ({} if config["final_norm"] else {"final_norm": False})


def decoder_section(config: Config) -> Options:
    """Returns the keys of config.method of MAE that the weights determine."""
    if "decoder" not in config:
        return {}
    sizes = dict(config["decoder"])
    near = sizes.pop("bias_width")
    if not near:
        return {"decoder": sizes, "attention": "global"}
    return {"decoder": sizes, "attention": "local", "local": {"bias_width": near}}


def rows(o: Any) -> list[Row]:
    """Returns the map of the encoder."""
    found = [
        Row("patch_embed.proj.weight", "encoder/frontend/projection/kernel", "cells"),
        Row("patch_embed.proj.bias", "encoder/frontend/projection/bias"),
        Row("cls_token", "encoder/cls", "token"),
        *timm_rows("blocks.{i}", "encoder/blocks", o.depth),
    ]
    return found if o.final_norm is False else found + norm("norm", "encoder/final_norm")


def decoder_rows(method: Any) -> list[Row]:
    """Returns the map of the decoder."""
    part, depth, ours = "decoder", method["decoder"]["depth"], "decoder/blocks"
    found = [
        *linear("decoder_embed", "decoder/embed", part=part),
        Row("mask_token", "decoder/mask", "token", part=part),
        *timm_rows(_BLOCK, ours, depth, part),
        *norm("decoder_norm", "decoder/final_norm", part=part),
        *linear("decoder_pred", "decoder/predict", part=part),
    ]
    if method["attention"] == "local":
        found.append(Row(f"{_BLOCK}.attn.tau", f"{ours}/attention/tau", "heads", depth, part))
        for i in range(2):
            theirs = f"{_BLOCK}.attn.meta_mlp.fc{i + 1}"
            found += linear(theirs, f"{ours}/attention/offset{i}", depth, part)
    return found


def head_rows(method: Any) -> list[Row]:
    """Returns the map of a fine-tuned head: the norm of the pooled patches, and a Linear."""
    del method
    found = norm("fc_norm", "head/norm", part="head")
    return found + linear("head", "head/classifier", part="head")


def head_section(config: Config) -> Options:
    """Returns the keys of config.method of a tagger that the weights determine."""
    return {"task": "tag", "outputs": config["outputs"]} if "outputs" in config else {}


def tidy(arrays: Arrays, config: Config) -> Arrays:
    """Drops the fixed positions, which `source` has checked."""
    del config
    return {n: x for n, x in arrays.items() if n not in _TABLES}


def _pos_grid(name: str, table: np.ndarray, count: int) -> str:
    """Returns which grid a table (1, 1 + S, D) numbers."""
    grid = (count, MELS // PATCH)
    for found, own in (("official", grid[::-1]), ("correct", grid)):
        wanted = sincos_table(own, table.shape[-1])
        if not table[0, 0].any() and np.allclose(table[0, 1:], wanted, atol=1e-5):
            return found
    raise WeightsError(f"{name} is not AudioMAE's fixed table: only that table can be read")


def checkpoint(
    family: Any, o: Any, method: Any, arrays: Arrays, classes: tuple[str, ...]
) -> tuple[dict[str, Any], list[str]]:
    """Returns (the content of a file as its authors publish it, parameters without a place in it).

    Raises WeightsError for an encoder that their code does not have.
    """
    del classes
    _check(o)
    theirs, left = to_theirs(family.rows(o, method, beside=True), arrays)
    found = _joined(theirs)
    grid = (o.frames // PATCH, MELS // PATCH)
    grid = grid[::-1] if o.pos_grid == "official" else grid
    widths = {"pos_embed": o.width}
    if "mask_token" in found:
        widths["decoder_pos_embed"] = method["decoder"]["width"]
    for name, width in widths.items():
        table = sincos_table(grid, width)
        found[name] = np.concatenate([np.zeros((1, width), np.float32), table])[None]
    return {"model": found}, left


def _joined(arrays: Arrays) -> Arrays:
    """Undoes `_apart`."""
    found: Arrays = {}
    for name, x in arrays.items():
        start, own, ending = name.partition("attn.q.")
        if own:
            parts = [arrays[f"{start}attn.{part}.{ending}"] for part in "qkv"]
            found[f"{start}{_QKV}{ending}"] = np.concatenate(parts)
        elif "attn.k." not in name and "attn.v." not in name:
            found[name] = x
    return found


def _check(o: Any) -> None:
    wanted = {"num_mels": MELS, "patch": (PATCH, PATCH), "class_token": True, "norm": "pre"}
    wanted |= {"qkv_bias": True, "key_bias": True, "out_proj": True, "embed_norm": False}
    wanted |= {"positions": "sincos", "layer_scale": 0.0, "stride": None}
    for key, value in wanted.items():
        if getattr(o, key) != value:
            raise WeightsError(
                f"config.method.encoder.{key} is {getattr(o, key)!r}, and AudioMAE has {value!r}"
            )
    if o.frames is None:
        raise WeightsError(
            "config.method.encoder.frames is None, and AudioMAE has a fixed number: use 1024"
        )
