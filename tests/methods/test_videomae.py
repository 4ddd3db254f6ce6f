"""VideoMAE: against a literal float64 computation, its sizes, and what it refuses."""

import jax
import numpy as np
import pytest
import videomae_literal as literal
from method_cases import Setup, quick_jit
from ml_collections import ConfigDict
from test_mae_oracle import flat
from video_cases import DECODER, ENCODER, HEARD, moving

from configs import common
from ssl_jax.core import config as config_lib
from ssl_jax.core import tree as tree_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.engine import optim
from ssl_jax.methods import videomae

CASES = {
    "tubes": {"mask": {"ratio": 0.5}},
    "scattered, pixels as they are": {"mask": {"ratio": 0.5, "kind": "random"}, "norm_pix": False},
}


def make(changes=None, **encoder):
    """Returns the Method of a tiny VideoMAE."""
    config = common.videomae()
    config.encoder, config.decoder = ConfigDict({**ENCODER, **encoder}), ConfigDict(DECODER)
    config.update(changes or {})
    return videomae.make(config, precision="float32", sample_rate=0, num_classes=0)


@pytest.fixture(
    scope="module",
    params=[pytest.param(c, marks=[pytest.mark.slow] * bool(i)) for i, c in enumerate(CASES)],
)
def case(request):
    """(changes, Setup, masks of the rows that count, Output, gradient)."""
    changes = CASES[request.param]
    setup = Setup(make(changes), moving())

    def loss(params):
        out = setup.loss(params)
        hidden = setup.method.masks(params, setup.batch, setup.streams(setup.batch))
        return out.loss, (out, hidden)

    (_, (out, hidden)), gradient = quick_jit(jax.value_and_grad(loss, has_aux=True))(setup.params)
    return changes, setup, hidden.reshape(len(hidden), -1)[list(HEARD)], out, gradient


def expected(case, params):
    changes, setup, hidden, *_ = case
    clips = [np.asarray(setup.batch["video"])[i] for i in HEARD]
    return literal.loss(params, clips, hidden, 4, changes.get("norm_pix", True))


def test_loss_equals_the_literal_one_in_float64(case):
    _, setup, hidden, out, _ = case
    np.testing.assert_allclose(out.loss, expected(case, flat(setup.params)), rtol=1e-5)
    assert hidden.sum(1).tolist() == [4, 4]
    assert out.metrics["masked_share"] == (8, 16) and out.weight == 8


def test_gradient_agrees_with_differences_of_the_literal_loss(case):
    """One random direction in every parameter, central differences in float64."""
    _, setup, *_, gradient = case
    params, gradient = flat(setup.params), flat(gradient)
    draw, h, slopes = np.random.default_rng(11), 1e-6, {}
    for key, x in params.items():
        way = draw.standard_normal(x.shape)
        up, down = (expected(case, {**params, key: x + s * way}) for s in (h, -h))
        slopes[key] = ((gradient[key] * way).sum(), (up - down) / (2 * h))
    scale = max(abs(b) for _, b in slopes.values())
    for key, (a, b) in slopes.items():
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5 * scale, err_msg=key)


def test_an_update_is_that_of_adamw_with_no_decay_of_vectors(case, root):
    _, setup, *_, gradient = case
    o = config_lib.load(f"{root}/configs/videomae/video.py:toy").optim
    tx, _ = optim.make(o, setup.params, total_steps=4, to_steps=lambda _: 0, depth=2)
    updates, _ = quick_jit(lambda p, g: tx.update(g, tx.init(p), p))(setup.params, gradient)
    old, slope, moved = (flat(t) for t in (setup.params, gradient, updates))
    for key, x in old.items():
        decay = 0.0 if key.endswith(("bias", "scale", "mask")) else 0.05
        first, second = 0.1 * slope[key], 0.05 * slope[key] ** 2
        step = (first / 0.1) / (np.sqrt(second / 0.05) + 1e-8)
        np.testing.assert_allclose(
            x + moved[key], x - 1e-3 * (step + decay * x), rtol=1e-5, atol=1e-6, err_msg=key
        )


