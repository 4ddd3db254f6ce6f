"""The text family: data2vec-text, in the layout of RoBERTa."""

from typing import Any

import numpy as np

from ssl_jax.hub.speech import Config, Options, check_fixed, check_options
from ssl_jax.hub.table import Arrays, Row, WeightsError, linear, norm

SIZES = (
    ("hidden_size", "width"),
    ("num_hidden_layers", "depth"),
    ("num_attention_heads", "heads"),
    ("intermediate_size", "mlp_width"),
    ("layer_norm_eps", "eps"),
    ("vocab_size", "vocab_size"),
)
DEFAULTS: Config = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
}
FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu",),
    "pad_token_id": (1,),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
}
# positions are counted from the row after that of the padding token
FIRST = 2
_POSITIONS = "embeddings.position_embeddings.weight"
_TYPES = "embeddings.token_type_embeddings.weight"


def options(config: Config, arrays: Arrays, where: str) -> Options:
    """Returns the keys of config.method.encoder that config.json determines."""
    del arrays
    check_fixed(config, FIXED, where)
    c = DEFAULTS | config
    found: Options = {ours: c[theirs] for theirs, ours in SIZES}
    rows = c["max_position_embeddings"]
    return found | {"max_tokens": rows - FIRST, "embed_norm": True, "norm": "post"}


def config_of(o: Any, model_type: str) -> Config:
    """Returns config.json for an encoder of the options `o`; raises as speech.config_of does."""
    wanted = {
        "embed_norm": True,
        "norm": "post",
        "qkv_bias": True,
        "key_bias": True,
        "out_proj": True,
        "layer_scale": 0.0,
    }
    check_options(o, wanted, model_type)
    if o.final_norm:
        raise WeightsError(
            f"config.method.encoder.final_norm is {o.final_norm}: {model_type} has no final norm, "
            f"use None"
        )
    found: Config = {theirs: getattr(o, ours) for theirs, ours in SIZES}
    return found | {
        "model_type": model_type,
        "max_position_embeddings": o.max_tokens + FIRST,
        "type_vocab_size": 1,
        "hidden_dropout_prob": o.dropout,
        "attention_probs_dropout_prob": o.attention_dropout,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    }


def rows(o: Any) -> list[Row]:
    """Returns the map of the encoder."""
    n, theirs, ours = o.depth, "encoder.layer.{i}", "encoder/blocks"
    found = [
        Row("embeddings.word_embeddings.weight", "encoder/frontend/embedding"),
        Row(_POSITIONS, "encoder/positions"),
        *norm("embeddings.LayerNorm", "encoder/norm"),
    ]
    for name in ("query", "key", "value"):
        found += linear(f"{theirs}.attention.self.{name}", f"{ours}/attention/{name}", n)
    found += linear(f"{theirs}.attention.output.dense", f"{ours}/attention/out", n)
    found += linear(f"{theirs}.intermediate.dense", f"{ours}/mlp/up", n)
    found += linear(f"{theirs}.output.dense", f"{ours}/mlp/down", n)
    found += norm(f"{theirs}.attention.output.LayerNorm", f"{ours}/norm1", n)
    return found + norm(f"{theirs}.output.LayerNorm", f"{ours}/norm2", n)


def regression_rows(section: Any) -> list[Row]:
    """Returns the map of fairseq's two-layer data2vec head, empty for other heads."""
    if section["predictor"]["layers"] != 2:
        return []
    part = "predictor"
    rows = linear("regression_head.0", "predictor/up", part=part)
    return rows + linear("regression_head.2", "predictor", part=part)


def tidy(arrays: Arrays, config: Config) -> Arrays:
    """Adds the token type to the positions, and drops their padding rows."""
    del config
    found = dict(arrays)
    types = found.pop(_TYPES, None)
    if _POSITIONS in found:
        found[_POSITIONS] = found[_POSITIONS][FIRST:]
        if types is not None and types.any():
            found[_POSITIONS] = found[_POSITIONS] + types[0]
    return found


def dress(arrays: Arrays, config: Config) -> tuple[Arrays, Config]:
    """Adds padding rows, a token type of zeros, as the positions include it already, and zeros for
    the pooler, which data2vec does not train."""
    width = config["hidden_size"]
    padding, found = np.zeros((FIRST, width), np.float32), dict(arrays)
    found[_POSITIONS] = np.concatenate([padding, arrays[_POSITIONS]])
    found[_TYPES] = np.zeros((1, width), np.float32)
    pooler = {"weight": (width, width), "bias": (width,)}
    found |= {f"pooler.dense.{k}": np.zeros(v, np.float32) for k, v in pooler.items()}
    return found, config


def preprocessor(o: Any) -> Config:
    """Returns nothing: the tokenizer's files do not come with the weights."""
    del o
    return {}
