"""BEATs as its authors publish it: an encoder, a fine-tuned model or a tokenizer in one `.pt`.

A file has `cfg`, a plain dict, `model`, and if it is fine-tuned `label_dict`, from class to label.
Every layer holds the one table of relative positions.
"""

from typing import Any

import numpy as np

from ssl_jax.hub.speech import Config
from ssl_jax.hub.table import Arrays, Row, WeightsError, linear, norm

_LAYER, _POSITIONS = "encoder.layers.{i}", "encoder.pos_conv.0"
_TABLE = "encoder.layers.{i}.self_attn.relative_attention_bias.weight"
_GAIN, _TAPS = f"{_POSITIONS}.weight_g", f"{_POSITIONS}.weight_v"
_NEW = f"{_POSITIONS}.parametrizations.weight.original"


def rows(o: Any) -> list[Row]:
    """Returns the map of the encoder, for arrays from `tidy`."""
    n, ours = o.depth, "encoder/blocks"
    found = [
        Row("patch_embedding.weight", "encoder/frontend/patch/kernel", "cells"),
        *norm("layer_norm", "encoder/frontend/norm"),
        *linear("post_extract_proj", "encoder/frontend/projection"),
        Row(f"{_POSITIONS}.bias", "encoder/positions/bias"),
        Row(_GAIN, "encoder/positions/gain", "reverse"),
        Row(_TAPS, "encoder/positions/kernel", "reverse"),
        *norm("encoder.layer_norm", "encoder/norm"),
        Row(_TABLE.format(i=0), "encoder/relative/table"),
        Row(f"{_LAYER}.self_attn.grep_a", f"{ours}/attention/gate_scale", "heads", n),
        *linear(f"{_LAYER}.self_attn.grep_linear", f"{ours}/attention/gate", n),
    ]
    for a, b in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out")):
        found += linear(f"{_LAYER}.self_attn.{a}", f"{ours}/attention/{b}", n)
    found += linear(f"{_LAYER}.fc1", f"{ours}/mlp/up", n)
    found += linear(f"{_LAYER}.fc2", f"{ours}/mlp/down", n)
    found += norm(f"{_LAYER}.self_attn_layer_norm", f"{ours}/norm1", n)
    return found + norm(f"{_LAYER}.final_layer_norm", f"{ours}/norm2", n)


def tidy(arrays: Arrays, config: Config) -> Arrays:
    """Gives the weight norm its older names, and keeps one table of relative positions.

    Raises WeightsError if the layers' tables differ.
    """
    names = {f"{_NEW}0": _GAIN, f"{_NEW}1": _TAPS}
    found = {names.get(name, name): x for name, x in arrays.items()}
    first = _TABLE.format(i=0)
    for i in range(1, config["num_hidden_layers"]):
        name = _TABLE.format(i=i)
        own = found.pop(name, None)
        if own is not None and not (first in found and np.array_equal(own, found[first])):
            raise WeightsError(
                f"{name} differs from {first}: only models whose layers share it can be read"
            )
    return found
