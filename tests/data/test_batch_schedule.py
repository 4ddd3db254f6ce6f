import pickle
import time

import numpy as np
import pytest

from ssl_jax.data.batch_schedule import BatchSchedule, Span
from ssl_jax.data.errors import DataError


def epoch_ids(plan, number=0):
    steps = range(number * plan.steps_per_epoch, (number + 1) * plan.steps_per_epoch)
    return np.concatenate([plan[s].ids for s in steps])


@pytest.fixture
def seconds():
    return np.random.default_rng(0).uniform(0.1, 5.0, 503)


def test_every_row_is_seen_each_epoch_and_few_twice(seconds):
    plan = BatchSchedule(seconds, buckets=(1.0, 2.0, 4.0), batch_size=8, seed=3)
    for number in range(3):
        counts = np.bincount(epoch_ids(plan, number), minlength=503)
        assert counts.min() == 1 and counts.sum() == plan.steps_per_epoch * 8
        assert counts.max() <= 2 and (counts == 2).sum() < 3 * 8
    assert (epoch_ids(plan, 0) != epoch_ids(plan, 1)).any()


def test_each_epoch_makes_other_batches():
    plan = BatchSchedule(np.ones(400), buckets=(1.0,), batch_size=8)
    first, second = ({frozenset(plan[n + s].ids.tolist()) for s in range(50)} for n in (0, 50))
    assert len(first) == len(second) == 50 and not first & second


def test_rows_lie_in_the_smallest_bucket_that_holds_them(seconds):
    plan = BatchSchedule(seconds, buckets=(1.0, 2.0, 4.0), batch_size=8)
    lower, upper = (0.0, 1.0, 2.0), (1.0, 2.0, 9.0)
    for step in range(plan.steps_per_epoch):
        draw = plan[step]
        own = seconds[draw.ids]
        assert (own > lower[draw.bucket]).all() and (own <= upper[draw.bucket]).all()
        assert draw.weight.dtype == np.float32 and (draw.weight == 1).all()


def test_steps_are_a_pure_function_of_seed_and_step(seconds):
    plans = [BatchSchedule(seconds, buckets=(1.0, 5.0), batch_size=8, seed=5) for _ in range(2)]
    for step in (900, 3, 170, 3, 10**6):
        for a, b in zip(plans[0][step], plans[1][step], strict=True):
            np.testing.assert_array_equal(a, b)
    other = BatchSchedule(seconds, buckets=(1.0, 5.0), batch_size=8, seed=6)
    assert (epoch_ids(other) != epoch_ids(plans[0])).any()
    # not only the order of the steps: batches combine other rows
    met, others = ({frozenset(p[s].ids) for s in range(len(p))} for p in (plans[0], other))
    assert not met & others
    copy = pickle.loads(pickle.dumps(plans[0]))
    np.testing.assert_array_equal(copy[3].ids, plans[0][3].ids)


def test_constant_seconds_scales_batches_by_multiples(seconds):
    plan = BatchSchedule(
        seconds, buckets=(1.0, 1.5, 5.0), batch_size=8, constant_seconds=True, multiple=4
    )
    assert plan.batch_sizes == (40, 24, 8)
    assert {len(plan[s].ids) for s in range(plan.steps_per_epoch)} == {40, 24, 8}
    assert np.bincount(epoch_ids(plan), minlength=503).min() == 1


def test_mixtures_keep_their_shares_and_use_up_each_source():
    spans = (Span(0, 100, 3.0), Span(100, 400, 1.0))
    plan = BatchSchedule(np.full(400, 1.0), spans=spans, buckets=(1.0,), batch_size=8, seed=1)
    ids = np.concatenate([epoch_ids(plan, n) for n in range(6)])
    assert abs(np.mean(ids < 100) - 0.5) < 0.01  # 3 * 100 against 1 * 300
    for low, high in ((0, 100), (100, 400)):
        counts = np.bincount(ids[(ids >= low) & (ids < high)], minlength=high)[low:high]
        assert counts.max() - counts.min() <= 1
    epochs = np.concatenate([plan[s].epoch for s in range(plan.steps_per_epoch)])
    first = epoch_ids(plan) < 100
    assert epochs[first].max() == 1 and epochs[~first].max() == 0


def test_a_row_gets_a_new_epoch_number_each_time_it_is_drawn():
    plan = BatchSchedule(
        np.full(16, 1.0), spans=(Span(0, 4, 6.0), Span(4, 16)), buckets=(1.0,), batch_size=4
    )
    seen = set()
    for step in range(3 * plan.steps_per_epoch):
        draw = plan[step]
        pairs = set(zip(draw.ids.tolist(), draw.epoch.tolist(), strict=True))
        assert len(pairs) == 4 and not pairs & seen
        seen |= pairs


def test_a_small_source_is_not_left_out():
    spans = (Span(0, 1, 0.01), Span(1, 1000, 1.0))
    plan = BatchSchedule(np.full(1000, 1.0), spans=spans, buckets=(1.0,), batch_size=10)
    assert 0 in epoch_ids(plan)


def test_a_batch_larger_than_the_corpus_repeats_rows():
    plan = BatchSchedule(np.full(3, 1.0), buckets=(1.0,), batch_size=8)
    draw = plan[0]
    assert plan.steps_per_epoch == 1 and np.bincount(draw.ids).tolist() in (
        [3, 3, 2],
        [3, 2, 3],
        [2, 3, 3],
    )


def test_evaluation_is_one_epoch_in_order_filled_with_weight_zero():
    plan = BatchSchedule(
        np.array([1.0, 3.0, 1.0, 1.0]),
        spans=(Span(0, 1, 5.0), Span(1, 4)),
        buckets=(1.0, 2.0),
        batch_size=2,
        shuffle=False,
    )
    draws = [plan[s] for s in range(len(plan))]
    ids = np.concatenate([d.ids[d.weight > 0] for d in draws])
    assert ids.tolist() == [0, 2, 3, 1] and [d.bucket for d in draws] == [0, 0, 1]
    assert [d.weight.tolist() for d in draws] == [[1, 1], [1, 0], [1, 0]]
    with pytest.raises(IndexError):
        plan[3]


def test_seconds_per_step_counts_cropped_lengths():
    plan = BatchSchedule(np.array([1.0, 2.0, 3.0, 8.0]), buckets=(4.0,), batch_size=2)
    assert plan.seconds_per_step == pytest.approx((1 + 2 + 3 + 4) / 2)
    assert plan.examples_per_epoch == 4


def test_errors_name_the_config_key():
    ones = np.ones(4)
    for options, message in [
        ({"buckets": ()}, "config.data.buckets"),
        ({"buckets": (2.0, 1.0)}, "config.data.buckets"),
        ({"batch_size": 0}, "config.data.batch_size is 0"),
        ({"batch_size": 6, "multiple": 4}, "use a multiple of 4, such as 4"),
    ]:
        with pytest.raises(DataError, match=message):
            BatchSchedule(ones, **{"buckets": (1.0,), "batch_size": 2, **options})
    with pytest.raises(DataError, match=r"no rows"):
        BatchSchedule(np.zeros(0), buckets=(1.0,), batch_size=2)


def test_a_million_rows_start_anywhere_within_seconds():
    seconds = np.random.default_rng(0).uniform(1.0, 20.0, 1_000_000)
    plan = BatchSchedule(seconds, buckets=(5.0, 10.0, 20.0), batch_size=64, seed=0)
    begin = time.process_time()
    plan[123_456_789]
    first = time.process_time() - begin
    begin = time.process_time()
    plan[123_456_790]
    assert first < 1.0 and time.process_time() - begin < 0.01
