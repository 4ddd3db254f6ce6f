"""Checkpoints of LightHuBERT as its authors publish them, and subnets as HuBERT of transformers.

A file has the whole student, whatever the space of its subnets. `label_embs_concat` and
`final_proj` of such a file are of the teacher's code and are not used.
"""

import collections
import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ssl_jax.hub import names, speech, table
from ssl_jax.hub.speech import Config, Options
from ssl_jax.hub.speech import dress as dress
from ssl_jax.hub.speech import options as options
from ssl_jax.hub.speech import preprocessor as preprocessor
from ssl_jax.hub.speech import rows as rows
from ssl_jax.hub.speech import tidy as tidy
from ssl_jax.hub.table import Arrays, Row, WeightsError
from ssl_jax.nn.elastic_space import PRESETS

# the names of the models in files: a supernet, and the student of stage 1
SUPERNET, STAGE1 = "hubert_pruner", "student_hubert"
CHOICES = ("embed", "heads", "ratios", "depths", "drop_order", "named")
OWN_SPACE = "ssl_jax_space"
_SIDES = {"query": 1, "key": 1, "value": 1, "up": 1, "out": 0, "down": 0}


def is_model(name: str) -> bool:
    """Returns whether fairseq's name of a model is one of LightHuBERT."""
    return name in (SUPERNET, STAGE1)


def read_config(model: Config, arrays: Arrays, layers: Callable, where: str) -> Config:
    """Returns config.json for the arrays of a file; layers: `fairseq.conv_layers`."""
    needed = ("post_extract_proj.weight", "encoder.pos_conv.0.weight_v")
    for name in (*needed, "encoder.layers.0.fc1.weight"):
        if name not in arrays:
            raise WeightsError(f"{where} has no {name}: it is no checkpoint of LightHuBERT")
    projection, positions = (arrays[name] for name in needed)
    convs = layers(model.get("conv_feature_layers"), where)
    width = len(projection)
    depth = sum(n.endswith(".fc1.weight") for n in arrays if n.startswith("encoder.layers."))
    return {
        "model_type": "lighthubert",
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": model.get("encoder_attention_heads") or max(1, width // 64),
        "intermediate_size": len(arrays["encoder.layers.0.fc1.weight"]),
        "num_conv_pos_embeddings": positions.shape[2],
        "num_conv_pos_embedding_groups": width // positions.shape[1],
        "conv_dim": [c for c, _, _ in convs],
        "conv_kernel": [k for _, k, _ in convs],
        "conv_stride": [s for _, _, s in convs],
        "feat_extract_norm": "layer",
        "do_normalize": True,
        "supernet": model.get("_name") == SUPERNET,
        "space": _space(model, where),
    }


def _space(model: Config, where: str) -> Options:
    """Returns config.method.space by the file of the space that a supernet's config names."""
    if model.get("_name") != SUPERNET:
        return {}
    if OWN_SPACE in model:
        return {key: _tuples(value) for key, value in model[OWN_SPACE].items()}
    name = str(model.get("pruner_supernet", ""))
    size = name.rpartition("/")[2].removesuffix(".yaml").lower()
    if size not in PRESETS:
        raise WeightsError(
            f"{where}: pruner_supernet is {name!r}: only files named Base.yaml and Small.yaml are "
            f"known"
        )
    return {key: getattr(PRESETS[size], key) for key in CHOICES}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def head_rows(section: Any) -> list[Row]:
    """Returns the map of the prediction of the targets, from the last layer."""
    name = f"layer_pred_heads.{section['encoder']['depth'] - 1}.weight"
    return [Row(name, "head/kernel", "reverse", part="prediction head")]


def section_of(config: Config) -> Options:
    """Returns the keys of config.method that a file determines."""
    if not config["supernet"]:
        return {"sample": "full"}
    return {"sample": "uniform", "space": config["space"]}


def config_of(o: Any, model_type: str) -> Config:
    """Returns config.json of the whole student; raises WeightsError for another encoder."""
    return speech.config_of(o, "hubert") | {"model_type": model_type}


