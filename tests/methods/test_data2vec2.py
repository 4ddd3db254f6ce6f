"""Properties of data2vec 2.0: what a view sees, what the views share, what the metrics show."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data2vec2_cases import KINDS, drawn, tiny
from method_cases import ROOT, quick_jit

from ssl_jax.core import config as config_lib
from ssl_jax.core import tree as tree_lib
from ssl_jax.methods import data2vec2

SLOW = {"audio", "text"}
FAMILIES = [pytest.param(k, marks=[pytest.mark.slow] if k in SLOW else []) for k in KINDS]


class Forward:
    """A compiled loss that also returns predictions (B, M, S, D) and targets (B, 1, S, D).

    `noise` (B, S) is added to the local tokens.
    """

    def __init__(self, setup):
        self.setup = setup
        features = jax.eval_shape(setup.method.features, setup.params, setup.batch)
        self.shape = features.mask.shape
        self.compiled = quick_jit(self._run)

    def __call__(self, params=None, extra=None, step=0, noise=0.0):
        s = self.setup
        noise = np.zeros(self.shape, np.float32) + noise
        return self.compiled(params or s.params, extra or s.extra, step, noise)

    def _run(self, params, extra, step, noise):
        seen, losses, run = [], data2vec2.losses, data2vec2.encoder_lib
        smooth_l1, frontend = losses.smooth_l1, run.frontend

        def record(predictions, targets, beta):
            seen.append((predictions, targets))
            return smooth_l1(predictions, targets, beta)

        def disturbed(*args):
            x, valid = frontend(*args)
            # different along D: a norm removes a value that all channels share
            return x + noise[..., None] * jnp.sin(jnp.arange(x.shape[-1])), valid

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(losses, "smooth_l1", record)
            patch.setattr(run, "frontend", disturbed)
            out = self.setup.loss(params, extra, step=step)
        return *seen[0], out


@functools.cache
def made(kind, **changes):
    """The Forward of a toy, compiled once for all tests."""
    return Forward(tiny(kind, {"ema.anneal": 10, **changes}))


@pytest.fixture(params=FAMILIES)
def forward(request):
    return made(request.param)


def value(out, name):
    total, count = out.metrics[name]
    return float(total / count)


def test_targets_do_not_depend_on_the_masks_and_are_shared_by_the_views(forward):
    first, targets, out = forward(step=0)
    second, same, _ = forward(step=1)
    np.testing.assert_array_equal(targets, same)
    assert targets.shape == (4, 1, *first.shape[2:]) and first.shape[1] == 2
    assert np.abs(first - second).max() > 1e-3
    assert np.abs(first[:, 0] - first[:, 1]).max() > 1e-3
    assert 0.4 < value(out, "masked_share") < 0.8


@pytest.mark.parametrize("layers", [2, pytest.param(0, marks=pytest.mark.slow)])
def test_what_a_view_hides_does_not_reach_its_predictions(layers):
    changes = {} if layers else {"decoder.layers": 0}
    forward = Forward(tiny("image", changes)) if changes else made("image")
    _hides_what_it_should(forward)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["audio", "text"])
def test_what_a_view_of_a_sequence_hides_does_not_reach_its_predictions(kind):
    _hides_what_it_should(made(kind))


def _hides_what_it_should(forward):
    _, hidden, _, valid = drawn(forward.setup)
    mask = hidden[:, 0]
    assert mask[:3].any(1).all() and not mask[3].any()
    clean, targets, _ = forward()
    noisy, others, _ = forward(noise=3.0 * mask)
    real = valid & (np.arange(4) < 3)[:, None]
    np.testing.assert_array_equal(clean[:, 0][real], noisy[:, 0][real])
    # the other view sees part of it, and so does a teacher that reads the student's tokens
    assert np.abs(clean[:3, 1] - noisy[:3, 1]).max() > 1e-3
    assert np.abs(targets - others).max() > 1e-3
    seen, _, _ = forward(noise=3.0 * (valid & ~mask))
    assert np.abs(clean[:3, 0] - seen[:3, 0]).max() > 1e-3


@pytest.mark.parametrize("kind", [pytest.param("audio", marks=pytest.mark.slow), "text"])
def test_every_row_has_the_share_of_its_own_length(kind):
    setup = tiny(kind)
    order, hidden, noise, valid = drawn(setup)
    o = setup.method.loss.__self__.options
    size, visible = valid.shape[1], o.mask.visible(valid.shape[1])
    for row, count in enumerate(valid.sum(1)):
        expected = 0 if row == 3 else count - o.mask.visible(int(count))
        assert (hidden[row].sum(1) == expected).all()
        assert not hidden[row][:, ~valid[row]].any()
        for ids, mask in zip(order[row], hidden[row], strict=True):
            assert sorted(ids) == list(range(size))
            kept = ids[:visible]
            assert not mask[kept].any()
            if row < 3:
                assert set(np.flatnonzero(valid[row] & ~mask)) <= set(kept)
    assert valid[1].sum() < size
    assert len(np.unique(noise.reshape(-1, size * noise.shape[-1])[:, 0])) == 8
    np.testing.assert_allclose(noise.std(), 0.01, rtol=0.1)
    again, later = drawn(setup), drawn(setup, step=1)
    np.testing.assert_array_equal(again[1], hidden)
    assert (later[1] != hidden).any() and (later[2] != noise).all()


@pytest.mark.parametrize(
    ("config", "tokens", "visible"),
    [
        ("image.py:base", 196, 39),
        ("image.py:large", 196, 49),
        ("image.py:huge14", 256, 64),
        ("audio.py:base", 779, 390),
        ("audio.py:large", 999, 450),
        ("text.py:base", 512, 266),
        ("text.py:large", 512, 256),
    ],
)
def test_published_settings_leave_so_many_tokens(config, tokens, visible):
    method = config_lib.load(str(ROOT / "configs/data2vec2" / config)).method
    options = data2vec2.options_lib.read(data2vec2.Options, method)
    assert options.mask.visible(tokens) == visible
    weight = {"image.py:base": 0.01 * 16 * 16, "image.py:large": 0.01 * 8 * 16}
    assert options.loss.cls_weight == weight.get(config, options.loss.cls_weight)


def operations(function, *args):
    """Returns the FLOPs of the matrix products and convolutions in a function."""

    def count(jaxpr):
        total = 0
        for e in jaxpr.eqns:
            if e.primitive.name == "dot_general":
                (inner, _), _ = e.params["dimension_numbers"]
                total += (
                    2
                    * math.prod(e.outvars[0].aval.shape)
                    * math.prod(e.invars[0].aval.shape[i] for i in inner)
                )
            if e.primitive.name == "conv_general_dilated":
                kernel = e.invars[1].aval.shape
                axis = e.params["dimension_numbers"].rhs_spec[0]
                taps = math.prod(kernel) // kernel[axis]
                total += 2 * math.prod(e.outvars[0].aval.shape) * taps
            inside = [p for p in e.params.values() if hasattr(p, "jaxpr") or hasattr(p, "eqns")]
            times = e.params["length"] if e.primitive.name == "scan" else 1
            total += times * sum(count(getattr(p, "jaxpr", p)) for p in inside)
        return total

    return count(jax.make_jaxpr(function)(*args).jaxpr)


def test_the_teacher_and_the_local_tokens_are_computed_once_however_many_views():
    def total(clones):
        setup = tiny("image", {"clones": clones, "encoder.mlp_width": 64})
        return operations(setup.loss, setup.params, setup.extra) / 4

    one, two, five = total(1), total(2), total(5)
    assert five - two == 3 * (two - one)
    # two 3 x 3 convolutions in groups of four channels and a projection; patches of 48 numbers
    decoder = 2 * (2 * 16 * 9 * 16 * 4) + 2 * 16 * 16 * 16
    local = 2 * 16 * 48 * 16
    student, teacher = (2 * (24 * t * 16**2 + 4 * t**2 * 16) for t in (5, 17))
    assert two - one == student + decoder
    # the rest is shared by all views: the local tokens of the student, and the teacher with its own
    assert one - (two - one) == teacher + 2 * local


@pytest.mark.slow
def test_loss_of_a_new_model_is_near_the_root_of_the_width():
    width = 64
    changes = {"encoder.width": width, "encoder.mlp_width": 128, "loss.cls_weight": 0.0}
    setup = tiny("image", changes)
    params, extra = quick_jit(setup.method.init)(jax.random.key(0), setup.batch)
    out = quick_jit(lambda p, e: setup.loss(p, e))(params, extra)
    # targets have variance 1; predictions add their own
    assert 0.9 < out.loss / width**0.5 < 1.6
    assert value(out, "target_std") > 0.9
    for name, x in tree_lib.named_leaves(extra["teacher"]["encoder"]):
        np.testing.assert_array_equal(x, dict(tree_lib.named_leaves(params["encoder"]))[name])


def test_each_collapse_shows_in_its_own_metric():
    forward = made("image")
    params, extra = forward.setup.params, forward.setup.extra
    healthy = forward()[2]

    def without(tree, part):
        return tree_lib.map_named(lambda name, x: x * 0 if part in name else x, tree)

    cases = {
        "target_std": {"extra": without(extra, "encoder/")},
        "prediction_std": {"params": without(params, "decoder/projection/kernel")},
        "frontend_std": {"params": without(params, "frontend/projection/kernel")},
    }
    for name, arguments in cases.items():
        assert value(healthy, name) > 0.05, name
        assert value(forward(**arguments)[2], name) < 2e-3, name
    assert -1 <= value(healthy, "teacher_student_cosine") <= 1
    o = forward.setup.method.loss.__self__.options
    expected = o.ema.start + (o.ema.end - o.ema.start) / 10
    np.testing.assert_allclose(value(healthy, "ema_decay"), expected, rtol=1e-6)
    weighed = value(healthy, "regression") + o.loss.cls_weight * value(healthy, "cls")
    np.testing.assert_allclose(healthy.loss, weighed, rtol=1e-5)
    assert healthy.metrics["cls"][1] == 3 * o.clones


@pytest.mark.parametrize(
    ("config", "steps"),
    [
        ("image.py:base", ((0, 0.9998), (50_000, 0.999895), (100_000, 0.99999), (1e6, 0.99999))),
        ("audio.py:large", ((0, 0.9997), (150_000, 0.99985), (300_000, 1.0))),
    ],
)
def test_tau_at_the_ends_and_the_middle_of_its_rise(config, steps):
    method = config_lib.load(str(ROOT / "configs/data2vec2" / config)).method
    ema = data2vec2.options_lib.read(data2vec2.Options, method).ema
    for step, tau in steps:
        np.testing.assert_allclose(ema.decay(jnp.int32(step)), tau, atol=1e-7)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("image", {"clones": 0}, r"config.method.clones is 0: use 1 or more, such as 8"),
        ("image", {"prenet_depth": -1}, r"config.method.prenet_depth is -1: .*such as 2"),
        ("image", {"loss.beta": -1.0}, r"config.method.loss.beta is -1.0: use 0.0 or more"),
        ("image", {"mask.ratio": 0.97}, r"mask.ratio 0.97 leaves 0 of 16 .*such as 0.5"),
        ("image", {"mask.ratio": 0.05, "mask.inverse": False}, r"leaves 16 of 16 tokens visible"),
        ("image", {"mask.ratio": 1.0}, r"config.method.mask.ratio is 1.0: .* such as 0.5"),
        ("image", {"mask.block": 0}, r"config.method.mask.block is 0 .*such as 3"),
        ("image", {"mask.kind": "span"}, r"mask.kind is 'span': use one of block, random"),
        ("image", {"targets.layers": 3}, r"targets.layers is 3, but .* 2 blocks: use 1 to 2"),
        ("image", {"prenet_depth": 1}, r"the first 1 give no targets: use 1 to 1"),
        ("image", {"decoder.groups": 3}, r"decoder.groups 3 does not divide .*such as 1"),
        ("image", {"decoder.dim": 10}, r"decoder.groups 4 does not divide .*decoder.dim 10"),
        ("image", {"encoder.image_size": 3}, r"encoder.image_size 3 is not a multiple of"),
        ("text", {"loss.cls_weight": 1.0}, r"loss.cls_weight needs a class token"),
        ("text", {"ema.rules": (("blocks", "average"),)}, r"no teacher rule matches"),
    ],
)
def test_a_wrong_option_is_named(kind, changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(kind, changes)


def test_an_example_too_short_to_be_masked_is_refused():
    setup = tiny("audio", {"mask.ratio": 0.1})
    short = {**setup.batch, "audio": setup.batch["audio"][:, :600]}
    with pytest.raises(ValueError, match=r"mask.ratio 0.1 leaves 1 of 1 tokens visible"):
        jax.eval_shape(lambda: setup.loss(batch=short))
