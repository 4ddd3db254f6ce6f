"""VideoMAE as transformers has it; its original layout is read from there.

The decoder of transformers ends with a LayerNorm whose eps is 1e-5 whatever layer_norm_eps says;
here it has that of all the others.
"""

from typing import Any

import numpy as np

from ssl_jax.hub import vision
from ssl_jax.hub.speech import Config, Options, check_fixed, check_options
from ssl_jax.hub.table import Arrays, Row, linear, norm
from ssl_jax.ops.patches import MEAN, STD

SIZES = (*vision.SIZES, ("num_frames", "frames"), ("tubelet_size", "tubelet"))
DEFAULTS: Config = {
    **vision.DEFAULTS,
    "num_frames": 16,
    "tubelet_size": 2,
    "decoder_hidden_size": 384,
    "decoder_num_hidden_layers": 4,
    "decoder_num_attention_heads": 6,
    "decoder_intermediate_size": 1536,
    "norm_pix_loss": True,
}
FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu",),
    "num_channels": (3,),
    "qkv_bias": (True,),
    "qv_bias": (True,),
}
_PATCHES = "embeddings.patch_embeddings.projection.weight"
_INNER = ".attention.attention."


def options(config: Config, arrays: Arrays, where: str) -> Options:
    """Returns the keys of config.method.encoder that config.json and the weights determine."""
    check_fixed(config, FIXED, where)
    c = DEFAULTS | config
    found: Options = {ours: c[theirs] for theirs, ours in SIZES}
    found |= {"norm": "pre", "positions": "flat", "key_bias": False, "layer_scale": 0.0}
    # a model that pools its tokens has a norm behind that in place of the last one
    return found if "layernorm.weight" in arrays else found | {"final_norm": False}


def section(config: Config) -> Options:
    """Returns the keys of config.method of VideoMAE that config.json determines."""
    c = DEFAULTS | config
    decoder = vision.decoder_section(c)["decoder"]
    return {"norm_pix": bool(c["norm_pix_loss"]), "decoder": decoder}


def section_config(method: Any) -> Config:
    """Returns the keys of config.json for config.method of VideoMAE, the inverse of the above."""
    asked = {"mask_ratio": 0.0, "norm_pix": method["norm_pix"], "decoder": method["decoder"]}
    found = vision.decoder_config(asked)
    return {name: value for name, value in found.items() if name != "mask_ratio"}


def config_of(o: Any, model_type: str) -> Config:
    """Returns config.json for an encoder of the options `o`; raises as speech.config_of does."""
    wanted = {"norm": "pre", "positions": "flat", "qkv_bias": True, "key_bias": False}
    check_options(o, {**wanted, "out_proj": True, "layer_scale": 0.0}, model_type)
    found: Config = {theirs: getattr(o, ours) for theirs, ours in SIZES}
    found |= {"model_type": model_type, "drop_path_rate": o.drop_path, "qkv_bias": True}
    return found | {"use_mean_pooling": o.final_norm is False}


def preprocessor(o: Any) -> Config:
    """Returns preprocessor_config.json of an encoder here."""
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "size": {"shortest_edge": o.image_size},
        "crop_size": {"height": o.image_size, "width": o.image_size},
    }


def rows(o: Any) -> list[Row]:
    """Returns the map of the encoder."""
    found = [
        Row(_PATCHES, "encoder/frontend/projection/kernel", "reverse"),
        Row(_PATCHES.replace("weight", "bias"), "encoder/frontend/projection/bias"),
        *vision.layer_rows("encoder.layer.{i}", "encoder/blocks", o.depth, "", False),
    ]
    return found if o.final_norm is False else found + norm("layernorm", "encoder/final_norm")


def decoder_rows(method: Any) -> list[Row]:
    """Returns the map of the decoder."""
    part, depth = "decoder", method["decoder"]["depth"]
    return [
        *linear("encoder_to_decoder", "decoder/embed", part=part, bias=False),
        Row("mask_token", "decoder/mask", "token", part=part),
        *vision.layer_rows("decoder.decoder_layers.{i}", "decoder/blocks", depth, part, False),
        *norm("decoder.norm", "decoder/final_norm", part=part),
        *linear("decoder.head", "decoder/predict", part=part),
    ]


def head_rows(method: Any) -> list[Row]:
    """Returns the map of a classifier: the norm of the pooled tokens, and a Linear."""
    if not method["head"]["norm"] or method["task"] != "classify":
        return []
    found = norm("fc_norm", "head/norm", part="head")
    return found + linear("classifier", "head/classifier", part="head")


def tidy(arrays: Arrays, config: Config) -> Arrays:
    """Gives biases the names that they have in memory, and flattens the kernel of tubelets.

    A pixel normalization other than ImageNet's is folded into the kernel.
    """
    found = {}
    for name, x in arrays.items():
        for part in ("query", "value"):
            name = name.replace(f"{_INNER}{part[0]}_bias", f"{_INNER}{part}.bias")
        found[name] = x
    if _PATCHES in found and found[_PATCHES].ndim == 5:
        kernel = found[_PATCHES].transpose(0, 2, 3, 4, 1)
        found[_PATCHES] = kernel.reshape(len(kernel), -1)
    return vision.with_imagenet(found, config, _PATCHES)


def dress(arrays: Arrays, config: Config) -> tuple[Arrays, Config]:
    """Undoes `tidy`; positions are fixed and not among the weights."""
    found = {}
    for name, x in arrays.items():
        for part in ("query", "value"):
            name = name.replace(f"{_INNER}{part}.bias", f"{_INNER}{part[0]}_bias")
        found[name] = x
    if _PATCHES in found:
        side, steps = config["patch_size"], config["tubelet_size"]
        kernel = found[_PATCHES].reshape(-1, steps, side, side, 3).transpose(0, 4, 1, 2, 3)
        found[_PATCHES] = np.ascontiguousarray(kernel)
    return found, config
