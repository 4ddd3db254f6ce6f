"""Names that differ between fairseq and transformers: one table, used in both directions."""

import re
from collections.abc import Sequence

from ssl_jax.hub.speech import Config

Pair = tuple[str, str]
"""(name in fairseq, name in transformers); {i} is a number, {p} the rest of a name."""

_LAYER = [
    ("{i}.self_attn.{p}", "{i}.attention.{p}"),
    ("{i}.self_attn_layer_norm.{p}", "{i}.layer_norm.{p}"),
    ("{i}.fc1.{p}", "{i}.feed_forward.intermediate_dense.{p}"),
    ("{i}.fc2.{p}", "{i}.feed_forward.output_dense.{p}"),
]
_CONFORMER_LAYER = [
    ("{i}.ffn1.layer_norm.{p}", "{i}.ffn1_layer_norm.{p}"),
    ("{i}.ffn1.w_1.{p}", "{i}.ffn1.intermediate_dense.{p}"),
    ("{i}.ffn1.w_2.{p}", "{i}.ffn1.output_dense.{p}"),
    ("{i}.ffn2.layer_norm.{p}", "{i}.ffn2_layer_norm.{p}"),
    ("{i}.ffn2.w_1.{p}", "{i}.ffn2.intermediate_dense.{p}"),
    ("{i}.ffn2.w_2.{p}", "{i}.ffn2.output_dense.{p}"),
]
_PARAMETRIZED = "encoder.pos_conv_embed.conv.parametrizations.weight.original"
_WEIGHT_NORM = [
    ("encoder.pos_conv.0.weight_g", f"{_PARAMETRIZED}0"),
    ("encoder.pos_conv.0.weight_v", f"{_PARAMETRIZED}1"),
    ("encoder.pos_conv.0.bias", "encoder.pos_conv_embed.conv.bias"),
]
_TEXT = [
    ("encoder.sentence_encoder.embed_tokens.{p}", "embeddings.word_embeddings.{p}"),
    ("encoder.sentence_encoder.embed_positions.{p}", "embeddings.position_embeddings.{p}"),
    ("encoder.sentence_encoder.layernorm_embedding.{p}", "embeddings.LayerNorm.{p}"),
]
_TEXT_LAYER = [
    ("{i}.self_attn.q_proj.{p}", "{i}.attention.self.query.{p}"),
    ("{i}.self_attn.k_proj.{p}", "{i}.attention.self.key.{p}"),
    ("{i}.self_attn.v_proj.{p}", "{i}.attention.self.value.{p}"),
    ("{i}.self_attn.out_proj.{p}", "{i}.attention.output.dense.{p}"),
    ("{i}.self_attn_layer_norm.{p}", "{i}.attention.output.LayerNorm.{p}"),
    ("{i}.fc1.{p}", "{i}.intermediate.dense.{p}"),
    ("{i}.fc2.{p}", "{i}.output.dense.{p}"),
    ("{i}.final_layer_norm.{p}", "{i}.output.LayerNorm.{p}"),
]


def pairs(config: Config) -> list[Pair]:
    """Returns the table of the model that config.json describes; the first match wins."""
    if config["model_type"].startswith("data2vec2-"):
        return []  # transformers does not have it: the names stay
    if config["model_type"] == "data2vec-text":
        layers = _below("encoder.sentence_encoder.layers.", "encoder.layer.", _TEXT_LAYER)
        heads = [("encoder.regression_head.{p}", "regression_head.{p}")]
        return [*_TEXT, *layers, *heads, ("encoder.lm_head.{p}", "lm_head.{p}")]
    convs, norms = "feature_extractor.conv_layers.", ("{i}.2.1.{p}", "{i}.layer_norm.{p}")
    if config.get("feat_extract_norm", "layer") == "group":
        norms = ("{i}.2.{p}", "{i}.layer_norm.{p}")
    positions = _WEIGHT_NORM
    if config["model_type"] == "data2vec-audio":
        positions = [("encoder.pos_conv.{i}.0.{p}", "encoder.pos_conv_embed.layers.{i}.conv.{p}")]
    conformer = config["model_type"] == "wav2vec2-conformer"
    layer = _CONFORMER_LAYER if conformer else _LAYER
    heads = []
    if config["model_type"].startswith("wav2vec2"):
        heads = [("quantizer.vars", "quantizer.codevectors"), ("final_proj.{p}", "project_hid.{p}")]
    return [
        *_below(convs, convs, [norms, ("{i}.0.{p}", "{i}.conv.{p}")]),
        ("layer_norm.{p}", "feature_projection.layer_norm.{p}"),
        ("post_extract_proj.{p}", "feature_projection.projection.{p}"),
        ("mask_emb", "masked_spec_embed"),
        *positions,
        *_below("encoder.layers.", "encoder.layers.", layer),
        *heads,
    ]


def _below(theirs: str, ours: str, table: Sequence[Pair]) -> list[Pair]:
    return [(theirs + a, ours + b) for a, b in table]


def renamed(name: str, table: Sequence[Pair], back: bool = False) -> str:
    """Converts a name of fairseq to transformers', or `back`; one that no pair matches stays."""
    for pair in table:
        old, new = reversed(pair) if back else pair
        pattern = re.escape(old).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{p\}", r"(?P<p>.+)")
        found = re.fullmatch(pattern, name)
        if found:
            return new.format(**found.groupdict())
    return name
