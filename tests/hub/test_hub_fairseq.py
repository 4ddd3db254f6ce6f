"""Checkpoints of fairseq and s3prl, written here by hand in the form of those programs."""

import argparse
import re
import sys
import types

import jax
import numpy as np
import pytest
from hub_cases import AUDIO, UNITS, config_json, golden

from ssl_jax.core import tree
from ssl_jax.engine import checkpoint
from ssl_jax.hub.table import WeightsError
from ssl_jax.stages import weights

pytestmark = pytest.mark.interop

CONVS = "[(8, 10, 5)] + [(8, 8, 8)] * 2"
MODEL = {
    "encoder_layers": 2,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 32,
    "encoder_attention_heads": 2,
    "conv_feature_layers": CONVS,
    "conv_pos": 8,
    "conv_pos_groups": 4,
    "extractor_mode": "default",
    "layer_norm_first": False,
    "conv_bias": False,
    "final_dim": 8,
    "latent_vars": 6,
}
# transformers' name -> fairseq's, independent of the table under test
RENAMES = [
    (r"^wav2vec2\.|^hubert\.", ""),
    (r"^masked_spec_embed", "mask_emb"),
    (r"^feature_projection\.layer_norm", "layer_norm"),
    (r"^feature_projection\.projection", "post_extract_proj"),
    (r"(conv_layers\.\d+)\.conv\.", r"\1.0."),
    (r"(conv_layers\.\d+)\.layer_norm\.", r"\1.2.GROUP"),
    (r"pos_conv_embed\.conv\.parametrizations\.weight\.original0", "pos_conv.0.weight_g"),
    (r"pos_conv_embed\.conv\.parametrizations\.weight\.original1", "pos_conv.0.weight_v"),
    (r"pos_conv_embed\.conv\.bias", "pos_conv.0.bias"),
    (r"pos_conv_embed\.layers\.(\d)\.conv", r"pos_conv.\1.0"),
    (r"(layers\.\d+)\.layer_norm", r"\1.self_attn_layer_norm"),
    (r"(layers\.\d+)\.attention", r"\1.self_attn"),
    (r"feed_forward\.intermediate_dense", "fc1"),
    (r"feed_forward\.output_dense", "fc2"),
    (r"^quantizer\.codevectors", "quantizer.vars"),
    (r"^project_hid", "final_proj"),
]


def fairseq_name(name, layer=False):
    """Returns fairseq's name for an array of transformers."""
    for pattern, to in RENAMES:
        name = re.sub(pattern, to, name)
    return name.replace("GROUP", "1." if layer else "")


def state(name, layer=False, seed=0):
    """Returns random tensors of a case under fairseq's names."""
    import torch

    draw = np.random.default_rng(seed)
    arrays = {fairseq_name(k, layer): draw.standard_normal(s) for k, s in golden(name).items()}
    return {k: torch.tensor(x, dtype=torch.float32) for k, x in arrays.items()}


def omegaconf(value, box):
    """Wraps a config as omegaconf pickles it."""
    if isinstance(value, dict):
        node = box.DictConfig()
        node.__dict__["_content"] = {k: omegaconf(v, box) for k, v in value.items()}
        return node
    node = box.AnyNode()
    node.__dict__["_val"] = value
    return node


@pytest.fixture
def box(monkeypatch):
    """A module whose classes cannot be imported once it is closed."""
    module = types.ModuleType("omegaconf_here")
    for name in ("DictConfig", "AnyNode", "Dictionary"):
        setattr(module, name, type(name, (), {"__module__": "omegaconf_here"}))
    monkeypatch.setitem(sys.modules, "omegaconf_here", module)
    return module


def save(path, content, box=None, monkeypatch=None):
    """Writes a torch file; afterwards its classes are gone."""
    import torch

    torch.save(content, path)
    if monkeypatch:
        monkeypatch.delitem(sys.modules, "omegaconf_here")
    return path


def params_of(run):
    """Returns the parameters of a run by name."""
    return dict(tree.named_leaves(checkpoint.restore_params(run)))


def hubert_state():
    import torch

    model = state("hubert")
    draw = torch.Generator().manual_seed(1)
    model["label_embs_concat"] = torch.randn(12, 8, generator=draw)
    model["final_proj.weight"] = torch.randn(8, 16, generator=draw)
    model["final_proj.bias"] = torch.randn(8, generator=draw)
    return model


