"""The image families: data2vec-vision (BEiT) and ViTMAE."""

from typing import Any

import numpy as np

from ssl_jax.hub.speech import Config, Options, check_fixed, check_options
from ssl_jax.hub.table import Arrays, Row, WeightsError, linear, norm
from ssl_jax.ops.patches import MEAN, STD, sincos_table

SIZES = (
    ("hidden_size", "width"),
    ("num_hidden_layers", "depth"),
    ("num_attention_heads", "heads"),
    ("intermediate_size", "mlp_width"),
    ("layer_norm_eps", "eps"),
    ("image_size", "image_size"),
    ("patch_size", "patch_size"),
)
DEFAULTS: Config = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "layer_scale_init_value": 0.1,
    "decoder_hidden_size": 512,
    "decoder_num_hidden_layers": 8,
    "decoder_num_attention_heads": 16,
    "decoder_intermediate_size": 2048,
    "mask_ratio": 0.75,
    "norm_pix_loss": False,
}
FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu",),
    "num_channels": (3,),
    "qkv_bias": (True,),
    "use_absolute_position_embeddings": (False,),
}
_SHARED = "encoder.relative_position_bias.relative_position_bias_table"
_OWN = "encoder.layer.{i}.attention.attention.relative_position_bias.relative_position_bias_table"
_PATCHES = "embeddings.patch_embeddings.projection"
_TABLES = ("embeddings.position_embeddings", "decoder.decoder_pos_embed")
# the name of a learned table between `tidy` and the map, without the class token's row
_LEARNED = "embeddings.patch_positions"


def options(config: Config, arrays: Arrays, where: str) -> Options:
    """Returns the keys of config.method.encoder that config.json and the weights determine."""
    check_fixed(config, FIXED, where)
    c = DEFAULTS | config
    found: Options = {ours: c[theirs] for theirs, ours in SIZES}
    found |= {"norm": "pre", "class_token": True, "embed_norm": False}
    if config["model_type"] == "vit_mae":
        positions = "learned" if _LEARNED in arrays else "sincos"
        return found | {"positions": positions, "key_bias": True, "layer_scale": 0.0}
    found |= {"positions": "relative", "key_bias": False, "final_norm": False}
    return found | {"layer_scale": float(c["layer_scale_init_value"])}


def decoder_section(config: Config) -> Options:
    """Returns the keys of config.method of MAE that config.json determines."""
    c = DEFAULTS | config
    return {
        "mask_ratio": float(c["mask_ratio"]),
        "norm_pix": bool(c["norm_pix_loss"]),
        "decoder": {
            "width": c["decoder_hidden_size"],
            "depth": c["decoder_num_hidden_layers"],
            "heads": c["decoder_num_attention_heads"],
            "mlp_width": c["decoder_intermediate_size"],
        },
    }


def decoder_config(section: Any) -> Config:
    """Returns the keys of config.json for config.method of MAE, the inverse of the above."""
    d = section["decoder"]
    return {
        "mask_ratio": section["mask_ratio"],
        "norm_pix_loss": section["norm_pix"],
        "decoder_hidden_size": d["width"],
        "decoder_num_hidden_layers": d["depth"],
        "decoder_num_attention_heads": d["heads"],
        "decoder_intermediate_size": d["mlp_width"],
    }


