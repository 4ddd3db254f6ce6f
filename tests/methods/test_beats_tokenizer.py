"""The tokenizer of BEATs: against a literal float64 computation, its codebook, and its errors."""

import beats_cases as cases
import beats_method_literal as literal
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_cases import quick_jit
from ml_collections import ConfigDict
from test_mae_oracle import flat

from configs import common
from ssl_jax.core import config as config_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import FROZEN
from ssl_jax.engine import optim

KEY = "config.method.teachers.teacher"
COMMITMENT, DECAY = 3.0, 0.9


@pytest.fixture(scope="module")
def teacher(root, tmp_path_factory):
    """The folder of a tiny run of MAE, 12 wide."""
    return cases.folder_of(root, tmp_path_factory.mktemp("teacher") / "run")


@pytest.fixture(scope="module")
def case(teacher):
    """(Setup, Output, gradient) of an update of a codebook of six codes, of which one is far."""
    config = cases.tokenizer_config(teacher, commitment=COMMITMENT, decay=DECAY)
    setup = cases.setup_of(config)
    clips = cases.examples(setup.batch)
    z = np.concatenate([literal.vectors(flat(setup.params), clip) for clip in clips])
    near = z[:: len(z) // 5][:5] + np.random.default_rng(3).normal(0, 0.05, (5, 8))
    codes = literal.unit(np.concatenate([near, -z.mean(0, keepdims=True)]))
    book = {"vectors": jnp.float32(codes), "updates": jnp.int32(1)}
    book["idle"] = jnp.arange(cases.CODES, dtype=jnp.int32) + 95
    setup.extra = {**setup.extra, "codebook": book}

    def loss(params, extra):
        out = setup.loss(params, extra)
        return out.loss, out

    (_, out), gradient = quick_jit(jax.value_and_grad(loss, has_aux=True))(
        setup.params, setup.extra
    )
    return setup, out, gradient


@pytest.fixture(scope="module")
def literally(case):
    """(literal loss of parameters, unit vectors, ids) of the clips that count."""
    setup, _, _ = case
    params, clips = flat(setup.params), cases.examples(setup.batch)
    taught = flat(setup.extra[FROZEN]["teacher"]["encoder"])
    codes = np.float64(setup.extra["codebook"]["vectors"])
    z = [literal.vectors(params, clip) for clip in clips]
    ids = [(x @ codes.T).argmax(1) for x in z]
    shifts = [codes[own] - x for own, x in zip(ids, z, strict=True)]
    targets = [literal.encode(taught, clip) for clip in clips]

    def loss(params):
        given = (params, targets, clips, codes, ids, shifts, COMMITMENT)
        return literal.tokenizer_loss(*given)

    return loss, z, ids


def test_loss_equals_the_literal_one_in_float64(case, literally):
    setup, out, _ = case
    loss, _, ids = literally
    np.testing.assert_allclose(out.loss, loss(flat(setup.params)), rtol=1e-5)
    used = len(set(np.concatenate(ids).tolist()))
    assert 1 < used < cases.CODES
    assert out.metrics["codes_used"] == (used, 1)
    assert out.weight == sum(map(len, ids))


def test_gradient_passes_the_codes_straight_through(case, literally):
    setup, _, gradient = case
    cases.check_slopes(cases.slopes(literally[0], setup.params, gradient))


def test_used_codes_move_and_count_as_used_and_others_do_not(case, literally):
    setup, out, _ = case
    _, z, ids = literally
    z, ids, before = np.concatenate(z), np.concatenate(ids), setup.extra["codebook"]
    after = out.extra["codebook"]
    assert after["updates"] == 2 and after["vectors"].dtype == np.float32
    for k in range(cases.CODES):
        old = np.float64(before["vectors"][k])
        if (ids == k).any():
            new = literal.unit(DECAY * old + (1 - DECAY) * literal.unit(z[ids == k].mean(0)))
            np.testing.assert_allclose(after["vectors"][k], new, atol=1e-5)
            assert after["idle"][k] == 0
        else:
            np.testing.assert_array_equal(after["vectors"][k], before["vectors"][k])
            assert after["idle"][k] == 95 + k + 1
    dead = sum(after["idle"] >= 100)
    assert out.metrics["unused_codes"] == (dead, 1)


def test_an_update_is_that_of_adamw(case, root):
    setup, _, gradient = case
    o = config_lib.load(f"{root}/configs/beats/tokenizer.py").optim
    with o.unlocked():
        o.update({"warmup": "0 steps", "schedule": "constant"})
    tx, _ = optim.make(o, setup.params, total_steps=4, to_steps=lambda _: 0, depth=2)
    updates, _ = quick_jit(lambda p, g: tx.update(g, tx.init(p), p))(setup.params, gradient)
    slope, moved = flat(gradient), flat(updates)
    norm = np.sqrt(sum((g**2).sum() for g in slope.values()))
    for key, x in flat(setup.params).items():
        g = slope[key] / max(norm, 1)  # clipped to 1
        expected = -5e-5 * (g / (np.abs(g) + 1e-8) + 0.01 * x)
        np.testing.assert_allclose(moved[key], expected, rtol=1e-4, atol=1e-9, err_msg=key)


def test_the_first_update_begins_with_kmeans_and_tokens_are_the_nearest_codes(teacher):
    setup = cases.setup_of(cases.tokenizer_config(teacher, restart=True, dead_after=1))
    setup.extra["codebook"] = jax.tree.map(jnp.zeros_like, setup.extra["codebook"])

    def first(extra):
        book = setup.loss(extra=extra).extra["codebook"]
        untouched = setup.loss(extra=extra, train=False).extra["codebook"]
        return book, untouched, setup.method.tokens(setup.params, {"codebook": book}, setup.batch)

    book, untouched, found = quick_jit(first)(setup.extra)
    assert not any(np.any(x) for x in untouched.values())
    assert book["updates"] == 1
    np.testing.assert_allclose(np.linalg.norm(book["vectors"], axis=1), 1, atol=1e-5)
    params, codes = flat(setup.params), np.float64(book["vectors"])
    for i, clip in zip(cases.HEARD, cases.examples(setup.batch), strict=True):
        ids = (literal.vectors(params, clip) @ codes.T).argmax(1)
        np.testing.assert_array_equal(found.hidden_states[0, i, : len(ids), 0], ids)
    lengths = [len(clip) for clip in cases.examples(setup.batch)]
    assert found.grid == (0, 2) and found.mask.sum(1).tolist() == [*lengths, lengths[0]]


def fine_tuned(root, place, classes):
    """The folder of a tiny classifier of sounds."""
    config = config_lib.load(f"{root}/configs/mae/spectrogram.py:toy")
    with config.unlocked():
        config.method = common.supervised()
        config.method.encoder = ConfigDict({**cases.PLAIN, "width": 12})
        config.data.classes = classes
    (place / "checkpoints" / "1").mkdir(parents=True)
    (place / "config.json").write_text(config_lib.to_json(config))
    return str(place)


def test_a_fine_tuned_teacher_teaches_the_logits_of_every_token(root, tmp_path):
    folder = fine_tuned(root, tmp_path / "run", ("a", "b", "c"))
    config = cases.tokenizer_config(folder, {"target": "logits"})
    setup = cases.setup_of(config)
    taught = setup.extra[FROZEN]["teacher"]
    method = setup.method.loss.__self__
    found = quick_jit(method._teach)(taught, setup.batch)
    p, clip = flat(taught), cases.examples(setup.batch)[1]
    x = literal.encode(literal.part(p, "encoder/"), clip)
    x = literal.mae_norm(x) * p["head/norm/scale"] + p["head/norm/bias"]
    x = x @ p["head/classifier/kernel"] + p["head/classifier/bias"]
    np.testing.assert_allclose(found[1, : len(x)], x, atol=1e-4)
    assert setup.params["estimator"]["predict"]["kernel"].shape == (16, 3)


@pytest.mark.parametrize(
    ("changes", "encoder", "message"),
    [
        ({"target": "logits"}, {}, r"target is 'logits', and .* a run of 'mae', .*: use a run of"),
        ({}, {"patch": (8, 8)}, rf"^{KEY} .* 2 tokens at 12.5 steps per second of 16000 Hz, and "),
        ({"codebook.codes": 97}, {}, r"codes is 97, and a batch has only 96 tokens .*at most 9 co"),
        ({"codebook.codes": 1}, {}, r"^config.method.codebook.codes is 1: use 2 or more"),
        ({"codebook.decay": 1.0}, {}, r"codebook.decay is 1.0: use 0 to below 1, such as 0.99"),
        ({"codebook.commitment": -1.0}, {}, "commitment is -1.0: use 0 or more"),
        ({"target": "states"}, {}, "target is 'states': use one of features, logits"),
        ({"estimator.width": 15}, {}, r"estimator.width is 15: use a multiple of .*heads 2"),
        ({"estimator.depth": 0}, {}, r"estimator.depth is 0: use 1 or more"),
    ],
)
def test_what_does_not_fit_is_named_with_what_would(root, tmp_path, changes, encoder, message):
    folder = cases.folder_of(root, tmp_path / "run", changes=encoder)
    config = cases.tokenizer_config(folder)
    config.update_from_flattened_dict(changes)
    with pytest.raises(ConfigError, match=message) as error:
        setup = cases.setup_of(config)
        jax.eval_shape(setup.loss, setup.params, setup.extra)
    assert "\n" not in str(error.value)
