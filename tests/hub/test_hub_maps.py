"""The maps between names here and in transformers, and the errors for bad weights."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from hub_cases import CASES, CHANGES, VOCAB, config_json, golden
from ml_collections import ConfigDict
from safetensors.numpy import load_file, save_file

from ssl_jax import convert
from ssl_jax.core import config as config_lib
from ssl_jax.hub import fairseq, families, names, table
from ssl_jax.hub.files import Source
from ssl_jax.hub.table import Row, WeightsError
from ssl_jax.methods import lighthubert
from ssl_jax.nn import build, elastic
from ssl_jax.ops.patches import sincos_table
from ssl_jax.stages import weights


def arrays_of(name):
    """Returns random arrays under the golden names; position tables have their fixed values."""
    draw = np.random.default_rng(0)
    found = {k: draw.standard_normal(s).astype(np.float32) for k, s in golden(name).items()}
    for key, x in found.items():
        if "pos_embed" in key or key.endswith("embeddings.position_embeddings"):
            x[0, 1:], x[0, 0] = sincos_table((4, 4), x.shape[-1]), 0
    return found


def write(folder, name, arrays=None, **config):
    """Writes a case in the format of transformers and returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(arrays_of(name) if arrays is None else arrays, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config_json(name) | config))
    return folder


def read(folder, name, run, *overrides):
    """Imports with the toy recipe of a case."""
    weights.import_run(folder, run, f"{CASES[name][2]}:toy", overrides, lambda text: None)


@pytest.mark.parametrize("name", CASES)
def test_map_reads_and_writes_the_golden_keys_to_the_bit(name):
    theirs = arrays_of(name)
    family = families.by_type(config_json(name)["model_type"], "")
    beside = {"tokenizer": {"vocab.json": VOCAB}}
    found = weights._plain(family, Source(config_json(name) | beside, theirs, "here"))
    config = weights._config(family, found, f"{CASES[name][2]}:toy", CHANGES.get(name, ()))
    method = weights._method(config)
    _, _, shapes, extra = weights._optimizer(config, method)
    mapped = weights._mapped(family, found, config, shapes, extra)
    assert {n: x.shape for n, x in mapped.weights.items()}.items() <= shapes.items()
    parts = ("encoder/", "decoder/", "mask/")  # for text, the mask is a token of the vocabulary
    assert not [n for n in mapped.fresh if n.startswith(parts[: 2 if "text" in name else 3])]
    back, left = weights._theirs(family, weights._options(config), config.method, mapped.weights)
    assert not left
    assert {n: x.shape for n, x in back[0].items()} == golden(name)
    computed = ["pooler", "token_type", "position_embeddings.weight", "num_batches", "inv_freq"]
    computed += ["pos_conv_embed"] * ("conformer" in name)  # it uses none
    for key, x in theirs.items():
        if not any(word in key for word in computed):
            np.testing.assert_array_equal(back[0][key], x, err_msg=key)
    again = family.module.options(back[1], found.arrays, "")
    assert again == family.module.options(found.config, found.arrays, "")


def test_positions_of_text_hold_the_token_type():
    family = families.FAMILIES["data2vec-text"]
    theirs = arrays_of("data2vec text")
    found = family.module.tidy(theirs, {})
    name = "embeddings.position_embeddings.weight"
    want = theirs[name][2:] + theirs["embeddings.token_type_embeddings.weight"][0]
    np.testing.assert_array_equal(found[name], want)


def test_learned_positions_of_images_keep_the_class_tokens_own():
    family, theirs = families.FAMILIES["vit_mae"], arrays_of("vit mae")
    bare = families.split_prefix(family, theirs)
    table_name = "embeddings.position_embeddings"
    bare[table_name] = bare[table_name] + 1
    config = config_json("vit mae")
    found = family.module.tidy(bare, config)
    assert family.module.options(config, found, "")["positions"] == "learned"
    back, _ = family.module.dress(found, family.module.DEFAULTS | config)
    np.testing.assert_array_equal(back[table_name][0, 1:], bare[table_name][0, 1:])
    cls = "embeddings.cls_token"
    np.testing.assert_allclose(back[cls] + back[table_name][:, :1], bare[cls] + 1, atol=1e-6)


