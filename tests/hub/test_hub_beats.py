"""Files of BEATs: both ways through the map, golden values, and whole runs."""

import math
from pathlib import Path

import beats_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssl_jax
from ssl_jax.core import config as config_lib
from ssl_jax.core import tree as tree_lib
from ssl_jax.engine import checkpoint
from ssl_jax.hub import beats, families, table, torch_files
from ssl_jax.hub.table import WeightsError
from ssl_jax.nn import build
from ssl_jax.stages import weights

TASKS = {"encoder": "beats", "tuned": "supervised", "tokenizer": "beats_tokenizer"}
HEAD = {"norm": False, "dropout": 0.0}
PATH = Path("BEATs.pt")


def encoder(loaded):
    """The encoder of a file, and the shapes of its parameters."""
    options = beats.options(beats.source(loaded, PATH).config, {}, "")
    made = build.encoder({"kind": "beats", **options}, precision="float32", sample_rate=16000)
    audio, length = jnp.zeros((1, 16000)), jnp.array([16000])
    params = jax.eval_shape(made.init, jax.random.key(0), audio, length)["params"]
    return made, {f"encoder/{n}": x.shape for n, x in tree_lib.named_leaves(params)}


@pytest.fixture(scope="module")
def tiny():
    made, shapes = encoder(beats_files.content("encoder"))
    shapes |= {"head/classifier/kernel": (16, 3), "head/classifier/bias": (3,)}
    shapes |= {"head/hidden/kernel": (16, 16), "head/hidden/bias": (16,)}
    shapes |= {"head/out/kernel": (16, 4), "head/out/bias": (4,)}
    return made, shapes | {"codebook/vectors": (8, 4), "codebook/updates": ()}


@pytest.mark.parametrize("kind", TASKS)
def test_a_file_is_read_and_written_to_the_same_bits(kind, tiny):
    loaded = beats_files.content(kind)
    source, o = beats.source(loaded, PATH), families.merged(tiny[0])
    family = families.by_type(source.config["model_type"], "")
    method = {"name": TASKS[kind], "head": HEAD, "pool": "frames"}
    rows = family.rows(o, method, beside=True)
    ours, left = table.to_ours(rows, beats.tidy(source.arrays, source.config), tiny[1], "")
    unused = [n for n in left if "cluster_size" not in n and "embed_avg" not in n]
    assert not unused and {n for n in tiny[1] if n.startswith("encoder/")} <= set(ours)
    classes = tuple(source.config.get("classes", ()))
    content, left = beats.checkpoint(family, o, method, ours, classes)
    assert not left and content["cfg"].items() <= loaded["cfg"].items() | {("predictor_class", 3)}
    assert content.get("label_dict") == loaded.get("label_dict")
    assert set(content["model"]) == set(loaded["model"])
    for name, x in loaded["model"].items():
        np.testing.assert_array_equal(content["model"][name], x, name)


def test_cfg_decides_the_options_of_the_encoder(tiny):
    o = families.merged(tiny[0])
    assert (o.depth, o.width, o.heads, o.mlp_width, o.patch_width) == (2, 16, 2, 24, 8)
    assert (o.layerdrop, o.layer_gradient_decay, o.init) == (0.05, 0.6, "deep_norm")
    plain = beats_files.content("encoder", gru_rel_pos=False, dropout=0.1)
    found = beats.options(beats.source(plain, PATH).config, {}, "")
    assert not found["gated"] and found["dropout"] == found["embed_dropout"] == 0.1