def config_of(o: Any, model_type: str) -> Config:
    """Returns config.json for an encoder of the options `o`; raises as speech.config_of does."""
    wanted: dict[str, Any] = {
        "norm": "pre",
        "class_token": True,
        "embed_norm": False,
        "qkv_bias": True,
        "out_proj": True,
    }
    if model_type == "vit_mae":
        wanted |= {"key_bias": True, "layer_scale": 0.0, "row_first": False, "stem": "patches"}
        if o.final_norm is False or o.positions not in ("sincos", "learned"):
            raise WeightsError(
                "vit_mae needs config.method.encoder.final_norm=None and positions='sincos' or "
                f"'learned', not {o.final_norm!r} and {o.positions!r}"
            )
    else:
        wanted |= {"key_bias": False, "final_norm": False, "positions": "relative"}
    check_options(o, wanted, model_type)
    found: Config = {theirs: getattr(o, ours) for theirs, ours in SIZES}
    found |= {"model_type": model_type, "drop_path_rate": o.drop_path}
    if model_type == "vit_mae":
        # positions come with the weights; ViTMAEModel masks unless mask_ratio is 0
        return found | {"qkv_bias": True, "mask_ratio": 0.0}
    return found | {
        "layer_scale_init_value": o.layer_scale,
        "use_shared_relative_position_bias": True,
        "use_mask_token": True,
    }


def preprocessor(o: Any) -> Config:
    """Returns preprocessor_config.json of an encoder here."""
    return {
        "image_processor_type": "ViTImageProcessor",
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "size": {"height": o.image_size, "width": o.image_size},
    }


def layer_rows(theirs: str, ours: str, depth: int, part: str, key_bias: bool) -> list[Row]:
    """Returns the map of blocks with ViT's names."""
    found: list[Row] = []
    for name in ("query", "key", "value"):
        bias = key_bias or name != "key"
        found += linear(
            f"{theirs}.attention.attention.{name}", f"{ours}/attention/{name}", depth, part, bias
        )
    found += linear(f"{theirs}.attention.output.dense", f"{ours}/attention/out", depth, part)
    found += linear(f"{theirs}.intermediate.dense", f"{ours}/mlp/up", depth, part)
    found += linear(f"{theirs}.output.dense", f"{ours}/mlp/down", depth, part)
    found += norm(f"{theirs}.layernorm_before", f"{ours}/norm1", depth, part)
    return found + norm(f"{theirs}.layernorm_after", f"{ours}/norm2", depth, part)


def rows(o: Any) -> list[Row]:
    """Returns the map of the encoder, and of the norm and mask token around it."""
    layer, blocks = "encoder.layer.{i}", "encoder/blocks"
    found = [
        Row(f"{_PATCHES}.weight", "encoder/frontend/projection/kernel", "patches"),
        Row(f"{_PATCHES}.bias", "encoder/frontend/projection/bias"),
        Row("embeddings.cls_token", "encoder/cls", "token"),
        *layer_rows(layer, blocks, o.depth, "", o.key_bias),
    ]
    if o.positions == "learned":
        found.append(Row(_LEARNED, "encoder/positions"))
    if o.positions != "relative":
        return found + norm("layernorm", "encoder/final_norm")
    if o.layer_scale:
        found += [Row(f"{layer}.lambda_{k}", f"{blocks}/scale{k}", "same", o.depth) for k in (1, 2)]
    found.append(Row(_SHARED, "encoder/relative/table"))
    # data2vec takes its targets before the last norm, which belongs to its predictor
    found += norm("layernorm", "predictor/norm", part="last norm")
    return [*found, Row("embeddings.mask_token", "mask/vector", "token", part="mask vector")]


def decoder_rows(section: Any) -> list[Row]:
    """Returns the map of the decoder of MAE."""
    part, depth = "decoder", section["decoder"]["depth"]
    layer = "decoder.decoder_encoder.layer.{i}"
    return [
        *linear("decoder.decoder_embed", "decoder/embed", part=part),
        Row("decoder.mask_token", "decoder/mask", "token", part=part),
        *layer_rows(layer, "decoder/blocks", depth, part, True),
        *norm("decoder.decoder_norm", "decoder/final_norm", part=part),
        *linear("decoder.decoder_pred", "decoder/predict", part=part),
    ]


