"""The wav2vec 2.0 family with Conformer blocks; its front end and heads are those of `speech`."""

from typing import Any

import numpy as np

from ssl_jax.hub import speech
from ssl_jax.hub.speech import Config, Options
from ssl_jax.hub.table import Arrays, Row, WeightsError, linear, norm

POSITIONS = {"relative": "relative", "rotary": "rotary", "none": None}
# position convolutions, which the published code creates but does not use
_UNUSED = "encoder.pos_conv_embed.conv"
_BUFFER = "encoder.embed_positions.inv_freq"
_COUNTS = "encoder.layers.{i}.conv_module.batch_norm.num_batches_tracked"


def options(config: Config, arrays: Arrays, where: str) -> Options:
    """Returns the keys of config.method.encoder that config.json and the weights determine."""
    swish = {"hidden_act": "gelu"} | config
    if swish["hidden_act"] not in ("swish", "silu"):
        raise WeightsError(
            f"{where}: hidden_act is {swish['hidden_act']!r}: only 'swish' can be read"
        )
    found = speech.options(config | {"hidden_act": "gelu"}, arrays, where)
    kind = config.get("position_embeddings_type", "relative")
    named = next((ours for ours, theirs in POSITIONS.items() if theirs == kind), None)
    if named is None:
        raise WeightsError(
            f"{where}: position_embeddings_type is {kind!r}: use one of 'relative', 'rotary', null"
        )
    found |= {
        "blocks": "conformer",
        "attention_positions": named,
        "depthwise_kernel": config.get("conv_depthwise_kernel_size", 31),
        "depthwise_norm": "batch",
        "mask_depthwise": True,
        # transformers has it after the layers, fairseq's Base before them
        "norm": "post" if config.get("norm_before_layers") else "pre",
    }
    return found


def config_of(o: Any, model_type: str) -> Config:
    """Returns config.json for an encoder of the options `o`; raises as speech.config_of does."""
    wanted = {"blocks": "conformer", "depthwise_norm": "batch", "norm": "pre", "eps": 1e-5}
    speech.check_options(o, wanted, model_type)
    found = speech.shape_config(o, model_type)
    return found | {
        "hidden_act": "swish",
        "position_embeddings_type": POSITIONS[o.attention_positions],
        "conv_depthwise_kernel_size": o.depthwise_kernel,
        "conformer_conv_dropout": o.dropout,
        "feat_extract_norm": o.conv_norm,
        "num_conv_pos_embeddings": o.position_kernel,
    }


def rows(o: Any) -> list[Row]:
    """Returns the map of the encoder."""
    n, theirs, ours = o.depth, "encoder.layers.{i}", "encoder/blocks"
    found = speech.frontend_rows(o)
    found += norm("encoder.layer_norm", "encoder/final_norm" if o.norm == "pre" else "encoder/norm")
    for a, b in (("ffn1", "first"), ("ffn2", "second")):
        found += norm(f"{theirs}.{a}_layer_norm", f"{ours}/{b}/norm", n)
        found += linear(f"{theirs}.{a}.intermediate_dense", f"{ours}/{b}/up", n)
        found += linear(f"{theirs}.{a}.output_dense", f"{ours}/{b}/down", n)
    found += norm(f"{theirs}.self_attn_layer_norm", f"{ours}/attention_norm", n)
    for a, b in (("q", "query"), ("k", "key"), ("v", "value"), ("out", "out")):
        found += linear(f"{theirs}.self_attn.linear_{a}", f"{ours}/attention/{b}", n)
    if o.attention_positions == "relative":
        found += linear(f"{theirs}.self_attn.linear_pos", f"{ours}/attention/offset", n, bias=False)
        found += [
            Row(f"{theirs}.self_attn.pos_bias_{c}", f"{ours}/attention/bias_{c}", "same", n)
            for c in "uv"
        ]
    return (
        found
        + _conv_rows(n, f"{theirs}.conv_module", f"{ours}/conv")
        + norm(f"{theirs}.final_layer_norm", f"{ours}/norm", n)
    )


def _conv_rows(n: int, theirs: str, ours: str) -> list[Row]:
    return [
        *norm(f"{theirs}.layer_norm", f"{ours}/norm", n),
        Row(f"{theirs}.pointwise_conv1.weight", f"{ours}/widen/kernel", "pointwise", n),
        Row(f"{theirs}.depthwise_conv.weight", f"{ours}/depthwise", "depthwise", n),
        *norm(f"{theirs}.batch_norm", f"{ours}/running_norm", n),
        Row(f"{theirs}.batch_norm.running_mean", f"{ours}/running_norm/mean", "same", n),
        Row(f"{theirs}.batch_norm.running_var", f"{ours}/running_norm/var", "same", n),
        Row(f"{theirs}.pointwise_conv2.weight", f"{ours}/narrow/kernel", "pointwise", n),
    ]


def tidy(arrays: Arrays, config: Config) -> Arrays:
    """Drops what the published code does not use, and what it can compute."""
    found = speech.tidy(arrays, config)
    out = ("num_batches_tracked", _BUFFER)
    return {n: x for n, x in found.items() if not n.startswith(_UNUSED) and not n.endswith(out)}


def dress(arrays: Arrays, config: Config) -> tuple[Arrays, Config]:
    """Adds what transformers has besides parameters: unused convolutions, counts, a buffer."""
    found, config = speech.dress(arrays, config)
    width, taps = config["hidden_size"], config["num_conv_pos_embeddings"]
    groups = config["num_conv_pos_embedding_groups"]
    found |= {
        f"{_UNUSED}.bias": np.zeros(width, np.float32),
        f"{_UNUSED}.parametrizations.weight.original0": np.ones((1, 1, taps), np.float32),
        f"{_UNUSED}.parametrizations.weight.original1": np.ones(
            (width, width // groups, taps), np.float32
        ),
    }
    for i in range(config["num_hidden_layers"]):
        found[_COUNTS.replace("{i}", str(i))] = np.zeros((), np.int64)
    if config["position_embeddings_type"] == "rotary":
        half = width // config["num_attention_heads"] // 2
        found[_BUFFER] = (10000.0 ** (-np.arange(half) / half)).astype(np.float32)
    return found, config


preprocessor = speech.preprocessor