def test_names_of_newer_weight_norm_are_known():
    arrays = beats_files.content("encoder")["model"]
    start = "encoder.pos_conv.0."
    newer = {n: x for n, x in arrays.items() if "weight_" not in n}
    for i, name in enumerate(("weight_g", "weight_v")):
        newer[f"{start}parametrizations.weight.original{i}"] = arrays[start + name]
    found = beats.tidy(newer, beats_files.TINY)
    np.testing.assert_array_equal(found[f"{start}weight_v"], arrays[f"{start}weight_v"])
    assert set(found) == set(beats.tidy(arrays, beats_files.TINY))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_layer": 2}, "has the key 'encoder_layer', .*did you mean 'encoder_layers'"),
        ({"num_buckets": None}, "num_buckets is None: use 1 to"),
        ({"encoder_layers": 10**6}, "encoder_layers is 1000000: use 1 to 1000"),
        ({"deep_norm": 1}, "deep_norm is 1: use True or False"),
        ({"dropout": 2.0}, r"dropout is 2\.0: use 0\.0 to 1\.0"),
        ({"layer_norm_first": True}, "layer_norm_first is True, which no encoder here computes"),
        ({"input_patch_size": 24}, "input_patch_size is 24: use a divisor of 128"),
    ],
)
def test_a_cfg_that_does_not_work_is_named(changes, message):
    loaded = {"cfg": beats_files.TINY | changes, "model": {"patch_embedding.weight": np.ones(1)}}
    assert beats.is_checkpoint(loaded)
    with pytest.raises(WeightsError, match=rf"BEATs\.pt: cfg.*{message}"):
        beats.source(loaded, PATH)


def test_other_faults_of_a_file_are_named():
    loaded = beats_files.content("tuned")
    del loaded["label_dict"][1]
    with pytest.raises(WeightsError, match="label_dict has 2 labels, and predictor has 3 classes"):
        beats.source(loaded, PATH)
    del loaded["label_dict"]
    assert beats.source(loaded, PATH).config["classes"] == ["0", "1", "2"]
    del loaded["cfg"]["conv_pos"]
    with pytest.raises(WeightsError, match="cfg has no conv_pos: add it as the model was trained"):
        beats.source(loaded, PATH)
    arrays = loaded["model"] | {beats_files.TABLE.format(1): np.zeros((8, 2), np.float32)}
    with pytest.raises(WeightsError, match=r"layers\.1\..* differs from .*layers\.0\..* share it"):
        beats.tidy(arrays, beats_files.TINY)
    assert not beats.is_checkpoint({"cfg": {}, "model": {"mask_emb": 0}})


@pytest.mark.slow
def test_golden_values_and_the_number_of_parameters():
    """Executed with the published classes: 2 layers of Base width, weights by a formula."""
    _, shapes = encoder({"cfg": beats_files.PUBLISHED, "model": {}})
    assert sum(math.prod(s) for s in shapes.values()) == 90_311_792
    cfg = beats_files.PUBLISHED | {"encoder_layers": 2}
    arrays = beats_files.formula(cfg)
    assert len(arrays) == 49 + 1
    made, shapes = encoder({"cfg": cfg, "model": arrays})
    rows = beats.rows(families.merged(made))
    ours, _ = table.to_ours(rows, beats.tidy(arrays, cfg), shapes, "")
    params = tree_lib.nested({n.removeprefix("encoder/"): x for n, x in ours.items()})
    found = jax.jit(made.apply)({"params": params}, beats_files.sweep()[None], np.array([16000]))
    y = np.asarray(found.hidden_states[-1])
    assert y.shape == (1, 48, 768)
    stats = (y.mean(), y.std(), np.abs(y).mean(), y.min(), y.max())
    # a filterbank in float32 moves the quietest cells, and some outputs by up to 3e-3
    np.testing.assert_allclose(stats, (0.00198, 1.00113, 0.79752, -4.37678, 4.38414), atol=1e-2)
    some = {
        (0, 0): (0.02145, 1.20171, -0.09114, 0.48146),
        (23, 100): (1.25272, -0.86783, -2.72669, -0.87972),
        (47, 764): (1.8032, -2.30139, -0.17535, 0.59771),
    }
    for (token, first), want in some.items():
        np.testing.assert_allclose(y[0, token, first : first + 4], want, atol=1e-2)


