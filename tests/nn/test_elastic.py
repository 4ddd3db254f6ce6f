"""Supernets: masked and extracted subnets are the same function, and learn only their slice."""

import dataclasses

import jax
import numpy as np
import pytest

from ssl_jax.core import tree as tree_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.nn import build, elastic
from ssl_jax.nn import encoder as encoder_lib
from ssl_jax.nn.elastic_space import BASE, SMALL, Subnet

SECTION = {
    "kind": "waveform",
    "preset": "wav2vec2_base",
    "normalize": True,
    "conv_norm": "layer",
    "depth": 4,
    "width": 16,
    "heads": 4,
    "mlp_width": 64,
    "conv_channels": 6,
    "conv_kernels": (10, 3),
    "conv_strides": (5, 2),
    "position_groups": 4,
    "position_kernel": 6,
    "layerdrop": 0.0,
    "unroll": False,
}
CHOICES = {"embed": (8, 12, 16), "heads": (2, 3, 4), "ratios": (1.5, 3.5, 4.0), "depths": (3, 4)}
SUBNETS = {
    "whole": Subnet(16, (4,) * 4, (4.0,) * 4),
    "smallest": Subnet(8, (2,) * 3, (1.5,) * 3),
    "mixed": Subnet(12, (4, 2, 3), (3.5, 1.5, 4.0)),
}


def encoder_of(section):
    return build.encoder(section, precision="float32", sample_rate=16000)


@dataclasses.dataclass(frozen=True)
class Case:
    """A supernet with drawn parameters and projected frames, the last of which are padding."""

    encoder: object
    space: object
    params: dict
    x: np.ndarray
    valid: np.ndarray


@pytest.fixture(scope="module")
def case():
    encoder, draw = encoder_of(SECTION), np.random.default_rng(0)
    audio, lengths = np.zeros((2, 200)), np.array([200, 150])
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), audio, lengths)["params"]
    params = jax.tree.map(lambda a: 0.4 * draw.standard_normal(a.shape, np.float32), shapes)
    x = draw.standard_normal((2, 9, 16)).astype(np.float32)
    valid = np.arange(9) < np.array([[9], [6]])
    return Case(encoder, elastic.space_of(encoder, **CHOICES), params, x, valid)


@pytest.fixture(scope="module")
def masked(case):
    """(params, x, genes) -> Encoded and the gradient of a loss; compiled once for all subnets."""
    way = np.random.default_rng(1).standard_normal((16,)).astype(np.float32)

    def loss(params, x, genes):
        found = elastic.encode(case.encoder, case.space, params, x, case.valid, genes)
        return (found.hidden_states[-1] * way).sum() + (found.hidden_states[1] ** 2).sum(), found

    fast = {"xla_backend_optimization_level": 0}  # to compile
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True), compiler_options=fast)
    return lambda *given: jax.device_get(compiled(*given))


@pytest.fixture(scope="module", params=SUBNETS)
def subnet(request):
    return SUBNETS[request.param]


def test_masked_equals_extracted_at_every_kept_layer(case, masked, subnet):
    _, got = masked(case.params, case.x, case.space.arrays(subnet))
    params = elastic.extract(case.params, case.space, subnet)
    small = encoder_of(elastic.section(SECTION, case.space, subnet))
    x = case.x[..., : subnet.embed]
    want = jax.jit(lambda p, x: encoder_lib.encode(small, p, x, case.valid))(params, x)
    kept = case.space.kept(subnet.depth)
    real = case.valid[..., None]
    states = got.hidden_states[[0, *(i + 1 for i in kept)]][..., : subnet.embed]
    np.testing.assert_allclose(states * real, want.hidden_states * real, atol=1e-5)
    ffn = got.ffn[list(kept)][..., : subnet.embed]
    np.testing.assert_allclose(ffn * real, want.ffn * real, atol=1e-5)
    assert not got.hidden_states[..., subnet.embed :].any()
    shapes = jax.eval_shape(small.init, jax.random.key(0), np.zeros((1, 200)), np.array([200]))
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda a: a.shape, shapes["params"])


def test_the_whole_supernet_is_the_plain_encoder(case, masked):
    _, got = masked(case.params, case.x, case.space.arrays(SUBNETS["whole"]))
    plain = jax.jit(lambda p: encoder_lib.encode(case.encoder, p, case.x, case.valid))
    want = plain(case.params)
    np.testing.assert_allclose(got.hidden_states, want.hidden_states, atol=1e-5)
    whole = elastic.extract(case.params, case.space, case.space.full())
    jax.tree.map(np.testing.assert_array_equal, whole, case.params)


def test_gradients_are_zero_outside_the_slice_and_not_inside(case, masked, subnet):
    (gradient, to_x), _ = masked(case.params, case.x, case.space.arrays(subnet))
    used = inside(case.params, case.space, subnet)
    for (name, g), here in zip(tree_lib.named_leaves(gradient), jax.tree.leaves(used), strict=True):
        if name == "positions/kernel":
            continue  # the norm of its weight norm is that of the whole kernel
        assert not g[~here].any(), name
        if here.any() and not name.endswith("key/bias"):
            assert g[here].any(), name
    assert not to_x[..., subnet.embed :].any() and to_x[..., : subnet.embed].any()


