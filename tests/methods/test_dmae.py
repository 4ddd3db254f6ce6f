"""DMAE: against a literal float64 computation, with a teacher cut off or whole, and its errors."""

import dataclasses
import functools

import dmae_literal as literal
import jax
import mae_cases
import numpy as np
import pytest
from method_cases import Setup, _drawn, quick_jit
from ml_collections import ConfigDict
from test_mae_oracle import HEARD, flat, image_patches

from configs import common
from ssl_jax import plan
from ssl_jax.core import config as config_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import FROZEN
from ssl_jax.engine import optim
from ssl_jax.methods import dmae
from ssl_jax.nn import frozen
from ssl_jax.ops import masks

KEY = "config.method.teachers.teacher"
WIDER = {"depth": 3, "width": 24, "heads": 2, "mlp_width": 48}


@pytest.fixture(scope="module")
def teacher(root, tmp_path_factory):
    """Returns a maker of run folders, as far as a method reads them, of MAE with these options."""

    def made(name="wider", **encoder):
        config = config_lib.load(f"{root}/configs/mae/image.py:toy")
        with config.unlocked():
            config.method.encoder.update({**WIDER, **encoder})
        folder = tmp_path_factory.mktemp(name)
        (folder / "checkpoints" / "1").mkdir(parents=True)
        (folder / "config.json").write_text(config_lib.to_json(config))
        return str(folder)

    return made


def config_of(folder, changes=None, **align):
    """Returns config.method of a tiny DMAE with the encoder and decoder of the tiny MAE."""
    config = common.dmae()
    config.encoder = ConfigDict(mae_cases.ENCODERS["image"])
    config.decoder = ConfigDict({**mae_cases.BLOCKS, "depth": 1})
    config.teachers.teacher = folder
    config.align.update({"student": (1,), "teacher": (2,), **align})
    config.update(changes or {})
    return config


def make(config):
    return dmae.make(config, precision="float32", sample_rate=0, num_classes=0)


def setup_of(config):
    """Returns the Setup of a tiny DMAE and a teacher with drawn parameters."""
    method = make(config)
    batch = {name: mae_cases.pictures()[name] for name in method.batch}
    setup, declared = Setup(method, batch), method.frozen["teacher"]
    run = frozen.read(declared.folder, KEY)
    key = jax.random.key(0)
    whole = jax.eval_shape(
        lambda k: frozen.init(
            run, dataclasses.replace(declared, keep=("^encoder/",), depth=None), k
        ),
        key,
    )
    setup.whole = _drawn(whole, 5)
    cut = jax.jit(lambda params: frozen.part(params, declared, run))(setup.whole)
    setup.extra = {FROZEN: {"teacher": cut}}
    return setup


def gradient_of(setup, extra=None):
    """Returns (Output, gradient) of a tiny DMAE."""

    def loss(params):
        out = setup.loss(params, extra)
        return out.loss, out

    (_, out), gradient = quick_jit(jax.value_and_grad(loss, has_aux=True))(setup.params)
    return out, gradient


CASES = {
    "as released": {},
    "as in the paper, two pairs": {
        "student": (1, 1),
        "teacher": (1, 3),
        "normalize_features": "none",
        "alpha": 0.3,
    },
    "centred, normed, two layers": {
        "projector": "mlp",
        "normalize_features": "layer",
        "center": "batch",
    },
}


@pytest.fixture(
    scope="module",
    params=[pytest.param(c, marks=[pytest.mark.slow] * bool(i)) for i, c in enumerate(CASES)],
)
def case(request, teacher):
    """(Setup, config.method.align, [(patches, visible ids)], Output, gradient)."""
    config = config_of(teacher(), **CASES[request.param])
    setup = setup_of(config)
    method = setup.method.loss.__self__
    patches = [image_patches(setup.batch["image"][i]) for i in HEARD]
    size = len(patches[0])
    keys = setup.streams(setup.batch).for_examples("mask")
    draw = functools.partial(
        masks.random_visible, real=np.ones((4, size), bool), counts=method.student.visible(size)
    )
    seen = ~quick_jit(lambda keys: draw(keys)[1])(keys)
    examples = [(p, np.flatnonzero(seen[i]).tolist()) for i, p in enumerate(patches)]
    return setup, config.align, examples, *gradient_of(setup)


def test_loss_equals_the_literal_one_in_float64(case):
    setup, align, examples, out, _ = case
    expected = literal.loss(flat(setup.params), flat(setup.whole), examples, 4, align)
    np.testing.assert_allclose(out.loss, expected, rtol=1e-5)
    pixels, count = out.metrics["pixel_loss"]
    alone = literal.mae.loss(flat(setup.params), examples, 4, norm_pix=False)
    np.testing.assert_allclose(pixels / count, alone, rtol=1e-5)
    assert abs(expected - alone) > 0.01


def test_gradient_agrees_with_differences_of_the_literal_loss(case):
    """One random direction in every parameter, central differences in float64."""
    setup, align, examples, _, gradient = case
    params, taught, gradient = flat(setup.params), flat(setup.whole), flat(gradient)
    draw, h, slopes = np.random.default_rng(11), 1e-6, {}
    for key, x in params.items():
        way = draw.standard_normal(x.shape)
        up, down = (
            literal.loss({**params, key: x + s * way}, taught, examples, 4, align) for s in (h, -h)
        )
        slopes[key] = ((gradient[key] * way).sum(), (up - down) / (2 * h))
    scale = max(abs(b) for _, b in slopes.values())
    for key, (a, b) in slopes.items():
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5 * scale, err_msg=key)


