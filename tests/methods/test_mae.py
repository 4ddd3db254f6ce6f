"""Properties of MAE: counts, what the encoder sees, initial weights, and wrong options."""

import jax
import numpy as np
import pytest
from mae_cases import config_of, make, pictures, tiny
from method_cases import quick_jit
from ml_collections import ConfigDict

from ssl_jax.core import config as config_lib
from ssl_jax.core import tree as tree_lib
from ssl_jax.engine import optim
from ssl_jax.methods import mae
from ssl_jax.ops import masks


def value(out, name):
    total, count = out.metrics[name]
    return float(total / count)


@pytest.mark.parametrize(("ratio", "kept"), [(0.75, 49), (0.9, 19), (0.95, 9), (0.98, 3)])
def test_visible_counts_are_those_of_the_paper(ratio, kept):
    method = make(config_of("image", {"mask_ratio": ratio}, image_size=224, patch_size=16))
    counts = method.loss.__self__.visible(196)
    assert counts[196] == kept and counts[:3] == [0, 1, 1]
    # padded rows never need more room than a full one
    assert set(np.diff(counts)) == {0, 1}


def test_the_encoder_sees_the_visible_patches_in_random_permutation(monkeypatch):
    setup, seen = tiny("image", depth=1), []
    encode = mae.encoder_lib.encode

    def spy(encoder, params, x, valid, dropout=None, ids_keep=None, layers=None):
        seen.append(ids_keep)
        return encode(encoder, params, x, valid, dropout, ids_keep, layers)

    def ids():
        setup.loss()
        return seen[-1]

    monkeypatch.setattr(mae.encoder_lib, "encode", spy)
    kept = quick_jit(ids)()
    keys = setup.streams(setup.batch).for_examples("mask")
    np.testing.assert_array_equal(kept, masks.random_permutation(keys, 16)[:, :4])
    assert (np.diff(kept) < 0).any()


def test_metrics_show_the_share_of_the_mask_and_a_collapse():
    setup = tiny("image", depth=1)
    loss = quick_jit(lambda params: setup.loss(params).metrics)
    healthy = loss(setup.params)
    flat = tree_lib.map_named(
        lambda name, x: x * 0 if name == "decoder/predict/kernel" else x, setup.params
    )
    collapsed = loss(flat)
    assert healthy["masked_share"] == (36, 48)  # the last row has weight 0
    assert healthy["target_std"][0] == pytest.approx(1, abs=0.1)
    assert healthy["prediction_std"][0] > 0.1
    assert collapsed["prediction_std"][0] < 2e-3


def test_initial_weights_are_those_of_the_original():
    method = make(config_of("image", image_size=32, patch_size=8, depth=1))
    batch = pictures(size=32)
    params, extra = quick_jit(method.init)(jax.random.key(0), batch)
    assert extra == {}
    leaves = dict(tree_lib.named_leaves(params))
    bounds = {
        "encoder/frontend/projection/kernel": np.sqrt(6 / (192 + 16)),
        "encoder/frontend/projection/bias": 192**-0.5,
        "encoder/blocks/attention/query/kernel": np.sqrt(6 / (4 * 16)),  # of (D, 3 D)
        "encoder/blocks/attention/out/kernel": np.sqrt(6 / (2 * 16)),
        "encoder/blocks/mlp/up/kernel": np.sqrt(6 / (16 + 32)),
        "decoder/blocks/attention/value/kernel": np.sqrt(6 / (4 * 16)),
        "decoder/embed/kernel": np.sqrt(6 / (16 + 16)),
        "decoder/predict/kernel": np.sqrt(6 / (16 + 192)),
    }
    for name, bound in bounds.items():
        largest = np.abs(leaves.pop(name)).max()
        assert 0.75 * bound < largest <= bound, name
    for name in ("encoder/cls", "decoder/mask"):
        assert 0.005 < np.std(leaves.pop(name)) < 0.05, name
    for name, x in leaves.items():
        if name.endswith(("bias", "scale")):
            np.testing.assert_array_equal(x, float(name.endswith("scale")), err_msg=name)


def test_class_and_mask_token_are_decayed_and_vectors_are_not(root):
    config = config_lib.load(str(root / "configs/mae/image.py:base"))
    names = ["encoder/cls", "decoder/mask", "encoder/blocks/mlp/up/kernel"]
    spared = ["encoder/final_norm/scale", "decoder/predict/bias"]
    rates = optim.decay_rates(config.optim, names + spared)
    assert [rates[n] for n in names] == [0.05] * 3 and [rates[n] for n in spared] == [0, 0]
    assert config.optim.lr == pytest.approx(2.4e-3)


