"""The speech families: HuBERT, wav2vec 2.0 and data2vec, which includes music2vec.

Each has a map of names and conversions from config.json to config.method.encoder and back.
music2vec is data2vec-audio in both respects. `conformer` shares the front end and the heads.
"""

from typing import Any

import numpy as np

from ssl_jax.hub.table import Arrays, Row, WeightsError, linear, norm

Config = dict[str, Any]
Options = dict[str, Any]

# (key of config.json, key of config.method.encoder)
SIZES = (
    ("hidden_size", "width"),
    ("num_hidden_layers", "depth"),
    ("num_attention_heads", "heads"),
    ("intermediate_size", "mlp_width"),
    ("layer_norm_eps", "eps"),
    ("conv_bias", "conv_bias"),
    ("num_conv_pos_embedding_groups", "position_groups"),
)
# values that a key must have, if present, for the encoder here to compute the same function
FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu",),
    "feat_extract_activation": ("gelu",),
    "layer_norm_eps": (1e-5,),
    "add_adapter": (False,),
    "conv_pos_batch_norm": (False,),
    "feat_proj_layer_norm": (True,),
}
DEFAULTS: Config = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-5,
    "conv_bias": False,
    "conv_dim": [512] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "num_conv_pos_embedding_groups": 16,
    "num_conv_pos_embeddings": 128,
    "conv_pos_kernel_size": 19,
    "feat_extract_norm": "group",
    "do_stable_layer_norm": False,
}
# the CTC vocabulary of wav2vec 2.0 and HuBERT, which is that of config.data.spelling='letters'
BLANK = "<blank>"
LETTERS = (BLANK, "<pad>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
_OLD_NAMES = ("encoder.pos_conv_embed.conv.weight_g", "encoder.pos_conv_embed.conv.weight_v")
_CODES = "quantizer.codevectors"
_NEW = "encoder.pos_conv_embed.conv.parametrizations.weight.original"


def check_fixed(config: Config, fixed: dict[str, tuple[Any, ...]], where: str) -> None:
    """Raises WeightsError if config.json asks for something that no encoder here computes."""
    for key, values in fixed.items():
        if key in config and config[key] not in values:
            raise WeightsError(
                f"{where}: {key} is {config[key]!r}, which no encoder here computes: only "
                f"{' or '.join(map(repr, values))} can be read"
            )


def options(config: Config, arrays: Arrays, where: str) -> Options:
    """Returns the keys of config.method.encoder that config.json and the weights determine."""
    check_fixed(config, FIXED, where)
    stack = config["model_type"] == "data2vec-audio"
    c = DEFAULTS | ({"num_conv_pos_embeddings": 5} if stack else {}) | config
    if len(set(c["conv_dim"])) != 1:
        raise WeightsError(f"{where}: conv_dim is {c['conv_dim']}: only equal widths can be read")
    found: Options = {ours: c[theirs] for theirs, ours in SIZES}
    # config.json of some published weights is wrong here; the arrays are right
    found["conv_bias"] = "feature_extractor.conv_layers.0.conv.bias" in arrays
    layer = stack or c["feat_extract_norm"] == "layer"
    found |= {
        "conv_channels": c["conv_dim"][0],
        "conv_kernels": tuple(c["conv_kernel"]),
        "conv_strides": tuple(c["conv_stride"]),
        "conv_norm": "layer" if layer else "group",
        "norm": "pre" if c["do_stable_layer_norm"] else "post",
        "normalize": bool(c.get("do_normalize", layer)),
        "positions": "stack" if stack else "weight_norm",
    }
    if stack:
        found["position_depth"] = c["num_conv_pos_embeddings"]
        found["position_kernel"] = c["conv_pos_kernel_size"]
        # unlike in transformers, padding changes nothing; unpadded clips give the same
        found["mask_each"] = True
    else:
        found["position_kernel"] = c["num_conv_pos_embeddings"]
    return found


def config_of(o: Any, model_type: str) -> Config:
    """Returns config.json for an encoder of the options `o` (all of them, as attributes).

    Raises WeightsError, naming the key, for an encoder that the family does not have.
    """
    wanted = {
        "blocks": "transformer",
        "positions": "stack" if model_type == "data2vec-audio" else "weight_norm",
        "alibi": "none",
        "qkv_bias": True,
        "key_bias": True,
        "out_proj": True,
        "layer_scale": 0.0,
        "eps": 1e-5,
        # subnets of LightHuBERT may have others
        "layer_heads": None,
        "layer_mlp_widths": None,
    }
    if o.head_width != o.width / o.heads:
        wanted["head_width"] = None
    check_options(o, wanted, model_type)
    if o.norm == "res_post" or o.final_norm not in (None, o.norm == "pre"):
        raise WeightsError(
            f"config.method.encoder.norm {o.norm!r} with final_norm {o.final_norm}: "
            f"{model_type} has 'pre' or 'post', with final_norm=None"
        )
    found = shape_config(o, model_type)
    if model_type == "data2vec-audio":
        _check_data2vec(o)
        found["num_conv_pos_embeddings"] = o.position_depth
        found["conv_pos_kernel_size"] = o.position_kernel
    else:
        found["num_conv_pos_embeddings"] = o.position_kernel
        found["feat_extract_norm"] = o.conv_norm
        found["do_stable_layer_norm"] = o.norm == "pre"
    return found


def shape_config(o: Any, model_type: str) -> Config:
    """Returns the keys of config.json that all speech families have in common."""
    layers = len(o.conv_kernels)
    found: Config = {theirs: getattr(o, ours) for theirs, ours in SIZES}
    found |= {
        "model_type": model_type,
        "conv_dim": [o.conv_channels] * layers,
        "conv_kernel": list(o.conv_kernels),
        "conv_stride": list(o.conv_strides),
        "num_feat_extract_layers": layers,
        "hidden_dropout": o.dropout,
        "attention_dropout": o.attention_dropout,
        "activation_dropout": o.activation_dropout,
        "layerdrop": o.layerdrop,
    }
    return found


def _check_data2vec(o: Any) -> None:
    if (o.conv_norm, o.norm) != ("layer", "post"):
        raise WeightsError(
            "data2vec-audio has config.method.encoder.conv_norm='layer' and norm='post', not "
            f"{o.conv_norm!r} and {o.norm!r}"
        )


def check_options(o: Any, wanted: dict[str, Any], model_type: str) -> None:
    """Raises WeightsError on the first option that transformers' model type does not have."""
    for key, value in wanted.items():
        if getattr(o, key) != value:
            raise WeightsError(
                f"config.method.encoder.{key} is {getattr(o, key)!r}, which {model_type} in "
                f"transformers does not have: it needs {value!r}"
            )


def preprocessor(o: Any) -> Config:
    """Returns preprocessor_config.json of an encoder here."""
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": 16000,
        "padding_value": 0.0,
        "do_normalize": o.normalize,
        # models with a norm over time were trained without padding and without a mask
        "return_attention_mask": o.conv_norm == "layer",
    }