def test_pixels_normalized_otherwise_give_the_same_patches():
    family, config = families.FAMILIES["data2vec-vision"], config_json("data2vec vision")
    theirs = arrays_of("data2vec vision")
    half = (0.5, 0.5, 0.5)
    found = family.module.tidy(theirs, config | {"image_mean": half, "image_std": half})
    image = np.random.default_rng(1).random((3, 4, 4))
    name = "embeddings.patch_embeddings.projection"

    def patch(arrays, mean, std):
        pixels = (image - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
        return (arrays[f"{name}.weight"] * pixels).sum((1, 2, 3)) + arrays[f"{name}.bias"]

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    np.testing.assert_allclose(patch(found, mean, std), patch(theirs, half, half), rtol=1e-4)


def test_tables_of_each_layer_are_read_where_they_are_equal():
    family, config = families.FAMILIES["data2vec-vision"], config_json("data2vec vision")
    theirs = arrays_of("data2vec vision")
    shared = theirs.pop("encoder.relative_position_bias.relative_position_bias_table")
    own = "encoder.layer.{}.attention.attention.relative_position_bias.relative_position_bias_table"
    theirs |= {own.format(i): shared for i in range(2)}
    found = family.module.tidy(theirs, config)
    assert found["encoder.relative_position_bias.relative_position_bias_table"] is shared
    with pytest.raises(WeightsError, match=r"layer.1.* differs from that of layer 0"):
        family.module.tidy(theirs | {own.format(1): shared + 1}, config)


def test_both_names_of_weight_norm_are_read():
    family, theirs = families.FAMILIES["hubert"], arrays_of("hubert")
    start = "encoder.pos_conv_embed.conv"
    old = {
        f"{start}.parametrizations.weight.original{i}": f"{start}.weight_{c}"
        for i, c in enumerate("gv")
    }
    legacy = {old.get(n, n): x for n, x in theirs.items()}
    assert set(legacy) != set(theirs)
    assert family.module.tidy(legacy, {}).keys() == theirs.keys()


def test_bias_of_convolutions_is_decided_by_the_arrays():
    config = config_json("hubert large") | {"conv_bias": False}
    family, theirs = families.FAMILIES["hubert"], arrays_of("hubert large")
    assert family.module.options(config, theirs, "")["conv_bias"] is True
    bare = {n: x for n, x in theirs.items() if not n.endswith("conv.bias")}
    assert family.module.options(config | {"conv_bias": True}, bare, "")["conv_bias"] is False


@pytest.mark.parametrize("layout", table.LAYOUTS)
def test_layouts_undo_each_other(layout):
    shapes = {
        "patches": (5, 3, 4, 4),
        "grid": (5, 4, 3, 2),
        "pointwise": (5, 4, 1),
        "token": (1, 1, 5),
        "cells": (5, 1, 4, 4),
        "heads": (1, 5, 1, 1),
        "scalar": (1,),
    }
    shape = (shapes | {"depthwise": (5, 1, 3)}).get(layout, (5, 3))
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    there, back = table.LAYOUTS[layout]
    assert there(x).shape != shape or layout == "same"
    np.testing.assert_array_equal(back(there(x)), x)


def test_names_of_fairseq_go_both_ways():
    for kind, norm in (("wav2vec2", "group"), ("hubert", "layer"), ("data2vec-audio", "layer")):
        pairs = names.pairs({"model_type": kind, "feat_extract_norm": norm})
        convs = "feature_extractor.conv_layers"
        found = {
            f"{convs}.3.0.weight": f"{convs}.3.conv.weight",
            "encoder.layers.11.self_attn.q_proj.bias": "encoder.layers.11.attention.q_proj.bias",
            "encoder.layers.0.self_attn_layer_norm.bias": "encoder.layers.0.layer_norm.bias",
            "encoder.layers.0.final_layer_norm.bias": "encoder.layers.0.final_layer_norm.bias",
            "encoder.layer_norm.weight": "encoder.layer_norm.weight",
            "layer_norm.weight": "feature_projection.layer_norm.weight",
            "mask_emb": "masked_spec_embed",
        }
        for old, new in found.items():
            assert names.renamed(old, pairs) == new
            assert names.renamed(new, pairs, back=True) == old


@pytest.mark.parametrize("first", [True, False])
def test_a_conformer_of_fairseq_has_its_norm_where_its_config_says(first):
    model = {"_name": "wav2vec2", "layer_type": "conformer", "encoder_embed_dim": 16}
    model["pos_enc_type"] = "rel_pos"
    said = fairseq.config_of(model | {"layer_norm_first": first}, {}, {}, "a.pt")
    config = config_json("conformer") | {"norm_before_layers": said["norm_before_layers"]}
    family = families.by_type(said["model_type"], "")
    found = weights._plain(family, Source(config, arrays_of("conformer"), "here"))
    config = weights._config(family, found, "configs/wav2vec2/audio.py:toy", ())
    _, _, shapes, extra = weights._optimizer(config, weights._method(config))
    assert weights._mapped(family, found, config, shapes, extra).fresh == []
    assert ("encoder/final_norm/scale" in shapes, "encoder/norm/scale" in shapes) == (
        first,
        not first,
    )
    with pytest.raises(WeightsError, match=r"a.pt: pos_enc_type is 'abs': .* rel_pos and rope"):
        fairseq.config_of(model | {"pos_enc_type": "abs"}, {}, {}, "a.pt")


def broken(name, change):
    """Returns the arrays of a case after change(arrays)."""
    arrays = arrays_of(name)
    change(arrays)
    return arrays


BAD = [
    (
        lambda a: a.pop("encoder.layers.1.attention.q_proj.bias"),
        r"no encoder.layers.1.attention.q_p",
    ),
    (lambda a: a.pop("feature_projection.layer_norm.weight"), "encoder/frontend/norm/scale here"),
    (
        lambda a: a.update({"encoder.layers.2.layer_norm.bias": np.zeros(16, np.float32)}),
        "no parameter here matches encoder.layers.2.layer_norm.bias",
    ),
    (
        lambda a: a.update({"encoder.layers.1.layer_norm.bias": np.zeros(15, np.float32)}),
        r"layers.1.layer_norm.bias has the shape \(15,\), but its config asks for \(16,\)",
    ),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_missing_extra_and_misshapen_arrays_are_named(change, message, tmp_path):
    folder = write(tmp_path, "hubert", broken("hubert", change))
    with pytest.raises(WeightsError, match=message):
        read(folder, "hubert", tmp_path / "run")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "huberta"}, "model_type is 'huberta'.* did you mean 'hubert'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'.* only 'gelu'"),
        ({"conv_dim": [8, 8, 16]}, r"conv_dim is \[8, 8, 16\]"),
        ({"layer_norm_eps": 1e-6}, "layer_norm_eps is 1e-06"),
        ({"num_hidden_layers": 3}, "no encoder.layers.2"),
        ({"num_attention_heads": 3}, "config.method.encoder.heads 3 does not divide"),
    ],
)
def test_a_config_that_does_not_fit_is_explained(config, message, tmp_path):
    folder = write(tmp_path, "hubert", **config)
    with pytest.raises(ValueError, match=message):
        read(folder, "hubert", tmp_path / "run")


