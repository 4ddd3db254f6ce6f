"""data2vec 2.0 against a literal float64 computation: loss, gradient, one update, the teacher."""

import data2vec2_literal as literal
import data2vec_literal as v1
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from data2vec2_cases import drawn, tiny
from method_cases import quick_jit

from ssl_jax.core import tree as tree_lib

HEARD = (0, 1, 2)  # the rows of the batch that have a weight
SIGNALS = {"image": "image", "audio": "audio", "text": "tokens"}


def flat(tree):
    return {name: np.asarray(x, np.float64) for name, x in tree_lib.named_leaves(tree)}


@pytest.fixture(
    scope="module",
    params=["image", *(pytest.param(k, marks=pytest.mark.slow) for k in ("audio", "text"))],
)
def case(request):
    """(name, Setup, arguments of the literal loss: what each view hides, padding cut off)."""
    setup = tiny(request.param, {"ema.anneal": 100})
    batch, (_, hidden, noise, valid) = setup.batch, drawn(setup)
    signal = SIGNALS[request.param]
    length = batch.get(f"{signal}_len", jnp.full(4, len(batch[signal][0])))
    counts = valid.sum(1)
    examples = [batch[signal][i, : length[i]] for i in HEARD]
    masks = [hidden[i][:, : counts[i]] for i in HEARD]
    noises = [noise[i][:, : counts[i]].astype(np.float64) for i in HEARD]
    return request.param, setup, (examples, masks, noises)


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


def literal_loss(case, params, **options):
    name, setup, given = case
    weight = setup.method.loss.__self__.options.loss.cls_weight
    assert (weight > 0) == (name == "image")
    teacher = flat(setup.extra["teacher"])
    return literal.loss(name, params, teacher, *given, cls_weight=weight, **options)


def test_loss_equals_the_literal_one_in_float64(case, results):
    out, masks = results[0], case[2][1]
    np.testing.assert_allclose(out.loss, literal_loss(case, flat(case[1].params)), rtol=2e-5)
    assert out.weight == out.metrics["masked_share"][0] == sum(m.sum() for m in masks)
    assert out.metrics["masked_share"][1] == sum(m.size for m in masks)


def test_gradient_agrees_with_differences_of_the_literal_loss(case, results):
    """One random direction in every parameter, central differences in float64."""
    params, gradient = flat(case[1].params), flat(results[1])
    draw, h, slopes = np.random.default_rng(11), 1e-5, {}
    for key, x in params.items():
        way = draw.standard_normal(x.shape)
        up, down = (literal_loss(case, {**params, key: x + s * way}, held=params) for s in (h, -h))
        slopes[key] = ((gradient[key] * way).sum(), (up - down) / (2 * h))
    scale = max(abs(b) for _, b in slopes.values())
    for key, (a, b) in slopes.items():
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5 * scale, err_msg=key)
    still = {key for key, (_, b) in slopes.items() if abs(b) < 1e-6 * scale}
    # a constant added to all keys leaves softmax unchanged
    assert still <= {"encoder/blocks/attention/key/bias"}


def test_the_teacher_has_no_gradient(results):
    assert all((g == 0).all() for g in flat(results[2]).values())


def test_one_adam_step_and_the_teacher_after_it(case, results):
    name, setup, _ = case
    grads = results[1]
    tx = optax.adamw(1e-2, 0.9, 0.98, eps=1e-3, weight_decay=0.01)

    def update(params, extra):
        updates, _ = tx.update(grads, tx.init(params), params)
        params = optax.apply_updates(params, updates)
        return params, setup.method.update(params, extra, jnp.int32(1))

    after = quick_jit(update)(setup.params, setup.extra)
    params = v1.adam(flat(setup.params), flat(grads), 1e-2)
    for key, x in flat(after[0]).items():
        np.testing.assert_allclose(x, params[key], atol=2e-5, err_msg=key)

    teacher = flat(after[1]["teacher"])
    o = setup.method.loss.__self__.options.ema
    tau = o.end - (o.end - o.start) * (1 - 1 / 100)
    for key, old in flat(setup.extra["teacher"]).items():
        new = tau * old + (1 - tau) * params[key]
        np.testing.assert_allclose(teacher[key], new, atol=2e-5, err_msg=key)
    inside = {key for key in params if key.startswith("encoder/")}
    owned = {
        "image": inside,
        "audio": {key for key in inside if not key.startswith("encoder/frontend/")},
        "text": {key for key in inside if key.startswith("encoder/blocks/")},
    }
    assert set(teacher) == owned[name]
    assert "encoder/alibi_scale" in teacher or name != "audio"