def frontend_rows(o: Any) -> list[Row]:
    """Returns the map of the front end and the mask vector."""
    convs, theirs = len(o.conv_kernels), "feature_extractor.conv_layers.{i}"
    ours = "encoder/frontend/convs/"
    rows = [Row(f"{theirs}.conv.weight", f"{ours}conv{{i}}/kernel", "reverse", convs)]
    rows += [Row(f"{theirs}.conv.bias", f"{ours}conv{{i}}/bias", "same", convs)] * o.conv_bias
    rows += norm(f"{theirs}.layer_norm", f"{ours}norm{{i}}", convs if o.conv_norm == "layer" else 1)
    rows += norm("feature_projection.layer_norm", "encoder/frontend/norm")
    rows += linear("feature_projection.projection", "encoder/frontend/projection")
    return [*rows, Row("masked_spec_embed", "mask/vector", part="mask vector")]


def position_rows(o: Any) -> list[Row]:
    """Returns the map of the position convolutions."""
    if o.positions == "stack":
        theirs, count = "encoder.pos_conv_embed.layers.{i}.conv", o.position_depth
        return linear(theirs, "encoder/positions/conv{i}", count)
    return [
        Row("encoder.pos_conv_embed.conv.bias", "encoder/positions/bias"),
        Row(f"{_NEW}0", "encoder/positions/gain", "reverse"),
        Row(f"{_NEW}1", "encoder/positions/kernel", "reverse"),
    ]


def rows(o: Any) -> list[Row]:
    """Returns the map of HuBERT, wav2vec 2.0 and data2vec."""
    n, theirs, ours = o.depth, "encoder.layers.{i}", "encoder/blocks"
    found = frontend_rows(o) + position_rows(o)
    found += norm("encoder.layer_norm", "encoder/final_norm" if o.norm == "pre" else "encoder/norm")
    for a, b in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out")):
        found += linear(f"{theirs}.attention.{a}", f"{ours}/attention/{b}", n)
    found += linear(f"{theirs}.feed_forward.intermediate_dense", f"{ours}/mlp/up", n)
    found += linear(f"{theirs}.feed_forward.output_dense", f"{ours}/mlp/down", n)
    found += norm(f"{theirs}.layer_norm", f"{ours}/norm1", n)
    return found + norm(f"{theirs}.final_layer_norm", f"{ours}/norm2", n)


