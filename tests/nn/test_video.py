"""The encoder of clips: its tokens, sizes, positions, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.nn import build
from ssl_jax.nn import encoder as encoder_lib
from ssl_jax.nn.transformer import Layers
from ssl_jax.ops import tubelets

TINY = {"image_size": 8, "frames": 4, "patch_size": 4, "depth": 1, "width": 16, "heads": 2}


def encoder(**changes):
    config = {"kind": "video", **TINY, "mlp_width": 32, **changes}
    return build.encoder(config, precision="float32", sample_rate=0)


@pytest.mark.parametrize(
    ("preset", "count"),
    # 12 D^2 + 12 D in a block, as keys have no bias; 1539 D in tubelets and the last norm; with the
    # published decoders these make 24.0, 94.2, 343.0 and 692.5 million
    [
        ("small", 21_879_936),
        ("base", 86_227_200),
        ("large", 303_860_736),
        ("huge", 631_607_040),
    ],
)
def test_the_sizes_have_the_parameters_of_the_published_encoders(preset, count):
    made = build.encoder({"kind": "video", "preset": preset}, precision="float32", sample_rate=0)
    video = jax.ShapeDtypeStruct((1, 16, 224, 224, 3), jnp.uint8)
    params = jax.eval_shape(
        lambda k: encoder_lib.init(made, k, {"video": video})[0], jax.random.key(0)
    )
    assert sum(x.size for x in jax.tree.leaves(params)) == count
    attention = params["blocks"]["attention"]
    assert "bias" in attention["query"] and "bias" in attention["value"]
    assert "bias" not in attention["key"]


@pytest.mark.parametrize("frames", [8, 16, 32])
def test_the_grid_has_time_rows_and_columns(frames):
    made = build.encoder({"kind": "video", "frames": frames}, precision="float32", sample_rate=0)
    assert made.grid == (frames // 2, 14, 14)
    assert made.reads["video"].shape == (frames, 224, 224, 3)
    assert encoder_lib.places(made, frames // 2 * 196) == made.grid


def test_tokens_are_projected_tubelets_and_visible_ones_keep_their_positions():
    made = encoder()
    draw = np.random.default_rng(0)
    video = draw.integers(0, 256, (2, 4, 8, 8, 3)).astype(np.uint8)
    shapes = jax.eval_shape(made.init, jax.random.key(0), video)["params"]
    params = jax.tree.map(lambda x: draw.standard_normal(x.shape).astype(np.float32), shapes)
    first = Layers((0,), ())

    @jax.jit
    def tokens(params, video, ids):
        x, valid = encoder_lib.frontend(made, params, {"video": video})
        kept, whole = (
            encoder_lib.encode(made, params, x, valid, None, only, first).hidden_states[0]
            for only in (ids, None)
        )
        return x, valid, kept, whole

    x, valid, kept, whole = jax.device_get(tokens(params, video, np.array([[1, 6], [0, 7]])))
    assert x.shape == (2, 8, 16) and valid.all()
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    cube = ((video[1, 2:, 4:, :4] / 255 - mean) / std).reshape(-1)
    projection = params["frontend"]["projection"]
    want = cube @ projection["kernel"] + projection["bias"]
    np.testing.assert_allclose(x[1, 6], want, atol=1e-4)
    table = tubelets.positions("flat", made.grid, 16)
    np.testing.assert_allclose(whole, x + table, atol=1e-5)
    np.testing.assert_array_equal(kept[1], whole[1, [0, 7]])


def test_pixels_to_predict_are_in_zero_to_one():
    made = encoder()
    video = np.full((1, 4, 8, 8, 3), 255, np.uint8)
    tubes = made.apply({}, video, method="tubelets")
    assert tubes.shape == (1, 8, 96) and (np.asarray(tubes) == 1).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 5}, "frames 5 is not a multiple of .*tubelet 2: use a value such as 4"),
        ({"image_size": 9}, "image_size 9 is not a multiple of .*patch_size 4: .* such as 8"),
        ({"positions": "3d"}, "positions is '3d': use one of flat, space_time, space, none"),
        ({"positions": "space_time", "width": 24}, "width 24 .*: use a multiple of 16"),
        ({"width": 18}, "width 18 .*: use a multiple of 4"),
    ],
)
def test_options_that_clash_are_one_error(changes, message):
    with pytest.raises(ValueError, match=message):
        encoder(**changes)


def test_clips_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"clips of \(6, 8, 8, 3\) do not fit .*frames 4"):
        encoder().apply({}, np.zeros((1, 6, 8, 8, 3), np.uint8), method="tubelets")
