"""Reference curves: bands over seeds, and a run compared with them."""

import json

import pytest

from experiments import curves


def write_run(folder, values, every=10, name="train/loss"):
    folder.mkdir()
    rows = [{"step": every * (i + 1), name: v} for i, v in enumerate(values)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def reference(tmp_path):
    runs = [write_run(tmp_path / f"r{i}", [4 - i, 3 - i, 2 - i]) for i in (0, 1)]
    return {"iteration 1": curves.of_runs(runs, ["train/loss", "train/none"])}


def test_a_band_is_the_mean_the_least_and_the_most_of_the_seeds(reference):
    assert set(reference["iteration 1"]) == {"train/loss"}
    band = reference["iteration 1"]["train/loss"]
    assert band["step"] == [10, 20, 30]
    assert band["mean"] == [3.5, 2.5, 1.5]
    assert band["least"] == [3, 2, 1] and band["most"] == [4, 3, 2]


@pytest.mark.parametrize(
    ("values", "place"), [([3.8, 2.4], "inside"), ([4, 4], "above"), ([1, 1], "below")]
)
def test_a_run_is_compared_at_the_last_step_that_both_have(reference, tmp_path, values, place):
    (row,) = curves.compare(write_run(tmp_path / "mine", values), reference)
    assert (row["step"], row["place"]) == ("20", place)
    assert row["mean"] == "2.500" and row["this run"] == f"{values[-1]:.3f}"


def test_the_command_prints_the_table_and_draws(reference, tmp_path, capsys):
    run = write_run(tmp_path / "mine", [3.9, 3.0, 1.4, 1.0])
    (tmp_path / "curves.json").write_text(json.dumps(reference))
    curves.main(["--run", str(run), "--reference", str(tmp_path / "curves.json")])
    row = " ".join(capsys.readouterr().out.splitlines()[2].split())
    assert row == "iteration 1 train/loss 30 1.400 1.500 1.000 to 2.000 inside"
    assert (run / "curves.png").stat().st_size > 5_000


def test_what_cannot_be_compared_is_one_clear_error(reference, tmp_path):
    run = write_run(tmp_path / "mine", [1.0], name="train/other")
    path = tmp_path / "curves.json"
    with pytest.raises(SystemExit, match=r"there is no .*curves\.json"):
        curves.main(["--run", str(run), "--reference", str(path)])
    path.write_text(json.dumps(reference))
    with pytest.raises(SystemExit, match="logs none of train/loss"):
        curves.main(["--run", str(run), "--reference", str(path)])


def test_seeds_become_a_reference(tmp_path, capsys):
    runs = [write_run(tmp_path / f"r{i}", [4 - i, 3 - i]) for i in (0, 1)]
    out = tmp_path / "curves.json"
    named = "speech=" + ",".join(map(str, runs))
    curves.main(["--runs", named, "--save", str(out)])
    assert json.loads(out.read_text())["speech"]["train/loss"]["mean"] == [3.5, 2.5]
    curves.main(["--run", str(runs[0]), "--reference", str(out)])
    assert "inside" in capsys.readouterr().out


def test_a_reference_that_cannot_be_made_is_one_clear_error(tmp_path):
    run = str(write_run(tmp_path / "r", [4]))
    out = str(tmp_path / "curves.json")
    for named, message in ((f"a={run}", "two runs or more"), (f"a={run},gone", "gone is no run")):
        with pytest.raises(SystemExit, match=message):
            curves.main(["--runs", named, "--save", out])
    for flags in (["--run", run, "--save", out], ["--runs", run], ["--run", run]):
        with pytest.raises(SystemExit, match="give --run with --reference, or --runs with --save"):
            curves.main(flags)


def test_runs_of_unequal_length_become_a_reference_and_one_point_is_compared(tmp_path, capsys):
    runs = [write_run(tmp_path / f"r{i}", [4.0 - i, 3.0, 2.0][: 3 - i]) for i in (0, 1)]
    band = curves.of_runs(runs, ["train/loss"])["train/loss"]
    assert band["step"] == [10, 20, 30] and band["mean"] == [3.5, 3.0, 2.0]
    assert band["least"] == [3.0, 3.0, 2.0] and band["most"] == [4.0, 3.0, 2.0]
    path = tmp_path / "curves.json"
    path.write_text(json.dumps({"ours": {"train/loss": band}}))
    point = write_run(tmp_path / "point", [9.0])
    curves.main(["--run", str(point), "--reference", str(path)])
    assert "ours" in capsys.readouterr().out and (point / "curves.png").is_file()


def test_a_run_is_compared_with_the_references_of_its_modality(tmp_path, reference):
    run = write_run(tmp_path / "mine", [1.0, 2.0])
    (run / "config.json").write_text('{"data": {"modality": "image"}}')
    of_kind = {"speech": reference["iteration 1"], "text": reference["iteration 1"]}
    path = tmp_path / "curves.json"
    path.write_text(json.dumps(of_kind))
    message = "error: .*curves.json has the references speech, text, and the run reads image: make"
    with pytest.raises(SystemExit, match=message):
        curves.main(["--run", str(run), "--reference", str(path)])
    own = curves.metrics.of_modality(of_kind | {"ours": {}}, "text", "x")
    assert list(own) == ["text", "ours"]  # a name that is no kind of data is for all


def test_one_reference_is_kept_beside_others(tmp_path):
    run = write_run(tmp_path / "mine", [1.0, 2.0])
    path = tmp_path / "curves.json"
    path.write_text('{"text": {}}')
    found = curves.keep(path, "speech", [run])
    assert found == json.loads(path.read_text()) and list(found) == ["text", "speech"]
