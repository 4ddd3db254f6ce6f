"""LightHuBERT: three subnets against a literal float64 computation, its options and its errors."""

import dmae_literal
import jax
import lighthubert_literal as literal
import numpy as np
import pytest
from method_cases import Setup, _drawn, quick_jit, tiny
from test_hubert_oracle import HEARD, flat

from ssl_jax.core import config as config_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import FROZEN
from ssl_jax.engine import optim
from ssl_jax.methods import lighthubert
from ssl_jax.nn import frozen
from ssl_jax.nn.elastic_space import Subnet
from ssl_jax.ops import norms

KEY = "config.method.teachers.teacher"
PLAIN = {"encoder.grad_mult": 1.0, "encoder.input_dropout": 0.0}
SUBNETS = {
    "largest": Subnet(16, (2, 2), (2.0, 2.0)),
    "mixed": Subnet(8, (2, 1), (1.5, 1.0)),
    "one block": Subnet(16, (1,), (1.5,)),
}


def setup_of(changes=None):
    """Returns the Setup of the toy, with a teacher whose parameters are drawn."""
    setup = tiny("lighthubert/speech", {**PLAIN, **(changes or {})})
    declared = setup.method.frozen["teacher"]
    run = frozen.read(declared.folder, KEY)
    shapes = jax.eval_shape(lambda k: frozen.init(run, declared, k), jax.random.key(0))
    setup.teacher = _drawn(shapes, 5)
    setup.extra = {**setup.extra, FROZEN: {"teacher": setup.teacher}}
    setup.own = setup.method.loss.__self__
    return setup


@pytest.fixture(scope="module")
def setup():
    return setup_of()


@pytest.fixture(scope="module")
def run(setup):
    """(params, genes) -> (Output, gradient): compiled once for all subnets."""

    def loss(params, genes):
        given = setup.extra, setup.batch, setup.streams(setup.batch), True, {"drawn": genes}
        out = setup.own.loss_of(params, *given)
        return out.loss, out

    compiled = quick_jit(jax.value_and_grad(loss, has_aux=True))

    def found(genes):
        (_, out), gradient = compiled(setup.params, genes)
        return out, gradient

    return found


@pytest.fixture(scope="module")
def clips(setup):
    """[(clip, targets, mask)] of the rows that count, padding cut off."""
    batch, streams = setup.batch, setup.streams(setup.batch)
    drawn = quick_jit(lambda b: setup.method.masks(setup.params, b, streams))(batch)[:, 0]
    teacher, found = flat(setup.teacher), []
    for i in HEARD:
        clip = np.asarray(batch["audio"][i, : batch["audio_len"][i]])
        target = literal.targets(teacher, clip, 2)
        found.append((clip, target, drawn[i, : len(target)]))
    return found


@pytest.fixture(scope="module", params=SUBNETS)
def case(request, setup, run, clips):
    """(setup, subnet, params -> literal loss, Output, gradient)."""
    subnet, space = SUBNETS[request.param], setup.own.space

    def expected(params):
        return literal.loss(params, *zip(*clips, strict=True), subnet, space.kept(subnet.depth), 8)

    return setup, subnet, expected, *run(space.arrays(subnet))


@pytest.mark.slow
def test_loss_equals_the_literal_one_in_float64(case):
    setup, _, expected, out, _ = case
    np.testing.assert_allclose(out.loss, expected(flat(setup.params)), rtol=1e-5)
    assert out.weight == out.metrics["masked_share"][0] and out.weight > 20


@pytest.mark.slow
def test_gradient_agrees_with_differences_of_the_literal_loss(case):
    """One random direction in every parameter, central differences in float64."""
    setup, subnet, expected, _, gradient = case
    params, gradient = flat(setup.params), flat(gradient)
    draw, h, slopes = np.random.default_rng(11), 1e-6, {}
    for key, x in params.items():
        way = draw.standard_normal(x.shape)
        up, down = (expected({**params, key: x + s * way}) for s in (h, -h))
        slopes[key] = ((gradient[key] * way).sum(), (up - down) / (2 * h))
    scale = max(abs(b) for _, b in slopes.values())
    for key, (a, b) in slopes.items():
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5 * scale, err_msg=key)
    head = gradient["head/kernel"]
    assert not head[subnet.embed :].any() and head[: subnet.embed].any()
    assert not gradient["encoder/frontend/projection/kernel"][:, subnet.embed :].any()
    assert not gradient["mask/vector"][subnet.embed :].any()


@pytest.mark.slow
def test_an_update_is_that_of_adamw(case, root):
    setup, *_, gradient = case
    o = config_lib.load(f"{root}/configs/lighthubert/speech.py").optim
    with o.unlocked():
        o.update({"warmup": "0 steps", "schedule": "constant", "clip": 0.0})
    tx, _ = optim.make(o, setup.params, total_steps=4, to_steps=lambda _: 0, depth=2)
    updates, _ = quick_jit(lambda p, g: tx.update(g, tx.init(p), p))(setup.params, gradient)
    old, slope, moved = (flat(t) for t in (setup.params, gradient, updates))
    for key, x in old.items():
        new = dmae_literal.adamw(x, slope[key], 5e-4, (0.9, 0.98), 1e-6, 0.01)
        np.testing.assert_allclose(x + moved[key], new, rtol=1e-5, atol=1e-6, err_msg=key)


