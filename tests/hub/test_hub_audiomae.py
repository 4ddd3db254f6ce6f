"""Files of AudioMAE as its authors publish them, on made-up weights with their names."""

import types

import numpy as np
import pytest

import ssl_jax
from ssl_jax.core import config as config_lib
from ssl_jax.core import tree as tree_lib
from ssl_jax.engine import checkpoint
from ssl_jax.hub import audiomae, families
from ssl_jax.hub.table import WeightsError
from ssl_jax.ops.patches import sincos_table
from ssl_jax.stages import weights

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.interop, pytest.mark.slow]
WIDTH, OWN, ROWS, HEADS = 64, 16, 4, 2
SHORT = ["data.buckets=(0.6,)"]  # 58 frames of 64


def blocks(made, start, depth, width):
    """The arrays of blocks by timm's names."""
    found, shapes = {}, {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    shapes |= {"mlp.fc1": (2 * width, width), "mlp.fc2": (width, 2 * width)}
    for i in range(depth):
        for name, shape in shapes.items():
            found[f"{start}.{i}.{name}.weight"] = made(*shape)
            found[f"{start}.{i}.{name}.bias"] = made(shape[0])
        for name in ("norm1", "norm2"):
            found |= {f"{start}.{i}.{name}.{k}": made(width) for k in ("weight", "bias")}
    return found


def table(width, swapped=True):
    grid = (8, ROWS) if swapped else (ROWS, 8)
    return np.concatenate([np.zeros((1, width), np.float32), sincos_table(grid, width)])[None]


def model():
    """The arrays of a pre-trained model."""
    draw = np.random.default_rng(0)

    def made(*shape):
        return draw.standard_normal(shape).astype(np.float32)

    found = {"cls_token": made(1, 1, WIDTH), "pos_embed": table(WIDTH)}
    found |= {"patch_embed.proj.weight": made(WIDTH, 1, 16, 16)}
    found |= {"patch_embed.proj.bias": made(WIDTH), "mask_token": made(1, 1, OWN)}
    found |= {f"norm.{k}": made(WIDTH) for k in ("weight", "bias")}
    found |= blocks(made, "blocks", 1, WIDTH) | blocks(made, "decoder_blocks", 2, OWN)
    for i in range(2):
        attention = f"decoder_blocks.{i}.attn"
        found[f"{attention}.tau"] = made(1, HEADS, 1, 1)
        for name, shape in (("fc1", (6, 2)), ("fc2", (HEADS, 6))):
            found[f"{attention}.meta_mlp.{name}.weight"] = made(*shape)
            found[f"{attention}.meta_mlp.{name}.bias"] = made(shape[0])
    found |= {"decoder_pos_embed": table(OWN), "decoder_embed.weight": made(OWN, WIDTH)}
    found |= {"decoder_embed.bias": made(OWN), "decoder_pred.bias": made(256)}
    found |= {"decoder_pred.weight": made(256, OWN)}
    return found | {f"decoder_norm.{k}": made(OWN) for k in ("weight", "bias")}


def save(path, arrays):
    torch.save({"model": {n: torch.tensor(x) for n, x in arrays.items()}, "epoch": 32}, path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, root):
    folder = tmp_path_factory.mktemp("audiomae")
    recipe = str(root / "configs/mae/spectrogram.py:audiomae")
    weights.import_run(save(folder / "pretrained.pth", model()), folder / "run", recipe, SHORT)
    return folder / "run"


def test_arrays_come_under_their_names_with_the_grid_of_the_file(run):
    config = config_lib.of_file(run / "config.json").method
    assert config.encoder.frames == 64 and config.encoder.pos_grid == "official"
    assert config.attention == "local" and config.local.bias_width == 6
    assert config.decoder.to_dict() == {"width": 16, "depth": 2, "heads": 2, "mlp_width": 32}
    theirs, ours = model(), dict(tree_lib.named_leaves(checkpoint.restore_params(run)))
    kernel = theirs["patch_embed.proj.weight"]
    mine = ours["encoder/frontend/projection/kernel"].reshape(16, 16, WIDTH)
    np.testing.assert_array_equal(mine[3, 5], kernel[:, 0, 3, 5])  # of time and mel
    for i, name in enumerate(("query", "key", "value")):
        for start, width, where in (
            ("blocks", WIDTH, "encoder"),
            ("decoder_blocks", OWN, "decoder"),
        ):
            whole = theirs[f"{start}.0.attn.qkv.weight"][i * width : (i + 1) * width]
            own = ours[f"{where}/blocks/attention/{name}/kernel"][0]
            np.testing.assert_array_equal(own, whole.T)
    tau = theirs["decoder_blocks.1.attn.tau"]
    np.testing.assert_array_equal(ours["decoder/blocks/attention/tau"][1], tau[0, :, 0, 0])
    near = theirs["decoder_blocks.1.attn.meta_mlp.fc1.weight"]
    np.testing.assert_array_equal(ours["decoder/blocks/attention/offset0/kernel"][1], near.T)


def test_a_run_gives_the_file_back_to_the_bit(run, tmp_path):
    config = config_lib.of_file(run / "config.json")
    params = dict(tree_lib.named_leaves(checkpoint.restore_params(run)))
    o, family = weights._options(config), families.FAMILIES["audiomae"]
    assert families.of_run(config.method, o) is family
    assert audiomae.checkpoint(family, o, config.method, params, ())[1] == []
    path = weights.export_run(run, tmp_path, "original")
    found, wanted = torch.load(path, weights_only=True)["model"], model()
    assert set(found) == set(wanted)
    for name, x in wanted.items():
        np.testing.assert_array_equal(found[name].numpy(), x, err_msg=name)
    apart = types.SimpleNamespace(**{**vars(o), "stride": (10, 10)})
    with pytest.raises(WeightsError, match=r"stride is \(10, 10\), and AudioMAE has None"):
        audiomae.checkpoint(family, apart, config.method, params, ())


def test_a_fine_tuned_file_keeps_its_head(tmp_path, root):
    arrays = {n: x for n, x in model().items() if not n.startswith(("decoder", "mask", "norm"))}
    draw = np.random.default_rng(1).standard_normal
    arrays |= {"head.weight": draw((5, WIDTH)).astype(np.float32), "head.bias": np.zeros(5)}
    arrays |= {"fc_norm.weight": np.ones(WIDTH), "fc_norm.bias": np.zeros(WIDTH)}
    recipe = str(root / "configs/supervised/audiomae.py:as20k")
    weights.import_run(save(tmp_path / "tuned.pth", arrays), tmp_path / "run", recipe, SHORT)
    ours = dict(tree_lib.named_leaves(checkpoint.restore_params(tmp_path / "run")))
    np.testing.assert_array_equal(ours["head/classifier/kernel"], arrays["head.weight"].T)
    assert "encoder/final_norm/scale" not in ours
    found = ssl_jax.load(tmp_path / "run").predict(np.sin(np.arange(8000)) / 2, 16000)
    assert list(found) == list("01234") and all(0 < p < 1 for p in found.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pos_embed": table(WIDTH)[:, ::-1]},
            r"odd\.pth: pos_embed is not AudioMAE's fixed table",
        ),
        (
            {"pos_embed": table(WIDTH)[:, :-1]},
            r"pos_embed has 31 patches, .*no rows of 8: only mod",
        ),
    ],
)
def test_other_files_are_refused(tmp_path, root, changes, message):
    path = save(tmp_path / "odd.pth", model() | {n: x.copy() for n, x in changes.items()})
    with pytest.raises(WeightsError, match=message):
        weights.import_run(
            path, tmp_path / "run", str(root / "configs/mae/spectrogram.py:audiomae")
        )
