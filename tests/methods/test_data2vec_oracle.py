"""data2vec against a literal float64 computation: loss, gradient, one update, the teacher."""

import data2vec_literal as literal
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from method_cases import quick_jit, tiny

from ssl_jax.core import tree as tree_lib
from ssl_jax.methods import data2vec

LOSSES = {"audio": literal.loss_waveform, "kws": literal.loss_keyword}
HEARD = (0, 1, 2)  # the rows of the batch that have a weight


def flat(tree):
    return {name: np.asarray(x, np.float64) for name, x in tree_lib.named_leaves(tree)}


@pytest.fixture(scope="module", params=["audio", "kws"])
def case(request):
    """A tiny model, a fixed mask, and the same clips without padding."""
    changes = {"ema.anneal": 100}
    if request.param == "kws":
        changes["loss.examples"] = len(HEARD)  # then the sum is the plain sum over the batch
    setup = tiny(f"data2vec/{request.param}", changes)
    batch = setup.batch
    valid = quick_jit(lambda p: setup.method.features(p, batch).mask)(setup.params)
    size = valid.shape[1]
    mask = np.random.default_rng(5).random((4, size)) < 0.4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data2vec.masks, "span_mask", lambda keys, lengths, *_: mask & real(lengths))

        def real(lengths):
            return jnp.arange(size) < lengths[:, None]

        clips = [np.asarray(batch["audio"][i, : batch["audio_len"][i]]) for i in HEARD]
        masks = [mask[i, : valid[i].sum()] for i in HEARD]
        yield request.param, setup, clips, masks


@pytest.fixture(scope="module")
def results(case):
    """(Output, gradient, gradient of the teacher) of the method."""
    setup = case[1]

    def loss(params, extra):
        out = setup.loss(params, extra)
        return out.loss, out

    both = quick_jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (_, out), (gradient, teacher) = both(setup.params, setup.extra)
    return out, gradient, teacher


def test_loss_equals_the_literal_one_in_float64(case, results):
    name, setup, clips, masks = case
    expected = LOSSES[name](flat(setup.params), flat(setup.extra["teacher"]), clips, masks)
    out = results[0]
    np.testing.assert_allclose(out.loss, expected, rtol=1e-5)
    masked = sum(m.sum() for m in masks)
    assert out.weight == (masked if name == "audio" else len(HEARD))
    assert out.metrics["masked_share"][0] == masked


def test_gradient_agrees_with_differences_of_the_literal_loss(case, results):
    """One random direction in every parameter, central differences in float64."""
    name, setup, clips, masks = case
    params, teacher = flat(setup.params), flat(setup.extra["teacher"])
    gradient, draw, h = flat(results[1]), np.random.default_rng(11), 1e-5
    slopes = {}
    for key, x in params.items():
        way = draw.standard_normal(x.shape)
        up, down = (
            LOSSES[name]({**params, key: x + s * way}, teacher, clips, masks, held=params)
            for s in (h, -h)
        )
        slopes[key] = ((gradient[key] * way).sum(), (up - down) / (2 * h))
    scale = max(abs(b) for _, b in slopes.values())
    for key, (a, b) in slopes.items():
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * scale, err_msg=key)
    still = {key for key, (_, b) in slopes.items() if abs(b) < 1e-6 * scale}
    # a constant added to all keys leaves softmax unchanged
    assert still <= {"encoder/blocks/attention/key/bias"}


def test_the_teacher_has_no_gradient(results):
    assert all((g == 0).all() for g in flat(results[2]).values())


def test_one_adam_step_and_the_teacher_after_it(case, results):
    name, setup, _, _ = case
    grads = results[1]
    tx = optax.adamw(1e-2, 0.9, 0.98, eps=1e-3, weight_decay=0.01)

    def update(params, extra):
        updates, _ = tx.update(grads, tx.init(params), params)
        params = optax.apply_updates(params, updates)
        return params, setup.method.update(params, extra, jnp.int32(1))

    params, extra = quick_jit(update)(setup.params, setup.extra)
    expected = literal.adam(flat(setup.params), flat(grads), 1e-2)
    for key, x in flat(params).items():
        np.testing.assert_allclose(x, expected[key], atol=2e-5, err_msg=key)

    teacher = flat(extra["teacher"])
    tau = 0.9999 - (0.9999 - 0.999) * (1 - 1 / 100)
    for key, old in flat(setup.extra["teacher"]).items():
        copied = name == "audio" and key.startswith("encoder/positions/")
        new = expected[key] if copied else tau * old + (1 - tau) * expected[key]
        np.testing.assert_allclose(teacher[key], new, atol=2e-5, err_msg=key)
    has_frontend = any(key.startswith("encoder/frontend/") for key in teacher)
    assert has_frontend == (name == "kws")
