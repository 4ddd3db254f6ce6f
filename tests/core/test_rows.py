"""Files that grow by rows: a damaged row affects no other, whatever is wrong with it."""

import json

import pytest

from ssl_jax.core import paths, rows
from ssl_jax.data import errors

NEEDS = {"step": int}
GOOD = [json.dumps({"step": n, "loss": "ä"}, ensure_ascii=False).encode() for n in range(4)]
DAMAGE = {
    "half": b'{"step": 2, "lo',
    "glued": b'{"step": 2, "lo{"step": 3}',
    "nul": b"\x00" * 40,
    "no_utf8": b'{"step": 2, "loss": "\xff"}',
    "no_object": b"7",
    "another_type": b'{"step": "2"}',
    "no_step": b'{"loss": 1.0}',
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("root", ["gs://bucket/run", ""])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_row_is_set_aside_by_name_and_every_other_stays(bucket, tmp_path, damage, root):
    file = (paths.of(root) if root else tmp_path) / "metrics.jsonl"
    file.write_bytes(b"\n".join([*GOOD[:2], damage, *GOOD[2:], b""]))
    said = []
    assert [row["step"] for row in rows.read(file, NEEDS, said.append)] == [0, 1, 2, 3]
    assert [row["step"] for row in rows.mend(file, NEEDS, said.append)] == [0, 1, 2, 3]
    assert [text.partition(": ")[2] for text in said] == [
        "row 3 is damaged and left out",
        "row 3 is damaged and set aside in metrics.jsonl.damaged; the other rows stay",
    ]
    assert file.read_bytes() == b"\n".join([*GOOD, b""])
    assert (file.parent / "metrics.jsonl.damaged").read_bytes() == damage + b"\n"
    rows.mend(file, NEEDS, said.append)
    assert len(said) == 2, "it is mended once"
    file.write_bytes(damage + b"\n")
    assert rows.mend(file, NEEDS, said.append) == [] and file.read_bytes() == b""
    assert (file.parent / "metrics.jsonl.damaged").read_bytes() == 2 * (damage + b"\n")


def test_a_line_cut_off_is_dropped_and_a_whole_one_without_its_end_is_a_row(tmp_path):
    file, said = tmp_path / "a.jsonl", []
    file.write_bytes(GOOD[0] + b"\n" + GOOD[1][:-3])
    assert [row["step"] for row in rows.mend(file, NEEDS, said.append)] == [0]
    assert file.read_bytes() == GOOD[0] + b"\n" and not said
    file.write_bytes(GOOD[0] + b"\n" + GOOD[1])
    assert [row["step"] for row in rows.mend(file, NEEDS, said.append)] == [0, 1]
    assert file.read_bytes() == GOOD[0] + b"\n" + GOOD[1] + b"\n"
    assert rows.mend(tmp_path / "absent", NEEDS, said.append) == []


def test_what_is_added_after_a_line_cut_off_is_a_line_of_its_own(tmp_path):
    file = tmp_path / "a.jsonl"
    for add in (paths.append, lambda path, text: paths.Lines(path).add(text.rstrip("\n"))):
        file.write_bytes(GOOD[0] + b"\n" + GOOD[1][:-3])
        add(file, '{"step": 7}\n')
        assert [row["step"] for row in rows.mend(file, NEEDS, print)] == [0, 7]


def test_many_damaged_rows_are_one_line(tmp_path):
    file, said = tmp_path / "a.jsonl", []
    file.write_bytes(b"x\n" * 5000)
    rows.read(file, NEEDS, said.append)
    assert said == [f"{file}: rows 1, 2, 3, 4, 5 and 4995 more are damaged and left out"]


def test_a_damaged_row_of_skipped_files_ends_no_run_and_the_others_are_counted(tmp_path):
    file = tmp_path / "skipped.jsonl"
    file.write_bytes(b'{"id": 3, "where": "a"}\nnull\n{"id": 5, "where": "b"}\n{"id": 7, "wh')
    with pytest.warns(UserWarning, match="row 2 is damaged and set aside in skipped.jsonl.damaged"):
        tally = errors.SkipCounter(0.5, 10, file)
    tally.add([errors.InvalidRow(5, "b", "counted before"), errors.InvalidRow(7, "c", "new")])
    assert len(tally) == 3 and len(errors.SkipCounter(0.5, 10, file)) == 3
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == [3, 5, 7]