@pytest.mark.parametrize(
    ("changes", "encoder", "message"),
    [
        (
            {"mask_ratio": 0.95},
            {},
            r"mask_ratio is 0\.95, which leaves 0 of 16 .*use a value such as 0\.75",
        ),
        ({"mask_ratio": 0.0}, {}, r"config\.method\.mask_ratio is 0\.0, which leaves 16 of 16"),
        ({"mask_ratio": 1.5}, {}, r"config\.method\.mask_ratio is 1\.5, which leaves -8 of 16"),
        ({}, {"patch_size": 16}, r"1 patch, .*config\.method\.encoder\.patch_size smaller"),
        (
            {},
            {"image_size": 18},
            r"image_size 18 is not a multiple of .*patch_size 4: use a value such as 16",
        ),
        (
            {},
            {"image_size": 3},
            r"image_size 3 is not a multiple of .*patch_size 4: use a value such as 4",
        ),
        ({"decoder": {"width": 18}}, {}, r"config\.method\.decoder\.width is 18: use a multiple"),
        ({"decoder": {"depth": 0}}, {}, r"config\.method\.decoder\.depth is 0: use 1 or more"),
        ({"norm": True}, {}, r"config\.method\.norm does not exist"),
        ({"stripes": {"time": 0.5}}, {}, r"config\.method\.stripes hides .* does not have: set"),
        ({"augment": {"roll": {}}}, {}, r"config\.method\.augment changes audio, .*use \{\}"),
        ({"attention": "near"}, {}, r"config\.method\.attention is 'near': use one of global, lo"),
    ],
)
def test_a_wrong_option_is_named(changes, encoder, message):
    with pytest.raises(ValueError, match=message):
        make(config_of("image", changes, **encoder))


def test_stripes_are_refused_where_they_hide_nothing_or_are_no_shares():
    with pytest.raises(ValueError, match=r"stripes\.time is 1\.0: use 0 to below 1, such as 0\.3"):
        make(config_of("spectrogram", {"stripes": {"time": 1.0}}))
    changes = {"stripes": {"time": 0.01, "frequency": 0.0}}
    method = make(config_of("spectrogram", changes)).loss.__self__
    assert method.visible(24)[24] == 22  # int(12 * 0.99) of 12 rows of 2
    with pytest.raises(ValueError, match=r"stripes hides none of 1 x 2 patches: use larger"):
        method.visible(2)


@pytest.mark.slow
def test_a_local_decoder_with_stripes_trains_every_parameter():
    changes = {
        "attention": "local",
        "local": {"window": (4, 2), "bias_width": 4},
        "stripes": {"time": 0.7, "frequency": 0.3},
        "augment": {"magnitude": {}},
    }
    setup = tiny("spectrogram", changes, depth=1, frames=48, pos_grid="official")

    def loss(params):
        out = setup.loss(params)
        return out.loss, out.metrics

    gradient, metrics = quick_jit(jax.grad(loss, has_aux=True))(setup.params)
    # 3 of 12 rows and 1 of 2 columns stay visible, of three clips that count
    assert metrics["masked_share"] == (3 * (24 - 3), 3 * 24)
    flat = dict(tree_lib.named_leaves(gradient))
    still = {name for name, x in flat.items() if np.abs(x).max() < 1e-8}
    # what is added to all scores of a query leaves softmax unchanged
    constant = {"encoder/blocks/attention/key/bias", "decoder/blocks/attention/offset1/bias"}
    assert still <= constant, still
    assert "decoder/blocks/attention/tau" in flat


@pytest.mark.parametrize("kind", ["text", "video"])
def test_an_encoder_without_patches_is_named(kind):
    config = config_of("image", {})
    config.encoder = ConfigDict({"kind": kind, "depth": 1})
    with pytest.raises(ValueError, match=f"kind is '{kind}', which has no patches .*use 'vit' or"):
        make(config)


def test_clips_too_short_for_the_ratio_are_refused_before_the_first_step():
    method = make(config_of("spectrogram", {"mask_ratio": 0.99}))
    batch = {
        "audio": jax.ShapeDtypeStruct((2, 8000), "int16"),
        "audio_len": jax.ShapeDtypeStruct((2,), "int32"),
    }
    with pytest.raises(config_lib.ConfigError, match=r"mask_ratio is 0\.99, which leaves 0 of 24"):
        jax.eval_shape(method.init, jax.random.key(0), batch)