def tidy(arrays: Arrays, config: Config) -> Arrays:
    """Converts arrays to the form that the map expects.

    Fixed positions are dropped, the class token's row of learned ones is added to the token, equal
    tables of all layers become the shared one, and a pixel normalization other than ImageNet's is
    folded into the patch projection. Raises WeightsError for tables that differ between layers.
    """
    found, c = dict(arrays), DEFAULTS | config
    side = c["image_size"] // c["patch_size"]
    table = found.pop(_TABLES[0], None)
    if table is not None and not _is_fixed(table, side):
        found["embeddings.cls_token"] = found["embeddings.cls_token"] + table[:, :1]
        found[_LEARNED] = table[0, 1:]
    decoder = found.pop(_TABLES[1], None)
    if decoder is not None and not _is_fixed(decoder, side):
        raise WeightsError(f"{_TABLES[1]} is not MAE's fixed table: only that table can be read")
    own = [found.pop(name, None) for name in _own_tables(c)]
    if _SHARED not in found and own and own[0] is not None:
        if any(t is None or not np.array_equal(t, own[0]) for t in own):
            raise WeightsError(
                f"{_OWN.format(i=1)} differs from that of layer 0: only weights whose layers share "
                f"relative positions can be read"
            )
        found[_SHARED] = own[0]
    return with_imagenet(found, config, f"{_PATCHES}.weight")


def _own_tables(c: Config) -> list[str]:
    return [_OWN.format(i=i) for i in range(c["num_hidden_layers"])]


def with_imagenet(arrays: Arrays, config: Config, name: str) -> Arrays:
    """Folds the config's pixel normalization into a projection, unless it is ImageNet's.

    name: of its kernel, (D, 3, rows, columns) or, flat, (D, N) with the colours innermost.
    """
    mean, std = (np.asarray(config.get(k, d), np.float64) for k, d in _CONSTANTS)
    here = np.asarray(MEAN), np.asarray(STD)
    if name not in arrays or np.allclose((mean, std), here, atol=1e-6):
        return arrays
    kernel = np.asarray(arrays[name], np.float64)
    factor, shift = here[1] / std, (here[0] - mean) / std
    if kernel.ndim == 2:
        factor, shift = (np.tile(x, kernel.shape[1] // 3) for x in (factor, shift))
    else:
        factor, shift = (x[:, None, None] for x in (factor, shift))
    offset = name.removesuffix("weight") + "bias"
    moved = np.asarray(arrays[offset]) + (kernel * shift).reshape(len(kernel), -1).sum(1)
    return arrays | {name: kernel * factor, offset: moved}


_CONSTANTS = (("image_mean", MEAN), ("image_std", STD))


def _is_fixed(table: np.ndarray, side: int) -> bool:
    """Returns whether a table (1, 1 + S, D) is the fixed one of MAE."""
    wanted = sincos_table((side, side), table.shape[-1])
    return (
        table.shape[1] == len(wanted) + 1
        and not table[0, 0].any()
        and np.allclose(table[0, 1:], wanted, atol=1e-5)
    )


def dress(arrays: Arrays, config: Config) -> tuple[Arrays, Config]:
    """Adds the position tables that transformers keeps with the weights of ViTMAE.

    Weights of data2vec get a mask token of zeros if the run has none; without a last norm, their
    config has use_mean_pooling set.
    """
    side, found = config["image_size"] // config["patch_size"], dict(arrays)
    if config["model_type"] != "vit_mae":
        vector = np.zeros((1, 1, config["hidden_size"]), np.float32)
        pooled = "layernorm.weight" not in arrays
        return {"embeddings.mask_token": vector} | found, config | {"use_mean_pooling": pooled}
    learned = found.pop(_LEARNED, None)
    found[_TABLES[0]] = _table(side, config["hidden_size"], learned)
    if "decoder.mask_token" in found:
        found[_TABLES[1]] = _table(side, config["decoder_hidden_size"], None)
    return found, config


def _table(side: int, width: int, learned: np.ndarray | None) -> np.ndarray:
    rows = sincos_table((side, side), width) if learned is None else learned
    return np.concatenate([np.zeros((1, width)), rows])[None].astype(np.float32)
