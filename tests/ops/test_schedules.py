"""Schedules: endpoints computed by hand, the shapes in between, and running under jit."""

import math

import jax
import numpy as np
import pytest

from ssl_jax.core.config import ConfigError
from ssl_jax.ops import schedules


def check(schedule, points: dict[int, float], rtol: float = 1e-5) -> None:
    """Compares at each step, under jit and outside of it."""
    jitted = jax.jit(schedule)
    for step, value in points.items():
        for fn in (schedule, jitted):
            got = fn(np.int32(step))
            np.testing.assert_allclose(got, value, rtol=rtol, atol=1e-12, err_msg=str(step))


def test_warmup_cosine_of_data2vec_audioset():
    # section 1: lr 5e-4, warm-up 10k of 200k
    check(
        schedules.warmup_cosine(5e-4, 200_000, 10_000),
        {
            0: 0.0,
            5_000: 2.5e-4,
            10_000: 5e-4,
            105_000: 2.5e-4,
            57_500: 5e-4 * (1 + math.sqrt(0.5)) / 2,
            200_000: 0.0,
            300_000: 0.0,
        },
    )


def test_warmup_cosine_to_an_end():
    # section 6: KWS fine-tuning, 10 of 140 epochs up, cosine to 1e-8
    check(
        schedules.warmup_cosine(1e-3, 1400, 100, end_lr=1e-8),
        {50: 5e-4, 100: 1e-3, 750: (1e-3 + 1e-8) / 2, 1400: 1e-8, 2000: 1e-8},
        rtol=2e-4,
    )


def test_cosine_without_warmup_starts_at_lr():
    check(schedules.warmup_cosine(2.0, 100, 0, 1.0), {0: 2.0, 50: 1.5, 100: 1.0})


def test_warmup_linear():
    check(
        schedules.warmup_linear(1e-2, 110, 10, end_lr=1e-3),
        {0: 0.0, 5: 5e-3, 10: 1e-2, 60: 5.5e-3, 110: 1e-3, 500: 1e-3},
    )
    check(schedules.warmup_linear(1.0, 10), {0: 1.0, 5: 0.5, 10: 0.0})


def test_constant():
    check(schedules.constant(0.3), {0: 0.3, 10_000: 0.3})
    check(schedules.constant(0.3, 10), {0: 0.0, 5: 0.15, 10: 0.3, 99: 0.3})


def test_inverse_sqrt():
    # 4 times the warm-up halves the rate
    check(
        schedules.inverse_sqrt(2e-3, 4000),
        {0: 0.0, 1000: 5e-4, 4000: 2e-3, 16_000: 1e-3, 400_000: 2e-4},
    )
    # the warm-up branch must not turn the other into NaN
    assert np.isfinite(jax.grad(lambda n: schedules.inverse_sqrt(1.0, 10)(n))(1.0))


def fairseq_tri_stage(lr, total, stages, start, end, n):
    """The formula, case by case in Python floats."""
    up, hold, decay = (round(total * s) for s in stages)
    if n < up:
        return lr * (start + (1 - start) * n / up)
    if n < up + hold:
        return lr
    if n < up + hold + decay:
        return lr * math.exp(math.log(end) * (n - up - hold) / decay)
    return lr * end


