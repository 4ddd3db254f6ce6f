"""data2vec v1 of images and text against a literal float64 computation."""

import data2vec_literal
import image_text_literal as literal
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from method_cases import quick_jit, tiny

from ssl_jax.core import tree as tree_lib
from ssl_jax.methods import data2vec

LOSSES = {"image": literal.loss_image, "text": literal.loss_text}
HEARD = (0, 1, 2)  # the rows of the batch that have a weight


def flat(tree):
    return {name: np.asarray(x, np.float64) for name, x in tree_lib.named_leaves(tree)}


def by_hand(mask):
    """Returns fixed masks in place of both random ones."""
    return {
        "beit_block_mask": lambda keys, *_: jnp.asarray(mask),
        "text_mask": lambda keys, lengths, size, *_: mask & (jnp.arange(size) < lengths[:, None]),
    }


@pytest.fixture(scope="module", params=["image", pytest.param("text", marks=pytest.mark.slow)])
def case(request):
    """A tiny model, a fixed mask, and everything that one update computes from them."""
    quiet = {"encoder.drop_path": 0.0} if request.param == "image" else {}
    setup = tiny(f"data2vec/{request.param}", {**quiet, "ema.anneal": 100})
    size = 16 if request.param == "image" else 24
    mask = np.random.default_rng(5).random((4, size)) < 0.4
    tx = optax.adamw(1e-2, 0.9, 0.98, eps=1e-3, weight_decay=0.01)

    def update(params, extra):
        def loss(params, extra):
            out = setup.loss(params, extra)
            return out.loss, out

        grads, out = jax.grad(loss, (0, 1), has_aux=True, allow_int=True)(params, extra)
        updates, _ = tx.update(grads[0], tx.init(params), params)
        new = optax.apply_updates(params, updates)
        return out, grads, new, setup.method.update(new, extra, jnp.int32(1))

    with pytest.MonkeyPatch.context() as patch:
        for name, draw in by_hand(mask).items():
            patch.setattr(data2vec.masks, name, draw)
        found = quick_jit(update)(setup.params, setup.extra)
    batch = setup.batch
    if request.param == "image":
        examples = [batch["image"][i] for i in HEARD]
        masks = [mask[i] for i in HEARD]
    else:
        lengths = batch["tokens_len"]
        examples = [np.asarray(batch["tokens"][i, : lengths[i]]) for i in HEARD]
        masks = [mask[i, : lengths[i]] for i in HEARD]
    return request.param, setup, examples, masks, found


def test_loss_equals_the_literal_one_in_float64(case):
    name, setup, examples, masks, (out, *_) = case
    expected = LOSSES[name](flat(setup.params), flat(setup.extra["teacher"]), examples, masks)
    np.testing.assert_allclose(out.loss, expected, rtol=1e-5)
    assert out.weight == out.metrics["masked_share"][0] == sum(m.sum() for m in masks)


def test_gradient_agrees_with_differences_of_the_literal_loss(case):
    """One random direction in every parameter, central differences in float64."""
    name, setup, examples, masks, (_, grads, *_) = case
    params, teacher = flat(setup.params), flat(setup.extra["teacher"])
    gradient, draw, h = flat(grads[0]), np.random.default_rng(11), 1e-5
    slopes = {}
    for key, x in params.items():
        way = draw.standard_normal(x.shape)
        up, down = (
            LOSSES[name]({**params, key: x + s * way}, teacher, examples, masks, held=params)
            for s in (h, -h)
        )
        slopes[key] = ((gradient[key] * way).sum(), (up - down) / (2 * h))
    scale = max(abs(b) for _, b in slopes.values())
    for key, (a, b) in slopes.items():
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * scale, err_msg=key)
    still = {key for key, (_, b) in slopes.items() if abs(b) < 1e-6 * scale}
    assert still <= {"encoder/blocks/attention/key/bias"}
    assert all((g == 0).all() for g in flat(grads[1]).values())


def test_one_adam_step_and_the_teacher_after_it(case):
    name, setup, _, _, (_, grads, params, extra) = case
    expected = data2vec_literal.adam(flat(setup.params), flat(grads[0]), 1e-2)
    for key, x in flat(params).items():
        np.testing.assert_allclose(x, expected[key], atol=2e-5, err_msg=key)
    teacher, before = flat(extra["teacher"]), flat(setup.extra["teacher"])
    rises = {"image": (0.9998, 0.9998), "text": (0.999, 0.9999)}
    start, end = rises[name]
    tau = end - (end - start) * (1 - 1 / 100)
    for key, old in before.items():
        new = tau * old + (1 - tau) * expected[key]
        np.testing.assert_allclose(teacher[key], new, atol=2e-5, err_msg=key)
    blocks = {key for key in teacher if key.startswith("encoder/blocks/")}
    assert set(teacher) == (blocks if name == "text" else set(flat(setup.params)) & set(teacher))
    assert ("encoder/frontend/projection/kernel" in teacher) == (name == "image")
