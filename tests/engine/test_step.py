"""One update: accumulation, metrics, non-finite steps, initial states."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_method as toy

from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import Output
from ssl_jax.engine import step as step_lib
from ssl_jax.ops import losses


def run(mesh, steps=3, accumulate=1, method=None):
    state, _, compiled, _ = toy.start(mesh, accumulate, method=method)
    totals = compiled.zeros()
    for n in range(steps):
        state, totals, _ = compiled.run(state, totals, toy.rows(n))
    return jax.device_get(state), jax.device_get(totals)


def test_micro_batches_equal_one_large_batch(mesh):
    one, totals_one = run(mesh, accumulate=1)
    four, totals_four = run(mesh, accumulate=4)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    for name in ("loss", "gradient_norm"):
        np.testing.assert_allclose(totals_one["sums"][name], totals_four["sums"][name], rtol=1e-5)


def two_means():
    """The toy with a second loss term over a subset of the rows: audio of even length."""
    made = toy.make_method()

    def loss(params, extra, batch, streams, train):
        out = made.loss(params, extra, batch, streams, train)
        even = batch["weight"] * (batch["audio_len"] % 2 == 0)
        level = jnp.tanh(batch["audio"] @ params["encoder"]["kernel"] / 100).sum(1)
        sums = {"first": (out.loss * out.weight, out.weight), "even": (even @ level, even.sum())}
        return out.replace(loss=combine(sums), sums=sums)

    def combine(sums):
        return losses.mean_of(sums["first"]) + losses.mean_of(sums["even"]) ** 2

    return dataclasses.replace(made, loss=loss, combine=combine)


def test_a_loss_of_several_means_is_accumulated_exactly(mesh):
    one, totals_one = run(mesh, accumulate=1, method=two_means())
    four, totals_four = run(mesh, accumulate=4, method=two_means())
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    for name in ("loss", "gradient_norm"):
        np.testing.assert_allclose(totals_one["sums"][name], totals_four["sums"][name], rtol=1e-5)


def test_rows_that_know_of_each_other_are_not_accumulated(mesh):
    couples = {"mine takes negatives from other rows": "config.method.negatives='own'"}
    method = dataclasses.replace(toy.make_method(), couples=couples)
    words = "config.train.accumulate is 2, but mine takes negatives .* set config.method.negatives"
    with pytest.raises(ConfigError, match=words):
        step_lib.make_step(method, *toy.make_tx(), mesh, 2)
    step_lib.make_step(method, *toy.make_tx(), mesh, 1)


def test_running_statistics_replace_parameters_after_the_update(mesh):
    made = toy.make_method()

    def loss(params, extra, batch, streams, train):
        out = made.loss(params, extra, batch, streams, train)
        return out.replace(moved={"encoder": {"bias": jnp.full(toy.WIDTH, 7.0)}} if train else {})

    state, _ = run(mesh, steps=1, method=dataclasses.replace(made, loss=loss))
    plain, _ = run(mesh, steps=1)
    np.testing.assert_array_equal(state.params["encoder"].pop("bias"), np.full(toy.WIDTH, 7.0))
    plain.params["encoder"].pop("bias")
    jax.tree.map(np.testing.assert_array_equal, state.params, plain.params)


def test_a_micro_batch_takes_rows_from_every_device():
    parts = np.asarray(step_lib._interleave(jnp.arange(8), 2))
    assert parts.tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_accumulation_must_divide_the_batch(mesh):
    with pytest.raises(ValueError, match=r"config.train.accumulate 3 does not divide"):
        run(mesh, accumulate=3)


def test_padding_alone_gives_a_zero_gradient_when_accumulated(mesh):
    state, _, _, pure = toy.start(mesh, 4)
    batch = toy.rows(0) | {"weight": np.zeros(toy.BATCH, np.float32)}
    new, metrics = jax.jit(pure)(state, batch)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(jax.device_get(new)))
    assert float(metrics["loss"][1]) == float(metrics["gradient_norm"][0]) == 0


def test_metrics_are_means_of_all_steps(mesh):
    _, totals = run(mesh, steps=3)
    sums = totals["sums"]
    assert set(sums) >= {"loss", "lr", "gradient_norm", "parameter_norm", "target_std"}
    assert sums["lr"][1] == 3
    _, schedule = toy.make_tx()
    np.testing.assert_allclose(sums["lr"][0], sum(schedule(n) for n in range(3)), rtol=1e-6)
    weights = sum(toy.rows(n)["audio_len"].sum() for n in range(3))
    assert sums["loss"][1] == weights


def test_the_method_update_sees_new_parameters_and_the_step_from_one(mesh):
    seen = dataclasses.replace(
        toy.make_method(), update=lambda params, extra, step: extra | {"n": step + 0 * extra["n"]}
    )

    def init(key, batch):
        return (
            seen_params := toy.make_method().init(key, batch)[0],
            {"teacher": {"encoder": seen_params["encoder"]}, "n": jnp.zeros((), jnp.int32)},
        )

    state, _ = run(mesh, steps=2, method=dataclasses.replace(seen, init=init))
    assert state.extra["n"] == 2 == state.step


def test_the_first_step_that_is_not_finite_is_kept(mesh):
    state, _, compiled, _ = toy.start(mesh)
    totals = compiled.zeros()
    for n in range(4):
        batch = toy.rows(n)
        if n == 2:
            batch["weight"] = np.full(toy.BATCH, np.nan, np.float32)
        state, totals, _ = compiled.run(state, totals, batch)
    assert int(totals["bad"]) == 3
    assert int(compiled.zeros()["bad"]) == step_lib.NEVER


def test_a_step_is_traced_once(mesh):
    state, shardings, _, pure = toy.start(mesh)
    shapes = (jax.eval_shape(lambda x: x, state), toy.shapes())
    traced = []

    def counted(state, batch):
        traced.append(1)
        return pure(state, batch)

    compiled = step_lib.compile_step(counted, mesh, shardings, shapes)
    compiled.run.trace(shapes[0], jax.eval_shape(compiled.zeros), shapes[1])
    assert traced == [1]


def test_the_seed_alone_sets_the_initial_state(mesh):
    method, (tx, _) = toy.make_method(), toy.make_tx()

    def make(seed):
        return step_lib.init_state(method, tx, seed, mesh, toy.shapes())[0]

    one, again, other = (make(seed) for seed in (1, 1, 2))
    assert toy.bits(one) == toy.bits(again)
    assert toy.bits(one.params)["decoder"] != toy.bits(other.params)["decoder"]
    shapes = step_lib.abstract_state(method, tx, toy.shapes())
    assert jax.tree.map(lambda x: x.shape, one) == jax.tree.map(lambda x: x.shape, shapes)


def test_an_array_without_a_rule_is_an_error(mesh):
    method = dataclasses.replace(toy.make_method(), rules=(("kernel", ("fsdp", "model")),))
    with pytest.raises(ValueError, match=r"no sharding rule matches 'decoder'"):
        step_lib.init_state(method, toy.make_tx()[0], 0, mesh, toy.shapes())


def test_a_rule_without_a_parameter_is_an_error(mesh):
    rules = (("no_such_layer", ("fsdp",)), *toy.make_method().rules)
    method = dataclasses.replace(toy.make_method(), rules=rules)
    with pytest.raises(ValueError, match=r"sharding rule \('no_such_layer'"):
        step_lib.init_state(method, toy.make_tx()[0], 0, mesh, toy.shapes())


def test_evaluation_has_no_training_noise_and_one_mask_for_all_steps(mesh):
    seen = {}

    def loss(params, extra, batch, streams, train):
        seen["train"] = train
        drawn = jax.vmap(jax.random.uniform)(streams.for_examples("mask")).sum()
        return Output(loss=drawn, weight=jnp.float32(1), metrics={}, extra=extra)

    method = dataclasses.replace(toy.make_method(), loss=loss)
    state, shardings = step_lib.init_state(method, toy.make_tx()[0], 0, mesh, toy.shapes())
    evaluate = step_lib.compile_eval_step(step_lib.make_eval_step(method, mesh), mesh, shardings)
    first = evaluate(state, toy.rows(0))["loss"][0]
    later = evaluate(state.replace(step=jnp.int32(7)), toy.rows(0))["loss"][0]
    assert seen["train"] is False and first == later
