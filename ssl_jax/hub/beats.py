"""BEATs as its authors publish it: an encoder, a fine-tuned model or a tokenizer in one `.pt`.

A file has `cfg`, a plain dict, `model`, and if it is fine-tuned `label_dict`, from class to label.
Every layer holds the one table of relative positions.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.core.config import suggest
from ssl_jax.hub import table, torch_files
from ssl_jax.hub.files import MAX_LAYERS, MAX_SIZE, Source
from ssl_jax.hub.speech import Config, Options, check_fixed
from ssl_jax.hub.table import Arrays, Row, WeightsError, linear, norm

ENCODER, TUNED, TOKENIZER = "beats", "beats-finetuned", "beats-tokenizer"
# (key of cfg, key of config.method.encoder)
SIZES = (
    ("encoder_layers", "depth"),
    ("encoder_embed_dim", "width"),
    ("encoder_ffn_embed_dim", "mlp_width"),
    ("encoder_attention_heads", "heads"),
    ("embed_dim", "patch_width"),
    ("conv_pos", "position_kernel"),
    ("conv_pos_groups", "position_groups"),
    ("num_buckets", "num_buckets"),
    ("max_distance", "max_distance"),
)
SWITCHES = (("gru_rel_pos", "gated"), ("deep_norm", "deep_norm"))
RATES = (
    ("dropout", "dropout"),
    ("attention_dropout", "attention_dropout"),
    ("activation_dropout", "activation_dropout"),
    ("dropout_input", "input_dropout"),
    ("encoder_layerdrop", "layerdrop"),
)
DECAY = ("layer_wise_gradient_decay_ratio", "layer_gradient_decay")
PATCH = "input_patch_size"
# values that a key must have, if present, for the encoder here to compute the same function
FIXED: dict[str, tuple[Any, ...]] = {
    "activation_fn": ("gelu",),
    "layer_norm_first": (False,),
    "relative_position_embedding": (True,),
    "conv_bias": (False,),
}
# keys that say nothing which the arrays or the rest of the file do not
OTHER = ("predictor_dropout", "predictor_class", "finetuned_model", "quant_n", "quant_dim")
# options that an encoder here must have for a file to have it too
WANTED: dict[str, Any] = {"features": "beats", "num_mels": 128, "mean": None, "std": None}
_MELS, _COLUMN = 128, "patch_embedding.weight"
_LAYER, _POSITIONS = "encoder.layers.{i}", "encoder.pos_conv.0"
_TABLE = "encoder.layers.{i}.self_attn.relative_attention_bias.weight"
_GAIN, _TAPS = f"{_POSITIONS}.weight_g", f"{_POSITIONS}.weight_v"
_NEW = f"{_POSITIONS}.parametrizations.weight.original"
_CODES, _STARTED = "quantize.embedding.weight", "quantize.embedding.initted"


def is_checkpoint(loaded: Any) -> bool:
    """Returns whether the content of a file is a checkpoint of BEATs."""
    model = loaded.get("model") if isinstance(loaded, dict) else None
    return isinstance(model, dict) and _COLUMN in model and isinstance(loaded.get("cfg"), dict)


def source(loaded: dict[str, Any], path: Path) -> Source:
    """Returns the weights of a file; raises WeightsError, naming the key of cfg, on one that no
    encoder here computes."""
    arrays = {n: torch_files.as_numpy(x, n, path) for n, x in loaded["model"].items()}
    config = dict(loaded["cfg"])
    _check(config, f"{path}: cfg")
    config["model_type"] = ENCODER
    if _CODES in arrays:
        config |= {"model_type": TOKENIZER, "codebook": arrays[_CODES].shape}
    elif "predictor.weight" in arrays:
        labels = loaded.get("label_dict") or {}
        classes = _classes(labels, len(arrays["predictor.weight"]), path)
        config |= {"model_type": TUNED, "classes": classes}
    return Source(config, arrays, str(path))


def _check(cfg: Config, where: str) -> None:
    """Raises WeightsError on a key that is missing or unknown, or a value that cannot be."""
    sizes, switches = [k for k, _ in SIZES] + [PATCH], [k for k, _ in SWITCHES]
    rates = [k for k, _ in RATES]
    known = [*sizes, *switches, *rates, DECAY[0], *FIXED, *OTHER]
    for key in cfg:
        if key not in known:
            raise WeightsError(
                f"{where} has the key {key!r}, which no encoder here knows: {suggest(key, known)}"
            )
    for key in (*sizes, *switches):
        if key not in cfg:
            raise WeightsError(f"{where} has no {key}: add it as the model was trained with")
    for key in sizes:
        most = MAX_LAYERS if key == "encoder_layers" else MAX_SIZE
        if type(cfg[key]) is not int or not 1 <= cfg[key] <= most:
            raise WeightsError(f"{where}: {key} is {cfg[key]!r}: use 1 to {most}")
    for key in switches:
        if type(cfg[key]) is not bool:
            raise WeightsError(f"{where}: {key} is {cfg[key]!r}: use True or False")
    for key in (*rates, DECAY[0]):
        value = cfg.get(key, 0.0)
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise WeightsError(f"{where}: {key} is {value!r}: use 0.0 to 1.0")
    check_fixed(cfg, FIXED, where)
    if _MELS % cfg[PATCH]:
        raise WeightsError(f"{where}: {PATCH} is {cfg[PATCH]}: use a divisor of {_MELS} mels")


def _classes(labels: Any, count: int, path: Path) -> list[str]:
    """Returns the labels in the order of the classes, or their numbers where a file names none."""
    named = {str(key): str(value) for key, value in labels.items()}
    if named and set(named) != {str(i) for i in range(count)}:
        raise WeightsError(
            f"{path}: label_dict has {len(named)} labels, and predictor has {count} classes: name "
            f"each of 0 to {count - 1}, or none"
        )
    return [named.get(str(i), str(i)) for i in range(count)]


def options(config: Config, arrays: Arrays, where: str) -> Options:
    """Returns the keys of config.method.encoder that a file determines."""
    del arrays, where
    found: Options = {ours: config[theirs] for theirs, ours in (*SIZES, *SWITCHES)}
    found |= {ours: float(config.get(theirs, 0.0)) for theirs, ours in RATES}
    found |= {"embed_dropout": found["dropout"], "patch": (config[PATCH], config[PATCH])}
    found |= {DECAY[1]: float(config.get(DECAY[0], 1.0)), "norm": "post"}
    return found | WANTED | {"init": "deep_norm" if config["deep_norm"] else "bert"}


def config_of(o: Any, model_type: str) -> Config:
    """Returns the cfg of a file for an encoder of the options `o` (all of them, as attributes).

    Raises WeightsError, naming the key, for an encoder that the published code does not have.
    """
    for key, value in WANTED.items():
        if getattr(o, key) != value:
            raise WeightsError(
                f"config.method.encoder.{key} is {getattr(o, key)!r}, which the published code of "
                f"BEATs does not have: it needs {value!r}"
            )
    if o.patch[0] != o.patch[1]:
        raise WeightsError(
            f"config.method.encoder.patch is {o.patch}: the published code of BEATs needs squares"
        )
    found: Config = {a: getattr(o, b) for a, b in (*SIZES, *SWITCHES, *RATES, DECAY)}
    found |= {key: values[0] for key, values in FIXED.items()}
    return found | {PATCH: o.patch[0], "finetuned_model": model_type == TUNED}


def rows(o: Any) -> list[Row]:
    """Returns the map of the encoder, for arrays from `tidy`."""
    n, ours = o.depth, "encoder/blocks"
    found = [
        Row(_COLUMN, "encoder/frontend/patch/kernel", "cells"),
        *norm("layer_norm", "encoder/frontend/norm"),
        *linear("post_extract_proj", "encoder/frontend/projection"),
        Row(f"{_POSITIONS}.bias", "encoder/positions/bias"),
        Row(_GAIN, "encoder/positions/gain", "reverse"),
        Row(_TAPS, "encoder/positions/kernel", "reverse"),
        *norm("encoder.layer_norm", "encoder/norm"),
        Row(_TABLE.format(i=0), "encoder/relative/table"),
    ]
    if o.gated:
        found += [Row(f"{_LAYER}.self_attn.grep_a", f"{ours}/attention/gate_scale", "heads", n)]
        found += linear(f"{_LAYER}.self_attn.grep_linear", f"{ours}/attention/gate", n)
    for a, b in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out")):
        found += linear(f"{_LAYER}.self_attn.{a}", f"{ours}/attention/{b}", n)
    found += linear(f"{_LAYER}.fc1", f"{ours}/mlp/up", n)
    found += linear(f"{_LAYER}.fc2", f"{ours}/mlp/down", n)
    found += norm(f"{_LAYER}.self_attn_layer_norm", f"{ours}/norm1", n)
    return found + norm(f"{_LAYER}.final_layer_norm", f"{ours}/norm2", n)


def tag_rows(section: Any) -> list[Row]:
    """Returns the map of the head of tags, empty for one with a norm."""
    if section["head"]["norm"] or section["pool"] != "frames":
        return []
    return linear("predictor", "head/classifier", part="classifier")


def tag_section(config: Config) -> Options:
    """Returns the keys of config.method of supervised learning that a file determines."""
    if "classes" not in config:
        return {}
    dropout = float(config.get("predictor_dropout", 0.0))
    return {"task": "tag", "pool": "frames", "head": {"norm": False, "dropout": dropout}}


def code_rows(section: Any) -> list[Row]:
    """Returns the map of the tokenizer: its head, and its codes, which are no parameters."""
    del section
    return [
        *linear("quantize_layer.0", "head/hidden", part="codes"),
        *linear("quantize_layer.2", "head/out", part="codes"),
        Row(_CODES, "codebook/vectors", part="codes"),
        Row(_STARTED, "codebook/updates", "scalar", part="codes"),
    ]


def code_section(config: Config) -> Options:
    """Returns the keys of config.method of the tokenizer that a file determines."""
    if "codebook" not in config:
        return {}
    codes, width = config["codebook"]
    return {"codebook": {"codes": codes, "width": width}}


def tidy(arrays: Arrays, config: Config) -> Arrays:
    """Gives the weight norm its older names, and keeps one table of relative positions.

    Raises WeightsError if the layers' tables differ.
    """
    names = {f"{_NEW}0": _GAIN, f"{_NEW}1": _TAPS}
    found = {names.get(name, name): x for name, x in arrays.items()}
    first = _TABLE.format(i=0)
    for i in range(1, config["encoder_layers"]):
        name = _TABLE.format(i=i)
        own = found.pop(name, None)
        if own is not None and not (first in found and np.array_equal(own, found[first])):
            raise WeightsError(
                f"{name} differs from {first}: only models whose layers share it can be read"
            )
    return found


def dress(arrays: Arrays, config: Config) -> tuple[Arrays, Config]:
    """Undoes `tidy`, and adds what the published code keeps besides the parameters."""
    found = dict(arrays)
    for i in range(1, config["encoder_layers"]):
        found[_TABLE.format(i=i)] = found[_TABLE.format(i=0)]
    if _CODES in found:
        codes, width = found[_CODES].shape
        found[_STARTED] = np.minimum(found[_STARTED], 1).astype(np.float32)
        found["quantize.embedding.embed_avg"] = found[_CODES]
        for name in ("quantize.embedding.cluster_size", "quantize.cluster_size"):
            found[name] = np.zeros(codes, np.float32)
        config = config | {"quant_n": codes, "quant_dim": width}
    if "predictor.bias" in found:
        config = config | {"predictor_class": len(found["predictor.bias"])}
    return found, config


def checkpoint(
    family: Any, o: Any, method: Any, arrays: Arrays, classes: tuple[str, ...]
) -> tuple[dict[str, Any], list[str]]:
    """Returns (the content of a file, with arrays for tensors; the names left out).

    arrays: parameters and codebook of a run by their names here.
    """
    config = config_of(o, family.model_type)
    found, left = table.to_theirs(family.rows(o, method, beside=True), arrays)
    model, config = dress(found, config)
    content: dict[str, Any] = {"cfg": config, "model": model}
    if "predictor.bias" in model:
        config["predictor_dropout"] = method["head"]["dropout"]
        content["label_dict"] = dict(enumerate(classes))
    return content, left
