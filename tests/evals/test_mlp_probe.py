"""The MLP probe: it learns what a linear one cannot, stops early; a grid equals single probes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.evals import mlp_probe
from ssl_jax.evals.linear_probe import MIX, standardize

QUICK = mlp_probe.Options(width=16, rates=(1e-2, 1e-3), batch_size=32, epochs=12, patience=4)


def xor(rows, seed):
    """Features (N, 2, 2) whose last layer holds a class that no linear map can separate."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 2, 2)).astype(np.float32)
    return x, (x[:, 1, 0] * x[:, 1, 1] > 0).astype(np.int32)


@pytest.fixture(scope="module")
def xor_result():
    task = mlp_probe.Task("label", ("no", "yes"), ("accuracy",))
    splits = [xor(rows, seed) for rows, seed in ((400, 1), (200, 2), (200, 3))]
    return splits, mlp_probe.probe(*splits, task=task, options=QUICK)


def test_an_mlp_learns_what_no_linear_probe_can(xor_result):
    _, found = xor_result
    by_layer = found.by_layer()
    assert found.layers == (0, 1, MIX) and set(by_layer) == {0, 1, MIX}
    assert by_layer[1][0] > 0.9 and by_layer[MIX][0] > 0.7
    assert by_layer[0][0] < 0.65
    assert found.chosen(found.test)["accuracy"][0] > 0.9
    rate, layer = found.best()
    assert (found.rates[rate], found.layers[layer]) == (1e-2, 1)


def test_tags_are_learned_too(clusters):
    splits = [clusters(rows, seed) for rows, seed in ((200, 1), (100, 2), (100, 3))]
    tags = [(x, np.eye(5, dtype=np.float32)[y]) for x, y in splits]
    task = mlp_probe.Task("tags", tuple("abcde"), ("roc_auc", "average_precision"))
    found = mlp_probe.probe(*tags, task=task, options=QUICK)
    chosen = found.chosen(found.test)
    assert set(chosen) == {"roc_auc", "average_precision"}
    assert chosen["roc_auc"][0] > 0.95 and chosen["average_precision"][0] > 0.9
    assert found.by_layer()[0][0] < 0.7


def test_targets_are_learned_in_any_unit_and_may_be_unknown(clusters):
    splits = [clusters(rows, seed)[0] for rows, seed in ((200, 1), (100, 2), (100, 3))]
    numbers = [(x, np.stack([100 + 9 * x[:, 2, 0], x[:, 2, 1]], 1)) for x in splits]
    numbers[0][1][:20, 1] = np.nan
    task = mlp_probe.Task("target", ("valence", "arousal"), ("r2",))
    found = mlp_probe.probe(*numbers, task=task, options=QUICK)
    chosen = found.chosen(found.test)
    assert set(chosen) == {"r2", "r2/valence", "r2/arousal"}
    assert chosen["r2"][0] == pytest.approx((chosen["r2/valence"][0] + chosen["r2/arousal"][0]) / 2)
    assert min(chosen["r2/valence"][0], chosen["r2/arousal"][0]) > 0.7


@pytest.mark.slow
def test_a_member_of_the_grid_is_a_probe_of_its_own(xor_result):
    splits, found = xor_result
    task = mlp_probe.Task("label", ("no", "yes"), ("accuracy",))
    alone = mlp_probe.Options(**{**vars(QUICK), "rates": (1e-3,), "layers": (1,)})
    one = mlp_probe.probe(*splits, task=task, options=alone)
    # stopping depends on the ranking of nearly equal numbers: allow a row or two
    np.testing.assert_allclose(one.test["accuracy"], found.test["accuracy"][:, 1:, 1:2], atol=0.015)


def test_the_best_epoch_is_kept_and_training_stops(monkeypatch):
    seen = []
    quality = iter([0.5, 0.7, 0.6, 0.6, 0.6, 0.9, 0.1])
    monkeypatch.setattr(mlp_probe, "_outputs", lambda params, x, layer, o: jnp.zeros((1, 3, 2)))
    task = mlp_probe.Task("label", ("a", "b"), ("accuracy",))

    def score(self, outputs, truth):
        seen.append(len(truth))
        return {"accuracy": next(quality)}

    monkeypatch.setattr(mlp_probe.Task, "score", score)
    x = np.random.default_rng(0).normal(size=(8, 1, 2)).astype(np.float32)
    split, test = (x, np.zeros(8, np.int32)), (x[:3], np.zeros(3, np.int32))
    options = mlp_probe.Options(width=2, rates=(1e-3,), layers=(0,), epochs=50, patience=3)
    found = mlp_probe.probe(split, split, test, task=task, options=options)
    assert seen == [8] * 5 + [3]  # three epochs without a gain after the second, then the test
    assert float(found.select["accuracy"][0, 0, 0]) == 0.7
    assert float(found.test["accuracy"][0, 0, 0]) == 0.9


def test_the_head_by_hand_and_its_dropout():
    params = mlp_probe.init(jax.random.key(0), 2, 3, 400, 2)
    x = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
    hidden = np.maximum(x.mean(1) @ np.asarray(params["hidden"]) + params["hidden_bias"], 0)
    want = hidden @ np.asarray(params["kernel"]) + params["bias"]
    o = mlp_probe.Options(dropout=0.2)
    np.testing.assert_allclose(mlp_probe.head(params, x, jnp.int32(MIX), o), want, atol=1e-5)
    keys = jax.random.split(jax.random.key(1), 200)
    drawn = jax.vmap(lambda key: mlp_probe.head(params, x, jnp.int32(MIX), o, key))(keys)
    np.testing.assert_allclose(drawn.mean(0), want, atol=0.03)
    assert drawn.std(0).min() > 0.005


