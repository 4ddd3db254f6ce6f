"""From config.method.encoder to a module."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from ssl_jax.nn import build
from ssl_jax.nn.encoder import Encoder

TINY = {"kind": "keyword_transformer", "depth": 1, "width": 8, "heads": 1, "mlp_width": 8}


def make(config):
    return build.encoder(config, precision="float32", sample_rate=16000)


def test_presets_are_overridden_by_keys():
    encoder = make({"kind": "keyword_transformer", "preset": "kwt2", "depth": 3})
    assert encoder.width == 128 and encoder.transformer_options.depth == 3
    assert encoder.transformer_options.norm == "res_post"
    assert make({"kind": "waveform"}).width == 768


def test_a_config_dict_with_lists_gives_a_hashable_module():
    config = ConfigDict({"kind": "waveform", "conv_kernels": [10, 3], "conv_strides": [5, 2]})
    encoder = make(config)
    assert hash(encoder.options) and encoder.options.conv_kernels == (10, 3)
    assert encoder.rate == 1600.0


@pytest.mark.parametrize(
    ("kind", "prefix", "rate", "grid"),
    [
        ("keyword_transformer", 1, 100.0, (0,)),
        ("waveform", 0, 50.0, (0,)),
        ("vit", 1, 0.0, (14, 14)),
        ("spectrogram", 1, 6.25, (0, 8)),
        ("beats", 0, 6.25, (0, 8)),
        ("mel_conformer", 0, 25.0, (0,)),
        ("video", 0, 0.0, (8, 14, 14)),
        ("text", 0, 0.0, (0,)),
    ],
)
def test_each_kind_is_an_encoder(kind, prefix, rate, grid):
    encoder = make({"kind": kind, "depth": 3})
    assert isinstance(encoder, Encoder)
    assert (encoder.prefix, encoder.rate, encoder.grid) == (prefix, rate, grid)
    assert encoder.depth == 3 and encoder.width == encoder.transformer_options.width


OWN = """
import dataclasses
from ssl_jax.nn import keyword_transformer

PRESETS = {"tiny": {"depth": 1, "width": 8, "heads": 1, "mlp_width": 8, "loud": 2.0}}


@dataclasses.dataclass(frozen=True)
class Options(keyword_transformer.Options):
    loud: float = 1.0


make = keyword_transformer.make
"""


def test_a_module_of_ones_own_is_a_kind_once_it_is_trusted(tmp_path, monkeypatch):
    (tmp_path / "own_kind.py").write_text(OWN)
    (tmp_path / "no_kind.py").write_text("PRESETS = {}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"kind is 'own_kind', a module that is neither part of"):
        make({"kind": "own_kind"})
    build.trust({"encoders": {"a": {"kind": "own_kind"}, "b": {"kind": "no_kind"}}})
    encoder = make({"kind": "own_kind", "depth": 2})
    assert (encoder.depth, encoder.width, encoder.options.loud) == (2, 8, 2.0)
    with pytest.raises(ValueError, match=r"no_kind\.py is no kind of encoder: it needs Options"):
        make({"kind": "no_kind"})


def test_several_encoders_are_built_and_named_by_stream():
    sections = {"audio": TINY, "video": {"kind": "vit", "depth": 2}}
    found = build.encoders(sections, precision="float32", sample_rate=16000)
    assert (found["audio"].depth, found["video"].depth) == (1, 2)
    sections["video"]["detph"] = 2
    with pytest.raises(ValueError, match=r"config\.method\.encoders\.video\.detph does not exist"):
        build.encoders(sections, precision="float32", sample_rate=16000)
    sections["video"] = {"kind": "vit", "depth": 2}
    text = build.listing({"method": {"name": "two", "encoders": sections}})
    assert "depth = 2\n" in text and "class_token = True  # default of vit" in text


def test_the_cases_above_are_all_kinds():
    (mark,) = test_each_kind_is_an_encoder.pytestmark
    assert {case[0] for case in mark.args[1]} == set(build.kinds())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"kind": "waveforms"}, "config.method.encoder.kind is 'waveforms': use one of beats, key"),
        ({}, "config.method.encoder.kind is None"),
        ({"kind": "waveform", "preset": "huge"}, "encoder.preset is 'huge': use one of base, conf"),
        ({**TINY, "detph": 2}, "config.method.encoder.detph does not exist: did you mean 'depth'"),
        ({**TINY, "conv_norm": "layer"}, "encoder.conv_norm does not exist"),
        ({**TINY, "zzzzzz": 1}, "encoder.zzzzzz does not exist: use one of .*embed_dropout"),
    ],
)
def test_unknown_names_say_what_would_work(config, words):
    with pytest.raises(ValueError, match=words):
        make(config)


def test_an_encoder_serves_as_a_field_and_inside_setup():
    class Inside(nn.Module):
        def setup(self):
            self.encoder = make(TINY)

        def __call__(self, audio, audio_len):
            x, valid = self.encoder.frontend(audio, audio_len, False)
            return self.encoder.encode(0 * x, valid, False).hidden_states

    class Field(nn.Module):
        encoder: nn.Module

        def __call__(self, audio, audio_len):
            x, valid = self.encoder.frontend(audio, audio_len, False)
            return self.encoder.encode(0 * x, valid, False).hidden_states

    audio, lengths = jnp.zeros((1, 16000)), jnp.array([16000])
    trees = [
        jax.tree.map(jnp.shape, jax.eval_shape(m.init, jax.random.key(0), audio, lengths))
        for m in (Inside(), Field(make(TINY)))
    ]
    assert trees[0] == trees[1]
    assert set(trees[0]["params"]) == {"encoder"}
    assert set(trees[0]["params"]["encoder"]) == {"frontend", "cls", "positions", "blocks"}


def test_the_listing_of_a_config_marks_what_the_preset_gives():
    encoder = {"kind": "keyword_transformer", "preset": "kwt2", "depth": 3}
    lines = build.listing({"seed": 1, "method": {"name": "a", "encoder": encoder}}).splitlines()
    assert lines[:4] == ["seed = 1", "method", "  name = 'a'", "  encoder"]
    assert "    depth = 3" in lines and "    width = 128  # preset kwt2" in lines
    assert "    layer_scale = 0.0  # default of keyword_transformer" in lines