@pytest.mark.parametrize("flat", [False, True])
def test_hubert_with_its_units_and_moments(flat, tmp_path, box, monkeypatch):
    import torch

    model = hubert_state()
    labels = box.Dictionary()
    labels.symbols = ["<s>", "<pad>", "</s>", "<unk>", *map(str, range(8))]
    moments = {n: torch.randn(x.shape) for n, x in model.items()}
    if flat:  # half precision stores all parameters in one flat array
        row = torch.cat([x.flatten() for x in moments.values()])
        adam = {0: {"exp_avg": row, "exp_avg_sq": row.abs(), "step": 7}}
    else:
        adam = {i: {"exp_avg": x, "exp_avg_sq": x.abs()} for i, x in enumerate(moments.values())}
    cfg = {"model": {"_name": "hubert", **MODEL}, "task": {"normalize": False, "label_rate": 50}}
    path = save(
        tmp_path / "hubert.pt",
        {
            "cfg": omegaconf(cfg, box),
            "model": model,
            "task_state": {"dictionaries": [labels]},
            "optimizer_history": [{"num_updates": 7}],
            "last_optimizer_state": {"state": adam, "param_groups": []},
        },
        box,
        monkeypatch,
    )
    recipe = "configs/hubert/audio.py:toy"
    assert weights.import_run(path, tmp_path / "run", recipe, (), lambda text: None) == 7
    found = params_of(tmp_path / "run")
    np.testing.assert_array_equal(found["head/units"], model["label_embs_concat"][4:])
    np.testing.assert_array_equal(found["head/projection/kernel"], model["final_proj.weight"].T)
    key = "encoder/blocks/mlp/up/kernel"
    want = np.stack([model[f"encoder.layers.{i}.fc1.weight"].T for i in range(2)])
    np.testing.assert_array_equal(found[key], want)
    config = weights.config_lib.load(str(tmp_path / "run/config.json"))
    assert config.method.units.classes == (8,) and config.method.units.rate == 50
    folder = tmp_path / "run/checkpoints/7/rest"
    adam = dict(tree.named_leaves(checkpoint._arrays(folder, "opt_state")))
    first = next(x for n, x in adam.items() if f"mu/{key}" in n)
    np.testing.assert_array_equal(
        first, np.stack([moments[f"encoder.layers.{i}.fc1.weight"].T for i in range(2)])
    )
    second = next(x for n, x in adam.items() if f"nu/{key}" in n)
    np.testing.assert_array_equal(second, np.abs(first))
    assert {int(x) for n, x in adam.items() if n.endswith("count")} == {7}
    units = next(x for n, x in adam.items() if "mu/head/units" in n)
    np.testing.assert_array_equal(units, moments["label_embs_concat"][4:])


def data2vec_model(**more):
    args = {"arch": "data2vec_audio", "normalize": True, **MODEL, "pos_conv_depth": 2}
    return {**args, "conv_pos": 38, "extractor_mode": "layer_norm", **more}


def test_data2vec_with_its_teacher_and_old_args(tmp_path):
    import torch

    model = state("data2vec audio", layer=True)
    teacher = {
        n.removeprefix("encoder."): torch.randn(x.shape)
        for n, x in model.items()
        if n.startswith("encoder.")
    }
    args = argparse.Namespace(**data2vec_model())
    path = save(tmp_path / "d2v.pt", {"args": args, "model": {**model, "_ema": teacher}})
    overrides = ["method.ema.rules=(('^encoder/frontend/','absent'),('.*','average'))"]
    weights.import_run(path, tmp_path / "run", f"{AUDIO}:toy", overrides, lambda text: None)
    extra = dict(tree.named_leaves(checkpoint.restore_extra(tmp_path / "run")))
    key = "encoder/blocks/norm1/scale"
    want = np.stack([teacher[f"layers.{i}.self_attn_layer_norm.weight"] for i in range(2)])
    np.testing.assert_array_equal(extra[f"teacher/{key}"], want)
    own = np.stack([model[f"encoder.layers.{i}.self_attn_layer_norm.weight"] for i in range(2)])
    np.testing.assert_array_equal(params_of(tmp_path / "run")[key], own)


