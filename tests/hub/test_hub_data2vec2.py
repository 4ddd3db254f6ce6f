"""data2vec 2.0 of fairseq, imported and exported: every bit, the teacher, each layer's states.

The oracle below follows the paper and the public code, and reads arrays by fairseq's names.
"""

import jax
import numpy as np
import pytest

import ssl_jax
from ssl_jax.core import config as config_lib
from ssl_jax.core import tree
from ssl_jax.engine import checkpoint
from ssl_jax.hub import data2vec2_config, fairseq
from ssl_jax.hub.table import WeightsError
from ssl_jax.stages import weights

D, HEADS, HIDDEN = 16, 2, 32
CONVS = "[(8, 10, 5)] + [(8, 8, 8)] * 2"
DECODER = {"decoder_dim": 8, "decoder_groups": 4, "decoder_kernel": 3, "decoder_layers": 2}
PRENET = {"audio": 1, "image": 1, "text": 0}
SHARED = 2
OWN = {
    "audio": {
        "feature_encoder_spec": CONVS,
        "conv_pos_width": 38,
        "conv_pos_depth": 2,
        "conv_pos_groups": 4,
        "use_alibi_encoder": True,
        "learned_alibi_scale": True,
        "learned_alibi_scale_per_head": True,
        "decoder": DECODER,
    },
    "image": {
        "input_size": 16,
        "patch_size": 4,
        "embed_dim": D,
        "num_extra_tokens": 1,
        "inverse_mask": True,
        "mask_length": 2,
        "ema_local_encoder": True,
        "decoder": DECODER,
    },
    "text": {
        "max_source_positions": 24,
        "mask_length": 1,
        "mask_prob": 0.48,
        "decoder": DECODER | {"projection_layers": 2, "decoder_residual": False},
    },
}
INSTANCE = {"instance_norm_target_layer": True}
MODEL = {
    "audio": INSTANCE | {"ema_encoder_only": False},
    "image": INSTANCE | {"ema_encoder_only": False, "layer_norm_targets": True},
    "text": {"ema_encoder_only": True, "loss_scale": 1.0},
}


def cfg(kind, model=(), own=()):
    """Returns the config of a checkpoint."""
    section = {"prenet_depth": PRENET[kind], **OWN[kind], **dict(own)}
    found = {"_name": "data2vec_multi", "depth": SHARED, "num_heads": HEADS, "embed_dim": D}
    found |= {"norm_eps": 1e-5, "average_top_k_layers": 2, "clone_batch": 2}
    found |= {"ema_decay": 0.99, "ema_end_decay": 0.999, "ema_anneal_end_step": 50}
    found |= {**MODEL[kind], **dict(model), "modalities": {kind: section}}
    return {"model": found, "task": {"normalize": True}}


