"""The report of a sweep: ranking over seeds, failures, other code, the CSV, the page."""

import csv
import json

import pytest
from page_checks import Page

from ssl_jax.core import lock
from ssl_jax.core.config import ConfigError
from ssl_jax.evals import table
from ssl_jax.reports import plots
from ssl_jax.sweeps import report, run_folders, status, sweep

FILE = """
from ml_collections import ConfigDict

def get_config(arg=None):
    return ConfigDict({
        "seed": 0, "optim": {"lr": 1.0, "name": "sgd"}, "data": {"batch_size": 4},
        "train": {"duration": "2 steps"},
        "checkpoint": {"best_metric": "", "best_mode": "min"},
    })

def sweep(s):
    return s.product({"optim.lr": (1, 2, 3), "seed": range(3)})
"""
# of the last step, by lr and seed
ACCURACY = {1.0: (0.5, 0.6, 0.7), 2.0: (0.9, 0.8, 0.85), 3.0: (0.1, 0.2, 0.3)}


@pytest.fixture
def begun(tmp_path):
    """Returns (root, runs) of a sweep: one run failed, one stopped and the others are done."""
    (tmp_path / "tiny.py").write_text(FILE)
    root = tmp_path / "root"
    found = sweep.read(str(tmp_path / "tiny.py"), [], root)
    sweep.write(root, found, {})
    for run in found:
        lr, seed = run.values["optim.lr"], run.values["seed"]
        rows = [{"step": i, "time": 100.0 + i, "train/loss": lr / i} for i in (1, 2)]
        rows.append({"step": 2, "time": 103.0, "valid/accuracy": ACCURACY[lr][seed]})
        (run.folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        (run.folder / "code.txt").write_text("aaaa00001111 0\n")
        (run.folder / "lock").touch()
        if (lr, seed) == (3.0, 0):
            run_folders.fail(run.folder, "CollapseError: the targets <collapsed>")
        elif (lr, seed) != (3.0, 1):
            (run.folder / "DONE").write_text("{}")
    return root, found


def test_runs_are_ranked_by_their_mean_over_seeds(begun):
    found = begun[1]
    results = report.collect(found)
    metric, best = report.choose(results, "valid/accuracy")
    assert best == "max"
    groups = report.rank(results, metric, best)
    assert [g.values["optim.lr"] for g in groups] == [2.0, 1.0, 3.0]
    assert groups[0].scores == [0.9, 0.8, 0.85] and groups[2].scores == [0.3]
    assert [g.values["optim.lr"] for g in report.rank(results, metric, "min")] == [3, 1, 2]
    rows = report.ranking(groups, metric)
    _, half = table.interval([0.9, 0.8, 0.85])
    assert rows[0] == {
        "rank": 1,
        "optim.lr": 2.0,
        "valid/accuracy": f"0.85 ± {half:.2g}",
        "runs": "3 of 3",
    }
    assert rows[2]["valid/accuracy"] == "0.3"
    assert rows[2]["runs"] == "1 of 3, 1 failed, 1 stopped"


def test_the_metric_and_its_better_end_are_chosen_or_named(begun):
    results = report.collect(begun[1])
    assert report.choose(results) == ("train/loss", "min")
    assert report.choose(results, "valid/accuracy", "min") == ("valid/accuracy", "min")
    with pytest.raises(ConfigError, match=r"--metric valid/acuracy: did you mean 'valid/acc"):
        report.choose(results, "valid/acuracy")
    own = results[0].run.config
    with own.unlocked():
        own.checkpoint.best_metric, own.checkpoint.best_mode = "valid/accuracy", "max"
    assert report.choose(results) == ("valid/accuracy", "max")
    for name, best in (("valid/word_wer", "min"), ("a/perplexity", "min"), ("a/std", "max")):
        results[0].rows.append({"step": 3, name: 1.0})
        assert report.choose(results, name) == (name, best)


def test_the_report_names_what_failed_and_what_is_of_another_version(begun):
    root, found = begun
    (found[4].folder / "code.txt").write_text("aaaa00001111 0\nbbbb00001111 1\n")
    stranger = root / "0123abcd"
    stranger.mkdir()
    (stranger / "config.json").write_text("{}")
    rows, said, metric = report.write(root, found, "valid/accuracy")
    assert rows[0]["rank"] == 1 and metric == "valid/accuracy"
    text = "\n".join(said)
    assert f"run 6 ({found[6].label}) failed: CollapseError: the targets <collapsed>" in text
    assert "aaaa00001111 then bbbb00001111 made runs 4" in text
    assert "1 run folders are of another version of this sweep" in text and "0123abcd" in text
    assert stranger.is_dir()
    words = " ".join(Page((root / "report.html").read_text()).words)
    for line in said:
        assert line in words
    assert "7 done, 1 failed, 1 stopped" in words and "higher is better" in words


def test_the_csv_has_every_row_of_every_run(begun):
    root, found = begun
    report.write(root, found)
    with (root / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 27
    assert rows[2] == {
        "run": "0",
        "signature": found[0].signature,
        "state": "done",
        "optim.lr": "1.0",
        "seed": "0",
        "step": "2",
        "time": "103.0",
        "train/loss": "",
        "valid/accuracy": "0.5",
    }


def test_the_page_stands_alone_and_has_every_plot(begun):
    root, found = begun
    report.write(root, found, "valid/accuracy")
    page = Page((root / "report.html").read_text())
    labels = [a["aria-label"] for tag, a in page.tags if tag == "svg"]
    assert labels == [
        "valid/accuracy",
        "train/loss",
        "valid/accuracy at the end",
        "Every group of runs",
    ]
    assert "http" not in (root / "report.html").read_text()
    links = [a for tag, a in page.tags if tag in ("script", "img", "iframe")]
    assert not links


def test_a_sweep_without_a_number_is_reported_too(begun):
    root, found = begun
    for run in found:
        (run.folder / "metrics.jsonl").unlink()
    rows, said, metric = report.write(root, found)
    assert [row["rank"] for row in rows] == ["-"] * 3 and metric == "train/loss"
    assert len(said) == 1 and "run 6" in said[0]
    Page((root / "report.html").read_text())


def test_the_status_follows_the_files(begun):
    found = begun[1]
    (found[0].folder / "DONE").unlink()
    with (found[0].folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "time": 104.0, "trai')  # being written
    with lock.hold(found[0].folder):
        rows = status.table(found)
        words = status.summary(found)
    assert words == "9 runs: 6 done, 1 failed, 1 running, 1 stopped"
    assert rows[0]["state"] == "running" and rows[0]["step"] == "2/2"
    assert rows[0]["loss"] == "0.5" and rows[0]["left"] == "0s"
    assert rows[6]["error"] == "CollapseError: the targets <collapsed>"


def test_the_time_left_is_that_of_the_pace(begun):
    found = begun[1]
    run = found[0]
    with run.config.unlocked():
        run.config.train.duration = "100 steps"
    rows = [{"step": i, "time": 10.0 * i, "train/loss": 1.0} for i in (5, 10)]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (run.folder / "DONE").unlink()
    with lock.hold(run.folder):
        assert status.table(found)[0]["left"] == "15m"
    assert [status.clock(s) for s in (42, 3600, 7620)] == ["42s", "1h00m", "2h07m"]


def test_a_score_over_nothing_is_none_and_ranks_last(begun):
    root, found = begun
    for run in found:
        if run.values["optim.lr"] == 2.0:  # the best except for its last evaluation
            with (run.folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": 3, "time": 104.0, "valid/accuracy": None}) + "\n")
    rows, _, metric = report.write(root, found, "valid/accuracy")
    assert [(row["rank"], row["optim.lr"]) for row in rows] == [(1, 1.0), (2, 3.0), ("-", 2.0)]
    assert rows[2][metric] == "none"


def test_a_report_of_runs_that_were_not_begun_leaves_a_good_one_alone(begun):
    root, found = begun
    report.write(root, found)
    about = {"config": "tiny.py", "overrides": ["--config.data.batch_size=4", "seed=1"]}
    sweep.write(root, found, about)
    before = (root / "report.html").read_text()
    others = sweep.read(str(root.parent / "tiny.py"), ["data.batch_size=9"], root)
    message = (
        r"none of these 9 runs was begun in .*root, and 9 others were: repeat --config tiny.py "
        r"--config.data.batch_size=4 --config.seed=1, or give --workdir .*root alone\. Nothing was"
    )
    with pytest.raises(ConfigError, match=message):
        report.write(root, others)
    (root / "sweep.json").unlink()
    with pytest.raises(ConfigError, match="repeat the --config and the overrides that it was"):
        report.write(root, others)
    assert (root / "report.html").read_text() == before


def test_rows_link_to_the_reports_of_their_runs(begun):
    root, found = begun
    for run in found[:4]:
        (run.folder / "report.html").touch()
    report.write(root, found, "valid/accuracy")
    page = Page((root / "report.html").read_text())
    links = [a["href"] for tag, a in page.tags if tag == "a" and "/" in a.get("href", "")]
    own = [f"{run.label}/report.html" for run in found[:4]]
    # once beside the rank of its group, where the group of the fourth is first, and once by itself
    assert links == [own[3], *own[:3], *own] and all((root / link).is_file() for link in links)


def test_curves_of_unequal_length_are_drawn_to_the_end_of_the_longest(begun):
    found = begun[1][:3]  # of one group
    rows = ({1: 4.0, 3: 2.0, 5: 1.0}, {1: 2.0}, {2: 0.0, 3: 1.0})
    for run, points in zip(found, rows, strict=True):
        lines = [json.dumps({"step": k, "train/loss": v}) + "\n" for k, v in points.items()]
        (run.folder / "metrics.jsonl").write_text("".join(lines))
    (group,) = report.rank(report.collect(found), "train/loss", "min")
    line = report._curve(group, "train/loss", "a")
    assert line.x.tolist() == [1, 2, 3, 5] and line.y.tolist() == [3.0, 1.5, 1.5, 1.0]
    assert line.low.tolist() == [2.0, 0.0, 1.0, 1.0] and line.high.tolist() == [4.0, 3.0, 2.0, 1.0]
    alone = report.rank(report.collect(found[1:2]), "train/loss", "min")[0]
    svg = plots.lines([report._curve(alone, "train/loss", "a")], "one point")
    assert svg.count("<circle") == 1