def test_a_fine_tuned_model_gives_its_encoder_and_classifier(tmp_path):
    import torch

    model = {f"w2v_encoder.w2v_model.{n}": x for n, x in state("hubert").items()}
    model["w2v_encoder.proj.weight"] = torch.randn(32, 16)
    model["w2v_encoder.proj.bias"] = torch.randn(32)
    inner = {"model": {"_name": "hubert", **MODEL}, "task": {"normalize": True}}
    cfg = {"model": {"_name": "hubert_ctc", "w2v_args": inner}, "task": {}}
    path = save(tmp_path / "ctc.pt", {"cfg": cfg, "model": model})
    recipe = "configs/ctc/speech.py:toy"
    with pytest.raises(WeightsError, match=r"32 tokens, and no file next to it names"):
        weights.import_run(path, tmp_path / "run", recipe, (), lambda text: None)
    (tmp_path / "dict.ltr.txt").write_text("".join(f"{u} 1\n" for u in UNITS[4:]))
    weights.import_run(path, tmp_path / "run", recipe, (), lambda text: None)
    found = params_of(tmp_path / "run")
    kernel = model["w2v_encoder.proj.weight"].T
    np.testing.assert_array_equal(found["head/classifier/kernel"], kernel)
    config = weights.config_lib.load(str(tmp_path / "run/config.json"))
    assert config.method.encoder.normalize is True
    assert config.data.classes[4:7] == ("|", "E", "T")


CASES = [
    ("hubert", "configs/hubert/audio.py", {"label_embs_concat", "final_proj"}),
    ("wav2vec2", "configs/wav2vec2/audio.py", {"quantizer", "project_q", "final_proj"}),
    ("data2vec audio", AUDIO, {"final_proj"}),
]


@pytest.mark.parametrize(("name", "recipe", "heads"), CASES)
def test_s3prl_has_the_keys_of_its_loader_and_reads_back_to_the_bit(name, recipe, heads, tmp_path):
    import torch

    layer = name == "data2vec audio"
    model = {"_name": name.split()[0], **MODEL} if not layer else data2vec_model()
    cfg = {"model": model, "task": {"normalize": layer, "label_rate": 50}}
    content = {"cfg": cfg, "model": hubert_state() if name == "hubert" else state(name, layer)}
    path, run = save(tmp_path / "in.pt", content), tmp_path / "run"
    weights.import_run(path, run, f"{recipe}:toy", (), lambda text: None)
    out = weights.export_run(run, tmp_path / "out", "s3prl", notify=lambda text: None)
    found = torch.load(out, weights_only=False)
    assert {"task_cfg", "model_cfg", "model_weight"} <= set(found)
    encoder = {fairseq_name(n, layer) for n in golden(name)}
    written = set(found["model_weight"]) - {"_ema"}
    assert encoder <= written
    assert {n.split(".")[0] for n in written - encoder} <= heads
    assert ("_ema" in found["model_weight"]) is layer
    for key, x in content["model"].items():
        if key != "label_embs_concat":
            np.testing.assert_array_equal(found["model_weight"][key], x, err_msg=key)
    assert found["task_cfg"]["normalize"] is layer
    assert eval(found["model_cfg"]["conv_feature_layers"]) == eval(CONVS)
    if name == "hubert":
        assert [len(s) for s in found["dictionaries_symbols"]] == [8]
        assert len(found["model_weight"]["label_embs_concat"]) == 8
    again = tmp_path / "again"
    weights.import_run(out, again, f"{recipe}:toy", (), lambda text: None)
    jax.tree.map(np.testing.assert_array_equal, params_of(run), params_of(again))
    config = weights.config_lib.load(str(again / "config.json"))
    before = weights.config_lib.load(str(run / "config.json"))
    assert config.method == before.method


def test_a_run_of_another_method_gets_zeros_where_s3prl_insists_on_a_head(tmp_path):
    import torch

    cfg = {"model": {"_name": "hubert", **MODEL}, "task": {}}
    path = save(tmp_path / "in.pt", {"cfg": cfg, "model": hubert_state()})
    weights.import_run(path, tmp_path / "run", f"{AUDIO}:toy", (), lambda text: None)
    for family, head in (("hubert", "final_proj"), ("wav2vec2", "project_q")):
        out = weights.export_run(
            tmp_path / "run", tmp_path / family, "s3prl", family=family, notify=lambda text: None
        )
        found = torch.load(out, weights_only=False)
        assert not found["model_weight"][f"{head}.weight"].any()
    with pytest.raises(WeightsError, match=r"positions is .weight_norm., which data2vec-audio"):
        weights.export_run(tmp_path / "run", tmp_path / "x", "s3prl", family="data2vec-audio")


