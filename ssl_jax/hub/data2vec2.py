"""data2vec 2.0 under fairseq's names (examples/data2vec); transformers has no such model.

fairseq keeps the blocks of a modality (`context_encoder`) apart from those that all modalities
share, and query, key and value in one matrix. `tidy` converts a checkpoint to one stack of blocks
and three matrices, which the map expects, and `dress` undoes this. The config of a checkpoint is
read and written in `data2vec2_config`.
"""

from typing import Any

import numpy as np

from ssl_jax.hub.speech import Config, Options
from ssl_jax.hub.table import Arrays, Row, WeightsError, linear, norm
from ssl_jax.ops.patches import sincos_table

KINDS = {"audio": "waveform", "image": "vit", "text": "text"}
# text: positions are counted from the row after that of the padding token
FIRST = 2
_PARTS = ("q", "k", "v")
_POSITIONS = "fixed_positional_encoder.positions"
_TOKENS = "local_encoder.embed_positions.weight"
_SCALE = "alibi_scale"
# (key of the config that data2vec2_config makes, key of config.method.encoder)
SIZES = (
    ("hidden_size", "width"),
    ("num_hidden_layers", "depth"),
    ("num_attention_heads", "heads"),
    ("intermediate_size", "mlp_width"),
    ("layer_norm_eps", "eps"),
)
# keys of config.method.encoder that this config has under the same name
SAME = {
    "audio": (
        *("conv_channels", "conv_kernels", "conv_strides", "conv_norm", "normalize"),
        *("position_depth", "position_kernel", "position_groups"),
    ),
    "image": ("image_size", "patch_size", "class_token"),
    "text": (),
}
# options that an encoder here must have for fairseq to have it too
WANTED: dict[str, dict[str, Any]] = {
    "": {
        "norm": "post",
        "qkv_bias": True,
        "key_bias": True,
        "out_proj": True,
        "layer_scale": 0.0,
    },
    "audio": {"blocks": "transformer", "positions": "stack"},
    "image": {"embed_norm": True},
    "text": {"embed_norm": True, "eps": 1e-5},
}


def modality(model_type: str) -> str:
    """Returns audio, image or text."""
    return model_type.removeprefix("data2vec2-")


def options(config: Config, arrays: Arrays, where: str) -> Options:
    """Returns the keys of config.method.encoder that a checkpoint determines."""
    del where
    kind = modality(config["model_type"])
    found: Options = {ours: config[theirs] for theirs, ours in SIZES}
    found |= {"norm": "post", "final_norm": None} | {key: config[key] for key in SAME[kind]}
    if kind == "audio":
        found["conv_bias"] = "local_encoder.conv_layers.0.0.bias" in arrays
        found["positions"] = "stack"
        fixed = "fixed" if config["alibi"] else "none"
        found["alibi"] = "learned" if _SCALE in arrays else fixed
    if kind == "image":
        found["positions"] = "sincos" if config["fixed_positions"] else "none"
        found["embed_norm"] = True
    if kind == "text":
        tokens = arrays["local_encoder.embed_tokens.weight"]
        found |= {"vocab_size": len(tokens), "max_tokens": len(arrays[_TOKENS])}
        found["embed_norm"] = True
    return found


def config_of(o: Any, model_type: str) -> Config:
    """Returns the config for an encoder of the options `o` (all of them, as attributes).

    Raises WeightsError, naming the key, for an encoder that fairseq's data2vec 2.0 does not have.
    """
    kind = modality(model_type)
    for key, value in (WANTED[""] | WANTED[kind]).items():
        if getattr(o, key) != value:
            raise WeightsError(
                f"config.method.encoder.{key} is {getattr(o, key)!r}, which fairseq's "
                f"data2vec 2.0 does not have: it needs {value!r}"
            )
    if o.final_norm:
        raise WeightsError(
            f"config.method.encoder.final_norm is {o.final_norm}: fairseq's data2vec 2.0 needs None"
        )
    if kind == "image" and o.positions not in ("sincos", "none"):
        raise WeightsError(
            f"config.method.encoder.positions is {o.positions!r}: fairseq's data2vec 2.0 has "
            f"'sincos' or 'none' for images"
        )
    found: Config = {theirs: getattr(o, ours) for theirs, ours in SIZES}
    found |= {"model_type": model_type, "prenet_depth": 0}
    found |= {key: getattr(o, key) for key in SAME[kind]}
    if kind == "audio":
        found |= {"alibi": o.alibi != "none", "conv_bias": o.conv_bias}
    if kind == "image":
        found["fixed_positions"] = o.positions == "sincos"
    return found


