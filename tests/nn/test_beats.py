"""The encoder of BEATs against the same written out by hand, and what its options change.

The published sizes, with weights by their published names, are in tests/hub/test_hub_beats.py.
"""

import math

import beats_literal
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core import tree
from ssl_jax.nn import build, gated
from ssl_jax.nn.transformer import ALL, Layers, TransformerOptions

SIZES = {
    "depth": 2,
    "width": 16,
    "heads": 2,
    "mlp_width": 24,
    "position_groups": 2,
    "num_buckets": 8,
    "max_distance": 12,
}
TINY = {"kind": "beats", **SIZES, "layerdrop": 0.0, "patch_width": 8, "position_kernel": 4}
TINY |= {"num_mels": 16, "patch": (4, 8)}
IDS = np.array([[0, 3, 4, 9, 11], [1, 2, 3, 5, 6]])
REAL = (12, 7)


def encoder(**options):
    return build.encoder({**TINY, **options}, precision="float32", sample_rate=16000)


@pytest.fixture(scope="module")
def params():
    """Every parameter moved off its initial value."""
    audio, length = jnp.zeros((1, 4000)), jnp.array([4000])
    shapes = jax.eval_shape(encoder().init, jax.random.key(0), audio, length)["params"]
    draw = np.random.default_rng(0)

    def made(path, leaf):
        x = 0.4 * draw.standard_normal(leaf.shape)
        return (x + path[-1].key.endswith(("scale", "gain"))).astype(np.float32)

    return jax.tree_util.tree_map_with_path(made, shapes)


@pytest.fixture(scope="module")
def tokens():
    """Tokens (2, 12, D) of two clips, the second one with padding, and which are real."""
    x = np.random.default_rng(1).standard_normal((2, 12, 16)).astype(np.float32)
    return x, np.arange(12) < np.array(REAL)[:, None]


def run(made, layers=ALL):
    def encode(params, x, valid, ids_keep=None):
        return made.apply(
            {"params": params}, x, valid, False, ids_keep, layers=layers, method="encode"
        )

    return jax.jit(encode)


@pytest.fixture(scope="module")
def whole():
    return run(encoder())


def test_states_are_those_of_the_literal_form_and_padding_changes_no_bit(params, tokens, whole):
    x, valid = tokens
    found = whole(params, x, valid)
    named = dict(tree.named_leaves(params))
    for clip, size in enumerate(REAL):
        want = beats_literal.encode(named, x[clip, :size], SIZES)
        np.testing.assert_allclose(found.hidden_states[:, clip, :size], want, atol=2e-5)
    assert found.ffn.shape == (2, 2, 12, 16) and found.prefix == 0
    other = whole(params, np.where(valid[..., None], x, 1e3).astype(np.float32), valid)
    same = (np.asarray(e.hidden_states)[:, valid] for e in (found, other))
    np.testing.assert_array_equal(*same)


@pytest.mark.parametrize("positions", ["compact", pytest.param("original", marks=pytest.mark.slow)])
def test_visible_tokens_form_a_sequence_or_keep_their_places(params, tokens, positions):
    x, valid = tokens
    one = run(encoder(positions=positions), Layers((-1,), ()))
    found = one(params, x, valid, IDS)
    named, original = dict(tree.named_leaves(params)), positions == "original"
    for clip, ids in enumerate(IDS):
        want = beats_literal.encode(named, x[clip], SIZES, ids, original)
        np.testing.assert_allclose(found.hidden_states[0, clip], want[-1], atol=2e-5)
    assert found.hidden_states.shape[0] == 1 and found.ffn.shape[0] == 0
    np.testing.assert_array_equal(found.valid, np.take_along_axis(valid, IDS, 1))


def test_buckets_are_the_published_ones():
    known = {0: 0, -1: 1, 1: 161, -79: 79, 79: 239, -80: 80, 80: 240, 100: 247, -100: 87}
    known |= {200: 271, -400: 135, 400: 295, 495: 303, 799: 319, -5000: 159}
    found = gated.buckets(np.array(list(known)), 320, 800)
    np.testing.assert_array_equal(found, list(known.values()))
    distances = np.arange(-900, 900)
    np.testing.assert_array_equal(
        gated.buckets(distances, 320, 800),
        [beats_literal.bucket(int(d), 320, 800) for d in distances],
    )