@pytest.mark.parametrize(
    ("lr", "total", "stages", "start", "end"),
    [
        (5e-4, 400_000, (0.03, 0.90, 0.07), 0.01, 0.01),  # section 1: Base
        (5e-5, 20_000, (0.1, 0.4, 0.5), 0.01, 0.05),  # its fine-tuning
        (1.0, 100, (0.0, 0.5, 0.5), 0.01, 0.05),
        (1.0, 100, (0.5, 0.0, 0.5), 0.0, 0.05),
        (1.0, 100, (0.29, 0.71, 0.0), 0.01, 0.05),
    ],
)
def test_tri_stage_is_the_formula_of_fairseq(lr, total, stages, start, end):
    schedule = schedules.tri_stage(lr, total, stages, start, end)
    up, hold = round(total * stages[0]), round(total * stages[1])
    steps = {0, 1, up // 2, up, up + hold // 2, up + hold, (total + up + hold) // 2, total - 1}
    check(schedule, {n: fairseq_tri_stage(lr, total, stages, start, end, n) for n in steps}, 1e-4)


def test_tri_stage_endpoints_of_data2vec_base():
    check(
        schedules.tri_stage(5e-4, 400_000, (0.03, 0.90, 0.07), 0.01, 0.01),
        {
            0: 5e-6,
            6_000: 5e-4 * 0.505,
            12_000: 5e-4,
            372_000: 5e-4,
            386_000: 5e-5,  # half of an exponential to a hundredth is a tenth
            400_000: 5e-6,
            500_000: 5e-6,
        },
        1e-4,
    )


def test_one_cycle_of_data2vec_kws():
    # section 6: lr 5e-4 over 26.6k steps; PyTorch counts its phases to the last step
    check(
        schedules.one_cycle(5e-4, 26_600),
        {
            0: 2e-5,
            7_979: 5e-4,
            26_599: 2e-9,
            30_000: 2e-9,
        },
        1e-4,
    )
    # half way up and half way down, of 21 steps: peak at 5.3, end at 20
    middle = (1.0 + 1 / 25) / 2
    one = schedules.one_cycle(1.0, 21)
    np.testing.assert_allclose(one(5.3 / 2), middle, rtol=1e-6)
    np.testing.assert_allclose(one((5.3 + 20) / 2), (1.0 + 4e-6) / 2, rtol=1e-6)


def test_ema_decay_of_data2vec():
    # section 1: 0.999 to 0.9999 over 30k
    check(
        schedules.ema_decay(0.999, 0.9999, 30_000),
        {0: 0.999, 15_000: 0.99945, 30_000: 0.9999, 400_000: 0.9999},
        rtol=1e-7,
    )


def test_ema_decay_ends_exactly():
    # a decay of 1 freezes the teacher; a value just below would not
    decay = jax.jit(schedules.ema_decay(0.9997, 1.0, 1000))
    assert float(decay(1000)) == float(decay(5000)) == 1.0
    for length in (10, 49):  # in float32, 1 - length * (1 / length) is not 0 for these
        assert float(jax.jit(schedules.ema_decay(-1.0, 0.0, length))(length)) == 0.0
    assert float(decay(999)) < 1.0
    assert float(schedules.ema_decay(0.9, 0.99, 0)(0)) == pytest.approx(0.99)


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.warmup_cosine(1.0, 50, 10),
        schedules.warmup_linear(1.0, 50, 10),
        schedules.tri_stage(1.0, 50, (0.2, 0.3, 0.5), 0.01, 0.05),
        schedules.one_cycle(1.0, 50),
        schedules.inverse_sqrt(1.0, 10),
        schedules.constant(1.0, 10),
    ],
)
def test_rises_then_falls_without_a_jump(schedule):
    values = np.array([float(schedule(n)) for n in range(60)])
    peak = int(np.argmax(values))
    assert values.max() == pytest.approx(1.0, abs=0.01)
    assert 9 <= peak <= 15
    assert np.all(np.diff(values[: peak + 1]) > 0)
    assert np.all(np.diff(values[peak:]) <= 0)
    assert np.abs(np.diff(values)).max() < 0.15


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: schedules.warmup_cosine(1.0, 100, 100), r"config\.optim\.warmup is 100 .* as 10"),
        (lambda: schedules.warmup_linear(1.0, 100, 200), r"config\.optim\.warmup is 200"),
        (lambda: schedules.inverse_sqrt(1.0, 0), r"config\.optim\.warmup is 0.*'4k steps'"),
        (lambda: schedules.one_cycle(1.0, 3), r"config\.train\.duration is 3"),
        (
            lambda: schedules.tri_stage(1.0, 9, (0.1, 0.1, 0.1), 0.1, 0.1),
            r"config\.optim\.stages .* sum 1",
        ),
        (
            lambda: schedules.tri_stage(1.0, 9, (0.5, 0.5), 0.1, 0.1),
            r"config\.optim\.stages .* three shares",
        ),
        (
            lambda: schedules.tri_stage(1.0, 9, (0.1, 0.4, 0.5), 0.1, 0.0),
            r"config\.optim\.end_factor 0\.0",
        ),
    ],
)
def test_a_schedule_that_can_not_be_is_one_error(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