def rows(o: Any) -> list[Row]:
    """Returns the map of the encoder, for arrays from `tidy`."""
    n, blocks = o.depth, "encoder/blocks"
    if hasattr(o, "conv_channels"):
        found = _audio_rows(o)
    elif hasattr(o, "patch_size"):
        found = _image_rows(o)
    else:
        found = [
            Row("local_encoder.embed_tokens.weight", "encoder/frontend/embedding"),
            Row(_TOKENS, "encoder/positions"),
            *norm("local_encoder.layernorm_embedding", "encoder/norm"),
        ]
    names = (("q", "query"), ("k", "key"), ("v", "value"), ("proj", "out"))
    for theirs, ours in names:
        found += linear(f"blocks.{{i}}.attn.{theirs}", f"{blocks}/attention/{ours}", n)
    found += linear("blocks.{i}.mlp.fc1", f"{blocks}/mlp/up", n)
    found += linear("blocks.{i}.mlp.fc2", f"{blocks}/mlp/down", n)
    found += norm("blocks.{i}.norm1", f"{blocks}/norm1", n)
    return found + norm("blocks.{i}.norm2", f"{blocks}/norm2", n)


def _audio_rows(o: Any) -> list[Row]:
    n, theirs = len(o.conv_kernels), "local_encoder.conv_layers.{i}"
    ours = "encoder/frontend/convs/"
    found = [Row(f"{theirs}.0.weight", f"{ours}conv{{i}}/kernel", "reverse", n)]
    found += [Row(f"{theirs}.0.bias", f"{ours}conv{{i}}/bias", "same", n)] * o.conv_bias
    layer = o.conv_norm == "layer"
    found += norm(
        f"{theirs}.2.1" if layer else f"{theirs}.2", f"{ours}norm{{i}}", n if layer else 1
    )
    found += norm("project_features.1", "encoder/frontend/norm")
    found += linear("project_features.2", "encoder/frontend/projection")
    for i in range(o.position_depth):
        found += linear(f"relative_positional_encoder.{i + 1}.0", f"encoder/positions/conv{i}")
    found += norm("context_encoder.norm", "encoder/norm")
    return found + [Row(_SCALE, "encoder/alibi_scale")] * (o.alibi == "learned")


def _image_rows(o: Any) -> list[Row]:
    found = [
        Row("local_encoder.proj.weight", "encoder/frontend/projection/kernel", "patches"),
        Row("local_encoder.proj.bias", "encoder/frontend/projection/bias"),
        *norm("context_encoder.norm", "encoder/norm"),
    ]
    return found + [Row("extra_tokens", "encoder/cls", "token")] * o.class_token


def decoder_rows(section: Any) -> list[Row]:
    """Returns the map of the decoder for config.method of data2vec2."""
    o, part = section["decoder"], "decoder"
    layout = "grid" if section["encoder"]["kind"] == "vit" else "reverse"
    theirs, ours = "decoder.blocks.{i}.0", "decoder/conv{i}"
    found: list[Row] = []
    if o["layers"]:
        found += [Row(f"{theirs}.weight", f"{ours}/kernel", layout, o["layers"], part)]
        found += [Row(f"{theirs}.bias", f"{ours}/bias", "same", o["layers"], part)]
    if o["projection_layers"] == 1:
        return found + linear("decoder.proj", "decoder/projection", part=part)
    found += linear("decoder.proj.0", "decoder/up", part=part)
    return found + linear("decoder.proj.2", "decoder/projection", part=part)


def decoder_section(config: Config) -> Options:
    """Returns the keys of config.method of data2vec2 that a checkpoint determines."""
    return config["method"]