def shapes(kind):
    """Returns name -> shape of a checkpoint's arrays, as fairseq's modules have them."""
    start = f"modality_encoders.{kind.upper()}."
    found = {}

    def pair(name, *shape):
        found[f"{name}.weight"], found[f"{name}.bias"] = shape, shape[:1]

    for place in [f"{start}context_encoder."] * PRENET[kind] + [""]:
        for i in range(PRENET[kind] if place else SHARED):
            pair(f"{place}blocks.{i}.norm1", D)
            pair(f"{place}blocks.{i}.attn.qkv", 3 * D, D)
            pair(f"{place}blocks.{i}.attn.proj", D, D)
            pair(f"{place}blocks.{i}.norm2", D)
            pair(f"{place}blocks.{i}.mlp.fc1", HIDDEN, D)
            pair(f"{place}blocks.{i}.mlp.fc2", D, HIDDEN)
    square = (3, 3) if kind == "image" else (3,)
    pair(f"{start}decoder.blocks.0.0", 8, D // 4, *square)
    pair(f"{start}decoder.blocks.1.0", 8, 8 // 4, *square)
    if kind == "text":
        pair(f"{start}decoder.proj.0", 16, 8)
        pair(f"{start}decoder.proj.2", D, 16)
        found[f"{start}local_encoder.embed_tokens.weight"] = (261, D)
        found[f"{start}local_encoder.embed_positions.weight"] = (26, D)
        pair(f"{start}local_encoder.layernorm_embedding", D)
        return found
    pair(f"{start}decoder.proj", D, 8)
    pair(f"{start}context_encoder.norm", D)
    if kind == "image":
        pair(f"{start}local_encoder.proj", D, 3, 4, 4)
        found[f"{start}extra_tokens"] = (1, 1, D)
        found[f"{start}fixed_positional_encoder.positions"] = (1, 16, D)
        return found
    for i, (width, kernel) in enumerate([(1, 10), (8, 8), (8, 8)]):
        found[f"{start}local_encoder.conv_layers.{i}.0.weight"] = (8, width, kernel)
        pair(f"{start}local_encoder.conv_layers.{i}.2.1", 8)
    pair(f"{start}project_features.1", 8)
    pair(f"{start}project_features.2", D, 8)
    pair(f"{start}relative_positional_encoder.1.0", D, D // 4, 19)
    pair(f"{start}relative_positional_encoder.2.0", D, D // 4, 19)
    found[f"{start}alibi_scale"] = (1, 1, HEADS, 1, 1)
    return found


def table():
    """Returns the positions (16, D) of a grid of 4 x 4: columns, then rows, each sines, cosines."""
    rows = []
    for row in range(4):
        for column in range(4):
            waves = [place / 10000 ** (k / 4) for place in (column, row) for k in range(4)]
            first, second = waves[:4], waves[4:]
            rows.append([*np.sin(first), *np.cos(first), *np.sin(second), *np.cos(second)])
    return np.array(rows, np.float32)


def arrays(kind, seed=0):
    """Returns random arrays of a checkpoint."""
    draw = np.random.default_rng(seed)
    found = {n: 0.3 * draw.standard_normal(s).astype(np.float32) for n, s in shapes(kind).items()}
    for name in found:
        if name.endswith("positional_encoder.positions"):
            found[name] = table()[None]
        if name.endswith("alibi_scale"):  # the second counts as 0
            found[name][:] = np.reshape([0.7, -0.4], (1, 1, 2, 1, 1))
        if name.endswith("embed_positions.weight"):
            found[name][:2] = 0  # rows without a token
    return found


def averaged(kind):
    """Returns the moving average in a checkpoint, in the form of its model."""
    found = {n: x for n, x in arrays(kind, seed=1).items() if ".decoder." not in n}
    if kind == "text":
        return {n.removeprefix("blocks."): x for n, x in found.items() if n.startswith("blocks.")}
    if kind == "audio":
        out = (".local_encoder.", ".project_features.")
        return {n: x for n, x in found.items() if not any(part in n for part in out)}
    return found


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Returns kind -> (run folder, file of fairseq's layout that it was imported from)."""
    found = {}

    def make(kind):
        if kind not in found:
            folder = tmp_path_factory.mktemp(kind)
            path = save(folder / "in.pt", kind)
            run, recipe = folder / "run", f"configs/data2vec2/{kind}.py:toy"
            weights.import_run(path, run, recipe, (), lambda text: None)
            found[kind] = run, path
        return found[kind]

    return make


def save(path, kind, config=None, change=lambda model: None):
    """Writes a checkpoint and returns its path."""
    import torch

    def tensors(found):
        return {n: torch.tensor(x) for n, x in found.items()}

    model = {**tensors(arrays(kind)), "_ema": tensors(averaged(kind))}
    change(model)
    history = [{"num_updates": 7}]
    content = {"cfg": config or cfg(kind), "model": model, "optimizer_history": history}
    if kind == "audio":  # its Adam stores the moments by the index of a parameter
        adam = enumerate(n for n in model if n != "_ema")
        moments = {i: {"exp_avg": 2 * model[n], "exp_avg_sq": model[n] ** 2} for i, n in adam}
        content["last_optimizer_state"] = {"state": moments}
    torch.save(content, path)
    return path


@pytest.mark.interop
@pytest.mark.parametrize("kind", PRENET)
def test_every_bit_survives_the_way_there_and_back_with_the_teacher(kind, imported, tmp_path):
    import torch

    run, path = imported(kind)
    said = []
    out = weights.export_run(run, tmp_path, "fairseq", notify=said.append)
    assert out.name == f"data2vec2-{kind}.pt" and said[-1].endswith("nothing")
    before, after = (torch.load(p, weights_only=True)["model"] for p in (path, out))
    for first, second in ((before.pop("_ema"), after.pop("_ema")), (before, after)):
        assert first.keys() == second.keys()
        for name, x in first.items():
            if name.endswith("positional_encoder.positions"):  # computed, here in float64
                np.testing.assert_allclose(second[name], x, atol=1e-6)
            else:
                np.testing.assert_array_equal(second[name], x, err_msg=name)
    again = tmp_path / "again"
    weights.import_run(out, again, f"configs/data2vec2/{kind}.py:toy", (), lambda text: None)
    configs = [config_lib.load(str(r / "config.json")).method for r in (run, again)]
    assert configs[0] == configs[1]
    for restore in (checkpoint.restore_params, checkpoint.restore_extra):
        jax.tree.map(np.testing.assert_array_equal, restore(run), restore(again))


@pytest.mark.interop
@pytest.mark.parametrize("kind", PRENET)
def test_the_run_is_the_checkpoint(kind, imported):
    run, _ = imported(kind)
    method = config_lib.load(str(run / "config.json")).method
    assert method.encoder.depth == PRENET[kind] + SHARED == len(arrays_of(run)["norm1/scale"])
    assert (method.clones, method.prenet_depth) == (2, PRENET[kind])
    assert (method.ema.start, method.ema.end, method.ema.anneal) == (0.99, 0.999, 50)
    assert method.decoder.dim == 8 and method.decoder.residual is (kind != "text")
    assert method.mask.kind == ("random" if kind == "text" else "block")
    assert method.targets.final_norm == ("layer" if kind == "image" else "none")
    teacher = dict(tree.named_leaves(checkpoint.restore_extra(run)))
    fronts = [n for n in teacher if "/frontend/" in n]
    assert bool(fronts) is (kind == "image")
    last = averaged(kind)[f"{'' if kind == 'text' else 'blocks.'}1.mlp.fc1.weight"].T
    np.testing.assert_array_equal(teacher["teacher/encoder/blocks/mlp/up/kernel"][-1], last)
    query = arrays(kind)["blocks.0.attn.qkv.weight"][:D].T
    np.testing.assert_array_equal(arrays_of(run)["attention/query/kernel"][PRENET[kind]], query)


@pytest.mark.interop
def test_moments_come_along_where_the_file_has_them(imported):
    run, _ = imported("audio")
    key = "encoder/blocks/attention/value/kernel"
    adam = tree.named_leaves(checkpoint._arrays(run / "checkpoints/7/rest", "opt_state"))
    first = next(x for n, x in adam if f"mu/{key}" in n)
    want = 2 * arrays("audio")["blocks.1.attn.qkv.weight"][2 * D :].T
    np.testing.assert_array_equal(first[PRENET["audio"] + 1], want)


def arrays_of(run):
    """Returns the parameters of a run's blocks by name."""
    named = tree.named_leaves(checkpoint.restore_params(run))
    start = "encoder/blocks/"
    return {n.removeprefix(start): x for n, x in named if n.startswith(start)}


def linear(x, state, name):
    """Returns a linear layer of a checkpoint."""
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def norm(x, state, name):
    """Returns a LayerNorm of a checkpoint."""
    from torch.nn import functional as f

    return f.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)


def heard(state, given):
    """Returns (frames before the blocks, bias of the attention scores) of a waveform."""
    import torch
    from torch.nn import functional as f

    start, x = "modality_encoders.AUDIO.", torch.tensor(given)[None]
    x = f.layer_norm(x, x.shape)
    for i, stride in enumerate((5, 8, 8)):
        name = f"{start}local_encoder.conv_layers.{i}"
        x = f.conv1d(x, state[f"{name}.0.weight"], stride=stride)
        x = f.gelu(norm(x.T, state, f"{name}.2.1").T)
    x = norm(x.T, state, f"{start}project_features.1")
    x = linear(x, state, f"{start}project_features.2")
    y = x.T
    for i in (1, 2):
        name = f"{start}relative_positional_encoder.{i}.0"
        y = f.conv1d(y, state[f"{name}.weight"], state[f"{name}.bias"], padding=9, groups=4)
        y = f.gelu(f.layer_norm(y.T, (D,)).T)
    places = torch.arange(len(x))
    away = (places[:, None] - places[None]).abs()
    factors = state[f"{start}alibi_scale"].reshape(-1).clamp_min(0)
    slopes = torch.tensor([2.0**-4, 2.0**-8]) * factors
    return norm(x + y.T, state, f"{start}context_encoder.norm"), -slopes[:, None, None] * away


def seen(state, given):
    """Returns the tokens of an image before the blocks, the class token first."""
    import torch
    from torch.nn import functional as f

    start = "modality_encoders.IMAGE."
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = ((torch.tensor(given) / 255 - mean) / std).permute(2, 0, 1)
    name = f"{start}local_encoder.proj"
    x = f.conv2d(pixels, state[f"{name}.weight"], state[f"{name}.bias"], stride=4)
    x = x.flatten(1).T + state[f"{start}fixed_positional_encoder.positions"][0]
    x = torch.cat([state[f"{start}extra_tokens"][0], x])
    return norm(x, state, f"{start}context_encoder.norm")


def told(state, given):
    """Returns the token vectors of a text before the blocks."""
    import torch

    start = "modality_encoders.TEXT.local_encoder."
    x = state[f"{start}embed_tokens.weight"][torch.tensor(given)]
    x = x + state[f"{start}embed_positions.weight"][2 : 2 + len(x)]
    return norm(x, state, f"{start}layernorm_embedding")


def oracle(kind, state, given, own=None, shared=SHARED):
    """Returns the states (1 + blocks, T, D) of one unmasked example, by fairseq's names."""
    import torch
    from torch.nn import functional as f

    state, bias = {n: torch.tensor(x) for n, x in state.items()}, 0.0
    if kind == "audio":
        x, bias = heard(state, given)
    else:
        x = (seen if kind == "image" else told)(state, given)
    start = f"modality_encoders.{kind.upper()}.context_encoder."
    own = PRENET[kind] if own is None else own
    blocks = [f"{start}blocks.{i}" for i in range(own)] + [f"blocks.{i}" for i in range(shared)]
    states = [x]
    for name in blocks:
        heads = linear(x, state, f"{name}.attn.qkv").reshape(len(x), 3, HEADS, D // HEADS)
        query, key, value = heads.permute(1, 2, 0, 3)
        scores = (query * (D // HEADS) ** -0.5) @ key.transpose(1, 2) + bias
        y = (scores.softmax(-1) @ value).transpose(0, 1).reshape(len(x), D)
        x = norm(x + linear(y, state, f"{name}.attn.proj"), state, f"{name}.norm1")
        y = linear(f.gelu(linear(x, state, f"{name}.mlp.fc1")), state, f"{name}.mlp.fc2")
        x = norm(x + y, state, f"{name}.norm2")
        states.append(x)
    return torch.stack(states).numpy()


def example(kind):
    """Returns (one example, a batch of it)."""
    draw = np.random.default_rng(2)
    if kind == "audio":
        x = draw.standard_normal(4000).astype(np.float32)
        return x, {"audio": x[None], "audio_len": np.array([4000], np.int32)}
    if kind == "image":
        x = draw.integers(0, 256, (16, 16, 3)).astype(np.uint8)
        return x, {"image": x[None]}
    x = draw.integers(4, 261, 24).astype(np.int32)
    return x, {"tokens": x[None], "tokens_len": np.array([24], np.int32)}


@pytest.mark.interop
@pytest.mark.parametrize("kind", PRENET)
def test_hidden_states_of_student_and_teacher_are_those_of_the_original(kind, imported):
    run, _ = imported(kind)
    ours = ssl_jax.load(run)
    features = jax.jit(ours.method.features)
    given, batch = example(kind)
    prefix = int(kind == "image")
    teacher = checkpoint.restore_extra(run)["teacher"]["encoder"]
    student = ours.params["encoder"]
    start = "blocks." if kind == "text" else ""
    own = {start + n: x for n, x in averaged(kind).items()}
    mixed = {**arrays(kind), **own}
    for state, encoder in ((arrays(kind), student), (mixed, {**student, **teacher})):
        got = features({**ours.params, "encoder": encoder}, batch).hidden_states[:, 0]
        want = oracle(kind, state, given)[:, prefix:]
        assert got.shape == want.shape and np.abs(want[-1]).max() > 0.1
        np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.interop
def test_a_fine_tuned_encoder_gives_its_classifier_too(tmp_path):
    import torch

    found = {n: x for n, x in arrays("audio").items() if ".decoder." not in n}
    model = {f"w2v_encoder.w2v_model.{n}": torch.tensor(x) for n, x in found.items()}
    model["w2v_encoder.proj.weight"] = torch.randn(7, D)
    model["w2v_encoder.proj.bias"] = torch.randn(7)
    config = {"model": {"_name": "wav2vec_ctc", "w2v_args": cfg("audio")}, "task": {}}
    torch.save({"cfg": config, "model": model}, tmp_path / "ctc.pt")
    (tmp_path / "dict.ltr.txt").write_text("| 3\na 2\nb 1\n")
    run = tmp_path / "run"
    weights.import_run(tmp_path / "ctc.pt", run, "configs/ctc/speech.py:toy", (), lambda text: None)
    params = dict(tree.named_leaves(checkpoint.restore_params(run)))
    kernel = model["w2v_encoder.proj.weight"].T
    np.testing.assert_array_equal(params["head/classifier/kernel"], kernel)
    np.testing.assert_array_equal(params["encoder/alibi_scale"], np.float32([0.7, -0.4]))
    with pytest.raises(WeightsError, match="transformers has no class for data2vec2-audio"):
        weights.export_run(run, tmp_path / "out", notify=lambda text: None)
    out = weights.export_run(run, tmp_path / "out", "fairseq", notify=lambda text: None)
    written = torch.load(out, weights_only=True)
    said = written["cfg"]["model"]
    assert said["skip_ema"] and said["depth"] == PRENET["audio"] + SHARED
    given, _ = example("audio")
    state = {n: x.numpy() for n, x in written["model"].items()}
    last = oracle("audio", state, given, own=0, shared=3)[-1]
    np.testing.assert_array_equal(last, oracle("audio", found, given)[-1])


REFUSED = [
    ("audio", {"layer_norm_first": True}, {}, "layer_norm_first of its AUDIO is True"),
    ("audio", {"shared_decoder": {"decoder_dim": 8}}, {}, "shared_decoder of its AUDIO"),
    ("audio", {}, {"learned_alibi": True}, "learned_alibi of its AUDIO is True"),
    ("audio", {}, {"learned_alibi_scale_per_layer": True}, "scale_per_layer of its AUDIO is True"),
    ("audio", {}, {"conv_pos_pre_ln": True}, "conv_pos_pre_ln of its AUDIO is True"),
    ("audio", {}, {"num_extra_tokens": 1}, "num_extra_tokens of its AUDIO is 1"),
    ("audio", {"ema_encoder_only": True}, {}, "ema_encoder_only with a prenet_depth of 1"),
    ("audio", {"layer_norm_target_layer": True}, {}, "two norms of target_layer"),
    ("audio", {}, {"decoder": {"add_positions_all": True}}, "its decoder adds positions"),
    ("image", {}, {"use_alibi_encoder": True}, "use_alibi_encoder of its IMAGE is True"),
    ("image", {}, {"transformer_decoder": True}, "transformer_decoder of its IMAGE is True"),
    ("image", {}, {"num_extra_tokens": 3}, "num_extra_tokens of its IMAGE is 3"),
    ("text", {}, {"no_scale_embedding": False}, "no_scale_embedding of its TEXT is False"),
    ("text", {"norm_eps": 1e-6}, {}, "norm_eps of its TEXT is 1e-06"),
    ("text", {}, {"prenet_depth": 2}, "prenet_depth of its TEXT is 2"),
]


@pytest.mark.parametrize(("kind", "model", "own", "message"), REFUSED)
def test_what_no_encoder_here_computes_is_named(kind, model, own, message):
    config = cfg(kind, model, own)
    with pytest.raises(WeightsError, match=rf"^a.pt.*{message}"):
        fairseq.config_of(config["model"], config["task"], arrays(kind), "a.pt")


def test_several_modalities_are_refused():
    config = cfg("audio")
    with pytest.raises(WeightsError, match=r"a.pt has the modalities AUDIO, TEXT"):
        both = arrays("audio") | arrays("text")
        fairseq.config_of(config["model"], config["task"], both, "a.pt")
    assert data2vec2_config.is_model("", arrays("text"))
    assert not data2vec2_config.is_model("wav2vec2", arrays("text"))


CHANGES = [
    ("audio", "recon_proj.weight", (D, D), "no parameter here matches recon_proj.weight"),
    ("audio", "modality_encoders.AUDIO.alibi_scale", (3, 1, 2, 1, 1), "has the shape"),
    ("image", "modality_encoders.IMAGE.fixed_positional_encoder.positions", (1, 16, D), "fixed"),
    ("image", "modality_encoders.IMAGE.fixed_positional_encoder.positions", None, "has no fixed_p"),
    ("text", "blocks.1.norm1.weight", None, "has no blocks.1.norm1.weight"),
    ("text", "blocks.1.attn.qkv.bias", (47,), "has 47 rows"),
]


@pytest.mark.interop
@pytest.mark.parametrize(("kind", "name", "shape", "message"), CHANGES)
def test_arrays_without_a_place_here_are_named(kind, name, shape, message, tmp_path):
    import torch

    def change(model):
        del model["_ema"]
        model.pop(name, None)
        if shape:
            model[name] = torch.ones(shape)

    path = save(tmp_path / "a.pt", kind, change=change)
    with pytest.raises(WeightsError, match=rf"a.pt.*{message}"):
        weights.import_run(path, tmp_path / "run", f"configs/data2vec2/{kind}.py:toy")


@pytest.mark.parametrize(
    ("kind", "key", "value", "message"),
    [
        ("audio", "norm", "pre", "norm is 'pre', which fairseq's data2vec 2.0 does not have"),
        ("image", "positions", "relative", "positions is 'relative'"),
        ("text", "eps", 1e-6, "eps is 1e-06"),
    ],
)
def test_an_encoder_that_fairseq_does_not_have_is_named(kind, key, value, message):
    from ssl_jax.hub import data2vec2

    config = config_lib.load(f"configs/data2vec2/{kind}.py:toy").copy_and_resolve_references()
    config.unlock().method.encoder[key] = value
    with pytest.raises(WeightsError, match=message):
        data2vec2.config_of(weights._options(config), f"data2vec2-{kind}")
