"""Distillation: against a literal float64 computation, and teachers that do not fit."""

import json

import distill_literal as literal
import jax
import mae_cases
import numpy as np
import pytest
from method_cases import Setup, _drawn, quick_jit
from ml_collections import ConfigDict
from test_mae_oracle import HEARD, flat, image_patches

from configs import common
from ssl_jax.core import config as config_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import FROZEN
from ssl_jax.engine import teachers
from ssl_jax.methods import distill

KEY = "config.method.teachers.teacher"
ENCODER = {**mae_cases.ENCODERS["image"], "positions": "sincos", "final_norm": False}
ENCODER["depth"] = 1
SOFT = {"temperature": 3.0, "weight": 0.7, "label_weight": 0.4}
LABELS = [2, 0, -1, 1]
NAMES = ["ant", "bee", "cat"]


def student(teacher, **changes):
    """Returns config.method of a tiny student."""
    config = common.distill()
    config.encoder = ConfigDict(ENCODER)
    config.update({"pool": "frames", "smoothing_spread": "uniform"})
    config.update({"teachers": {"teacher": str(teacher)}, "soft": SOFT, **changes})
    return config


def make(config, precision="float32"):
    return distill.make(config, precision=precision, sample_rate=0, num_classes=3)


@pytest.fixture(scope="module")
def teacher(root, tmp_path_factory):
    """Returns a maker of run folders, as far as a method reads them, with these classes."""

    def made(path="supervised/imagenet", classes=NAMES, **encoder):
        config = config_lib.load(f"{root}/configs/{path}.py:toy")
        with config.unlocked():
            config.method.encoder.update({**ENCODER, "width": 24, **encoder})
            if "head" in config.method:
                config.method.head.eps = 1e-5  # as of the student
        folder = tmp_path_factory.mktemp("teacher")
        (folder / "checkpoints" / "1").mkdir(parents=True)
        (folder / "config.json").write_text(config_lib.to_json(config))
        (folder / "classes.json").write_text(json.dumps(classes))
        return folder

    return made


@pytest.fixture(scope="module")
def setup(teacher):
    """A tiny student, and a teacher with drawn parameters."""
    method = make(student(teacher()))
    batch = {**mae_cases.pictures(), "label": np.array(LABELS, np.int32)}
    setup = Setup(method, batch)
    (declared,) = method.frozen.values()
    run = distill.frozen.read(declared.folder, KEY)
    shapes = jax.eval_shape(lambda k: distill.frozen.init(run, declared, k), jax.random.key(0))
    setup.extra = {FROZEN: {"teacher": _drawn(shapes, 5)}}
    return setup


def test_loss_and_gradient_are_the_literal_ones(setup):
    """The gradient in one random direction of every parameter, by differences in float64."""

    def loss(params):
        out = setup.loss(params)
        return out.loss, out

    (_, out), gradient = quick_jit(jax.value_and_grad(loss, has_aux=True))(setup.params)
    params, gradient = flat(setup.params), flat(gradient)
    taught = flat(setup.extra[FROZEN]["teacher"])
    images = [image_patches(setup.batch["image"][i]) for i in HEARD]
    given = (taught, images, LABELS[:3], 4, SOFT)
    np.testing.assert_allclose(out.loss, literal.loss(params, *given), rtol=1e-5)
    assert out.weight == 3 and out.metrics["label_loss"][1] == 2
    right = [
        literal.logits(taught, x, 4).argmax() == y
        for x, y in zip(images[:2], LABELS[:2], strict=True)
    ]
    assert out.metrics["teacher_accuracy"] == (sum(right), 2)
    draw, h, slopes = np.random.default_rng(11), 1e-6, {}
    for key, x in params.items():
        way = draw.standard_normal(x.shape)
        up, down = (literal.loss({**params, key: x + s * way}, *given) for s in (h, -h))
        slopes[key] = ((gradient[key] * way).sum(), (up - down) / (2 * h))
    scale = max(abs(b) for _, b in slopes.values())
    for key, (a, b) in slopes.items():
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5 * scale, err_msg=key)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"path": "mae/image"}, f"^{KEY} .* a run of 'mae', which learned no classes: use one"),
        ({"classes": [*NAMES, "dog"]}, f"^{KEY} .* has 4 classes, and the student 3: use a"),
        ({"image_size": 32}, f"^{KEY} .* reads images of 32 x 32 .* student images of 16 x 16"),
    ],
)
def test_a_teacher_that_does_not_fit_is_named(setup, teacher, run, message):
    method = make(student(teacher(**run)))
    with pytest.raises(ConfigError, match=message) as error:
        streams = setup.streams(setup.batch)
        jax.eval_shape(
            lambda params: method.loss(params, setup.extra, setup.batch, streams, True),
            setup.params,
        )
    assert "\n" not in str(error.value)


def test_a_teacher_of_other_classes_is_named(teacher):
    method = make(student(teacher(classes=["ant", "bee", "dog"])))
    with pytest.raises(
        ConfigError, match=rf"^{KEY} .* the 3 classes ant, bee, dog, and config\.da"
    ):
        teachers.checked(method, NAMES)
    teachers.checked(make(student(teacher())), NAMES)
    teachers.checked(make(student("configs/supervised/imagenet.py:toy")), NAMES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"soft": {**SOFT, "temperature": 0.0}}, r"soft\.temperature is 0\.0: use a number above"),
        ({"soft": {**SOFT, "weight": 0.0, "label_weight": 0.0}}, "not 0 for both"),
        ({"task": "tag"}, "config.method.task is 'tag': use one of classify"),
        ({"teachers": {"other": "runs/a"}}, r"has the keys \['other'\]: use .*teacher alone"),
    ],
)
def test_an_option_that_does_not_fit_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        make(ConfigDict(student("").to_dict() | changes))


def test_one_of_equal_logits_has_no_divergence_and_the_factor_keeps_the_gradient():
    draw = np.random.default_rng(0)
    x, y = 0.1 * draw.standard_normal((2, 3, 5)).astype(np.float32)
    soft = distill.losses.soft_divergence
    np.testing.assert_allclose(soft(x, x, 4.0), 0, atol=1e-6)
    # at a high temperature it is half the squared distance of the centred outputs, over C
    gap = (x - x.mean(-1, keepdims=True)) - (y - y.mean(-1, keepdims=True))
    np.testing.assert_allclose(soft(x, y, 10.0), (gap**2).sum(-1) / 10, rtol=0.02)


def test_the_head_of_the_teacher_stays_in_float32(teacher):
    (declared,) = make(student(teacher()), precision="bfloat16").frozen.values()
    run = distill.frozen.read(declared.folder, KEY)
    found = jax.eval_shape(lambda k: distill.frozen.init(run, declared, k), jax.random.key(0))
    assert found["head"]["classifier"]["kernel"].dtype == "float32"
    assert found["encoder"]["blocks"]["mlp"]["up"]["kernel"].dtype == "bfloat16"
