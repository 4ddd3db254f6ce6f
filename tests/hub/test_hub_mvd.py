"""Official checkpoints of MVD, on a made-up file with their names."""

import jax
import numpy as np
import pytest

from ssl_jax.core import tree as tree_lib
from ssl_jax.engine import checkpoint
from ssl_jax.hub import mvd
from ssl_jax.hub.table import WeightsError
from ssl_jax.stages import weights

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.interop
WIDTH, DEPTH, INNER, TAUGHT, PATCH = 16, 2, 32, {"img": 16, "vid": 16}, 4


def arrays():
    """The arrays of a file, by the official names."""
    draw = np.random.default_rng(0)

    def made(*shape):
        return 0.2 * draw.standard_normal(shape).astype(np.float32)

    def blocks(start, width, depth):
        found = {}
        for i in range(depth):
            linears = {"attn.proj": (width, width), "mlp.fc1": (2 * width, width)}
            linears |= {"mlp.fc2": (width, 2 * width)}
            found[f"{start}{i}.attn.qkv.weight"] = made(3 * width, width)
            found |= {f"{start}{i}.attn.{part}_bias": made(width) for part in "qv"}
            for name, shape in linears.items():
                found[f"{start}{i}.{name}.weight"] = made(*shape)
                found[f"{start}{i}.{name}.bias"] = made(shape[0])
            for name in ("norm1", "norm2"):
                found |= {f"{start}{i}.{name}.{k}": made(width) for k in ("weight", "bias")}
        return found

    found = {"patch_embed.proj.weight": made(WIDTH, 3, 2, PATCH, PATCH)}
    found |= {"patch_embed.proj.bias": made(WIDTH), "pos_embed": made(1, 1, WIDTH)}
    found |= blocks("blocks.", WIDTH, DEPTH) | {
        f"norm.{k}": made(WIDTH) for k in ("weight", "bias")
    }
    for own, outputs in TAUGHT.items():
        found |= {f"down_{own}.weight": made(INNER, WIDTH), f"down_{own}.bias": made(INNER)}
        found |= {f"mask_token_{own}": made(1, 1, INNER), f"pos_embed_{own}": made(1, 1, INNER)}
        found |= blocks(f"decoder_{own}.blocks.", INNER, 1)
        found |= {f"decoder_{own}.norm.{k}": made(INNER) for k in ("weight", "bias")}
        found[f"decoder_{own}.head.weight"] = made(outputs, INNER)
        found[f"decoder_{own}.head.bias"] = made(outputs)
    return found


def save(path, state):
    torch.save({"model": {n: torch.tensor(x) for n, x in state.items()}, "epoch": 399}, path)
    return path


def test_every_array_finds_its_place(tmp_path, root, monkeypatch):
    monkeypatch.setattr(mvd, "SIDE", 16)
    monkeypatch.setattr(mvd, "FRAMES", 4)
    state = arrays()
    told = []
    run = tmp_path / "run"
    recipe = str(root / "configs/mvd/video.py:toy")
    weights.import_run(save(tmp_path / "a.pth", state), run, recipe, (), told.append)
    params = dict(tree_lib.named_leaves(checkpoint.restore_params(run)))
    want = {}
    for i, own in enumerate(("query", "key", "value")):
        cut = [np.split(state[f"blocks.{n}.attn.qkv.weight"], 3)[i].T for n in range(DEPTH)]
        want[f"encoder/blocks/attention/{own}/kernel"] = np.stack(cut)
    for own in ("query", "value"):
        cut = [state[f"blocks.{n}.attn.{own[0]}_bias"] for n in range(DEPTH)]
        want[f"encoder/blocks/attention/{own}/bias"] = np.stack(cut)
    kernel = state["patch_embed.proj.weight"]  # row 1, column 2, colour 0 of the second frame
    row = params["encoder/frontend/projection/kernel"][16 * 3 + (4 + 2) * 3]
    np.testing.assert_array_equal(row, kernel[:, 0, 1, 1, 2])
    for name, own in mvd.TEACHERS.items():
        ours = f"decoders/{name}"
        want[f"{ours}/embed/kernel"] = state[f"down_{own}.weight"].T
        want[f"{ours}/embed/bias"] = state[f"down_{own}.bias"]
        want[f"{ours}/mask"] = state[f"mask_token_{own}"][0, 0]
        want[f"{ours}/final_norm/scale"] = state[f"decoder_{own}.norm.weight"]
        want[f"{ours}/predict/kernel"] = state[f"decoder_{own}.head.weight"].T
        up = state[f"decoder_{own}.blocks.0.mlp.fc1.weight"].T[None]
        want[f"{ours}/blocks/mlp/up/kernel"] = up
    for name, x in want.items():
        np.testing.assert_array_equal(params[name], x, err_msg=name)
    assert "new, as the source has none: none" in told


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        ("blocks.0.mlp.fc1.weight", r"b.pth has no blocks.0.mlp.fc1.weight: it is no .* MVD"),
        ("decoder_img.blocks.0.mlp.fc1.weight", r"has down_img, but no decoder_img.blocks.0"),
    ],
)
def test_a_file_with_a_part_missing_is_named(tmp_path, root, absent, message):
    state = {n: x for n, x in arrays().items() if n != absent}
    with pytest.raises(WeightsError, match=message):
        weights.import_run(save(tmp_path / "b.pth", state), tmp_path / "run", notify=print)


def test_the_key_has_no_bias_here(tmp_path):
    found = mvd._apart(arrays())
    assert "blocks.0.attn.q.bias" in found and "blocks.0.attn.k.bias" not in found
    assert jax.tree.map(np.shape, found["blocks.0.attn.k.weight"]) == (WIDTH, WIDTH)
    assert not [n for n in found if n.startswith("pos_embed")]
