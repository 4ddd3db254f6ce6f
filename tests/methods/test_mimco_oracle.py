"""MimCo-style losses against the literal form in torch: loss, gradients, an update."""

import jax
import numpy as np
import pytest
from method_cases import Setup, quick_jit
from moco_v3_cases import views

from configs.mimco import image
from ssl_jax.core import config as config_lib
from ssl_jax.core import tree as tree_lib
from ssl_jax.core.types import FROZEN
from ssl_jax.engine import optim, teachers
from ssl_jax.methods import mimco
from ssl_jax.ops import masks

torch = pytest.importorskip("torch")
literal = pytest.importorskip("mimco_literal")
pytestmark = pytest.mark.interop

SEEN = 3  # rows of the batch that have a weight
CASES = {
    "published losses": [],
    "keys of the place, centred; cosine": [
        "method.patch.negatives=place",
        "method.patch.center=batch",
        "method.image.loss=cosine",
    ],
    "keys of both; smooth L1": ["method.patch.negatives=both", "method.image.loss=smooth_l1"],
}


def tensors(tree, grad=False):
    return {
        name: torch.tensor(np.asarray(x, np.float64), requires_grad=grad)
        for name, x in tree_lib.named_leaves(tree)
    }


@pytest.fixture(
    scope="module",
    params=[pytest.param(c, marks=[pytest.mark.slow] * bool(i)) for i, c in enumerate(CASES)],
)
def case(request):
    """(config, Setup, Output, gradient, parameters and losses in torch)."""
    config = config_lib.override(image.get_config("toy"), CASES[request.param])
    method = mimco.make(config.method, precision="float32", sample_rate=0, num_classes=0)
    batch = views()
    setup = Setup(method, {**batch, "image": batch["image"][:, 0]})
    setup.extra = {**setup.extra, FROZEN: teachers.fresh(method)}

    def loss(params):
        out = setup.loss(params)
        return out.loss, out

    (_, out), gradient = quick_jit(jax.value_and_grad(loss, has_aux=True))(setup.params)
    keys = setup.streams(setup.batch).for_examples("mask")
    counts, real = method.loss.__self__.student.visible(16), np.ones((4, 16), bool)
    seen = ~quick_jit(lambda keys: masks.random_visible(keys, real, counts)[1])(keys)
    pictures = torch.tensor(np.asarray(setup.batch["image"], np.float64))
    examples = [(pictures[i], np.flatnonzero(seen[i]).tolist()) for i in range(SEEN)]
    p = tensors(setup.params, grad=True)
    frozen = tensors(setup.extra[FROZEN]["teacher"])
    parts = literal.loss(p, frozen, examples, config.method.to_dict())
    sum(parts).backward()
    return config, setup, out, gradient, p, parts


def test_both_losses(case):
    _, _, out, _, _, parts = case
    for name, value in zip(("patch_loss", "image_loss"), parts, strict=True):
        total, count = out.metrics[name]
        np.testing.assert_allclose(total / count, value.item(), rtol=2e-5, err_msg=name)
    np.testing.assert_allclose(out.loss, sum(parts).item(), rtol=2e-5)
    assert out.weight == SEEN


def test_every_gradient(case):
    _, _, _, gradient, p, _ = case
    ours = dict(tree_lib.named_leaves(gradient))
    assert set(ours) == set(p)
    scale = max(float(x.grad.abs().max()) for x in p.values())
    for name, x in p.items():
        np.testing.assert_allclose(ours[name], x.grad, rtol=1e-3, atol=1e-5 * scale, err_msg=name)


def test_one_update_of_adamw(case):
    config, setup, _, gradient, p, _ = case
    tx, _ = optim.make(
        config.optim, setup.params, total_steps=10, to_steps=lambda *_, **__: 0, depth=2
    )
    updates, _ = jax.jit(tx.update)(gradient, jax.jit(tx.init)(setup.params), setup.params)
    decayed = [x for n, x in p.items() if not n.endswith(("bias", "scale"))]
    others = [x for n, x in p.items() if n.endswith(("bias", "scale"))]
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.05).step()
    before = dict(tree_lib.named_leaves(setup.params))
    for name, update in tree_lib.named_leaves(updates):
        if not name.endswith("attention/key/bias"):  # its gradient is rounding
            found = p[name].detach().numpy()
            np.testing.assert_allclose(before[name] + update, found, atol=1e-5, err_msg=name)
