"""Speaker verification: the head and the margin by hand, and what must not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_cases import quick_jit, tiny

from ssl_jax.core import tree as tree_lib
from ssl_jax.nn import xvector


@pytest.fixture(scope="module")
def setup():
    return tiny("superb/verification", classes=3)


def test_the_vector_by_hand():
    head = xvector.XVector(xvector.XVectorOptions(width=5, pooled=6))
    hidden = np.random.default_rng(0).normal(size=(3, 2, 22, 4)).astype(np.float32)
    frames = np.array([22, 18])
    params = jax.jit(head.init)(jax.random.key(0), hidden, frames)["params"]
    params["mix"] = jnp.array([0.5, -0.2, 0.1])
    run = jax.jit(head.apply)
    embedding, last = jax.device_get(run({"params": params}, hidden, frames))
    p = {name: np.asarray(x, np.float64) for name, x in tree_lib.named_leaves(params)}
    weights = np.exp(p["mix"]) / np.exp(p["mix"]).sum()
    for row, count in enumerate(frames):
        x = np.einsum("l,lsd->sd", weights, hidden[:, row, :count])
        x = x @ p["projection/kernel"] + p["projection/bias"]
        for i, (size, step) in enumerate(xvector.LAYERS):
            places = range(len(x) - (size - 1) * step)
            seen = np.stack([x[s : s + size * step : step] for s in places])
            x = np.einsum("skd,kde->se", seen, p[f"layer{i}/kernel"]) + p[f"layer{i}/bias"]
            x = np.maximum(x, 0)
        assert len(x) == count - xvector.CONTEXT
        x = np.concatenate([x.mean(0), x.std(0, ddof=1)])
        x = np.maximum(x @ p["embedding/kernel"] + p["embedding/bias"], 0)
        np.testing.assert_allclose(embedding[row], x, atol=1e-5)
        x = np.maximum(x @ p["last/kernel"] + p["last/bias"], 0)
        np.testing.assert_allclose(last[row], x, atol=1e-5)


def test_a_batch_without_enough_frames_is_named():
    head = xvector.XVector(xvector.XVectorOptions(width=5, pooled=6))
    with pytest.raises(ValueError, match=r"14 frames is too short.*needs 15.*data\.buckets"):
        jax.eval_shape(head.init, jax.random.key(0), jnp.zeros((2, 1, 14, 4)), jnp.array([14]))


@pytest.mark.slow
def test_loss_has_the_margin_in_training_alone(setup):
    def both(batch):
        x = setup.loss(batch=batch), setup.loss(batch=batch, train=False)
        return (*x, setup.method.embed(setup.params, batch))

    train, evaluate, vectors = quick_jit(both)(setup.batch)
    p = setup.params["head"]["last"]
    last = np.maximum(np.asarray(vectors) @ np.asarray(p["kernel"]) + np.asarray(p["bias"]), 0)
    kernel = np.asarray(setup.params["speakers"]["kernel"])
    cosine = last / np.linalg.norm(last, axis=1, keepdims=True)
    cosine = cosine @ (kernel / np.linalg.norm(kernel, axis=0))
    for out, margin in ((train, 0.4), (evaluate, 0.0)):
        each = []
        for row in (0, 1):  # row 2 has no speaker, row 3 no weight
            right = int(setup.batch["label"][row])
            logits = 30 * (cosine[row] - margin * (np.arange(3) == right))
            each.append(np.log(np.exp(logits).sum()) - logits[right])
        np.testing.assert_allclose(out.loss, np.mean(each), rtol=1e-4)
        assert out.weight == 2


@pytest.mark.slow
def test_the_encoder_stays_as_it_is(setup):
    gradient = quick_jit(jax.grad(lambda p: setup.loss(p).loss))(setup.params)
    assert all((g == 0).all() for g in jax.tree.leaves(gradient["encoder"]))
    assert all((g != 0).any() for g in jax.tree.leaves((gradient["head"], gradient["speakers"])))


@pytest.mark.parametrize(
    ("changes", "classes", "message"),
    [
        ({"scale": 0.0}, 3, "config.method.scale is 0.0"),
        ({"margin": -0.1}, 3, "config.method.margin -0.1"),
        ({}, 1, "training split has 1 speakers"),
        ({"encoder": {"kind": "vit"}}, 3, "config.method.encoder.kind is 'vit'"),
    ],
)
def test_a_wrong_option_is_named(changes, classes, message):
    with pytest.raises(ValueError, match=message):
        tiny("superb/verification", changes, classes=classes)
