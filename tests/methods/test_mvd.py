"""MVD: against a literal float64 computation, single teachers, and what does not fit."""

import jax
import mvd_literal as literal
import numpy as np
import pytest
from method_cases import Setup, _drawn, quick_jit
from ml_collections import ConfigDict
from test_mae_oracle import flat
from video_cases import DECODER, ENCODER, HEARD, moving, run_folder

from configs import common
from ssl_jax.core import config as config_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import FROZEN
from ssl_jax.engine import optim
from ssl_jax.methods import mvd
from ssl_jax.nn import frozen

KEY = "config.method.teachers"
WIDER = {"depth": 3, "width": 32, "heads": 2, "mlp_width": 48, "patch_size": 4}
CASES = {
    "both": {},
    "both, normed, weighted, absolute": {
        "norm": "layer",
        "loss": "l1",
        "image_weight": 0.5,
        "video_weight": 2.0,
    },
    "image, squared": {"loss": "l2"},
    "video": {"beta": 0.3},
}


@pytest.fixture(scope="module")
def teacher(root, tmp_path_factory):
    """Returns a maker of run folders of a teacher of images or of video."""

    def made(name, **changes):
        path = {"image": "mae/image.py", "video": "videomae/video.py"}[name]
        size = {"image": {"image_size": 8}, "video": {"image_size": 8, "frames": 4}}[name]
        changes = {**WIDER, **size, "width": 16 if name == "image" else 32, **changes}
        return run_folder(root, tmp_path_factory, path, changes)

    return made


def make(teachers, encoder=None, **targets):
    """Returns the Method of a tiny MVD."""
    config = common.mvd()
    own = {**ENCODER, "positions": "space_time", "drop_path": 0.0}
    config.encoder, config.decoder = ConfigDict({**own, **(encoder or {})}), ConfigDict(DECODER)
    config.teachers, config.mask.ratio = ConfigDict(teachers), 0.5
    config.targets.update(targets)
    return mvd.make(config, precision="float32", sample_rate=0, num_classes=0)


def setup_of(method):
    """Returns the Setup of a tiny MVD, with drawn teachers."""
    setup, found = Setup(method, moving()), {}
    for seed, (name, declared) in enumerate(sorted(method.frozen.items())):
        run = frozen.read(declared.folder, f"{KEY}.{name}")
        shapes = jax.eval_shape(lambda k: frozen.init(run, declared, k), jax.random.key(0))  # noqa: B023
        found[name] = _drawn(shapes, 5 + seed)
    setup.extra = {FROZEN: found}
    return setup


@pytest.fixture(
    scope="module",
    params=[pytest.param(c, marks=[pytest.mark.slow] * bool(i)) for i, c in enumerate(CASES)],
)
def case(request, teacher):
    """(config.method.targets, Setup, masks of the rows that count, Output, gradient)."""
    names = [n for n in ("image", "video") if n in request.param or "both" in request.param]
    setup = setup_of(make({n: teacher(n) for n in names}, **CASES[request.param]))
    targets = {**common.mvd().targets.to_dict(), **CASES[request.param]}

    def loss(params):
        out = setup.loss(params)
        hidden = setup.method.masks(params, setup.batch, setup.streams(setup.batch))
        return out.loss, (out, hidden)

    (_, (out, hidden)), gradient = quick_jit(jax.value_and_grad(loss, has_aux=True))(setup.params)
    return targets, setup, hidden.reshape(len(hidden), -1)[list(HEARD)], out, gradient


def expected(case, params):
    targets, setup, hidden, *_ = case
    clips = [np.asarray(setup.batch["video"])[i] for i in HEARD]
    teachers = {name: flat(tree) for name, tree in setup.extra[FROZEN].items()}
    return literal.loss(params, teachers, clips, hidden, (2, 2, 2), 4, targets)


def test_loss_equals_the_literal_one_in_float64(case):
    targets, setup, _, out, _ = case
    np.testing.assert_allclose(out.loss, expected(case, flat(setup.params)), rtol=1e-5)
    parts = {n: out.metrics[mvd.LOSSES[n]] for n in setup.method.frozen}
    total = sum(targets[f"{n}_weight"] * s / c for n, (s, c) in parts.items())
    np.testing.assert_allclose(out.loss, total, rtol=1e-6)
    assert set(setup.params["decoders"]) == set(setup.method.frozen)


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


