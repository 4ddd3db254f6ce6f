"""Subnets as runs of their own, and a supernet in the files of its authors and back."""

import json
import re

import jax
import numpy as np
import pytest
import soundfile

import ssl_jax
from ssl_jax import convert, evaluate
from ssl_jax.core import config as config_lib
from ssl_jax.core import tree as tree_lib
from ssl_jax.engine import checkpoint
from ssl_jax.hub import lighthubert
from ssl_jax.hub.table import WeightsError
from ssl_jax.stages import embed, extraction, weights

UNEVEN = "16/1,2/1.5,2"
BATCH = {
    "audio": np.random.default_rng(0).integers(-900, 900, (1, 3200), np.int16),
    "audio_len": np.array([3200], np.int32),
}
KEYS = (
    r"mask_emb|layer_norm\.(weight|bias)|post_extract_proj\.(weight|bias)|"
    r"feature_extractor\.conv_layers\.\d\.(0\.weight|2\.1\.(weight|bias))|"
    r"encoder\.pos_conv\.0\.(bias|weight_g|weight_v)|encoder\.layer_norm\.(weight|bias)|"
    r"encoder\.layers\.\d\.(self_attn\.[qkv]_proj|self_attn\.out_proj|self_attn_layer_norm|fc1|fc2|"
    r"final_layer_norm)\.(weight|bias)|layer_pred_heads\.1\.weight"
)


def quiet(text):
    """Discards the messages of an import or export."""


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    """The run folder of a supernet with drawn parameters."""
    folder = tmp_path_factory.mktemp("runs") / "supernet"
    config = config_lib.load("configs/lighthubert/speech.py:toy")
    weights.create(folder, config, lambda state: state)
    return folder


@pytest.mark.slow
def test_a_subnet_is_extracted_as_a_run_of_its_own(supernet, tmp_path):
    given = ["extract", "--from", str(supernet), "--to", str(tmp_path / "small")]
    assert convert.main([*given, "--subnet", UNEVEN]) == 0
    config = config_lib.of_file(tmp_path / "small" / "config.json")
    assert config.method.sample == "full" and not config.method.subnet
    whole = ssl_jax.load(supernet)
    own = extraction.student(whole.config, supernet)
    subnet = own.space.parse(UNEVEN)
    want = jax.jit(lambda p: own.features_of(p, BATCH, subnet).hidden_states)(whole.params)
    small = ssl_jax.load(tmp_path / "small")
    got = jax.jit(lambda p: small.method.features(p, BATCH).hidden_states)(small.params)
    np.testing.assert_array_equal(got, want)
    with pytest.raises(ValueError, match="has checkpoints already: give --to a new folder"):
        extraction.extract_run(supernet, tmp_path / "small", UNEVEN)


def test_evaluate_takes_a_subnet_of_a_run(supernet, tmp_path, monkeypatch):
    seen, noise = {}, np.random.default_rng(0)
    monkeypatch.setattr(
        evaluate.probes_stage,
        "run_probes",
        lambda encoders, *given: (seen.update(own=encoders()[0]) or [], {}),
    )
    for i in range(6):
        soundfile.write(tmp_path / f"{i}.wav", noise.normal(0, 0.1, 3200), 16000)
    rows = "".join(f"{i}.wav,{'ab'[i % 2]}\n" for i in range(6))
    (tmp_path / "labels.csv").write_text(f"path,label\n{rows}")
    labels = embed.Labels(tmp_path / "labels.csv")
    result = evaluate.run(supernet, ["ridge"], labels=labels, subnet=UNEVEN)
    kept = supernet / f"evaluation-{UNEVEN.replace('/', '_')}.json"
    assert result["subnet"] == UNEVEN and json.loads(kept.read_text()) == result
    assert f"<h3>Subnet {UNEVEN}</h3>" in (supernet / "report.html").read_text()
    shapes = jax.eval_shape(seen["own"].features, seen["own"].params, BATCH).hidden_states
    assert shapes.shape[0] == 3 and shapes.shape[-1] == 16
    small = evaluate.extraction.chosen(ssl_jax.load(supernet).config, "smallest", supernet)[1]
    assert jax.eval_shape(small.features, seen["own"].params, BATCH).hidden_states.shape[-1] == 8
    with pytest.raises(ValueError, match="--subnet is '16/3/2', whose number of heads 3 is not in"):
        evaluate.run(supernet, subnet="16/3/2")


@pytest.mark.slow
def test_zeros_that_fill_up_blocks_change_nothing(supernet):
    config = config_lib.of_file(supernet / "config.json")
    own = extraction.student(config, supernet)
    subnet = own.space.parse(UNEVEN)
    section, params = own.extracted(checkpoint.restore_params(supernet), subnet)
    uneven = lighthubert_encoder(section["encoder"])
    o = weights.families.merged(uneven)
    made, flat = lighthubert.even(o, dict(tree_lib.named_leaves(params)))
    even = lighthubert_encoder(
        {**section["encoder"], "heads": made.heads, "mlp_width": made.mlp_width}
        | {"head_width": None, "layer_heads": None, "layer_mlp_widths": None}
    )
    audio, length = np.ones((1, 1600), np.float32) * np.arange(1600) / 1600, np.array([1600])
    states = [
        encoder.apply({"params": p["encoder"]}, audio, length).hidden_states
        for encoder, p in ((uneven, params), (even, tree_lib.nested(flat)))
    ]
    np.testing.assert_allclose(*states, atol=1e-6)


