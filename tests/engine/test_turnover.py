"""The turnover of a teacher: its value, what is said where it is low, and who refuses it."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from ssl_jax.core.config import ConfigError
from ssl_jax.engine import turnover
from ssl_jax.nn.teacher import EmaOptions


def method(start=0.999, end=0.9999, anneal=30_000):
    """Returns what matters of a method with that teacher."""
    return SimpleNamespace(decay=EmaOptions(start, end, anneal, ()).decay)


NONE = SimpleNamespace(decay=None)
FRESH, CONTINUED = {"init_from": ""}, {"init_from": "runs/first"}


def test_the_turnover_of_published_and_of_short_runs():
    assert turnover.by_step(method(), 400_000)[-1] == pytest.approx(53.5, abs=0.05)
    assert turnover.by_step(method(anneal=250), 250)[-1] == pytest.approx(0.137, abs=1e-3)
    constant = turnover.by_step(method(0.9, 0.9, 0), 100)
    np.testing.assert_allclose(constant, 0.1 * np.arange(101), rtol=1e-5)
    assert turnover.by_step(NONE, 100) is None


def test_the_decay_that_is_named_gives_ten():
    text = turnover.low(method(anneal=250), FRESH, 250)
    share = f"{math.exp(-0.137):.1%}"
    assert text.startswith(f"teacher turnover is 0.137 in 250 updates: {share} of the teacher")
    assert "a decay of 0.96 throughout gives 10" in text and "\n" not in text
    assert turnover.by_step(method(0.96, 0.96, 0), 250)[-1] == pytest.approx(10, rel=1e-4)
    assert "hundreds of updates" in turnover.low(method(), FRESH, 8)


def test_a_fast_teacher_none_and_one_that_is_not_random_are_fine():
    assert turnover.low(method(0.97, 0.97), FRESH, 100) != ""
    assert turnover.low(method(0.969, 0.969), FRESH, 100) == ""
    assert turnover.low(NONE, FRESH, 5) == turnover.line(NONE, 5) == ""
    assert turnover.low(method(), CONTINUED, 250) == ""


def test_a_run_says_it_and_a_program_refuses_it(capsys):
    (text,) = turnover.judge(method(), FRESH, 250).values()
    assert text in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"of the teacher is .*--allow_low_turnover=True"):
        turnover.judge(method(), FRESH, 250, allowed=False)
    assert turnover.judge(NONE, FRESH, 250, allowed=False) == {}