PUBLISHED = {
    "base, largest": (BASE, "largest", 94_377_728),
    "base, a_base": (BASE, "a_base", 66_897_664),
    "base, smallest": (BASE, "smallest", 41_249_536),
    "small, largest": (SMALL, "largest", 44_398_336),
    "small, a_small": (SMALL, "a_small", 26_879_744),
    "small, smallest": (SMALL, "smallest", 11_449_088),
}


@pytest.fixture(scope="module")
def published():
    """The supernet of the paper as shapes: config.method.encoder, encoder and parameters."""
    given = {"kind": "waveform", "preset": "wav2vec2_base", "normalize": True, "layerdrop": 0.0}
    encoder = encoder_of({**given, "conv_norm": "layer"})
    audio = np.zeros((1, 16000)), np.array([16000])
    return encoder, jax.eval_shape(encoder.init, jax.random.key(0), *audio)["params"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_parameter_counts(published, name):
    (encoder, shapes), (space, subnet, count) = published, PUBLISHED[name]
    subnet = space.parse(subnet)
    cut = jax.eval_shape(lambda p: elastic.extract(p, space, subnet), shapes)
    mask_vector, gains = 768, 128  # the paper counts the first and not the second
    assert tree_lib.count(cut) + mask_vector - gains == space.params(subnet) == count
    choices = {key: getattr(space, key) for key in ("embed", "heads", "ratios", "depths", "named")}
    assert elastic.space_of(encoder, **choices) == space


def test_drawn_genes_are_in_the_space_and_reach_all_of_it(case):
    keys = jax.random.split(jax.random.key(0), 200)
    drawn = jax.device_get(jax.jit(jax.vmap(lambda k: elastic.draw(case.space, k)))(keys))
    seen = set()
    for i in range(200):
        genes = {name: x[i] for name, x in drawn.items()}
        kept = genes["keep"]
        subnet = Subnet(int(genes["embed"]), *(tuple(genes[n][kept]) for n in ("heads", "ratios")))
        case.space.check(subnet)
        assert all((genes[n] == x).all() for n, x in case.space.arrays(subnet).items())
        seen |= {("embed", subnet.embed), ("depth", subnet.depth)}
        seen |= {("heads", i, h) for i, h in enumerate(genes["heads"])}
        seen |= {("ratio", i, r) for i, r in enumerate(genes["ratios"])}
    # 3 widths, 2 depths, and 3 and 3 choices in 4 blocks, of which the last may be dropped
    assert len(seen) == 3 + 2 + 4 * 6 + 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": "pre"}, "encoder.norm is 'pre', but a supernet has 'post': use that"),
        ({"conv_norm": "group"}, "encoder.conv_norm is 'group', but a supernet has 'layer'"),
        ({"positions": "stack"}, "encoder.positions is 'stack', but a supernet has 'weight_norm'"),
        ({"layerdrop": 0.1}, "encoder.layerdrop is 0.1, but a supernet has 0.0: use that"),
        ({"mlp_width": 60}, "encoder.mlp_width is 60, no multiple of .*width 16, .*: use 64"),
    ],
)
def test_an_encoder_that_is_no_supernet_is_refused(change, message):
    with pytest.raises(ConfigError, match=f"^config.method.{message}"):
        elastic.space_of(encoder_of({**SECTION, **change}), **CHOICES)


def test_a_subnet_outside_the_space_is_not_extracted(case):
    with pytest.raises(ValueError, match="number of heads 1 is not in the space: use one of 2, 3"):
        elastic.extract(case.params, case.space, Subnet(8, (1,) * 3, (4.0,) * 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_heads": (2, 2, 2)}, r"layer_heads is \(2, 2, 2\): use one number .* the 4 blocks"),
        ({"layer_mlp_widths": (8, 0, 8, 8)}, "layer_mlp_widths is .*: use one number of 1 or more"),
        ({"layer_heads": (2,) * 4, "head_width": None}, "layer_heads needs .*head_width: set it"),
        ({"layer_heads": (2,) * 4, "alibi": "fixed"}, None),
        ({"blocks": "conformer", "head_width": 4}, "head_width is 4, which a Conformer does not"),
    ],
)
def test_sizes_of_blocks_that_can_not_be_are_named(change, message):
    section = {**SECTION, "head_width": 4, **change}
    if message:
        with pytest.raises(ValueError, match=message):
            encoder_of(section)
        return
    inputs = jax.random.key(0), np.zeros((1, 200)), np.array([200])
    with pytest.raises(ValueError, match=r"layer_heads is set, but .* a bias"):
        jax.eval_shape(encoder_of(section).init, *inputs)


def inside(params, space, subnet):
    """Returns which parameters a subnet uses: the ids of those that `extract` copies."""
    count = tree_lib.count(params)
    start, ids = 1, {}
    for name, x in tree_lib.named_leaves(params):
        ids[name] = np.arange(start, start + x.size).reshape(x.shape)
        start += x.size
    ids["positions/gain"] = ids["positions/gain"] * 0 + 1
    tree = tree_lib.nested(ids)
    seen = np.zeros(count + 1, bool)
    for name, x in tree_lib.named_leaves(elastic.extract(tree, space, subnet)):
        if not name.startswith(("positions", "frontend")):
            seen[x] = True
    front = tree_lib.named_leaves({"frontend": params["frontend"]})
    for name, _ in front:
        seen[ids[name]] = False  # x is given
    seen[ids["positions/bias"][: subnet.embed]] = True
    found = {name: seen[x] for name, x in ids.items()}
    found["positions/gain"] = np.ones_like(params["positions"]["gain"], bool)
    return tree_lib.nested(found)