def saved(folder, loaded):
    torch = pytest.importorskip("torch")
    model = {n: torch.tensor(x) for n, x in loaded["model"].items()}
    torch.save(loaded | {"model": model}, folder / "BEATs.pt")
    return folder / "BEATs.pt"


@pytest.mark.slow
@pytest.mark.interop
def test_a_fine_tuned_file_becomes_a_run_and_a_file_again(tmp_path, root):
    loaded = beats_files.content("tuned")
    path, run = saved(tmp_path, loaded), tmp_path / "run"
    weights.import_run(path, run, str(root / "configs/supervised/beats.py:toy"))
    model = ssl_jax.load(run)
    assert model.classes == tuple(beats_files.LABELS.values())
    audio = beats_files.sweep()[:8000]  # no longer than a window
    found = model.features(audio, 16000)
    assert [x.shape for x in found.hidden_states] == [(24, 16)] * 3
    batch = {"audio": audio[None], "audio_len": np.array([8000], np.int32)}
    batch |= {"id": np.zeros(1, np.uint32), "weight": np.ones(1, np.float32)}
    logits = np.asarray(jax.jit(model.method.predict)(model.params, batch))
    p = loaded["model"]
    want = found.hidden_states[-1].mean(0) @ p["predictor.weight"].T + p["predictor.bias"]
    np.testing.assert_allclose(logits[0], want, atol=1e-4)
    again = torch_files.read(weights.export_run(run, tmp_path / "out", "original"))
    assert again["label_dict"] == loaded["label_dict"] and again["cfg"] == loaded["cfg"]
    assert set(again["model"]) == set(p)
    assert all((again["model"][n] == x).all() for n, x in p.items())
    with pytest.raises(
        WeightsError, match="no class for beats-finetuned: use --to-format original"
    ):
        weights.export_run(run, tmp_path / "out")
    with pytest.raises(ValueError, match="'supervised' has no tokens: load one of configs/beats"):
        model.tokens(audio, 16000)


@pytest.mark.slow
@pytest.mark.interop
def test_a_tokenizer_file_becomes_a_run_that_gives_tokens(tmp_path, root):
    loaded = beats_files.content("tokenizer")
    path, run = saved(tmp_path, loaded), tmp_path / "run"
    teacher = f"method.teachers.teacher={root}/configs/beats/audio.py:iter1"  # the same patches
    weights.import_run(path, run, str(root / "configs/beats/tokenizer.py:toy"), [teacher])
    model, audio, p = ssl_jax.load(run), beats_files.sweep(), loaded["model"]
    z = model.features(audio, 16000).hidden_states[-1]
    for i in (0, 2):
        z = (np.tanh(z) if i else z) @ p[f"quantize_layer.{i}.weight"].T
        z = z + p[f"quantize_layer.{i}.bias"]
    want = (z @ p["quantize.embedding.weight"].T).argmax(1)
    tokens = model.tokens(audio, 16000)
    np.testing.assert_array_equal(tokens, want)
    assert tokens.dtype == np.int32 and len(set(tokens.tolist())) > 1
    # the codebook has begun: training does not start it anew
    assert checkpoint.restore_extra(run)["codebook"]["updates"] == 1
    again = torch_files.read(weights.export_run(run, tmp_path / "out", "original"))
    assert set(again["model"]) == set(p)
    assert all((again["model"][n] == x).all() for n, x in p.items())
    with pytest.raises(ValueError, match="shorter than one frame: at least 2800 samples"):
        model.tokens(audio[:2000], 16000)


@pytest.mark.parametrize(
    ("kind", "recipe"),
    [("encoder", "beats/audio.py"), ("tuned", "supervised/beats.py")],
)
def test_the_recipe_of_a_family_has_its_kind_of_encoder(kind, recipe):
    family = families.by_type(
        beats.source(beats_files.content(kind), PATH).config["model_type"], ""
    )
    assert family.recipe == f"configs/{recipe}" and family.instead == "original"
    config = config_lib.load(f"{config_lib.shipped(family.recipe)}:{family.size}")
    assert config.method.encoder.kind == family.kind
