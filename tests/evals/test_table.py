import numpy as np
import pytest

from ssl_jax.evals.table import cell, interval, text_table


def test_interval_equals_the_textbook():
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    np.testing.assert_allclose(half, 4.302653 / np.sqrt(3), rtol=1e-6)
    np.testing.assert_allclose(interval(range(10))[1], 2.262157 * 3.027650 / np.sqrt(10), rtol=1e-5)


def test_one_value_has_no_interval_and_none_is_an_error():
    assert interval([0.5])[0] == 0.5 and np.isnan(interval([0.5])[1])
    with pytest.raises(ValueError, match="at least one"):
        interval([])


def test_cells():
    assert cell(0.91249) == "0.912"
    assert cell([0.9, 0.9, 0.9]) == "0.900 ± 0.000"
    assert cell([1.0, 2.0, 3.0], digits=1) == "2.0 ± 2.5"
    assert [cell(v) for v in (np.nan, None, [], [0.5, np.nan])] == ["none"] * 4


def test_a_score_over_nothing_is_none_and_leaves_its_column_one_of_numbers():
    rows = [{"wer": np.nan, "cer": None}, {"wer": 0.25, "cer": np.float32("nan")}]
    assert text_table(rows).splitlines() == [" wer  cer", "----  ----", "none  none", "0.25  none"]


def test_table_is_aligned_and_fills_gaps():
    rows = [{"model": "run", "acc": "0.91"}, {"model": "log-mel", "acc": "12.3", "layer": 3}]
    assert text_table(rows).splitlines() == [
        "model     acc  layer",
        "-------  ----  -----",
        "run      0.91      -",
        "log-mel  12.3      3",
    ]