def test_an_update_is_that_of_adamw(case, root):
    setup, *_, gradient = case
    o = config_lib.load(f"{root}/configs/dmae/image.py").optim
    with o.unlocked():
        o.update({"warmup": "0 steps", "schedule": "constant"})
    tx, _ = optim.make(o, setup.params, total_steps=4, to_steps=lambda _: 0, depth=2)
    updates, _ = quick_jit(lambda p, g: tx.update(g, tx.init(p), p))(setup.params, gradient)
    old, slope, moved = (flat(t) for t in (setup.params, gradient, updates))
    for key, x in old.items():
        decay = 0.0 if key.endswith(("bias", "scale")) else 0.05
        new = literal.adamw(x, slope[key], 2.4e-3, (0.9, 0.95), 1e-8, decay)
        np.testing.assert_allclose(x + moved[key], new, rtol=1e-5, atol=1e-6, err_msg=key)


@pytest.mark.slow
def test_a_teacher_cut_off_at_its_aligned_block_teaches_the_same(teacher, monkeypatch):
    setup = setup_of(config_of(teacher()))
    blocks = setup.extra[FROZEN]["teacher"]["encoder"]["blocks"]["mlp"]["up"]["kernel"]
    assert len(blocks) == 2
    cut = gradient_of(setup)
    plain = frozen.Teacher.encoder
    monkeypatch.setattr(frozen.Teacher, "encoder", lambda run, kind, depth=None: plain(run, kind))
    whole = gradient_of(setup, {FROZEN: {"teacher": setup.whole}})
    # two programs, so the last bits may differ
    for one, other in zip(jax.tree.leaves(cut[1]), jax.tree.leaves(whole[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(cut[0].loss, whole[0].loss, rtol=1e-6)


@pytest.mark.parametrize(
    ("align", "encoder", "message"),
    [
        ({"projector": "none"}, {}, rf"projector is 'none', but {KEY} .* the width 24 .* 16: use"),
        ({}, {"patch_size": 2}, rf"^{KEY} .* in 8 x 8 patches.*student .* in 4 x 4 patches.*: use"),
        (
            {},
            {"image_size": 32, "patch_size": 8},
            r"images of 32 x 32 .*student images of 16",
        ),
        ({}, {"class_token": False}, r"with no class token, and the student .* a class token: use"),
        ({"teacher": (4,)}, {}, rf"^{KEY} .* has 3 blocks, and block 4 .*: use a depth of 1 to 3"),
        ({"teacher": (0,)}, {}, r"block 0 of it is asked for: use a depth of 1 to 3"),
        ({"student": (2,)}, {}, r"^config.method.align.student has the depth 2.*use 1 to 1$"),
        ({"student": ()}, {}, r"align.student is \(\).*: use as many depths in both"),
        ({"projector": "two"}, {}, "align.projector is 'two': use one of linear, mlp, none"),
        (
            {"normalize_features": "L2"},
            {},
            "features is 'L2': use one of l2, layer, none",
        ),
        ({"alpha": -1.0}, {}, r"align.alpha is -1.0: use 0 or more"),
    ],
)
def test_what_does_not_fit_is_named_with_what_would(teacher, align, encoder, message):
    with pytest.raises(ConfigError, match=message) as error:
        method = make(config_of(teacher(**encoder), **align))
        jax.eval_shape(method.init, jax.random.key(0), mae_cases.pictures())
    assert "\n" not in str(error.value)


def test_a_teacher_that_is_not_there_does_not_keep_features_from_a_student():
    method = make(config_of("nowhere"))
    params = jax.eval_shape(
        make(config_of("configs/mae/image.py:toy", teacher=(1,))).init,
        jax.random.key(0),
        mae_cases.pictures(),
    )[0]
    found = jax.eval_shape(method.features, params, mae_cases.pictures())
    assert found.hidden_states.shape == (3, 4, 16, 16)
    with pytest.raises(ConfigError, match=f"^{KEY} is nowhere, which is no run folder"):
        jax.eval_shape(method.init, jax.random.key(0), mae_cases.pictures())
    config = config_of("")
    config.teachers = ConfigDict({"expert": "runs/a"})
    with pytest.raises(ConfigError, match=r"has the keys \['expert'\]: use .*teacher alone"):
        make(config)


@pytest.mark.parametrize(
    ("rounding", "counts"), [("floor", (49, 19, 9, 3)), ("nearest", (49, 20, 10, 4))]
)
def test_visible_patches_are_as_many_as_published(rounding, counts):
    for ratio, count in zip((0.75, 0.90, 0.95, 0.98), counts, strict=True):
        config = config_of("", {"mask_ratio": ratio, "rounding": rounding})
        config.encoder = ConfigDict({"kind": "vit", "image_size": 224})
        student = make(config).loss.__self__.student
        assert student.visible(196)[-1] == count


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ratio", "published"), [(0.75, 1.39), (0.90, 1.21), (0.95, 1.12), (0.98, 1.05)]
)
def test_the_plan_of_a_tpu_shows_the_published_ratio_of_work(root, ratio, published):
    small = [f"method.mask_ratio={ratio}", "data.batch_size=8"]
    flops = [
        plan.program(
            config_lib.load(f"{root}/configs/{name}/image.py:base", small),
            "v5e:1x1",
            jax.devices()[:1],
        ).flops()
        for name in ("mae", "dmae")
    ]
    np.testing.assert_allclose(flops[1] / flops[0], published, rtol=0.03)
