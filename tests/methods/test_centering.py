"""Centred targets in the data2vec family: their state, what they couple, what they prevent."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from method_cases import _drawn, quick_jit, tiny

from ssl_jax.core import mesh as mesh_lib
from ssl_jax.core import rng
from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import FROZEN
from ssl_jax.engine import step as step_lib
from ssl_jax.engine import teachers

FAMILIES = ("data2vec/kws", "data2vec2/image")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_running_mean_is_kept_in_extra_and_moves_after_an_update(name):
    setup = tiny(name, {"targets.center": "running"})
    found = setup.extra["center"]
    positions = 24 if name == "data2vec/kws" else 16
    assert {k: x.shape for k, x in found.items()} == {
        **dict.fromkeys(("mean", "total"), (positions, 16)),
        **dict.fromkeys(("seen", "count"), (positions,)),
    }
    assert (
        "center" not in tiny(name).extra
        and "center" not in tiny(name, {"targets.center": "batch"}).extra
    )
    zeros = jax.tree.map(jnp.zeros_like, found)
    given = {**zeros, "total": jnp.ones_like(found["total"]), "count": 2 + zeros["count"]}
    targets = setup.method.loss.__self__.options.targets
    moved = targets.moved({"teacher": 0, "center": given})["center"]
    np.testing.assert_allclose(moved["mean"], 0.5)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_mean_over_the_batch_refuses_micro_batches_and_a_running_one_does_not(name):
    changes = {"mask.same_count": False} if name == "data2vec/kws" else {}
    mesh = mesh_lib.make_mesh({"data": 1}, jax.devices()[:1])
    given = (optax.sgd(1.0), lambda n: 1.0, mesh)
    method = tiny(name, {**changes, "targets.center": "batch"}).method
    with pytest.raises(ConfigError, match=r"set config\.method\.targets\.center='running'"):
        step_lib.make_step(method, *given, 2)
    step_lib.make_step(tiny(name, {**changes, "targets.center": "running"}).method, *given, 2)


# the option of every method that regresses features, and the metric of its targets
CENTRED = {
    "data2vec/kws": ("targets.center", "target_std"),
    "data2vec2/image": ("targets.center", "target_std"),
    "dmae/image": ("align.center", "feature_std"),
    "mimco/image": ("patch.center", "target_std"),
    "beats/tokenizer": ("center", "target_std"),
    "lighthubert/speech": ("targets.center", "target_std"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CENTRED)
def test_targets_of_the_position_alone_become_zero_in_every_method(name):
    """Copies of one example, whose targets the position alone tells apart."""
    option, metric = CENTRED[name]
    setup = tiny(name, {option: "batch"})
    batch = {**setup.batch, "weight": jnp.ones(4)}
    if taught := teachers.shapes(setup.method):
        setup.extra = {**setup.extra, FROZEN: _drawn(taught, 2)}
    run = quick_jit(lambda batch: setup.loss(batch=batch).metrics[metric][0])
    copies = {key: jnp.repeat(x[:1], 4, axis=0) for key, x in batch.items()}
    assert run(batch) > 0.05 and run(copies) < 0.002


def texts(key, rows=16):
    """Returns a batch of texts in which half of the tokens repeat a pair of the text's own."""
    pair = jax.random.randint(key, (rows, 2), 4, 261)
    keys = jax.random.split(jax.random.fold_in(key, 1))
    noise = jax.random.randint(keys[0], (rows, 24), 4, 261)
    tokens = jnp.where(jax.random.bernoulli(keys[1], 0.5, noise.shape), jnp.tile(pair, 12), noise)
    ids = jnp.arange(rows, dtype=jnp.uint32)
    return {"id": ids, "weight": jnp.ones(rows), "tokens": tokens, "tokens_len": 0 * ids + 24}


@pytest.mark.slow
def test_a_fast_teacher_collapses_to_the_position_without_centring_and_not_with_it():
    last = {}
    for center in ("none", "batch"):
        setup = tiny("data2vec/text", {"targets.center": center, "ema.start": 0.9, "ema.end": 0.9})
        method, tx = setup.method, optax.adam(1e-2)

        def step(carry, n, method=method, tx=tx):
            params, extra, moments = carry
            batch = texts(jax.random.fold_in(jax.random.key(2), n))

            def loss(params):
                streams = rng.Streams(rng.key_data(0), n, batch["id"])
                out = method.loss(params, extra, batch, streams, True)
                return out.loss, out

            gradient, out = jax.grad(loss, has_aux=True)(params)
            updates, moments = tx.update(gradient, moments, params)
            params = optax.apply_updates(params, updates)
            share, count = out.metrics["instance_variance_ratio"]
            return (params, method.update(params, out.extra, n + 1), moments), share / count

        def train(step=step, method=method, tx=tx):
            params, extra = method.init(jax.random.key(1), texts(jax.random.key(0)))
            start = (params, extra, tx.init(params))
            return jax.lax.scan(step, start, jnp.arange(100))[1]

        last[center] = float(jax.jit(train)()[-10:].mean())
    assert last["none"] < 0.1 and last["batch"] > 0.5, last