def test_an_update_is_that_of_adamw_with_decay_of_the_mask_tokens(case, root):
    _, setup, *_, gradient = case
    o = config_lib.load(f"{root}/configs/mvd/video.py:toy").optim
    tx, _ = optim.make(o, setup.params, total_steps=4, to_steps=lambda _: 0, depth=2)
    updates, _ = quick_jit(lambda p, g: tx.update(g, tx.init(p), p))(setup.params, gradient)
    old, slope, moved = (flat(t) for t in (setup.params, gradient, updates))
    for key, x in old.items():
        decay = 0.0 if key.endswith(("bias", "scale")) else 0.05
        first, second = 0.1 * slope[key], 0.05 * slope[key] ** 2
        step = (first / 0.1) / (np.sqrt(second / 0.05) + 1e-8)
        np.testing.assert_allclose(
            x + moved[key], x - 1e-3 * (step + decay * x), rtol=1e-5, atol=1e-6, err_msg=key
        )


@pytest.mark.slow
def test_only_the_teacher_of_video_sees_the_second_frame_of_a_tubelet(teacher):
    method = make({n: teacher(n) for n in ("image", "video")})
    setup = setup_of(method)
    features = method.loss.__self__._features
    video = setup.batch["video"]
    other = video.at[:, 1::2].set(255 - video[:, 1::2])
    for name, same in (("image", True), ("video", False)):
        params = setup.extra[FROZEN][name]["encoder"]
        look = quick_jit(lambda v, name=name, params=params: features(name, params, v))
        assert np.array_equal(look(video), look(other)) is same


@pytest.mark.slow
def test_frames_are_resized_for_a_teacher_of_other_patches(teacher):
    method = make({"image": teacher("image", patch_size=2, image_size=8)}, resize=True)
    setup = setup_of(method)
    found = method.loss.__self__.teacher("image")
    assert found.options.image_size == 4 and found.grid == (2, 2)
    assert np.isfinite(quick_jit(lambda p: setup.loss(p).loss)(setup.params))


@pytest.mark.parametrize(
    ("name", "changes", "targets", "message"),
    [
        (
            "image",
            {"patch_size": 2},
            {},
            r"^{key}.image .* 8 x 8 pixels as 4 x 4 tokens, and the student 8 x 8 as 2 x 2: use",
        ),
        ("video", {"frames": 2}, {}, r"as 1 x 2 x 2 tokens, .* as 2 x 2 x 2: use a teacher"),
        ("video", {"image_size": 16, "patch_size": 8}, {}, r"reads 16 x 16 .* the student 8 x 8"),
        ("image", {"positions": "learned"}, {"resize": True}, r"learned .*resize .*: set .* False"),
    ],
)
def test_what_does_not_fit_is_named_with_what_would(teacher, name, changes, targets, message):
    with pytest.raises(ConfigError, match=message.replace("{key}", KEY)) as error:
        method = make({name: teacher(name, **changes)}, **targets)
        jax.eval_shape(method.init, jax.random.key(0), moving())
    assert "\n" not in str(error.value)


def test_a_teacher_of_the_other_kind_is_named(teacher):
    method = make({"video": teacher("image")})
    with pytest.raises(ConfigError, match=r"video .* reads image: use a run that reads clips"):
        jax.eval_shape(method.init, jax.random.key(0), moving())


@pytest.mark.parametrize(
    ("teachers", "targets", "message"),
    [
        ({}, {}, r"teachers has the keys \[\]: use .*image, .*video, or both"),
        ({"teacher": "a"}, {}, r"has the keys \['teacher'\]: use"),
        ({"image": "a"}, {"loss": "huber"}, r"targets.loss is 'huber': use one of smooth_l1"),
        ({"image": "a"}, {"norm": "l2"}, r"targets.norm is 'l2': use one of none, layer"),
        ({"image": "a"}, {"beta": 0.0}, r"targets.beta is 0.0: use a number above 0"),
        ({"image": "a"}, {"video_weight": -1.0}, r"video_weight is -1.0: use 0 or more"),
    ],
)
def test_bad_options_are_named(teachers, targets, message):
    with pytest.raises(ConfigError, match=message):
        make(teachers, **targets)