@pytest.mark.slow
def test_the_sandwich_is_the_mean_of_four_and_validation_of_the_two_ends(setup, run):
    made = setup_of({"sample": "sandwich"})
    out = quick_jit(lambda p: made.loss(p, setup.extra))(setup.params)
    drawn = {n: jax.device_get(g) for n, g in made.own.drawn(made.streams(made.batch)).items()}
    assert list(drawn) == ["largest", "smallest", "drawn", "drawn again"]
    each = {name: run(genes)[0].loss for name, genes in drawn.items()}
    np.testing.assert_allclose(out.loss, np.mean(list(each.values())), rtol=1e-5)
    for name in ("largest", "smallest"):
        total, count = out.metrics[f"{name}_loss"]
        np.testing.assert_allclose(total / count, each[name], rtol=1e-5)
    again = [setup.own.drawn(setup.streams(setup.batch, step))["drawn"] for step in range(6)]
    assert len({str(jax.device_get(genes)) for genes in again}) > 1
    valid = jax.eval_shape(lambda p: made.loss(p, setup.extra, train=False), setup.params)
    assert {"largest_loss", "smallest_loss"} <= set(valid.metrics)


def test_features_are_those_of_the_subnet_and_of_its_own_run(setup):
    """Shapes here; that both compute the same is in tests/nn/test_elastic.py."""
    whole = jax.eval_shape(setup.method.features, setup.params, setup.batch)
    assert whole.hidden_states.shape == (3, 4, 24, 16)
    named = setup_of({"subnet": "8/2,1/1.5,1"})
    found = jax.eval_shape(named.method.features, setup.params, setup.batch)
    assert found.hidden_states.shape == (3, 4, 24, 8)
    subnet = named.own.subnet()
    assert subnet == SUBNETS["mixed"]
    shapes = jax.eval_shape(lambda p: setup.own.extracted(p, subnet)[1], setup.params)
    section = setup.own.extracted(jax.device_get(setup.params), subnet)[0]
    own = lighthubert.make(section, precision="float32", sample_rate=16000, num_classes=0)
    made = Setup(own, setup.batch)
    assert jax.tree.map(np.shape, made.params) == jax.tree.map(lambda x: x.shape, shapes)
    other = jax.eval_shape(own.features, shapes, setup.batch)
    assert other.hidden_states.shape == found.hidden_states.shape


def test_standardized_targets_have_deviation_one_in_every_dimension():
    draw = np.random.default_rng(0)
    y, real = draw.normal(3, [1.0, 20.0], (3, 5, 2)), np.arange(5) < np.array([[5], [3], [4]])
    found = np.asarray(norms.batch_norm(np.asarray(y, np.float32), real))
    want = (y - y[real].mean(0)) / y[real].std(0)
    np.testing.assert_allclose(found[real], want[real], atol=1e-4)
    assert not found[~real].any()
    assert list(setup_of({"targets.standardize": True}).method.couples.values()) == [
        "config.method.targets.standardize=False"
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder.normalize": False}, r"encoder.normalize is False, .*: use True"),
        ({"sample": "all"}, "sample is 'all': use one of full, uniform, sandwich"),
        ({"subnet": "8/1/1.7"}, r"subnet is '8/1/1.7', whose feed-forward ratio 1.7 .*: use one"),
        ({"subnet": "tiny"}, r"subnet is 'tiny': use largest, smallest, or"),
        ({"space.embed": (8, 32)}, r"space.embed is \(8, 32\): use ascending .* at most 16"),
        ({"encoder.norm": "pre"}, "encoder.norm is 'pre', but a supernet has 'post'"),
        ({"encoder.kind": "vit"}, "encoder.kind is 'vit': use one of waveform"),
        ({"targets.layers": 3}, rf"targets.layers is 3, but {KEY} .* has 2 blocks: use 1 to 2"),
        (
            {"encoder.conv_strides": (5, 8, 4)},
            rf"{KEY} .* reads audio at 16000 Hz and has 50 frames per second, .*16000 Hz and 100: "
            rf"use a teacher with",
        ),
        (
            {"teachers.teacher": "configs/mae/image.py:toy"},
            rf"{KEY} .* reads image at .*: use a teacher with the student's",
        ),
    ],
)
def test_what_does_not_fit_is_named_with_what_would(changes, message):
    with pytest.raises(ValueError, match=f"^config.method.*{message}|^{message}") as error:
        tiny("lighthubert/speech", changes)
    assert "\n" not in str(error.value)


def test_a_teacher_with_other_kernels_is_refused():
    made = setup_of({"encoder.conv_kernels": (10, 8, 30)})
    with pytest.raises(ConfigError, match=rf"^{KEY} makes 24 frames of a clip and the student 22"):
        jax.eval_shape(made.loss, made.params)
