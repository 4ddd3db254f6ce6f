"""Micro-batches give the update of the full batch, for every term of every method's loss."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from method_cases import quick_jit, tiny

from ssl_jax.core import mesh as mesh_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import TrainState
from ssl_jax.engine import step as step_lib

MESH = mesh_lib.make_mesh({"data": 1}, jax.devices()[:1])
STILL = {"encoder.input_dropout": 0.0}
# draws for a full step are off: they differ, as dropout does
CASES = [
    ("hubert/audio", STILL | {"encoder.activation_dropout": 0.0}, 1),
    ("wav2vec2/audio", STILL | {"quantizer.dropout": 0.0}, 0),
    ("data2vec2/image", {"loss.cls_weight": 0.5, "encoder.drop_path": 0.0}, 0),
]


def one_step(method, batch, params, extra, accumulate):
    """Returns (parameters, metrics) after one step of plain gradient descent."""
    tx = optax.sgd(1.0)
    key = np.zeros(2, np.uint32)
    state = TrainState(jnp.int32(3), params, extra, tx.init(params), key)
    step = step_lib.make_step(method, tx, lambda n: 1.0, MESH, accumulate)
    state, metrics = quick_jit(step)(state, batch)
    return state.params, metrics


def rows_of_unequal_counts(setup, sets):
    """Returns the batch with real rows of different lengths, and units for `sets` sets."""
    batch = dict(setup.batch, weight=jnp.ones(4))
    batch["audio_len"] = jnp.array([8000, 6000, 3000, 4500], jnp.int32)
    if sets:
        batch["units"] = batch["units"][:, :sets]
    return {k: v for k, v in batch.items() if k in setup.method.batch}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "changes", "sets"), CASES)
def test_an_accumulated_step_is_that_of_the_whole_batch(name, changes, sets):
    setup = tiny(name, changes)
    batch = rows_of_unequal_counts(setup, sets)
    given = (setup.method, batch, setup.params, setup.extra)
    (whole, metrics), (parts, accumulated) = (one_step(*given, n) for n in (1, 2))
    for metric in ("loss", "gradient_norm"):
        np.testing.assert_allclose(metrics[metric], accumulated[metric], rtol=1e-5)
    for a, b, c in zip(*map(jax.tree.leaves, (whole, parts, setup.params)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1, np.abs(a - c).max()))


@pytest.mark.parametrize(
    ("name", "called"),
    [("hubert/audio", "HuBERT"), ("wav2vec2/audio", "wav2vec 2.0"), ("data2vec/audio", "data2vec")],
)
def test_masks_trimmed_to_the_fewest_of_the_batch_refuse_accumulation(name, called):
    method = tiny(name, {"mask.same_count": True}).method
    with pytest.raises(ConfigError) as found:
        step_lib.make_step(method, optax.sgd(1.0), lambda n: 1.0, MESH, 2)
    for part in ("config.train.accumulate is 2", called, "config.method.mask.same_count=False"):
        assert part in str(found.value)
    step_lib.make_step(method, optax.sgd(1.0), lambda n: 1.0, MESH, 1)
    assert not tiny(name, {"mask.same_count": False}).method.couples


def test_a_loss_that_is_one_mean_is_run_once():
    changes = {"loss.penalty": 0.0}
    assert tiny("hubert/audio").method.combine is not None
    assert tiny("hubert/audio", changes).method.combine is None
    assert tiny("wav2vec2/audio", changes).method.combine is not None
    assert tiny("wav2vec2/audio", changes | {"loss.diversity": 0.0}).method.combine is None
