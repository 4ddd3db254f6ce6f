"""Subnets as runs of their own, and a supernet in the files of its authors and back."""

import re

import jax
import numpy as np
import pytest

import ssl_jax
from ssl_jax import convert
from ssl_jax.core import config as config_lib
from ssl_jax.core import tree as tree_lib
from ssl_jax.engine import checkpoint
from ssl_jax.hub import lighthubert
from ssl_jax.hub.table import WeightsError
from ssl_jax.stages import extraction, weights

UNEVEN = "16/1,2/1.5,2"
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
    audio = np.random.default_rng(0).integers(-900, 900, (1, 3200), np.int16)
    batch = {"audio": audio, "audio_len": np.array([3200], np.int32)}
    want = jax.jit(lambda p: own.features_of(p, batch, subnet).hidden_states)(whole.params)
    small = ssl_jax.load(tmp_path / "small")
    got = jax.jit(lambda p: small.method.features(p, batch).hidden_states)(small.params)
    np.testing.assert_array_equal(got, want)
    with pytest.raises(ValueError, match="has checkpoints already: give --to a new folder"):
        extraction.extract_run(supernet, tmp_path / "small", UNEVEN)


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
