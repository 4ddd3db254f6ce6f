"""The Conformer over log-mel frames: its sizes, its frames, and that padding changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core import tree as tree_lib
from ssl_jax.nn import build, conformer

TINY = {
    "kind": "mel_conformer",
    "depth": 1,
    "width": 16,
    "heads": 2,
    "mlp_width": 32,
    "num_mels": 16,
    "conv_channels": 4,
    "depthwise_kernel": 4,
    "depthwise_norm": "group",
    "dropout": 0.0,
}


def encoder(**options):
    return build.encoder(TINY | options, precision="float32", sample_rate=16000)


# million parameters: of L with its decoder (118.8 in 2005.08100), else of the blocks as 24.1 each
@pytest.mark.parametrize(
    ("preset", "blocks", "width"),
    [("l", 107.3, 512), ("xl", 579, 1024), ("xxl", 1013, 1024), ("xxl_plus", 1037, 1024)],
)
def test_sizes_are_those_of_the_paper(preset, blocks, width):
    module = build.encoder(
        {"kind": "mel_conformer", "preset": preset}, precision="float32", sample_rate=16000
    )
    given = jax.ShapeDtypeStruct((1, 16000), jnp.float32), jax.ShapeDtypeStruct((1,), int)
    params = jax.eval_shape(module.init, jax.random.key(0), *given)["params"]
    sizes = {name: x.size for name, x in tree_lib.named_leaves(params)}
    found = sum(size for name, size in sizes.items() if name.startswith("blocks/"))
    np.testing.assert_allclose(found / 1e6, blocks, rtol=0.01)
    assert module.width == width and module.rate == (12.5 if preset == "xxl_plus" else 25)
    named = {name for name in sizes if "frontend/" in name}
    assert ("frontend/stacking/kernel" in named) is (preset == "xxl_plus")


def test_padding_changes_nothing_and_frames_are_counted():
    module = encoder(strides=(2, 1), stacking=True)
    draw = np.random.default_rng(0)
    audio = draw.normal(0, 0.1, (1, 8000)).astype(np.float32)
    quick = {"xla_backend_optimization_level": 0}
    run = jax.jit(module.apply, compiler_options=quick)
    given = jax.ShapeDtypeStruct((1, 8000), jnp.float32), jax.ShapeDtypeStruct((1,), int)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *given)
    params = jax.tree.map(lambda x: draw.normal(0, 0.3, x.shape).astype(np.float32), shapes)
    short = 5000
    # both in one array, as padding must not change what is compiled
    alone = audio.copy()
    alone[:, short:] = 9.0
    alone, padded = (run(params, x, np.array([short])) for x in (alone, audio))
    size = module.frames(short)
    assert padded.hidden_states.shape == (2, 1, module.frames(8000), 16) and size > 4
    assert padded.valid.sum() == size < padded.valid.size == module.frames(8000)
    seen = [x.hidden_states[:, :, :size] for x in (alone, padded)]
    np.testing.assert_allclose(*seen, atol=1e-5, rtol=1e-4)
    assert np.asarray(seen[0]).std() > 0.1
    # one sample less than a frame needs
    o = module.options
    needed = (o.field - 1) * 160 + 400
    assert module.frames(needed) == 1 and module.frames(needed - 1) == 0
    assert module.frames(needed + o.hop * 160) == 2


def test_a_group_norm_counts_real_frames_alone():
    module = conformer.GroupNorm(2)
    x = np.random.default_rng(0).normal(2, 3, (2, 5, 4)).astype(np.float32)
    valid = np.arange(5) < np.array([5, 3])[:, None]
    params = {"scale": jnp.array([1.0, 2, 3, 4]), "bias": jnp.array([0.0, 1, 0, 0])}
    found = module.apply({"params": params}, x, jnp.asarray(valid))
    for row, size in enumerate((5, 3)):
        for group in (slice(0, 2), slice(2, 4)):
            part = x[row, :size, group]
            want = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
            want = want * params["scale"][group] + params["bias"][group]
            np.testing.assert_allclose(found[row, :size, group], want, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_norm": "global"}, "feature_norm is 'global': use 'utterance' or 'none'"),
        ({"strides": ()}, r"strides is \(\): use one number above 0"),
        ({"num_mels": 6}, "num_mels 6 is too few for 2 convolutions: use a value such as 80"),
        ({"norm": "res_post"}, "norm is 'res_post', which a Conformer does not have"),
        ({"norm_groups": 3}, "norm_groups 3 does not divide config.method.encoder.width 16"),
    ],
)
def test_options_that_clash_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        encoder(**options)


def test_a_batch_that_holds_no_frame_is_refused():
    with pytest.raises(
        ValueError, match=r"holds no frame of config\.method\.encoder: set .* at least 0\.085"
    ):
        jax.eval_shape(encoder().init, jax.random.key(0), jnp.zeros((1, 900)), jnp.array([900]))