def test_files_that_are_not_there_or_broken_are_named(tmp_path):
    folder = write(tmp_path / "a", "hubert")
    (folder / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"config.json has no model_type: add it"):
        read(folder, "hubert", tmp_path / "run")
    (folder / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config.json is no JSON"):
        read(folder, "hubert", tmp_path / "run")
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"has no config.json"):
        read(folder / "model.safetensors", "hubert", tmp_path / "run")
    with pytest.raises(WeightsError, match="does not exist"):
        read(tmp_path / "nowhere", "hubert", tmp_path / "run")
    folder = write(tmp_path / "b", "hubert")
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="is not a safetensors file"):
        read(folder, "hubert", tmp_path / "run")
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"has no weights: neither model.safetensors"):
        read(folder, "hubert", tmp_path / "run")
    folder = write(tmp_path / "c", "hubert")
    with pytest.raises(WeightsError, match="kind is 'vit', and hubert is of kind 'waveform'"):
        read(folder, "vit mae", tmp_path / "run")


def test_parts_are_there_as_a_whole_or_not_at_all():
    rows = [Row("a", "a"), Row("b.0", "b", part="head"), Row("b.1", "c", part="head")]
    shapes = dict.fromkeys("abc", (2,))
    x = np.ones(2, np.float32)
    assert table.to_ours(rows, {"a": x}, shapes, "f")[0].keys() == {"a"}
    with pytest.raises(WeightsError, match=r"f has no b.1"):
        table.to_ours(rows, {"a": x, "b.0": x}, shapes, "f")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("alibi", "fixed", "alibi is 'fixed', which wav2vec2 in transformers does not have"),
        ("layer_scale", 0.1, "layer_scale is 0.1"),
        ("norm", "res_post", "norm 'res_post'"),
    ],
)
def test_an_encoder_without_a_family_is_explained(key, value, message):
    config = config_lib.load("configs/data2vec/audio.py:toy").copy_and_resolve_references()
    config.unlock().method.encoder.update({"positions": "weight_norm", key: value})
    o = weights._options(config)
    with pytest.raises(WeightsError, match=message):
        families.by_type("wav2vec2", "").module.config_of(o, "wav2vec2")
    o = config_lib.load("configs/data2vec/kws.py:toy")
    with pytest.raises(WeightsError, match="kind is 'keyword_transformer'"):
        families.of_run(o.method, None)