@pytest.mark.slow
def test_gradient_decay_scales_what_flows_down_through_each_block(params, tokens):
    x, valid = tokens
    weight = np.random.default_rng(2).standard_normal((2, 12, 16)) * valid[..., None]

    def gradient(decay):
        one = run(encoder(layer_gradient_decay=decay), Layers((-1,), ()))

        def loss(params, x):
            return (one(params, x, valid).hidden_states[-1] * weight).sum()

        value, (of_params, of_x) = jax.jit(jax.value_and_grad(loss, (0, 1)))(params, x)
        return value, dict(tree.named_leaves(of_params)), of_x

    (value, plain, plain_x), (same, scaled, scaled_x) = gradient(1.0), gradient(0.5)
    assert value == same
    np.testing.assert_allclose(scaled_x, 0.25 * plain_x, rtol=1e-5)
    compared = 0
    for name, x in plain.items():
        if name.startswith(("norm/", "positions/")):
            np.testing.assert_allclose(scaled[name], 0.25 * x, rtol=1e-4, atol=1e-6)
        elif name.startswith("blocks/"):  # stacked: the first layer, then the last one
            want = x * np.array([0.5, 1.0]).reshape(-1, *(1,) * (x.ndim - 1))
            np.testing.assert_allclose(scaled[name], want, rtol=1e-4, atol=1e-6)
        else:
            continue
        compared += 1
    assert compared == 5 + 19  # the table of all blocks gets a sum of both


def test_initial_weights_are_those_of_deep_norm():
    options = TransformerOptions(3, 64, heads=2, mlp_width=256, init="deep_norm")
    block, x = gated.GatedBlock(options), jnp.zeros((1, 2, 64))
    bias, valid = jnp.zeros((1, 2, 2, 2)), jnp.ones((1, 2), bool)
    init = jax.jit(lambda key: block.init(key, x, valid, bias, False)["params"])
    found = dict(tree.named_leaves(jax.device_get(init(jax.random.key(0)))))
    beta = (8 * 3) ** -0.25
    xavier, wide = math.sqrt(2 / (64 + 64)), math.sqrt(2 / (64 + 256))
    stds = {f"attention/{n}": xavier for n in ("query", "key")}
    stds |= {f"attention/{n}": beta * xavier for n in ("value", "out")}
    stds |= {f"mlp/{n}": beta * wide for n in ("up", "down")}
    for name, std in stds.items():
        assert abs(found[f"{name}/kernel"].std() / std - 1) < 0.03
        assert not found[f"{name}/bias"].any()
    assert abs(found["attention/gate/kernel"].std() / 0.02 - 1) < 0.1
    assert (found["attention/gate_scale"] == 1).all()


@pytest.mark.parametrize(("mode", "want"), [("exact", 24), ("official", 25)])
def test_padded_tokens_are_counted_exactly_or_as_published(mode, want):
    """The second half of a clip of one second is padding."""
    made = encoder(num_mels=128, patch=(16, 16), mask_mode=mode)
    audio, ends = jnp.zeros((3, 16000), jnp.int16), np.array([16000, 8000, 0])
    shapes = jax.eval_shape(made.init, jax.random.key(0), audio, ends)["params"]["frontend"]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)
    front = jax.jit(lambda p: made.frontend.apply({"params": p}, audio, ends, False)[1])
    valid = np.asarray(front(zeros))
    assert valid.shape == (3, 48) and valid[1, :want].all()
    np.testing.assert_array_equal(valid.sum(1), [48, want, 0])


def test_a_clip_shorter_than_a_patch_is_named():
    made = encoder()
    audio, length = jnp.zeros((1, 800)), jnp.array([800])
    with pytest.raises(ValueError, match=r"0\.050 s holds no patch of .*buckets to at least 0.055"):
        jax.eval_shape(made.init, jax.random.key(0), audio, length)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": "sincos"}, "positions is 'sincos': use one of compact, original"),
        ({"mask_mode": "none"}, "mask_mode is 'none': use one of exact, official"),
        ({"num_mels": 12}, "num_mels 12 is not a multiple of the 8 bands"),
        ({"num_buckets": 6}, "num_buckets is 6: use a multiple of 4"),
        ({"max_distance": 2}, "max_distance is 2: use more than a quarter"),
        ({"layer_gradient_decay": 1.5}, "layer_gradient_decay is 1.5: use a factor up to 1.0"),
        ({"norm": "pre"}, "norm is 'pre', which the blocks of BEATs do not have: set it to 'post'"),
        ({"final_norm": True}, "final_norm is True, which the blocks of BEATs do not have"),
        ({"position_groups": 3}, "position_groups 3 does not divide .*width 16"),
        ({"input_dropout": 1.0}, "input_dropout is 1.0"),
    ],
)
def test_options_that_clash_are_refused(options, message):
    with pytest.raises(ValueError, match=f"config.method.encoder.{message}"):
        encoder(**options)