def test_files_that_can_not_be_read_are_named(tmp_path):
    bad = tmp_path / "bad.pt"
    bad.write_bytes(b"no checkpoint")
    with pytest.raises(WeightsError, match=r"bad.pt is not a torch checkpoint"):
        weights.import_run(bad, tmp_path / "run", f"{AUDIO}:toy")
    (tmp_path / "pytorch_model.bin").write_bytes(b"no weights")
    (tmp_path / "config.json").write_text('{"model_type": "hubert"}')
    with pytest.raises(WeightsError, match=r"pytorch_model.bin is not a torch checkpoint"):
        weights.import_run(tmp_path, tmp_path / "run", f"{AUDIO}:toy")
    path = save(tmp_path / "a.pt", {"weights": {}})
    with pytest.raises(WeightsError, match=r"a.pt has 'weights', but neither 'model'"):
        weights.import_run(path, tmp_path / "run", f"{AUDIO}:toy")
    cfg = {"model": {"_name": "roberta"}, "task": {}}
    path = save(tmp_path / "b.pt", {"cfg": cfg, "model": {}})
    with pytest.raises(WeightsError, match="its model is 'roberta': only wav2vec2, hubert"):
        weights.import_run(path, tmp_path / "run", f"{AUDIO}:toy")
    model = hubert_state()
    del model["encoder.layers.1.fc2.bias"]
    cfg = {"model": {"_name": "hubert", **MODEL}, "task": {}}
    path = save(tmp_path / "c.pt", {"cfg": cfg, "model": model})
    with pytest.raises(WeightsError, match=r"c.pt has no encoder.layers.1.feed_forward"):
        weights.import_run(path, tmp_path / "run", f"{AUDIO}:toy")


def test_text_of_fairseq_is_that_of_transformers(tmp_path):
    import torch

    pairs = [
        (r"^embeddings.word_embeddings", "encoder.sentence_encoder.embed_tokens"),
        (r"^embeddings.position_embeddings", "encoder.sentence_encoder.embed_positions"),
        (r"^embeddings.LayerNorm", "encoder.sentence_encoder.layernorm_embedding"),
        (r"^encoder.layer\.", "encoder.sentence_encoder.layers."),
        (r"attention.self.query", "self_attn.q_proj"),
        (r"attention.self.key", "self_attn.k_proj"),
        (r"attention.self.value", "self_attn.v_proj"),
        (r"attention.output.dense", "self_attn.out_proj"),
        (r"attention.output.LayerNorm", "self_attn_layer_norm"),
        (r"intermediate.dense", "fc1"),
        (r"(\d)\.output.dense", r"\1.fc2"),
        (r"(\d)\.output.LayerNorm", r"\1.final_layer_norm"),
    ]
    draw, model, theirs = np.random.default_rng(0), {}, {}
    for name, shape in golden("data2vec text").items():
        if "pooler" in name or "token_type" in name:
            continue
        theirs[name] = x = draw.standard_normal(shape).astype(np.float32)
        for pattern, to in pairs:
            name = re.sub(pattern, to, name)
        model[name] = torch.tensor(x)
    model["encoder.regression_head.0.weight"] = torch.randn(32, 16)
    model["encoder.regression_head.0.bias"] = torch.randn(32)
    model["encoder.regression_head.2.weight"] = torch.randn(16, 32)
    model["encoder.regression_head.2.bias"] = torch.randn(16)
    blocks = {n: x for n, x in model.items() if ".layers." in n}
    start = "encoder.sentence_encoder."
    teacher = {n.removeprefix(start): torch.randn(x.shape) for n, x in blocks.items()}
    model["encoder._ema"] = teacher
    transformer = {"encoder": {"layers": 2, "attention_heads": 2}}
    cfg = {"model": {"_name": "data2vec_text", "transformer": transformer}, "task": {}}
    path = save(tmp_path / "text.pt", {"cfg": cfg, "model": model})
    weights.import_run(
        path, tmp_path / "run", "configs/data2vec/text.py:toy", (), lambda text: None
    )
    found = params_of(tmp_path / "run")
    np.testing.assert_array_equal(
        found["predictor/up/kernel"], model["encoder.regression_head.0.weight"].T
    )
    table = theirs["embeddings.position_embeddings.weight"]
    np.testing.assert_array_equal(found["encoder/positions"], table[2:])
    assert config_json("data2vec text")["max_position_embeddings"] == len(table)
    key = "encoder.layer.1.attention.self.query.weight"
    np.testing.assert_array_equal(found["encoder/blocks/attention/query/kernel"][1], theirs[key].T)
    extra = dict(tree.named_leaves(checkpoint.restore_extra(tmp_path / "run")))
    want = np.stack([teacher[f"layers.{i}.fc1.weight"].T for i in range(2)])
    np.testing.assert_array_equal(extra["teacher/encoder/blocks/mlp/up/kernel"], want)
