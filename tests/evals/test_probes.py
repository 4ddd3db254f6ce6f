"""kNN, ridge and the linear probe: against references, against each other, against chance."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from ssl_jax.evals import knn, linear_probe, ridge
from ssl_jax.evals.pool import held_out

CLASSES = 5


def knn_by_hand(train_x, train_y, test_x, k, temperature):
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    cosine = unit(test_x) @ unit(train_x).T
    found = []
    for row in cosine:
        near = np.argsort(-row)[:k]
        votes = np.zeros(CLASSES)
        np.add.at(votes, train_y[near], np.exp(row[near] / temperature))
        found.append(votes.argmax())
    return np.array(found)


def test_knn_equals_a_loop_for_every_k_and_block(clusters):
    (train_x, train_y), (test_x, _) = clusters(90, 1, spread=1.5), clusters(37, 2, spread=1.5)
    train_x, test_x = train_x[:, -1], test_x[:, -1]
    ks = (1, 7, 500)
    for block in (8, 64):
        got = knn.predict(train_x, train_y, test_x, classes=CLASSES, ks=ks, block=block)
        assert got.shape == (3, 37)
        for row, k in zip(np.asarray(got), ks, strict=True):
            np.testing.assert_array_equal(row, knn_by_hand(train_x, train_y, test_x, k, 0.07))


def test_knn_weights_near_neighbours_more():
    train_x = np.array([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8]])
    train_y, test_x = np.array([0, 1, 1]), np.array([[1.0, 0.0]])
    sharp = knn.predict(train_x, train_y, test_x, classes=2, ks=(3,), temperature=0.07)
    flat = knn.predict(train_x, train_y, test_x, classes=2, ks=(3,), temperature=100.0)
    assert (int(sharp[0, 0]), int(flat[0, 0])) == (0, 1)


def test_knn_of_a_zero_row_is_finite():
    got = knn.predict(np.eye(3), np.arange(3), np.zeros((2, 3)), classes=3, ks=(1,))
    assert got.shape == (1, 2)


@pytest.mark.parametrize("l2", [1e-4, 1e-2, 1.0])
def test_ridge_equals_scikit_learn(clusters, l2):
    x, y = clusters(120, 1)
    x = x[:, -1] * np.linspace(0.1, 30, 16) + 5
    queries = clusters(40, 2)[0][:, -1] * np.linspace(0.1, 30, 16) + 5
    mean, std = x.mean(0), x.std(0)
    model = Ridge(alpha=l2 * len(x)).fit((x - mean) / std, np.eye(CLASSES)[y])
    maps = ridge.fit(x, y, CLASSES, np.array([0.5, l2], np.float32))
    got = (queries - maps.mean) @ np.asarray(maps.kernel[1]) + maps.bias
    np.testing.assert_allclose(got, model.predict((queries - mean) / std), atol=2e-4)
    want = model.predict((queries - mean) / std).argmax(-1)
    np.testing.assert_array_equal(np.asarray(ridge.predict(maps, queries))[1], want)


def test_ridge_of_numbers_equals_scikit_learn(clusters):
    (train_x, _), (test_x, _) = clusters(90, 1), clusters(37, 2)
    train_x, test_x = train_x[:, -1], test_x[:, -1]
    target = np.random.default_rng(0).normal(size=(90, 2)).astype(np.float32)
    got = ridge.outputs(ridge.regress(train_x, target, np.array([0.1, 10.0])), test_x)
    mean, std = train_x.mean(0), train_x.std(0)
    for row, l2 in zip(np.asarray(got), (0.1, 10.0), strict=True):
        # ours divides the sum of squares by the rows
        model = Ridge(alpha=l2 * 90).fit((train_x - mean) / std, target)
        np.testing.assert_allclose(row, model.predict((test_x - mean) / std), atol=1e-4)


def test_ridge_survives_constant_and_repeated_features(clusters):
    x, y = clusters(80, 1)
    x = np.concatenate([x, x, np.full_like(x, 1e4)], -1)
    scores = ridge.probe((x, y), (x, y), classes=CLASSES)
    assert scores.test[-1] > 0.95


def test_all_probes_agree_on_separable_classes(splits, grid):
    train, valid, test = splits
    by_ridge = ridge.probe(train, test, classes=CLASSES, select=valid)
    by_knn = knn.probe(train, test, classes=CLASSES, select=valid)
    by_descent = linear_probe.probe(train, valid, test, classes=CLASSES, grid=grid)
    assert by_ridge.layer == by_knn.layer == 2
    assert by_descent.layers[by_descent.best()[1]] in (2, linear_probe.MIX)
    for accuracy in (by_ridge.test[2], by_knn.test[2], *by_descent.chosen()):
        assert accuracy > 0.97
    for layer, values in by_descent.by_layer().items():
        np.testing.assert_allclose(values.mean() > 0.9, layer in (2, linear_probe.MIX))


def test_features_without_signal_score_chance(splits, grid):
    rng = np.random.default_rng(0)
    train, valid, test = ((x, rng.permutation(y)) for x, y in splits)
    by_ridge = ridge.probe(train, test, classes=CLASSES, select=valid)
    by_knn = knn.probe(train, test, classes=CLASSES, select=valid)
    by_descent = linear_probe.probe(train, valid, test, classes=CLASSES, grid=grid)
    # the mean of several dependent scores of 200 rows, each with a standard deviation of 0.028
    for accuracy in (by_ridge.test, by_knn.test, by_descent.test):
        np.testing.assert_allclose(accuracy.mean(), 1 / CLASSES, atol=0.06)


def test_without_a_selection_split_part_of_train_is_held_out(splits):
    train, _, test = splits
    for module in (ridge, knn):
        scores = module.probe(train, test, classes=CLASSES)
        assert scores.layer == 2 and scores.test[2] > 0.97
        assert scores.select[0] < 0.6  # a row that is its own nearest neighbour would score 1


def test_held_out_takes_a_share_of_every_class():
    labels = np.repeat([0, 1, 2, 3], [50, 10, 2, 1])
    out = held_out(labels)
    assert [int(out[labels == c].sum()) for c in range(4)] == [10, 2, 1, 0]
    np.testing.assert_array_equal(out, held_out(labels))
    with pytest.raises(ValueError, match=r"config\.data\.valid"):
        held_out(np.arange(5))


def test_grid_in_one_pass_equals_separate_runs(clusters):
    (x, y), (query, truth) = clusters(70, 1, spread=1.0), clusters(50, 2, spread=1.0)
    x, query = linear_probe.standardize(x, query)
    seeds, rates = np.array([0, 3]), np.array([0.003, 0.03], np.float32)
    layers = np.array([0, 2, linear_probe.MIX])
    orders = np.stack([linear_probe.epoch_order(int(s), 70, 32, 20) for s in seeds])
    grid = linear_probe.train_grid(x, y, orders, seeds, rates, layers, classes=CLASSES)
    scores = linear_probe.grid_accuracies(grid, query, truth, layers)
    assert grid["kernel"].shape == (2, 2, 3, 16, CLASSES) and scores.shape == (2, 2, 3)
    train = jax.jit(linear_probe.train, static_argnames="classes")
    for s, r, n in np.ndindex(2, 2, 3):
        member = linear_probe.Member(seeds[s], rates[r], layers[n])
        alone = train(x, y, orders[s], member, classes=CLASSES)
        for name, value in alone.items():
            np.testing.assert_allclose(grid[name][s, r, n], value, atol=1e-5)
        right = np.asarray(linear_probe.logits(alone, query, layers[n])).argmax(-1) == truth
        np.testing.assert_allclose(scores[s, r, n], right.mean(), atol=1e-6)
    for a, b in (((0, 0, 0), (1, 0, 0)), ((0, 0, 0), (0, 1, 0)), ((0, 0, 0), (0, 0, 1))):
        assert np.abs(grid["kernel"][a] - grid["kernel"][b]).max() > 1e-3


def test_the_learned_mix_turns_to_the_layer_that_knows(splits):
    (x, y), _, _ = splits
    (x,) = linear_probe.standardize(x)
    orders = np.stack([linear_probe.epoch_order(0, len(x), 64, 200)])
    layers = np.array([0, linear_probe.MIX])
    seeds, rates = np.array([0]), np.array([0.03])
    grid = linear_probe.train_grid(x, y, orders, seeds, rates, layers, classes=CLASSES)
    mix = np.asarray(jax.nn.softmax(grid["mix"][0, 0, 1]))
    assert mix.argmax() == 2 and mix[2] > 0.6
    np.testing.assert_array_equal(grid["mix"][0, 0, 0], 0)


def test_epoch_order_covers_each_epoch_once():
    order = linear_probe.epoch_order(0, 10, 5, 6).reshape(3, 10)
    assert all(sorted(row) == list(range(10)) for row in order)
    assert not np.array_equal(order[0], order[1])


def test_selection_uses_validation_and_reports_test():
    select, test = np.zeros((2, 2, 2)), np.arange(8.0).reshape(2, 2, 2)
    select[:, 1, 0] = 0.5
    scores = linear_probe.Scores(select, test, (0.1, 0.2), (0, 1))
    assert scores.best() == (1, 0)
    np.testing.assert_array_equal(scores.chosen(), [2, 6])


def test_an_unknown_layer_is_an_error(splits):
    with pytest.raises(ValueError, match="use 0 to 2"):
        linear_probe.Grid(layers=(3,)).layers_of(3)


def test_a_probe_over_nothing_has_no_score(splits, grid):
    train, select, _ = splits
    nothing = (train[0][:0], train[1][:0])
    for fitted, tested in ((train, nothing), (nothing, select)):
        for module in (knn, ridge):
            found = module.probe(fitted, tested, classes=3, select=select)
            assert np.isnan(found.test).all() and found.layer >= 0
        scores = linear_probe.probe(fitted, select, tested, classes=3, grid=grid)
        assert np.isnan(scores.chosen()).all()
    with pytest.raises(ValueError, match="no training row has a label"):
        knn.probe(nothing, select, classes=3)
