"""BEATs: against a literal float64 computation, its labels from three sources, and its errors."""

import beats_cases as cases
import beats_method_literal as literal
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mae_cases import ENCODERS
from mae_cases import config_of as mae_config
from method_cases import quick_jit
from test_mae_oracle import flat

from ssl_jax.core import config as config_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import FROZEN
from ssl_jax.engine import optim
from ssl_jax.methods import mae
from ssl_jax.nn import random_codes

KEY = "config.method.teachers.tokenizer"
CASES = {
    "random labels": {},
    "stored labels": {"labels": "stored", "mask_token": "learned", "label_smoothing": 0.1},
}


def random_options(**given):
    options = {"seed": 0, "hidden": 12, "width": 8, "norm": "layer", "normalize_patches": False}
    return random_codes.RandomOptions(**{**options, **given})


def labels_of(setup, config, clips):
    """The label of each patch, literally."""
    if config.labels == "stored":
        units = np.asarray(setup.batch["units"])
        return [units[i, 0, : len(clip)] for i, clip in zip(cases.HEARD, clips, strict=True)]
    *matrices, codes = random_codes._arrays(random_options(), clips[0].shape[1], cases.CODES)
    return [literal.random_labels(clip, matrices, codes, "layer") for clip in clips]


def visible_of(setup, clips):
    """The ids of the patches of each clip that are seen, ascending."""
    method = setup.method.loss.__self__
    longest = max(map(len, clips))
    lengths = np.array([*map(len, clips), longest])
    real = np.arange(longest) < lengths[:, None]
    mask = quick_jit(lambda real: method._mask(setup.streams(setup.batch), real))(real)[1]
    return [np.flatnonzero(real[i] & ~mask[i]).tolist() for i in cases.HEARD]


@pytest.fixture(
    scope="module",
    params=[pytest.param(c, marks=[pytest.mark.slow] * bool(i)) for i, c in enumerate(CASES)],
)
def case(request):
    """(Setup, literal loss of parameters, Output, gradient)."""
    config = cases.model_config(CASES[request.param])
    setup = cases.setup_of(config)
    if config.labels == "stored":
        units = np.random.default_rng(1).integers(0, cases.CODES, (4, 1, 25))
        setup.batch["units"] = jnp.asarray(units, jnp.int32)
    clips = cases.examples(setup.batch)
    visible, labels = visible_of(setup, clips), labels_of(setup, config, clips)

    def expected(params):
        given = (params, clips, visible, labels, config.mask_token, config.label_smoothing)
        return literal.model_loss(*given)

    def loss(params):
        out = setup.loss(params)
        return out.loss, out

    (_, out), gradient = quick_jit(jax.value_and_grad(loss, has_aux=True))(setup.params)
    return setup, expected, out, gradient


def test_loss_equals_the_literal_one_in_float64(case):
    setup, expected, out, _ = case
    np.testing.assert_allclose(out.loss, expected(flat(setup.params)), rtol=1e-5)
    # a quarter of 24, 18 and 24 patches is seen
    assert out.metrics["masked_share"] == (18 + 14 + 18, 24 + 18 + 24) and out.weight == 50
    assert out.metrics["unmasked_accuracy"][1] == 6 + 4 + 6


def test_gradient_agrees_with_differences_of_the_literal_loss(case):
    setup, expected, _, gradient = case
    cases.check_slopes(cases.slopes(expected, setup.params, gradient))


def test_an_update_is_that_of_adamw(case, root):
    setup, _, _, gradient = case
    o = config_lib.load(f"{root}/configs/beats/audio.py").optim
    with o.unlocked():
        o.update({"warmup": "0 steps", "schedule": "constant"})
    tx, _ = optim.make(o, setup.params, total_steps=4, to_steps=lambda _: 0, depth=2)
    updates, _ = quick_jit(lambda p, g: tx.update(g, tx.init(p), p))(setup.params, gradient)
    slope, moved = flat(gradient), flat(updates)
    norm = np.sqrt(sum((g**2).sum() for g in slope.values()))
    for key, x in flat(setup.params).items():
        g = slope[key] / max(norm, 1)  # clipped to 1
        expected = -5e-4 * (g / (np.abs(g) + 1e-8) + 0.01 * x)
        np.testing.assert_allclose(moved[key], expected, rtol=1e-4, atol=1e-8, err_msg=key)


@pytest.mark.parametrize(("norm", "hidden"), [("none", 0), ("l2", 0), ("layer", 12)])
def test_random_labels_are_the_nearest_codes_and_follow_the_seed_alone(norm, hidden):
    patches = np.random.default_rng(0).standard_normal((2, 40, 32)) * 2
    options = random_options(norm=norm, hidden=hidden)
    found = random_codes.label(options, jnp.float32(patches), 7)
    *matrices, codes = random_codes._arrays(options, 32, 7)
    for row, own in zip(patches, np.asarray(found), strict=True):
        assert own.tolist() == literal.random_labels(row, matrices, codes, norm)
    other = random_codes._arrays(random_options(norm=norm, hidden=hidden, seed=1), 32, 7)
    assert np.abs(other[-1] - codes).min() > 0


