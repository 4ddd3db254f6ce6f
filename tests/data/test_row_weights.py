"""Rows that are drawn by weights: which weights, how often, and what is refused."""

import numpy as np
import pytest

from ssl_jax.data import row_weights
from ssl_jax.data.batch_schedule import BatchSchedule, Span
from ssl_jax.data.corpus import make_schedule, open_split
from ssl_jax.data.errors import DataError
from ssl_jax.data.labels import MultiHot

ROWS = [("a", "rock|guitar", "3"), ("b", "", "0"), ("c", "guitar|guitar", "1"), ("d", "voice", "2")]


@pytest.fixture
def source(tmp_path, write):
    """The options of a table of four clips, the first of which is longer than the others."""
    lines = ["path\ttags\tshare"]
    for name, *values in ROWS:
        write(tmp_path / f"{name}.wav", 0.3 if name == "a" else 0.1)
        lines.append("\t".join([f"{name}.wav", *values]))
    (tmp_path / "index.tsv").write_text("\n".join(lines) + "\n")
    return {"kind": "table", "path": str(tmp_path), "tags": "tags"}


def test_a_rare_label_weighs_more():
    labels = np.array([0, 0, 1, -1])
    np.testing.assert_allclose(
        row_weights.balanced(labels, None), [1000 / 2.01, 1000 / 2.01, 1000 / 1.01, 0]
    )
    # rows with the tags (0, 1), none, 1 twice, 2
    tags = MultiHot(np.array([0, 2, 2, 4, 5]), np.array([0, 1, 1, 1, 2]), 3)
    np.testing.assert_allclose(
        row_weights.balanced(labels, tags),
        [1000 / 1.01 + 1000 / 2.01, 0, 1000 / 2.01, 1000 / 1.01],
    )


def test_draws_are_with_replacement_and_in_proportion():
    weights = np.array([1.0, 0.0, 2.0, 5.0])
    spans = (Span(0, 4, 1.0, weights), Span(4, 8))
    seconds = np.array([0.5, 0.5, 2.0, 0.5] * 2)
    plan = BatchSchedule(seconds, spans=spans, buckets=(1.0, 4.0), batch_size=4, seed=1)
    drawn = [plan[step] for step in range(1500)]
    ids = np.concatenate([d.ids for d in drawn])
    counts = np.bincount(ids, minlength=8)
    assert counts[1] == 0
    for wanted, rows in ((weights / 8, slice(0, 4)), (np.full(4, 0.25), slice(4, 8))):
        # batches are filled up within a bucket, which shifts the shares of the buckets
        short = np.array([True, True, False, True])
        got, share = counts[rows][short], wanted[short]
        np.testing.assert_allclose(got / got.sum(), share / share.sum(), atol=0.03)
    pairs = {(i, e) for d in drawn for i, e in zip(d.ids.tolist(), d.epoch.tolist(), strict=True)}
    # a row that is drawn again gets another crop, except where it fills up a bucket
    assert len([p for p in pairs if p[0] == 3]) > 0.7 * counts[3]
    again = BatchSchedule(seconds, spans=spans, buckets=(1.0, 4.0), batch_size=4, seed=1)
    np.testing.assert_array_equal(again[77].ids, drawn[77].ids)


def test_the_length_of_a_step_is_that_of_the_draws():
    spans = (Span(0, 2, 1.0, np.array([3.0, 1.0])),)
    plan = BatchSchedule(np.array([1.0, 2.0]), spans=spans, buckets=(4.0,), batch_size=2)
    assert plan.seconds_per_step == pytest.approx(2 * (0.75 * 1 + 0.25 * 2))


def test_a_corpus_draws_by_a_column_or_balanced_and_evaluates_every_row(source, data_config):
    for how, never in (("share", 1), ("balanced", 1)):
        config = data_config({"t": {**source, "row_weight": how}})
        config["valid"] = {"t": {**source, "row_weight": how}}
        plan = make_schedule(open_split(config, "train"), config, seed=0)
        ids = np.concatenate([plan[step].ids for step in range(50)])
        assert set(ids) == {0, 1, 2, 3} - {never}
        plan = make_schedule(open_split(config, "valid"), config, seed=0, shuffle=False)
        assert plan[0].ids.tolist() == [0, 1, 2, 3]


def test_wrong_weights_are_named_by_their_row(source, data_config, tmp_path):
    with pytest.raises(
        DataError, match=r"train\.t\.row_weight is 'much', not a column: use one of"
    ):
        open_split(data_config({"t": {**source, "row_weight": "much"}}), "train")
    table = tmp_path / "index.tsv"
    table.write_text(table.read_text().replace("\t2\n", "\t-2\n"))
    with pytest.raises(
        DataError, match=r"row 5 of index\.tsv: share is '-2': use a number of 0 or m"
    ):
        open_split(data_config({"t": {**source, "row_weight": "share"}}), "train")
    bare = {**source, "tags": "", "row_weight": "balanced"}
    with pytest.raises(DataError, match=r"t\.row_weight is 'balanced', but none of its rows has a"):
        open_split(data_config({"t": bare}), "train")