def tidy(arrays: Arrays, config: Config) -> Arrays:
    """Converts a checkpoint's arrays to the form the map expects; see the module docstring."""
    start = f"modality_encoders.{modality(config['model_type']).upper()}."
    found: Arrays = {}
    for name, x in arrays.items():
        inside = name.removeprefix(start)
        if inside != name and inside.startswith("context_encoder.blocks."):
            inside = inside.removeprefix("context_encoder.")
        elif name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            inside = f"blocks.{int(number) + config['prenet_depth']}.{rest}"
        found |= _apart(inside, x)
    if _TOKENS in found:
        found[_TOKENS] = found[_TOKENS][FIRST:]
    lacks = "local_encoder.proj.weight" in found and _POSITIONS not in found
    if config.get("fixed_positions") and lacks:
        raise WeightsError(f"its fixed_positions is True, but it has no {_POSITIONS}")
    if _POSITIONS in found:
        _check_positions(found.pop(_POSITIONS), config)
    if _SCALE in found:
        found |= _scales(found.pop(_SCALE), config)
    return found


def _apart(name: str, x: np.ndarray) -> Arrays:
    """Returns an array by name, split in three if it joins query, key and value."""
    if ".attn.qkv." not in name:
        return {name: x}
    if len(x) % len(_PARTS):
        raise WeightsError(f"{name} has {len(x)} rows: query, key and value need a multiple of 3")
    return {
        name.replace(".qkv.", f".{part}."): own
        for part, own in zip(_PARTS, np.split(x, 3), strict=True)
    }


def _check_positions(table: np.ndarray, config: Config) -> None:
    """Raises WeightsError for a position table that is not the one computed here."""
    side, width = config["image_size"] // config["patch_size"], config["hidden_size"]
    fits = table.shape == (1, side * side, width)
    if not fits or not np.allclose(table[0], sincos_table((side, side), width), atol=1e-5):
        raise WeightsError(
            f"{_POSITIONS} of shape {table.shape} is not the fixed table of sines and cosines for "
            f"a grid of {side} x {side}: only that table can be read"
        )


def _scales(scale: np.ndarray, config: Config) -> Arrays:
    """Returns a factor for each head, or nothing if all are 1 and not learned."""
    heads = config["num_attention_heads"]
    if scale.size not in (1, heads) or scale.ndim not in (1, 4, 5):
        raise WeightsError(
            f"{_SCALE} has the shape {scale.shape}: only one factor, or one for each of {heads} "
            f"heads, can be read"
        )
    if not config["learned_alibi_scale"] and (scale == 1).all():
        return {}
    return {_SCALE: np.broadcast_to(scale.reshape(-1), (heads,))}


def dress(arrays: Arrays, config: Config) -> tuple[Arrays, Config]:
    """Undoes `tidy`, and adds what fairseq keeps besides the parameters."""
    kind, first = modality(config["model_type"]), config["prenet_depth"]
    start = f"modality_encoders.{kind.upper()}."
    found: Arrays = {}
    for name, x in arrays.items():
        if name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            own = int(number) < first
            place = f"{start}context_encoder." if own else ""
            found[f"{place}blocks.{int(number) - first * (not own)}.{rest}"] = x
        elif name == _SCALE:
            found[start + name] = x.reshape(1, 1, -1, 1, 1)
        elif name == _TOKENS:
            padding = np.zeros((FIRST, x.shape[1]), np.float32)
            found[start + name] = np.concatenate([padding, x])
        else:
            found[start + name] = x
    if kind == "audio" and config["alibi"]:
        found.setdefault(start + _SCALE, np.ones((1, 1, 1, 1, 1), np.float32))
    if kind == "image" and config["fixed_positions"]:
        side = config["image_size"] // config["patch_size"]
        found[start + _POSITIONS] = sincos_table((side, side), config["hidden_size"])[None]
    return _joined(found), config


def _joined(arrays: Arrays) -> Arrays:
    """Joins query, key and value into one matrix or bias."""
    found = dict(arrays)
    for name in [n for n in arrays if ".attn.q." in n]:
        parts = [found.pop(name.replace(".q.", f".{p}.")) for p in _PARTS]
        found[name.replace(".q.", ".qkv.")] = np.concatenate(parts)
    return found


def preprocessor(o: Any) -> Config:
    """Returns nothing: transformers has no such model."""
    del o
    return {}
