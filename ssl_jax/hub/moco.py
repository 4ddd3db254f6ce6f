"""Checkpoints of MoCo v3 as its authors publish them: student, momentum encoder, heads.

The names are `module.base_encoder.*`, `module.momentum_encoder.*` and `module.predictor.*`; the
projector is the `head` of an encoder. Running statistics of the heads are not read, since training
does not use them.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.hub import torch_files
from ssl_jax.hub.files import Source, check_sizes
from ssl_jax.hub.speech import Config, Options
from ssl_jax.hub.table import Arrays, Row, WeightsError, linear, norm
from ssl_jax.ops.patches import sincos_table

STUDENT, TEACHER, PREDICTOR = "module.base_encoder.", "module.momentum_encoder.", "module."
HEADS = 12  # of Small and Base: the shapes of the weights do not tell
_BLOCK, _QKV = "blocks.{i}", "attn.qkv."


def is_checkpoint(loaded: Any) -> bool:
    """Returns whether the content of a file is a checkpoint of MoCo v3."""
    state = loaded.get("state_dict") if isinstance(loaded, dict) else None
    return isinstance(state, dict) and any(str(n).startswith(STUDENT) for n in state)


def source(loaded: dict[str, Any], path: Path) -> Source:
    """Returns the weights of a checkpoint; raises WeightsError where they are not as expected."""
    state = {n: torch_files.as_numpy(x, n, path) for n, x in loaded["state_dict"].items()}
    own = _part(state, STUDENT) | _part(state, PREDICTOR, "predictor.")
    config = _config_of(own, path)
    check_sizes(config, path)
    return Source(config, own, str(path), _part(state, TEACHER))


def _part(state: Arrays, start: str, only: str = "") -> Arrays:
    """Returns the arrays behind a prefix, with query, key and value apart."""
    found = {}
    for name, x in state.items():
        if not name.startswith(start + only):
            continue
        name = name.removeprefix(start)
        if _QKV not in name:
            found[name] = x
            continue
        for part, own in zip("qkv", np.split(x, 3), strict=True):
            found[name.replace(_QKV, f"attn.{part}.")] = own
    return found


def _config_of(arrays: Arrays, path: Path) -> Config:
    needed = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight")
    for name in needed:
        if name not in arrays:
            raise WeightsError(f"{path} has no {STUDENT}{name}: it is no checkpoint of MoCo v3")
    patch = arrays[needed[2]].shape[-1]
    config = {
        "model_type": "moco_v3",
        "hidden_size": arrays["cls_token"].shape[-1],
        "num_hidden_layers": len({n.split(".")[1] for n in arrays if n.startswith("blocks.")}),
        "num_attention_heads": HEADS,
        "intermediate_size": len(arrays[needed[3]]),
        "patch_size": patch,
        "image_size": patch * round((arrays["pos_embed"].shape[1] - 1) ** 0.5),
    }
    if "head.0.weight" in arrays and "predictor.3.weight" in arrays:
        outputs, hidden = arrays["predictor.3.weight"].shape
        config |= {"head": {"hidden": hidden, "outputs": outputs}}
    return config


def options(config: Config, arrays: Arrays, where: str) -> Options:
    """Returns the keys of config.method.encoder that the weights determine."""
    del arrays, where
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    found = dict(zip(("width", "depth", "heads", "mlp_width"), map(config.get, names), strict=True))
    found |= {name: config[name] for name in ("image_size", "patch_size")}
    found |= {"norm": "pre", "eps": 1e-6, "class_token": True, "embed_norm": False}
    return found | {"positions": "sincos", "row_first": True, "stem": "patches"}


def section(config: Config) -> Options:
    """Returns the keys of config.method of MoCo v3 that the weights determine."""
    return {"head": config["head"]} if "head" in config else {}


def rows(o: Any) -> list[Row]:
    """Returns the map of the encoder."""
    blocks = "encoder/blocks"
    found = [
        Row("patch_embed.proj.weight", "encoder/frontend/projection/kernel", "patches"),
        Row("patch_embed.proj.bias", "encoder/frontend/projection/bias"),
        Row("cls_token", "encoder/cls", "token"),
        *norm("norm", "encoder/final_norm"),
    ]
    return found + timm_rows(_BLOCK, blocks, o.depth)


def timm_rows(
    block: str, blocks: str, depth: int, part: str = "", key_bias: bool = True
) -> list[Row]:
    """Returns the map of blocks with timm's names, whose query, key and value are apart."""
    found: list[Row] = []
    pairs = {
        **{f"attn.{n[0]}": f"attention/{n}" for n in ("query", "key", "value")},
        "attn.proj": "attention/out",
        "mlp.fc1": "mlp/up",
        "mlp.fc2": "mlp/down",
    }
    for theirs, ours in pairs.items():
        bias = key_bias or theirs != "attn.k"
        found += linear(f"{block}.{theirs}", f"{blocks}/{ours}", depth, part, bias)
    for name in ("norm1", "norm2"):
        found += norm(f"{block}.{name}", f"{blocks}/{name}", depth, part)
    return found


def head_rows(method: Any) -> list[Row]:
    """Returns the map of projector and predictor: Linear, norm, ReLU, as often as they are deep."""
    found: list[Row] = []
    for theirs, ours in (("head", "projector"), ("predictor", "predictor")):
        layers = method["head"][f"{ours}_layers"]
        for i in range(layers):
            found += linear(f"{theirs}.{3 * i}", f"{ours}/linear{i}", part=ours, bias=False)
            if i < layers - 1:
                found += norm(f"{theirs}.{3 * i + 1}", f"{ours}/norm{i}", part=ours)
    return found


def tidy(arrays: Arrays, config: Config) -> Arrays:
    """Drops the fixed positions and what only counts; raises WeightsError for other positions."""
    if not arrays:
        return {}
    side = config["image_size"] // config["patch_size"]
    table = arrays["pos_embed"]
    wanted = sincos_table((side, side), table.shape[-1], row_first=True)
    if table[0, 0].any() or not np.allclose(table[0, 1:], wanted, atol=1e-5):
        raise WeightsError("pos_embed is not MoCo v3's fixed table: only that table can be read")
    return {n: x for n, x in arrays.items() if n != "pos_embed"}