def quantizer_rows(section: Any) -> list[Row]:
    """Returns the map of wav2vec 2.0's quantizer and of the two projections it compares."""
    del section
    part = "quantizer"
    return [
        Row("quantizer.codevectors", "quantizer/codes", part=part),
        *linear("quantizer.weight_proj", "quantizer/logits", part=part),
        *linear("project_hid", "predictor", part=part),
        *linear("project_q", "target", part=part),
    ]


def quantizer_section(config: Config) -> Options:
    """Returns the keys of config.method of wav2vec2 that config.json determines."""
    c = {"num_codevector_groups": 2, "num_codevectors_per_group": 320} | config
    width, compared = c.get("codevector_dim", 256), c.get("proj_codevector_dim", 256)
    if width != compared:
        raise WeightsError(
            f"codevector_dim is {width} and proj_codevector_dim {compared}: only equal ones can be "
            f"read"
        )
    groups, codes = c["num_codevector_groups"], c["num_codevectors_per_group"]
    return {"quantizer": {"groups": groups, "codes": codes, "width": width}}


def quantizer_config(section: Any) -> Config:
    """Returns the keys of config.json for config.method of wav2vec2."""
    q = section["quantizer"]
    return {
        "num_codevector_groups": q["groups"],
        "num_codevectors_per_group": q["codes"],
        "codevector_dim": q["width"],
        "proj_codevector_dim": q["width"],
        "num_negatives": section["negatives"]["count"],
        "contrastive_logits_temperature": section["loss"]["temperature"],
        "diversity_loss_weight": section["loss"]["diversity"],
    }


def unit_rows(section: Any) -> list[Row]:
    """Returns the map of fairseq's HuBERT head."""
    del section
    rows = linear("final_proj", "head/projection", part="units")
    return [*rows, Row("label_embs_concat", "head/units", part="units")]


def unit_section(config: Config) -> Options:
    """Returns the keys of config.method of HuBERT that a file of fairseq determines."""
    if "label_classes" not in config:
        return {}
    units = {"classes": tuple(config["label_classes"]), "rate": float(config["label_rate"])}
    return {"units": units, "head": {"width": config["final_dim"]}}


def regression_rows(section: Any) -> list[Row]:
    """Returns the map of fairseq's one-layer data2vec head, empty for other heads."""
    if section["predictor"]["layers"] != 1:
        return []
    return linear("final_proj", "predictor", part="predictor")


def ctc_rows(section: Any) -> list[Row]:
    """Returns the map of the frame classifier, empty for a head with more parts."""
    head = section["head"]
    if head["mix"] or head["projection"]:
        return []
    return linear("lm_head", "head/classifier", part="classifier of frames")


def ctc_config(section: Any) -> Config:
    """Returns the keys of config.json for config.method of CTC."""
    del section
    return {"pad_token_id": 0, "ctc_loss_reduction": "mean", "ctc_zero_infinity": True}


def tidy(arrays: Arrays, config: Config) -> Arrays:
    """Gives the weight norm its newer names, splits codes into groups, puts the blank first."""
    names = {old: f"{_NEW}{i}" for i, old in enumerate(_OLD_NAMES)}
    found = {names.get(name, name): x for name, x in arrays.items()}
    if _CODES in found:
        groups = config.get("num_codevector_groups", 2)
        codes = found[_CODES]
        found[_CODES] = codes.reshape(groups, -1, codes.shape[-1])
    blank = config.get("pad_token_id", 0)
    for name in ("lm_head.weight", "lm_head.bias"):
        if name in found and blank:  # class 0 is the blank here
            x = found[name]
            found[name] = np.concatenate([x[blank : blank + 1], x[:blank], x[blank + 1 :]])
    return found


def dress(arrays: Arrays, config: Config) -> tuple[Arrays, Config]:
    """Adds a mask vector of zeros if the run has none, and joins the codes of all groups."""
    vector = np.zeros(config["hidden_size"], np.float32)
    found: Arrays = {"masked_spec_embed": vector} | arrays
    if _CODES in found:
        codes = found[_CODES]
        found[_CODES] = codes.reshape(1, -1, codes.shape[-1])
    if "lm_head.bias" in found:
        config = config | {"vocab_size": len(found["lm_head.bias"])}
    return found, config