@pytest.mark.slow
def test_a_reconstruction_keeps_what_is_visible_and_predicts_the_rest():
    setup = Setup(make(CASES["tubes"]), moving())
    functions = setup.method.loss.__self__
    streams = setup.streams(setup.batch)
    video, hidden = quick_jit(functions.reconstruct)(setup.params, setup.batch, streams)
    true = np.asarray(setup.batch["video"])
    assert video.dtype == np.uint8 and video.shape == true.shape and hidden.mean() == 0.5
    np.testing.assert_array_equal(video[~hidden], true[~hidden])
    assert (video[hidden] != true[hidden]).mean() > 0.5
    mask = quick_jit(setup.method.masks)(setup.params, setup.batch, streams)[:2, 0]
    np.testing.assert_array_equal(mask, hidden[:2, ::2, ::4, ::4])


@pytest.mark.parametrize(
    ("size", "millions"), [("small", 24.0), ("base", 94.2), ("large", 343.0), ("huge", 692.5)]
)
def test_the_sizes_have_as_many_parameters_as_published(root, size, millions):
    config = config_lib.load(f"{root}/configs/videomae/video.py:{size}")
    method = videomae.make(config.method, precision="float32", sample_rate=0, num_classes=0)
    batch = {"video": jax.ShapeDtypeStruct((1, 16, 224, 224, 3), "uint8")}
    params, _ = jax.eval_shape(method.init, jax.random.key(0), batch)
    assert round(tree_lib.count(params) / 1e6, 1) == millions


@pytest.mark.parametrize(("ratio", "hidden"), [(0.9, 1408), (0.75, 1176)])
def test_as_many_tubelets_are_hidden_as_published(ratio, hidden):
    options = videomae.MaskOptions("tube", ratio)
    assert options.hidden((8, 14, 14)) == hidden


def test_the_mask_token_is_drawn_small_and_the_first_layer_of_the_decoder_has_no_bias():
    method, batch = make(CASES["tubes"]), moving()
    params, _ = jax.device_get(jax.jit(method.init)(jax.random.key(0), batch))
    mask = params["decoder"]["mask"]
    assert 0 < np.abs(mask).max() <= 0.02
    assert set(params["decoder"]["embed"]) == {"kernel"}
    kernel = params["decoder"]["embed"]["kernel"]
    assert np.abs(kernel).max() <= len(kernel) ** -0.5


@pytest.mark.parametrize(
    ("changes", "encoder", "message"),
    [
        (
            {"mask": {"ratio": 0.1}},
            {},
            r"mask.ratio is 0.1, which hides 0 of the 4 .*: use .* 0.75",
        ),
        ({"mask": {"ratio": 1.0}}, {}, r"hides 4 of the 4 places of a frame: use"),
        ({"mask": {"kind": "block"}}, {}, r"mask.kind is 'block': use one of tube, random"),
        ({"decoder": {"width": 24}}, {}, r"decoder.width is 24: use a multiple of 16"),
        ({"decoder": {"depth": 0}}, {}, r"decoder.depth is 0: use 1 or more"),
        ({}, {"kind": "vit"}, r"encoder"),
        ({}, {"frames": 3}, r"encoder.frames 3 is not a multiple of .*tubelet 2: use .* 2"),
        ({}, {"patch_size": 3}, r"image_size 8 is not a multiple of .*patch_size 3: use .* 6"),
    ],
)
def test_what_does_not_fit_is_named_with_what_would(changes, encoder, message):
    with pytest.raises((ConfigError, ValueError), match=message) as error:
        make(changes, **encoder)
    assert "\n" not in str(error.value)


def test_an_encoder_of_images_has_no_tubelets():
    config = common.videomae()
    config.encoder = ConfigDict({"kind": "vit", "image_size": 8, "patch_size": 4, **DECODER})
    with pytest.raises(ConfigError, match=r"kind is 'vit', which has no tubelets .*: use 'video'"):
        videomae.make(config, precision="float32", sample_rate=0, num_classes=0)


def test_clips_of_another_length_are_named():
    setup = Setup(make(CASES["tubes"]), moving())
    short = {**setup.batch, "video": setup.batch["video"][:, :2]}
    with pytest.raises(ValueError, match=r"clips of \(2, 8, 8, 3\) do not fit .*frames 4"):
        jax.eval_shape(lambda: setup.loss(batch=short))