def test_normalized_patches_have_labels_without_their_level():
    patches = jnp.float32(np.random.default_rng(0).standard_normal((1, 40, 32)))
    options = random_options(normalize_patches=True)
    louder = random_codes.label(options, 3 * patches + 5, 7)
    np.testing.assert_array_equal(random_codes.label(options, patches, 7), louder)


@pytest.fixture(scope="module")
def tokenizer(root, tmp_path_factory):
    """A maker of the folder of a tiny tokenizer with these codes and options of its encoder."""

    def made(codes=cases.CODES, **encoder):
        place = tmp_path_factory.mktemp("tokenizer") / "run"
        taught = cases.folder_of(root, place / "teacher", changes=encoder)
        method = cases.tokenizer_config(taught, codes=codes)
        with method.unlocked():
            method.encoder.update(encoder)
        return cases.tokenizer_folder(root, place, method)

    return made


def test_a_tokenizer_labels_in_the_step_as_it_does_alone(tokenizer):
    folder = tokenizer()
    config = cases.model_config({"labels": "tokenizer"})
    config.teachers.tokenizer = folder
    setup = cases.setup_of(config)
    given = flat(setup.extra[FROZEN]["tokenizer"])
    assert not any("estimator" in name for name in given)
    valid = np.arange(24) < np.array([24, 18, 24, 24])[:, None]
    label = setup.method.loss.__self__._label
    found = quick_jit(lambda *a: label(*a, valid))(setup.params, setup.extra, setup.batch)
    for i, clip in zip(cases.HEARD, cases.examples(setup.batch), strict=True):
        expected = (literal.vectors(given, clip) @ given["extra/codebook/vectors"].T).argmax(1)
        np.testing.assert_array_equal(found[i, : len(clip)], expected)
        assert (found[i, len(clip) :] == -1).all()


def test_stored_labels_that_end_early_do_not_count():
    setup = cases.setup_of(cases.model_config({"labels": "stored"}))
    batch = {**setup.batch, "units": jnp.zeros((4, 1, 20), jnp.int32).at[0, 0, 5:].set(-1)}
    label = setup.method.loss.__self__._label
    valid = jnp.ones((4, 24), bool)
    found = np.asarray(label(setup.params, {}, batch, valid))
    assert (found[0, :5] == 0).all() and (found[0, 5:] == -1).all()
    assert (found[1, :20] == 0).all() and (found[1, 20:] == -1).all()


@pytest.mark.parametrize(
    ("changes", "made", "message"),
    [
        ({}, {"codes": 9}, rf"units.classes is \(6,\), and {KEY} .* has 9 codes: set it to \(9,\)"),
        ({}, {"patch": (8, 8)}, rf"^{KEY} .* at 12.5 steps per second .* same patches"),
        ({"teachers.tokenizer": ""}, {}, rf"^{KEY} is empty: set it to the folder"),
        (
            {"teachers.tokenizer": "configs/mae/spectrogram.py:toy"},
            {},
            rf"^{KEY} .* a run of 'mae', which is no tokenizer: use a run of configs/beats",
        ),
        ({"labels": "kmeans"}, {}, "labels is 'kmeans': use one of random, tokenizer, stored"),
        ({"units.rate": 25.0}, {}, r"units.rate is 25 labels per second, and .* has 50 tokens"),
        ({"units.classes": (6, 6)}, {}, r"units.classes is \(6, 6\): use one number from 2 up"),
        (
            {"mask_ratio": 0.99, "units.classes": (8,)},
            {},
            r"mask_ratio is 0.99, which leaves 0 of 24 patches visible: use a value such as 0.75",
        ),
        ({"label_smoothing": 1.0}, {}, r"label_smoothing is 1.0: use 0 to below 1"),
        ({"mask_token": "none"}, {}, "mask_token is 'none': use one of zeros, learned"),
        ({"random.norm": "batch"}, {}, "random.norm is 'batch': use one of none, layer, l2"),
        ({"random.width": 0}, {}, r"random.width is 0 and .*: use 1 or more"),
        ({"encoder": ENCODERS["image"]}, {}, r"'vit' has 0 tokens: use patches of sound"),
    ],
)
def test_what_does_not_fit_is_named_with_what_would(tokenizer, changes, made, message):
    config = cases.model_config({"labels": "tokenizer"})
    config.teachers.tokenizer = tokenizer(**made) if made else "configs/beats/tokenizer.py:toy"
    config.update_from_flattened_dict(changes)
    with pytest.raises(ConfigError, match=message) as error:
        cases.setup_of(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["beats", "spectrogram"])
def test_a_masked_autoencoder_keeps_the_order_of_patches_for_an_encoder_that_reads_it(kind):
    more = {"position_groups": 2, "position_kernel": 4, "patch_width": 8} if kind == "beats" else {}
    config = mae_config("spectrogram", {"mask_ratio": 0.75})
    config.encoder.update({"kind": kind, **more})
    method = mae.make(config, precision="float32", sample_rate=16000, num_classes=0)
    setup = cases.setup_of(cases.model_config())
    keys = setup.streams(setup.batch)
    found = quick_jit(lambda real: method.loss.__self__.mask(keys, real))(np.ones((4, 24), bool))
    kept = found[0][:, :6]
    assert (np.sort(kept, 1) == kept).all() == (kind == "beats")
    assert not np.take_along_axis(found[1], kept, 1).any()