def lighthubert_encoder(section):
    """Returns the encoder of config.method.encoder."""
    return weights.build.encoder(section, precision="float32", sample_rate=16000)


@pytest.fixture(scope="module")
def uneven(supernet, tmp_path_factory):
    """(the run folder of an uneven subnet, its input normalized, its hidden states).

    Its first block has one head of two, and fewer hidden units than its second.
    """
    folder = tmp_path_factory.mktemp("runs") / "uneven"
    extraction.extract_run(supernet, folder, UNEVEN)
    model, x = ssl_jax.load(folder), BATCH["audio"].astype(np.float32)
    sound = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    return folder, sound, jax.jit(model.method.features)(model.params, BATCH).hidden_states


@pytest.mark.slow
@pytest.mark.interop
def test_an_uneven_subnet_computes_the_same_in_transformers(uneven, tmp_path):
    import torch
    from transformers import HubertModel

    folder, sound, own = uneven
    weights.export_run(folder, tmp_path, notify=quiet)
    model, info = HubertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    with torch.no_grad():
        found = model.eval()(torch.from_numpy(sound), output_hidden_states=True).hidden_states
    np.testing.assert_allclose(own, torch.stack(found), atol=1e-4)


@pytest.mark.slow
@pytest.mark.interop
def test_an_uneven_subnet_computes_the_same_as_s3prl_builds_it(uneven, tmp_path):
    import s3prl_literal
    import torch

    folder, sound, own = uneven
    path = weights.export_run(folder, tmp_path, "s3prl", notify=quiet)
    with torch.no_grad():
        found = s3prl_literal.load(path)(torch.from_numpy(sound))
    np.testing.assert_allclose(own, found, atol=1e-4)


@pytest.mark.slow
@pytest.mark.interop
def test_a_supernet_in_the_layout_of_its_authors_and_back(supernet, tmp_path):
    import torch

    path = weights.export_run(supernet, tmp_path / "out", "fairseq", notify=quiet)
    content = torch.load(path, weights_only=False)
    assert content["cfg"]["model"]["_name"] == "hubert_pruner"
    odd = [name for name in content["model"] if not re.fullmatch(KEYS, name)]
    assert not odd and len(content["model"]) > 40
    assert content["model"]["encoder.pos_conv.0.weight_v"].shape == (16, 4, 8)
    assert content["model"]["encoder.pos_conv.0.weight_g"].shape == (1, 1, 8)
    for extra in ("label_embs_concat", "final_proj.weight", "final_proj.bias"):
        content["model"][extra] = torch.zeros(3, 2)
    torch.save(content, path)
    recipe = "configs/lighthubert/speech.py:toy"
    weights.import_run(path, tmp_path / "back", recipe, (), quiet)
    before, after = (
        dict(tree_lib.named_leaves(checkpoint.restore_params(run)))
        for run in (supernet, tmp_path / "back")
    )
    assert before.keys() == after.keys()
    for name, x in before.items():
        np.testing.assert_array_equal(after[name], x, err_msg=name)
    config = config_lib.of_file(tmp_path / "back" / "config.json")
    assert config.method.space.embed == (8, 16) and config.method.sample == "uniform"


def test_the_spaces_that_files_name():
    def space(**model):
        return lighthubert._space({"_name": "hubert_pruner", **model}, "x.pt")

    assert space(pruner_supernet="configs/Small.yaml")["embed"] == (256, 384, 512)
    assert space(pruner_supernet="Base.yaml")["named"] == (("a_base", "640/10x12/4x12"),)
    assert lighthubert._space({"_name": "student_hubert"}, "x.pt") == {}
    with pytest.raises(WeightsError, match=r"x\.pt: pruner_supernet is 'Tiny.yaml': only files"):
        space(pruner_supernet="Tiny.yaml")


@pytest.mark.slow
def test_heads_wider_than_the_encoder_do_not_export(supernet):
    config = config_lib.of_file(supernet / "config.json")
    own = extraction.student(config, supernet)
    section, _ = own.extracted(checkpoint.restore_params(supernet), own.space.parse("8/2,1/1.5,2"))
    o = weights.families.merged(lighthubert_encoder(section["encoder"]))
    with pytest.raises(WeightsError, match="heads 2 of 8 channels do not fit the width 8"):
        lighthubert.even(o, {})


def test_a_run_of_another_method_has_no_subnets():
    config = config_lib.load("configs/hubert/audio.py:toy")
    with pytest.raises(config_lib.ConfigError, match="runs/x is a run of 'hubert', which has no"):
        extraction.student(config, "runs/x")
