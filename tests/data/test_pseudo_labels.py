"""Stores of pseudo-labels: written, read, joined to their recordings, and mixed into batches."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from ssl_jax.core import config as config_lib
from ssl_jax.data import pseudo_labels, transcripts
from ssl_jax.data.batch_schedule import BatchSchedule, Span
from ssl_jax.data.corpus import make_schedule, open_split
from ssl_jax.data.errors import DataError

ROWS = [
    {"key": "pool/b.wav", "text": "two\twords", "score": -1.25},
    {"key": "pool/a.wav", "text": "one", "score": -0.5},
]


@pytest.fixture
def pool(tmp_path, write):
    """A source of three recordings, of which a store labels two."""
    for i, name in enumerate("abc"):
        write(tmp_path / "clips" / f"{name}.wav", 0.1 * (i + 1))
    pseudo_labels.write(tmp_path / "store", {"teacher": "ab12-step 5"}, ROWS)
    path, store = str(tmp_path / "clips"), str(tmp_path / "store")
    return {"kind": "folder", "path": path, "pseudo_labels": store, "transcript": "text"}


def data(**sources):
    """Returns config.data with the sources of a training split."""
    found = config_lib.load("configs/ctc/speech.py:toy").data.copy_and_resolve_references()
    with found.unlocked():
        found.update({"buckets": (0.5,), "batch_size": 4})
        found.train = ConfigDict(sources)
    return found


def test_a_source_has_the_rows_that_its_store_labels(pool):
    corpus = open_split(data(pool=pool), "train")
    assert [corpus.key(i) for i in range(2)] == ["pool/a.wav", "pool/b.wav"] and len(corpus) == 2
    spoken = corpus.fields["transcript"][np.arange(2)]
    texts = ["".join(transcripts.LETTERS[t] for t in row if t >= 0) for row in spoken]
    assert texts == ["ONE|", "TWO|WORDS|"]  # a tab in a text is a space
    assert corpus.sources[0].columns["score"].tolist() == ["-0.5", "-1.25"]


def test_a_row_of_the_store_that_is_gone_is_named(pool, tmp_path):
    (tmp_path / "clips" / "b.wav").unlink()
    with pytest.raises(DataError, match=r"labels 'pool/b\.wav', which is not a recording"):
        open_split(data(pool=pool), "train")
    with pytest.raises(DataError, match=r"config\.data\.train\.other\.pseudo_labels=.* labels"):
        open_split(data(other=pool), "train")


def test_a_store_of_another_teacher_is_refused(pool):
    assert len(open_split(data(pool=pool | {"teacher": "ab12-step 5"}), "train")) == 2
    with pytest.raises(DataError, match=r"made by the teacher 'ab12-step 5', and config\.data\."):
        open_split(data(pool=pool | {"teacher": "cd34-step 5"}), "train")


def test_a_damaged_store_names_its_file(pool, tmp_path):
    store = tmp_path / "store"
    assert pseudo_labels.read(store).teacher == "ab12-step 5"
    table = (store / "labels.tsv").read_text()
    (store / "labels.tsv").write_text(table + "x\ty\n")
    with pytest.raises(DataError, match=r"labels\.tsv, row 4: 2 fields, and the header has 3"):
        pseudo_labels.read(store)
    (store / "labels.tsv").write_text(table.splitlines()[0] + "\n")
    with pytest.raises(DataError, match=r"and 0 rows, and header\.json says 2"):
        pseudo_labels.read(store)
    (store / "header.json").unlink()
    with pytest.raises(DataError, match=r"no complete store of pseudo-labels"):
        pseudo_labels.read(store)
    with pytest.raises(DataError, match="no pseudo-label is left"):
        pseudo_labels.write(store, {"teacher": ""}, [])


def test_every_batch_has_the_same_share_of_each_source():
    seconds = np.array([0.5, 0.5, 2.0, 2.0] + [0.5] * 20 + [2.0] * 9)
    spans = (Span(0, 4, share=0.25), Span(4, 33, share=0.75))
    plan = BatchSchedule(seconds, spans=spans, buckets=(1.0, 4.0), batch_size=8, seed=3)
    assert plan.steps_per_epoch == 3 + 2  # as many as the rows of all sources fill
    ids = [plan[step].ids for step in range(4 * plan.steps_per_epoch)]
    assert {int((x < 4).sum()) for x in ids} == {2}
    counts = np.bincount(np.concatenate(ids), minlength=33)
    assert counts[4:].min() > 0 and len({*counts[:2]}) == len({*counts[2:4]}) == 1
    again = BatchSchedule(seconds, spans=spans, buckets=(1.0, 4.0), batch_size=8, seed=3)
    np.testing.assert_array_equal(again[17].ids, ids[17])
    in_order = BatchSchedule(seconds, spans=spans, buckets=(1.0, 4.0), batch_size=8, shuffle=False)
    assert sum(int(in_order[i].weight.sum()) for i in range(len(in_order))) == 33


def test_shares_that_cannot_be_kept_are_refused(pool):
    seconds, spans = np.array([0.5, 2.0]), (Span(0, 1, share=0.1), Span(1, 2, share=0.9))
    with pytest.raises(DataError, match=r"no recording in the bucket of 1\.0 s, .* use fewer"):
        BatchSchedule(seconds, spans=spans, buckets=(1.0, 4.0), batch_size=8)
    with pytest.raises(DataError, match=r"batches of 1 rows, too few to hold one of each of 2"):
        BatchSchedule(seconds, spans=spans, buckets=(4.0,), batch_size=1)
    plain = pool | {"pseudo_labels": "", "transcript": ""}
    one, two = {"batch_share": 0.1}, {"batch_share": 0.8}
    for pair, message in (
        ((one, two), "add up to 1, such as 0.1 and 0.9"),
        ((one, {}), r"are \(0\.1, 0\.0\)"),
        ((one, {"batch_share": 0.9, "weight": 2.0}), "leave weight at 1.0"),
        ((one, {"batch_share": 9.0}), r"config\.data\.train\.b\.batch_share is 9\.0"),
    ):
        a, b = (plain | more for more in pair)
        with pytest.raises(DataError, match=message):
            open_split(data(a=a, b=b), "train")
    a, b = (plain | {"batch_share": share} for share in (0.25, 0.75))
    corpus = open_split(data(a=a, b=b), "train")
    plan = make_schedule(corpus, {"batch_size": 4}, seed=0)
    assert {int((plan[step].ids < 3).sum()) for step in range(6)} == {1}


def test_the_header_says_what_made_the_labels(pool, tmp_path):
    header = json.loads((tmp_path / "store" / "header.json").read_text())
    assert header == {"teacher": "ab12-step 5", "rows": 2}
