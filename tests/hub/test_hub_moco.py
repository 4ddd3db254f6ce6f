"""Official checkpoints of MoCo v3, on a made-up file with their names."""

import itertools

import jax
import numpy as np
import pytest

import ssl_jax
from ssl_jax.core import tree as tree_lib
from ssl_jax.engine import checkpoint
from ssl_jax.hub.table import WeightsError
from ssl_jax.ops.patches import sincos_table
from ssl_jax.stages import weights

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.interop
WIDTH, DEPTH, PATCH, SIDE, HIDDEN, OUT = 24, 2, 4, 4, 16, 8


def encoder(draw):
    """The arrays of an encoder with its projector, by the official names."""

    def made(*shape):
        return 0.2 * draw.standard_normal(shape).astype(np.float32)

    found = {"cls_token": made(1, 1, WIDTH), "patch_embed.proj.bias": made(WIDTH)}
    found["patch_embed.proj.weight"] = made(WIDTH, 3, PATCH, PATCH)
    table = sincos_table((SIDE, SIDE), WIDTH, row_first=True)
    found["pos_embed"] = np.concatenate([np.zeros((1, WIDTH), np.float32), table])[None]
    linears = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH)}
    linears |= {"mlp.fc1": (4 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 4 * WIDTH)}
    for i in range(DEPTH):
        for name, shape in linears.items():
            found[f"blocks.{i}.{name}.weight"] = made(*shape)
            found[f"blocks.{i}.{name}.bias"] = made(shape[0])
        for name in ("norm1", "norm2"):
            found |= {f"blocks.{i}.{name}.{k}": made(WIDTH) for k in ("weight", "bias")}
    found |= {f"norm.{k}": made(WIDTH) for k in ("weight", "bias")}
    return found | head(made, "head", (WIDTH, HIDDEN, HIDDEN, OUT))


def head(made, name, widths):
    """The arrays of Linear, norm, ReLU in turn; the last norm has no weights."""
    found = {}
    for i, (old, new) in enumerate(itertools.pairwise(widths)):
        found[f"{name}.{3 * i}.weight"] = made(new, old)
        norm = f"{name}.{3 * i + 1}"
        if i < len(widths) - 2:
            found |= {f"{norm}.{k}": made(new) for k in ("weight", "bias")}
        found |= {f"{norm}.running_mean": made(new), f"{norm}.running_var": made(new) ** 2}
        found[f"{norm}.num_batches_tracked"] = np.array(7)
    return found


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """(path of a checkpoint, its arrays by name)."""
    draw = np.random.default_rng(0)
    state = {f"module.base_encoder.{n}": x for n, x in encoder(draw).items()}
    state |= {f"module.momentum_encoder.{n}": x for n, x in encoder(draw).items()}
    made = head(
        lambda *s: 0.2 * draw.standard_normal(s).astype(np.float32), "predictor", (OUT, HIDDEN, OUT)
    )
    state |= {f"module.{n}": x for n, x in made.items()}
    path = tmp_path_factory.mktemp("moco") / "vit-s-300ep.pth.tar"
    tensors = {n: torch.tensor(x) for n, x in state.items()}
    torch.save({"epoch": 300, "arch": "vit_small", "state_dict": tensors}, path)
    return path, state


