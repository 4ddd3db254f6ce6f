"""Weights from transformers and back: every hidden state, every key and every bit."""

import functools
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hub_cases import CASES, CHANGES, KEYS, VOCAB, audio, folded, random_model
from safetensors.numpy import load_file

import ssl_jax
from ssl_jax.core import tree
from ssl_jax.engine import checkpoint
from ssl_jax.ops.patches import normalize_image
from ssl_jax.stages import weights

pytestmark = pytest.mark.interop

BASE = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
LARGE = {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096}

# values that are computed, values that were added; values without a meaning
MADE = "pooler|token_type|position_em|decoder_pos|position_ids|num_batches|inv_freq"


def quiet(text):
    """Discards the messages of an import or export."""


def imported(folder, name, run, more=(), **config):
    """Returns (model of transformers, run folder of the same weights)."""
    model = random_model(name, **config)
    model.save_pretrained(folder)
    if "ctc" in name:
        (folder / "vocab.json").write_text(json.dumps(VOCAB))
    more = (*more, *CHANGES.get(name, ()))
    weights.import_run(folder, run, f"{CASES[name][2]}:toy", more, quiet)
    return model, run


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Returns name, ... -> (model of transformers, batch -> hidden states of the same weights).

    The last pair is cached: both the tests with padding and those without use it. The states are
    (L + 1, B, S, D), returned with a mask of the real frames.
    """

    @functools.lru_cache(maxsize=1)
    def make(name, more=(), wide=False):
        folder = tmp_path_factory.mktemp("pair")
        sizes = full_width(name) if wide else {}
        if wide and "data2vec" in CASES[name][2]:
            more = (*more, "method.targets.layers=1")
        model, run = imported(folder / "in", name, folder / "run", more, **sizes)
        shutil.rmtree(folder / "in")
        ours = ssl_jax.load(run)
        features = jax.jit(ours.method.features)

        def hidden_states(batch):
            found = features(ours.params, batch)
            return np.asarray(found.hidden_states), np.asarray(found.mask)

        return model, hidden_states

    return make


def full_width(name):
    """Returns the published sizes of an audio case, but for its depth: stacks are tested narrow."""
    wide = {**(LARGE if "large" in name else BASE), "conv_dim": [512] * 3}
    wide |= {"num_hidden_layers": 1}
    wide |= {"num_conv_pos_embedding_groups": 16}
    if name != "data2vec audio":
        wide["num_conv_pos_embeddings"] = 128
    return wide


@pytest.mark.parametrize("name", CASES)
def test_every_key_and_bit_survives_the_way_there_and_back(name, tmp_path):
    model, run = imported(tmp_path / "in", name, tmp_path / "run")
    # the parts of a fine-tuned HuBERT are those of wav2vec 2.0, unless its type is given
    family = "hubert" if name == "hubert ctc" else ""
    out = weights.export_run(run, tmp_path / "out", family=family, notify=quiet)
    _, info = type(model).from_pretrained(out, output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    theirs, ours = (load_file(f / "model.safetensors") for f in (tmp_path / "in", out))
    made = {n for n in {*theirs, *ours} if re.search(MADE, n)}
    if "conformer" in name:  # its position convolution is not used
        made |= {n for n in theirs if "pos_conv_embed" in n}
    for key in set(theirs) - made:
        np.testing.assert_array_equal(theirs[key], ours[key], err_msg=key)
    assert set(ours) - made == set(theirs) - made
    changes = CHANGES.get(name, ())
    weights.import_run(out, tmp_path / "again", f"{CASES[name][2]}:toy", changes, quiet)
    first, second = (checkpoint.restore_params(r) for r in (run, tmp_path / "again"))
    pairs = zip(tree.named_leaves(first), tree.named_leaves(second), strict=True)
    for (key, x), (other, y) in pairs:
        assert key == other
        np.testing.assert_array_equal(x, y, err_msg=key)


@pytest.mark.parametrize("name", CASES)
def test_golden_keys_are_those_of_transformers(name, tmp_path):
    random_model(name).save_pretrained(tmp_path)
    arrays = {k: x.shape for k, x in load_file(tmp_path / "model.safetensors").items()}
    assert json.loads(KEYS.read_text())[name] == folded(arrays)


SOUND = [n for n, (_, config, _) in CASES.items() if "conv_dim" in config]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", SOUND)
def test_hidden_states_of_speech(name, padded, pair):
    _same_hidden_states(name, padded, pair, 4000)


# one of each architecture: transformers computes a HuBERT and a wav2vec 2.0 of one size alike
WIDE = [n for n in SOUND if n not in ("hubert ctc", "wav2vec2", "wav2vec2 large")]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", WIDE)
def test_hidden_states_of_speech_at_full_width(name, padded, pair):
    _same_hidden_states(name, padded, pair, 8000, wide=True)


def _same_hidden_states(name, padded, pair, samples, wide=False):
    """Compares all layers; for the last, the output of the model itself, which is normed.

    A norm over time here covers the unpadded clip: transformers gets such a clip alone.
    """
    more = ["method.encoder.normalize=False"]
    more += ["method.encoder.mask_each=False"] * (name == "data2vec audio")
    # a padded clip is compared with the clip alone, or with the result that its padding leaks into
    more += ["method.encoder.mask_depthwise=False"] * (name == "conformer rotary")
    model, hidden_states = pair(name, tuple(more), wide)
    model = getattr(model, model.base_model_prefix, model)  # the one inside a head
    lengths = [samples, samples * 3 // 5 if padded else samples]
    sound, real = audio(2, samples, lengths)
    got, valid = hidden_states({"audio": sound, "audio_len": np.array(lengths, np.int32)})
    assert bool(valid.all()) is not padded
    alone = padded and getattr(model.config, "feat_extract_norm", "layer") == "group"
    for row, own in enumerate(lengths):
        heard = sound[row : row + 1, :own] if alone else sound
        mask = torch_of(real.astype(np.int64)) if padded and not alone else None
        out = model(torch_of(heard), attention_mask=mask, output_hidden_states=True)
        want = [*out.hidden_states[:-1], out.last_hidden_state]
        frames = int(valid[row].sum())
        for layer, (ours, theirs) in enumerate(zip(got, want, strict=True)):
            theirs = theirs.detach().numpy()[0 if alone else row, :frames]
            scale = max(1.0, np.abs(theirs).max())
            np.testing.assert_allclose(
                ours[row, :frames] / scale, theirs / scale, atol=1e-4, err_msg=f"layer {layer}"
            )


def torch_of(x):
    """Returns an array as a tensor."""
    import torch

    return torch.tensor(x)


def test_hidden_states_of_images(pair):
    image = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    pixels = np.asarray(normalize_image(jnp.asarray(image))).transpose(0, 3, 1, 2)
    for name in ("data2vec vision", "vit mae"):
        mae = name == "vit mae"
        model, hidden_states = pair(name)
        encoder = model.vit if mae else model
        encoder.config.mask_ratio = 0.0
        in_order = {"noise": torch_of(np.tile(np.arange(16.0), (2, 1)))} if mae else {}
        out = encoder(torch_of(pixels), output_hidden_states=True, **in_order)
        want = [*out.hidden_states[:-1], out.last_hidden_state if mae else out.hidden_states[-1]]
        got, _ = hidden_states({"image": image})
        for ours, theirs in zip(got, want, strict=True):
            np.testing.assert_allclose(ours, theirs.detach().numpy()[:, 1:], atol=1e-4)


def test_hidden_states_of_video(pair):
    video = np.random.default_rng(0).integers(0, 256, (2, 4, 16, 16, 3)).astype(np.uint8)
    pixels = np.asarray(normalize_image(jnp.asarray(video))).transpose(0, 1, 4, 2, 3)
    model, hidden_states = pair("videomae")
    out = model.videomae(torch_of(pixels), output_hidden_states=True)
    want = [*out.hidden_states[:-1], out.last_hidden_state]
    got, _ = hidden_states({"video": video})
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-4)


@pytest.mark.parametrize("padded", [False, True])
def test_hidden_states_of_text(padded, pair):
    model, hidden_states = pair("data2vec text")
    lengths = np.array([24, 15 if padded else 24])
    real = np.arange(24) < lengths[:, None]
    tokens = np.where(real, np.random.default_rng(0).integers(4, 261, (2, 24)), 1)
    mask = torch_of(real.astype(np.int64))
    out = model(torch_of(tokens), attention_mask=mask, output_hidden_states=True)
    batch = {"tokens": tokens.astype(np.int32), "tokens_len": lengths.astype(np.int32)}
    got, valid = hidden_states(batch)
    for ours, theirs in zip(got, out.hidden_states, strict=True):
        np.testing.assert_allclose(ours[valid], theirs.detach().numpy()[real], atol=1e-4)
