"""The same updates on fewer chips: what is proposed, and that the updates are equal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import plan
from ssl_jax.core import config as config_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.engine import step as step_lib
from ssl_jax.planning import budget, rescale


def load(root, name, *overrides):
    return config_lib.load(str(root / "configs" / name), overrides)


def rows_a_chip(limit, chips):
    return lambda c: c.data.batch_size / (chips * c.train.accumulate) <= limit


def test_the_batch_stays_and_is_cut_into_as_few_parts_as_fit(root):
    mae = load(root, "mae/image.py")
    assert rescale.for_chips(mae, 64, rows_a_chip(64, 64)) == {}
    assert rescale.for_chips(mae, 8, rows_a_chip(64, 8)) == {"train.accumulate": 8}
    assert rescale.for_chips(mae, 1, rows_a_chip(1, 1)) == {"train.accumulate": 4096}
    pods = config_lib.change(mae, {"mesh.slice": 2, "mesh.fsdp": 16})
    found = rescale.for_chips(pods, 8, rows_a_chip(512, 8))
    assert found == {"mesh.slice": 1, "mesh.fsdp": 8}


def test_parameters_are_sharded_where_they_do_not_fit(root):
    mae = load(root, "mae/image.py")
    found = rescale.for_chips(mae, 8, lambda c: c.mesh.fsdp == 8 and c.train.accumulate >= 4)
    assert found == {"mesh.fsdp": 8, "train.accumulate": 4}
    with pytest.raises(ConfigError, match=r"one example per chip does not fit.*remat='full'"):
        rescale.for_chips(mae, 8, lambda c: False)


def test_a_batch_of_coupled_rows_is_not_cut(root):
    moco = load(root, "moco_v3/image.py")
    assert rescale.for_chips(moco, 8, lambda c: c.mesh.fsdp == 8, True) == {"mesh.fsdp": 8}
    words = r"batch of 4096 does not fit on 8 chips, .*'moco_v3' couples.*a smaller config\.data\."
    with pytest.raises(ConfigError, match=words):
        rescale.for_chips(moco, 8, lambda c: c.train.accumulate > 1, True)


def test_a_batch_that_does_not_divide_changes_rate_decay_and_length(root):
    speech = load(root, "data2vec2/audio.py")  # 48 clips
    found = rescale.for_chips(speech, 10, lambda c: True)
    k = 50 / 48
    assert found["data.batch_size"] == 50
    assert found["optim.lr"] == pytest.approx(7.5e-4 * k**0.5)
    assert found["method.ema.start"] == pytest.approx(0.999**k)
    assert found["method.ema.end"] == pytest.approx(0.99999**k)
    assert found["method.ema.anneal"] == round(75_000 / k)
    assert found["train.duration"] == f"{round(400_000 / k)} steps"
    assert found["optim.warmup"] == f"{round(8_000 / k)} steps"
    # the teacher decays as much over the same examples
    assert found["method.ema.end"] ** (50 * 96) == pytest.approx(0.99999 ** (50 * 100))
    # a share of the run stays one
    share = config_lib.change(speech, {"optim.warmup": "10%"})
    assert "optim.warmup" not in rescale.for_chips(share, 10, lambda c: True)
    sgd = config_lib.change(speech, {"optim.name": "sgd"})
    assert rescale.for_chips(sgd, 10, lambda c: True)["optim.lr"] == pytest.approx(7.5e-4 * k)


def test_a_search_tries_what_divides(root):
    tried = list(rescale.variants(load(root, "mae/image.py", "config.data.batch_size=96"), 16))
    assert {c["train.accumulate"] for c in tried} == {1, 2}
    whole = rescale.variants(load(root, "mae/image.py", "config.data.batch_size=96"), 16, True)
    assert {c["train.accumulate"] for c in whole} == {1}
    assert {c["mesh.fsdp"] for c in tried} == {1, 8, 16}
    assert {c["method.encoder.remat"] for c in tried} == {"none", "full", "dots", "dots_no_batch"}


def test_the_length_of_a_run(root):
    mae = load(root, "mae/image.py")
    assert "--examples N" in budget.whole_run(mae).missing
    known = budget.whole_run(mae, examples=1_281_167)
    assert known.steps == -(-1600 * 1_281_167 // 4096)
    assert known.data == f"{known.steps * 4096:,} images"
    speech = budget.whole_run(load(root, "data2vec2/audio.py"))
    assert speech.steps == 400_000
    assert "at most 106,667 hours of audio" in speech.data
    epochs = load(root, "data2vec2/audio.py", "config.train.duration=10 epochs")
    assert "--hours H" in budget.whole_run(epochs).missing
    assert budget.whole_run(epochs, hours=960).steps == 10 * 960 * 3600 // 20 // 48
    text = budget.whole_run(load(root, "data2vec2/text.py"))
    assert "tokens" in text.data


@pytest.mark.slow
def test_the_updates_are_equal(root):
    """Four micro-batches on one chip give the update of the full batch, also for the teacher."""
    config = load(root, "data2vec2/image.py:toy", "config.optim.name=sgd", "config.optim.lr=0.1")
    changes = rescale.for_chips(config, 1, rows_a_chip(1, 1))
    assert changes == {"train.accumulate": 4}
    after, start = {}, None
    for one in (config, config_lib.change(config, changes)):
        made = plan.program(one, "cpu:1")
        method = plan.make_method(one)
        tx, _ = made.optimizer
        if start is None:
            start = jax.device_get(step_lib.init_state(method, tx, 3, made.mesh, made.batch)[0])
        state = jax.tree.map(jnp.asarray, start)
        rng = np.random.default_rng(0)
        batch = {
            "image": jnp.asarray(rng.integers(0, 256, made.batch["image"].shape), "uint8"),
            "id": jnp.arange(4, dtype="uint32"),
            "weight": jnp.array([1.0, 1.0, 1.0, 1.0]),
        }
        totals = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), made.totals)
        for _ in range(2):
            state, totals, _ = made.jitted(state, totals, batch)
        after[one.train.accumulate] = jax.device_get((state.params, state.extra))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), start.params, after[1][0])
    assert max(jax.tree.leaves(moved)) > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), after[1], after[4])