def test_the_command_imports_goes_on_and_exports(tmp_path, capsys):
    folder, run = write(tmp_path / "in", "hubert"), tmp_path / "run"
    command = ["import", "--from", str(folder), "--to", str(run)]
    assert convert.main([*command, "--config", "configs/data2vec/audio.py:toy"]) == 0
    said = capsys.readouterr().out
    assert "new, as the source has none: predictor/bias, predictor/kernel" in said
    assert convert.main([*command, "--config", "configs/data2vec/audio.py:toy"]) == 1
    assert "has checkpoints already: give --to a new folder" in capsys.readouterr().err
    config = config_lib.load(str(run / "config.json"), ["seed=3"])
    assert config.method.encoder.positions == "weight_norm" and config.seed == 3
    out = tmp_path / "out"
    export = ["export", "--from", str(run), "--to", str(out)]
    assert convert.main([*export, "--family", "hubert"]) == 0
    assert "has no place for it: predictor/bias, predictor/kernel" in capsys.readouterr().out
    before, after = (load_file(f / "model.safetensors") for f in (folder, out))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert json.loads((out / "config.json").read_text())["architectures"] == ["HubertModel"]
    assert convert.main([*export, "--family", "bert"]) == 1
    assert "model_type is 'bert'" in capsys.readouterr().err
    assert convert.main(["export", "--from", str(out / "x"), "--to", str(out)]) == 1
    assert "is no run folder" in capsys.readouterr().err
    params = next((run / "checkpoints").glob("*/params"))
    damaged = max((p for p in params.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    assert convert.main([*export, "--family", "hubert"]) == 1
    assert f"{params.parent} is damaged: " in capsys.readouterr().err


def test_the_data_of_a_recipe_take_the_image_size_of_the_weights():
    found = Source({"model_type": "vit_mae", "image_size": 384}, {}, "a file")
    family = families.by_type("vit_mae", "a file")
    config = weights._config(family, found, "configs/mae/image.py:mini", ())
    assert config.data.image_size == config.method.encoder.image_size == 384


def test_the_encoder_of_a_stream_is_exported_alone():
    two = ConfigDict({"method": {"name": "two", "encoders": {"a": {"kind": "vit"}, "b": {}}}})
    assert weights._of_stream(two, "a", Path("run")).method.encoder.kind == "vit"
    with pytest.raises(WeightsError, match="--stream is '', and run has the encoders a, b: name"):
        weights._of_stream(two, "", Path("run"))
    one = ConfigDict({"method": {"name": "one", "encoder": {"kind": "vit"}}})
    assert weights._of_stream(one, "", Path("run")) is one
    with pytest.raises(WeightsError, match="run has one encoder: leave it out"):
        weights._of_stream(one, "a", Path("run"))


@pytest.mark.parametrize(
    ("subnet", "message"),
    [
        ("8/1,1/2,2", ""),
        ("8/2,2/2,2", "head_width is 8, which hubert in transformers does not have: it needs None"),
        ("16/2,1/2,2", r"layer_heads is \(2, 1\), which hubert"),
        ("8/1,1/1,2", r"layer_mlp_widths is \(8, 16\), which hubert"),
    ],
)
def test_a_subnet_is_a_hubert_where_its_blocks_are_alike_and_its_heads_fill_its_width(
    subnet, message
):
    config = config_lib.load("configs/lighthubert/speech.py:toy")
    own = lighthubert.make(config.method, precision="float32", sample_rate=16000, num_classes=0)
    space = own.loss.__self__.space
    section = elastic.section(config.method.encoder, space, space.parse(subnet))
    o = families.merged(build.encoder(section, precision="float32", sample_rate=16000))
    family = families.of_run({"name": "lighthubert", "encoder": section}, o)
    assert family.model_type == "hubert"
    if message:
        with pytest.raises(WeightsError, match=message):
            family.module.config_of(o, family.model_type)
        return
    found = family.module.config_of(o, family.model_type)
    sizes = ("hidden_size", "num_attention_heads", "intermediate_size", "num_hidden_layers")
    assert tuple(found[key] for key in sizes) == (8, 1, 16, 2)
    assert found["feat_extract_norm"] == "layer" and family.module.preprocessor(o)["do_normalize"]
