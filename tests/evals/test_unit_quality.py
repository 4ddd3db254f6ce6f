"""Phone purity, cluster purity and PNMI by hand; phones from CTM files."""

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import alignments
from ssl_jax.evals import unit_quality


def test_scores_of_counts_worked_out_by_hand():
    # p(y, z) = [[3, 1, 0], [0, 2, 2]] / 8
    found = unit_quality.scores(np.array([[3, 1, 0], [0, 2, 2]]))
    assert found["phone_purity"] == pytest.approx((3 + 2 + 2) / 8)
    assert found["cluster_purity"] == pytest.approx((3 + 2) / 8)
    # H(y) = 1 bit; H(y | z) = 3/8 h(1/3) with h(1/3) = 0.918296 bits
    assert found["pnmi"] == pytest.approx(1 - 3 / 8 * 0.9182958)


@pytest.mark.parametrize(
    ("joint", "pnmi"),
    [([[5, 0], [0, 3]], 1.0), ([[4, 8], [2, 4]], 0.0), ([[2, 3]], 0.0)],
)
def test_units_that_are_phones_and_units_that_know_nothing(joint, pnmi):
    assert unit_quality.scores(np.array(joint))["pnmi"] == pytest.approx(pnmi, abs=1e-12)


def test_counts_add_up_over_recordings_and_layers():
    rng = np.random.default_rng(0)
    counts, seen = unit_quality.Counts(2, 5, 7), []
    for size in (40, 1, 25):
        phones, found = rng.integers(5, size=size), rng.integers(7, size=(2, size))
        counts.add(phones, found)
        seen.append((phones, found))
    phones, found = (np.concatenate(x, -1) for x in zip(*seen, strict=True))
    assert counts.joint.sum() == 2 * 66
    rows = counts.rows((3, 6), rate=50.0)
    p = np.bincount(phones, minlength=5) / 66
    entropy = -(p * np.log(p)).sum()
    for row, layer, own in zip(rows, (3, 6), found, strict=True):
        assert row["layer"] == layer
        assert row["pnmi"] == pytest.approx(mutual_info_score(phones, own) / entropy)
        assert row["used"] == len(np.unique(own))


def test_the_mean_length_of_a_run_of_units():
    counts = unit_quality.Counts(1, 1, 4)
    counts.add(np.zeros(6, int), np.array([[1, 1, 1, 2, 2, 0]]))
    counts.add(np.zeros(2, int), np.array([[0, 0]]))
    assert counts.rows((0,), rate=50.0)[0]["segment"] == pytest.approx(8 / 4 / 50)


def test_frames_of_other_lengths_and_no_frame_are_errors():
    with pytest.raises(ValueError, match="cut both to one length"):
        unit_quality.Counts(1, 2, 3).add(np.zeros(4, int), np.zeros((1, 5), int))
    with pytest.raises(ValueError, match="no frame has both"):
        unit_quality.scores(np.zeros((2, 2), int))


CTM = "a 1 0.10 0.20 AH0\na 1 0.30 0.10 K\nb 1 0.0 0.5 sil\n\na 1 0.55 0.05 AH1\n"


def test_a_frame_has_the_phone_at_its_centre(tmp_path):
    (tmp_path / "x.ctm").write_text(CTM)
    phones = alignments.read_ctm(tmp_path / "x.ctm")
    assert phones.names == ("SIL", "AH", "K")
    times = np.array([0.05, 0.1, 0.29, 0.3, 0.45, 0.56, 0.7])
    assert phones.at("a", times).tolist() == [0, 1, 1, 2, 0, 1, 0]
    assert phones.at("b", times).tolist() == [0] * 7
    assert phones.phones("a") == ["AH", "K", "AH"]
    assert alignments.name_of("mine/folder/a.flac") == "a"


def test_what_is_written_is_read(tmp_path):
    rows = {"u1": [(0.0, 0.25, "p"), (0.25, 0.5, "SIL")], "u2": [(0.1, 0.2, "q")]}
    alignments.write_ctm(tmp_path / "x.ctm", rows)
    phones = alignments.read_ctm(tmp_path / "x.ctm")
    start, end, place = phones.rows["u1"]
    np.testing.assert_allclose(np.stack([start, end], 1), [[0, 0.25], [0.25, 0.5]])
    assert [phones.names[i] for i in place] == ["p", "SIL"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a 1 0.1 0.2 K\na 1 zero 0.2 K\n", "row 2: expected 'recording channel"),
        ("a 1 0.1 0.2 K\na 1 0.2 0.2 T\n", "phones of 'a' overlap"),
        ("\n", "is empty"),
    ],
)
def test_a_broken_file_is_named(tmp_path, text, says):
    (tmp_path / "x.ctm").write_text(text)
    with pytest.raises(DataError, match=says) as e:
        alignments.read_ctm(tmp_path / "x.ctm")
    assert "x.ctm" in str(e.value)


def test_a_missing_file_and_a_missing_recording_are_named(tmp_path):
    with pytest.raises(DataError, match="give a CTM file"):
        alignments.read_ctm(tmp_path / "none.ctm")
    (tmp_path / "x.ctm").write_text(CTM)
    with pytest.raises(DataError, match="no phones of 'c'"):
        alignments.read_ctm(tmp_path / "x.ctm").at("c", np.zeros(1))