def checkpoint(
    family: Any, o: Any, method: Any, params: Arrays
) -> tuple[dict[str, Any], list[str]]:
    """Returns (the content of a file as published, with arrays for tensors; the names left out)."""
    config = config_of(o, family.model_type)
    arrays, left = table.to_theirs(family.rows(o, method, beside=True), params)
    pairs = names.pairs(config)
    weights = {names.renamed(n, pairs, back=True): x for n, x in arrays.items()}
    convs = zip(config["conv_dim"], o.conv_kernels, o.conv_strides, strict=True)
    model: dict[str, Any] = {
        "_name": STAGE1 if method["sample"] == "full" else SUPERNET,
        "extractor_mode": "layer_norm",
        "encoder_layers": o.depth,
        "encoder_embed_dim": o.width,
        "encoder_ffn_embed_dim": o.mlp_width,
        "encoder_attention_heads": o.heads,
        "conv_feature_layers": repr([tuple(layer) for layer in convs]),
        "conv_pos": o.position_kernel,
        "conv_pos_groups": o.position_groups,
    }
    if model["_name"] == SUPERNET:
        model |= _named_space(method["space"])
    cfg = {"model": model, "task": {"normalize": True, "sample_rate": 16000}}
    return {"cfg": cfg, "model": collections.OrderedDict(weights)}, left


def _named_space(space: Mapping[str, Any]) -> Config:
    given = {key: _tuples(space[key]) for key in CHOICES}
    for name, preset in PRESETS.items():
        if all(given[key] == getattr(preset, key) for key in CHOICES[:4]):
            return {"pruner_supernet": f"{name.capitalize()}.yaml"}
    return {OWN_SPACE: given}


def even(o: Any, params: Arrays) -> tuple[Any, Arrays]:
    """Returns the options and parameters of the same function with blocks of one size.

    Heads and hidden units that blocks lack are added with weights of zero, which change nothing.
    The heads then fill the width, as in transformers; raises WeightsError where they exceed it.
    """
    uneven = getattr(o, "layer_heads", None) or getattr(o, "layer_mlp_widths", None)
    if not uneven and getattr(o, "head_width", None) is None:
        return o, params
    head = o.head_width or o.width // o.heads
    if o.width % head or o.heads * head > o.width:
        raise WeightsError(
            f"config.method.encoder.heads {o.heads} of {head} channels do not fit the width "
            f"{o.width}, which transformers and s3prl need: extract a subnet whose width is a "
            f"multiple of {head}, with at most {o.width // head} heads"
        )
    made = copy.copy(o)
    made.heads, made.head_width = o.width // head, None
    made.layer_heads = made.layer_mlp_widths = None
    sizes = dict.fromkeys(("query", "key", "value", "out"), o.width)
    sizes |= dict.fromkeys(("up", "down"), o.mlp_width)
    found = {n: x for n, x in params.items() if not n.startswith("encoder/blocks")}
    return made, found | _stacked(params, o.depth, sizes)


def _stacked(params: Arrays, depth: int, sizes: Mapping[str, int]) -> Arrays:
    """Returns the parameters of the blocks, filled up with zeros and stacked over the blocks."""
    plain, apart = "encoder/blocks/", "encoder/blocks_0/"

    def filled(name: str, x: np.ndarray) -> np.ndarray:
        *_, part, kind = name.split("/")
        if part not in _SIDES or (kind == "bias" and not _SIDES[part]):
            return x
        axis = _SIDES[part] if kind == "kernel" else 0
        room = [(0, 0)] * x.ndim
        room[axis] = (0, sizes[part] - x.shape[axis])
        return np.pad(x, room)

    found = {}
    for name, x in params.items():
        if name.startswith(plain):
            found[name] = np.stack([filled(name, one) for one in x])
        elif name.startswith(apart):
            rest = name.removeprefix(apart)
            each = [params[f"encoder/blocks_{i}/{rest}"] for i in range(depth)]
            found[plain + rest] = np.stack([filled(name, one) for one in each])
    return found