def test_the_loss_of_targets_counts_what_is_known():
    outputs, truth = jnp.array([[1.0, 5.0], [3.0, 1.0]]), jnp.array([[0.0, jnp.nan], [1.0, 1.0]])
    assert float(mlp_probe.loss("target", outputs, truth)) == pytest.approx((1 + 4 + 0) / 3)
    gradient = jax.grad(lambda o: mlp_probe.loss("target", o, truth))(outputs)
    np.testing.assert_allclose(gradient, [[2 / 3, 0], [4 / 3, 0]], atol=1e-6)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: mlp_probe.Task("class", ("a",), ("accuracy",)), "label, tags, slots, target"),
        (lambda: mlp_probe.Task("tags", ("a",), ("accuracy",)), "roc_auc, average_precision"),
        (lambda: mlp_probe.Options(epochs=0), "probe.epochs is 0: use 1 or more"),
        (lambda: mlp_probe.Options(dropout=1.0), "such as 0.2"),
        (lambda: mlp_probe.Options(activation="gelu"), "probe.activation is 'gelu': use 'relu'"),
        (lambda: mlp_probe.Options(clip=-1.0), "probe.clip is -1.0"),
    ],
)
def test_a_wrong_option_is_named(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_an_unknown_layer_is_an_error():
    split = xor(10, 0)
    task = mlp_probe.Task("label", ("no", "yes"), ("accuracy",))
    with pytest.raises(ValueError, match="use 0 to 1"):
        mlp_probe.probe(split, split, split, task=task, options=mlp_probe.Options(layers=(2,)))
    assert standardize(split[0])[0].shape == (10, 2, 2)


def intents(rows, seed):
    """Features (N, 2, 4) whose last layer holds two slots, and their tags (N, 5)."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 2, rows), rng.integers(0, 3, rows)
    x = rng.normal(0, 0.3, (rows, 2, 4)).astype(np.float32)
    x[:, 1, 0] += 2 * first
    x[:, 1, 1] += second == 0
    x[:, 1, 2] += second == 1
    truth = np.concatenate([np.eye(2)[first], np.eye(3)[second]], 1)
    return x, truth.astype(np.float32)


def test_slots_are_each_one_of_their_values_and_all_must_be_right():
    names = ("act=on", "act=off", "room=a", "room=b", "room=c")
    task = mlp_probe.Task("slots", names, ("all_slots",))
    assert task.slots == ((0, 1), (2, 3, 4))
    splits = [intents(rows, seed) for rows, seed in ((400, 1), (100, 2), (200, 3))]
    linear = {"activation": "none", "dropout": 0.0, "standardize": False, "clip": 1.0}
    options = mlp_probe.Options(width=8, rates=(1e-2,), layers=(1, MIX), epochs=15, **linear)
    found = mlp_probe.probe(*splits, task=task, options=options)
    assert found.by_layer()[1][0] > 0.85
    outputs = np.array([[9, 0, 0, 5, 0], [9, 0, 0, 0, 5]])
    truth = np.array([[1, 0, 0, 1, 0], [1, 0, 0, 1, 0]])
    assert task.score(outputs, truth) == {"all_slots": 0.5}
    loss = mlp_probe.loss("slots", jnp.asarray(outputs, float), jnp.asarray(truth), task.slots)
    by_hand = [np.log(1 + np.exp(-9)) + np.log(np.exp(5) + 2) - v for v in (5, 0)]
    np.testing.assert_allclose(loss, np.mean(by_hand), rtol=1e-5)


def test_without_relu_averaging_over_time_may_come_first():
    frames = np.random.default_rng(0).normal(size=(4, 3, 7, 6))  # (B, L + 1, S, D)
    params = mlp_probe.init(jax.random.key(1), 3, 6, 5, 2)
    params["mix"] = jnp.array([0.3, -1.0, 2.0])
    for activation, same in (("none", True), ("relu", False)):
        o = mlp_probe.Options(activation=activation)
        head = jax.jit(lambda x, o=o: mlp_probe.head(params, x, jnp.int32(MIX), o))
        late = [head(frames[:, :, s]) for s in range(7)]
        first = head(frames.mean(2))
        assert np.allclose(np.mean(late, 0), first, atol=1e-5) is same


def test_a_balanced_order_draws_classes_equally_often():
    labels = np.array([0] * 900 + [1] * 90 + [2] * 10)
    order = mlp_probe.balanced_order(0, labels, 32, 100)
    assert order.shape == (100, 32) and order.dtype == np.int32
    shares = np.bincount(labels[order].ravel()) / order.size
    np.testing.assert_allclose(shares, 1 / 3, atol=0.03)


@pytest.mark.slow
def test_validations_come_after_as_many_steps_as_asked_and_gradients_are_cut():
    splits = [xor(rows, seed) for rows, seed in ((64, 1), (32, 2), (32, 3))]
    task = mlp_probe.Task("label", ("no", "yes"), ("accuracy",))
    base = {"width": 8, "rates": (1e-2,), "layers": (1,), "epochs": 1, "batch_size": 32}
    one, many, cut = (
        mlp_probe.probe(*splits, task=task, options=mlp_probe.Options(**base, **more)).select[
            "accuracy"
        ]
        for more in ({"steps": 1}, {"steps": 300}, {"steps": 300, "clip": 1e-12})
    )
    assert many > 0.75 and many > max(one, cut) + 0.1
