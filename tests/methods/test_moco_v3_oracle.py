"""MoCo v3 against the literal form in torch: loss, gradients, momentum, statistics, an update."""

import jax
import numpy as np
import pytest
from method_cases import quick_jit
from moco_v3_cases import config_of, tiny

from ssl_jax.core import tree as tree_lib
from ssl_jax.engine import optim

torch = pytest.importorskip("torch")
literal = pytest.importorskip("moco_v3_literal")
pytestmark = pytest.mark.interop

STEP = 3  # of 10
PROJECTION = "encoder/frontend/projection/"
# A constant added to all keys, or to all rows that a batch norm reads, changes nothing.
STILL = ("encoder/blocks/attention/key/bias", "encoder/final_norm/bias")


def tensors(tree, grad=False):
    return {
        name: torch.tensor(np.asarray(x, np.float64), requires_grad=grad)
        for name, x in tree_lib.named_leaves(tree)
    }


@pytest.fixture(scope="module")
def case():
    """What a step gives here, and in torch, from equal parameters; the batch has seven images."""
    setup = tiny(rows=8)  # fewer rows would leave little precision in their norms

    def loss(params):
        out = setup.loss(params, step=STEP)
        return out.loss, out

    (_, out), gradient = quick_jit(jax.value_and_grad(loss, has_aux=True))(setup.params)
    p = tensors(setup.params, grad=True)
    for name, x in p.items():
        x.requires_grad_(not name.startswith(PROJECTION))
    teacher = tensors(setup.extra["teacher"])
    teacher |= {name: x.detach().clone() for name, x in p.items() if name.startswith(PROJECTION)}
    running = {k: tensors(v) for k, v in setup.extra["statistics"].items()}
    image = torch.tensor(np.asarray(setup.batch["image"][:7], np.float64))
    decay = literal.momentum(0.99, STEP, 10)
    value = literal.loss(p, teacher, running, [image[:, 0], image[:, 1]], decay)
    value.backward()
    return setup, out, gradient, p, teacher, running, value


def test_loss_and_decay(case):
    _, out, _, _, _, _, value = case
    np.testing.assert_allclose(out.loss, value.item(), rtol=1e-5)
    assert out.weight == 7
    np.testing.assert_allclose(out.metrics["ema_decay"][0], literal.momentum(0.99, STEP, 10))


def test_every_gradient(case):
    _, _, gradient, p, _, _, _ = case
    theirs = {name: x.grad.numpy() for name, x in p.items() if x.grad is not None}
    ours = dict(tree_lib.named_leaves(gradient))
    assert set(ours) - set(theirs) == {PROJECTION + "kernel", PROJECTION + "bias"}
    scale = max(np.abs(g).max() for g in theirs.values())
    for name, g in theirs.items():
        np.testing.assert_allclose(ours[name], g, rtol=1e-3, atol=1e-5 * scale, err_msg=name)


def test_the_momentum_encoder_moves_before_the_keys(case):
    setup, out, _, _, teacher, _, _ = case
    moved = dict(tree_lib.named_leaves(out.extra["teacher"]))
    before = dict(tree_lib.named_leaves(setup.extra["teacher"]))
    assert set(teacher) - set(moved) == {PROJECTION + "kernel", PROJECTION + "bias"}
    for name, x in moved.items():
        np.testing.assert_allclose(x, teacher[name], rtol=1e-5, atol=1e-6, err_msg=name)
        assert not np.array_equal(x, before[name]), name


def test_statistics_of_both_heads_after_two_views(case):
    _, out, _, _, _, running, _ = case
    for part, theirs in running.items():
        ours = dict(tree_lib.named_leaves(out.extra["statistics"][part]))
        assert set(ours) == set(theirs)
        for name, x in theirs.items():
            np.testing.assert_allclose(ours[name], x, rtol=1e-4, atol=1e-5, err_msg=name)


def test_one_update_of_adamw_and_the_projection_of_patches_stays(case):
    setup, _, gradient, p, _, _, _ = case
    config = config_of(["optim.lr=0.01"])
    tx, _ = optim.make(
        config.optim, setup.params, total_steps=10, to_steps=lambda *_, **__: 0, depth=2
    )
    updates, _ = jax.jit(tx.update)(gradient, jax.jit(tx.init)(setup.params), setup.params)
    trained = [x for x in p.values() if x.requires_grad]
    torch.optim.AdamW(trained, lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1).step()
    for name, update in tree_lib.named_leaves(updates):
        if name.startswith(PROJECTION):
            assert not np.any(update)
        elif name not in STILL:
            before = np.asarray(dict(tree_lib.named_leaves(setup.params))[name])
            found = p[name].detach().numpy()
            np.testing.assert_allclose(before + update, found, atol=1e-4, err_msg=name)