def literal(state, start):
    """Parameters by their names here, as the literal form takes them, written out by hand."""
    names = {
        "attention/out": "attn.proj",
        "mlp/up": "mlp.fc1",
        "mlp/down": "mlp.fc2",
    }
    own = {n.removeprefix(start): x.astype(np.float64) for n, x in state.items()}
    p = {"encoder/cls": own["cls_token"][0, 0]}
    kernel = own["patch_embed.proj.weight"].transpose(2, 3, 1, 0).reshape(-1, WIDTH)
    p |= {"encoder/frontend/projection/kernel": kernel}
    p |= {"encoder/frontend/projection/bias": own["patch_embed.proj.bias"]}
    each = [f"blocks.{i}" for i in range(DEPTH)]
    for ours, theirs in names.items():
        p[f"encoder/blocks/{ours}/kernel"] = np.stack([own[f"{b}.{theirs}.weight"].T for b in each])
        p[f"encoder/blocks/{ours}/bias"] = np.stack([own[f"{b}.{theirs}.bias"] for b in each])
    for i, name in enumerate(("query", "key", "value")):
        rows = slice(i * WIDTH, (i + 1) * WIDTH)
        p[f"encoder/blocks/attention/{name}/kernel"] = np.stack(
            [own[f"{b}.attn.qkv.weight"][rows].T for b in each]
        )
        p[f"encoder/blocks/attention/{name}/bias"] = np.stack(
            [own[f"{b}.attn.qkv.bias"][rows] for b in each]
        )
    for name in ("norm1", "norm2"):
        for ours, theirs in (("scale", "weight"), ("bias", "bias")):
            p[f"encoder/blocks/{name}/{ours}"] = np.stack(
                [own[f"{b}.{name}.{theirs}"] for b in each]
            )
    p |= {
        "encoder/final_norm/scale": own["norm.weight"],
        "encoder/final_norm/bias": own["norm.bias"],
    }
    return {n: torch.tensor(x) for n, x in p.items()}


@pytest.fixture(scope="module")
def run(file, tmp_path_factory, root):
    folder = tmp_path_factory.mktemp("imported") / "run"
    weights.import_run(file[0], folder, str(root / "configs/moco_v3/image.py:toy"))
    return folder


@pytest.fixture(scope="session")
def moco_literal(root):
    import importlib.util

    path = root / "tests" / "methods" / "moco_v3_literal.py"
    spec = importlib.util.spec_from_file_location("moco_v3_literal", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_features_are_those_of_the_original(file, run, moco_literal):
    image = np.random.default_rng(1).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    model = ssl_jax.load(run)
    assert [x.shape for x in model.features(image).hidden_states] == [(SIDE**2, WIDTH)] * (
        DEPTH + 1
    )
    # without the crop of the config
    hidden = jax.jit(model.method.features)(model.params, {"image": image[None]}).hidden_states
    p = literal(file[1], "module.base_encoder.")
    x = moco_literal.tokens(p, torch.tensor(image.astype(np.float64)), PATCH)
    expected = moco_literal.blocks(p, x, heads=12)[1:]
    np.testing.assert_allclose(hidden[-1, 0], expected, atol=2e-4)


def test_heads_and_momentum_encoder_come_along(file, run):
    state, params = file[1], dict(tree_lib.named_leaves(checkpoint.restore_params(run)))
    config = ssl_jax.load(run).config
    assert config.method.encoder.heads == 12 and config.method.head.hidden == HIDDEN
    for i in range(3):
        theirs = state[f"module.base_encoder.head.{3 * i}.weight"]
        np.testing.assert_array_equal(params[f"projector/linear{i}/kernel"], theirs.T)
    for i in range(2):
        np.testing.assert_array_equal(
            params[f"predictor/linear{i}/kernel"], state[f"module.predictor.{3 * i}.weight"].T
        )
    np.testing.assert_array_equal(
        params["predictor/norm0/scale"], state["module.predictor.1.weight"]
    )
    teacher = dict(tree_lib.named_leaves(checkpoint.restore_extra(run)["teacher"]))
    np.testing.assert_array_equal(
        teacher["projector/linear2/kernel"], state["module.momentum_encoder.head.6.weight"].T
    )
    np.testing.assert_array_equal(
        teacher["encoder/cls"], state["module.momentum_encoder.cls_token"][0, 0]
    )
    assert jax.tree.leaves(teacher)


def test_other_positions_are_refused(file, tmp_path, root):
    state = {n: torch.tensor(x) for n, x in file[1].items()}
    state["module.base_encoder.pos_embed"] = state["module.base_encoder.pos_embed"].flip(1)
    path = tmp_path / "other.pth.tar"
    torch.save({"state_dict": state}, path)
    with pytest.raises(WeightsError, match=r"other.pth.tar: pos_embed is not MoCo v3's fixed"):
        weights.import_run(path, tmp_path / "run", str(root / "configs/moco_v3/image.py:toy"))


def test_a_run_is_not_exported_with_the_positions_of_mae(run, tmp_path):
    with pytest.raises(WeightsError, match="row_first is True, which vit_mae in transformers does"):
        weights.export_run(run, tmp_path / "out")
