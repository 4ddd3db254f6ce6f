"""Pages of other people's folders: whatever their files contain is text, never a tag."""

import json

import numpy as np
import page_checks
import pytest
import report_folder as cases

from ssl_jax.core import config as config_lib
from ssl_jax.reports import run_report
from ssl_jax.sweeps import report, run_folders, sweep

EVIL = "\"'></title></style><evil onload=x><script>alert(1)</script><!-- ${x} \ud800"
STATES = ("metrics.jsonl", "environment.jsonl", "scopes.json", "evaluation.json")


def names(content):
    """Returns the structure of a page: the names of its tags and of their attributes."""
    page = page_checks.check(content)
    return {tag for tag, _ in page.tags} | {name for _, own in page.tags for name in own}


def places(value, path=()):
    """Yields the path of every leaf of a JSON value, and of every key, as ("key", name)."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*path, ("key", name))
            yield from places(inner, (*path, name))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from places(inner, (*path, i))
    else:
        yield path


def changed(value, path):
    """Returns a copy with hostile text at a path."""
    if not path:
        return EVIL if not isinstance(value, str) else value + EVIL
    head, *rest = path
    if isinstance(head, tuple):
        return {(k + EVIL if k == head[1] else k): v for k, v in value.items()}
    if isinstance(value, list):
        return [changed(v, rest) if i == head else v for i, v in enumerate(value)]
    return {k: changed(v, rest) if k == head else v for k, v in value.items()}


@pytest.fixture
def folder(tmp_path, root):
    made = cases.make_folder(tmp_path / "run", root, steps=50)
    for add in (cases.add_evaluation, cases.add_examples, cases.add_scopes):
        add(made)
    lines = (made / "metrics.jsonl").read_text().splitlines()
    (made / "metrics.jsonl").write_text("".join(line + "\n" for line in lines[-3:-1]))
    return made


@pytest.mark.parametrize("name", STATES)
def test_no_value_and_no_key_of_a_file_becomes_a_tag(name, folder, monkeypatch):
    monkeypatch.setattr(run_report.examples_lib, "read", lambda folder: [])  # of the next test
    file, usual = folder / name, names(run_report.page(folder))
    kept = file.read_text()
    rows = [json.loads(line) for line in kept.splitlines()] if name.endswith("l") else None
    whole = json.loads(kept) if rows is None else rows
    shown = 0
    for path in places(whole):
        other = changed(whole, path)
        lines = [json.dumps(row) for row in other] if rows else [json.dumps(other)]
        file.write_text("".join(line + "\n" for line in lines))
        try:
            content = run_report.page(folder)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            continue  # not a number, so no page
        assert "<evil" not in content and "<script" not in content
        assert names(content) <= usual | {"open", "pre"}, path
        content.encode("utf-8")
        shown += "&lt;evil" in content
    assert shown >= 3


def test_texts_config_and_examples_are_text(folder):
    usual = names(run_report.page(folder))
    for name in ("signature.txt", "parameters.txt", "code.txt", "classes.json"):
        (folder / name).write_text(EVIL, encoding="utf-8", errors="replace")
    config = config_lib.from_json((folder / "config.json").read_text()).unlock()
    config.method.name = config.data.train.sc.path = EVIL
    config.data[f"a{EVIL}"] = EVIL
    (folder / "config.json").write_text(config_lib.to_json(config))
    with np.load(folder / "examples.npz") as stored:
        arrays = dict(stored)
    about = json.loads(str(arrays.pop("about")))
    for one in about:
        one["name"] += EVIL
        one["texts"] = [[[t + EVIL, h] for t, h in view] for view in one.get("texts", [])]
    np.savez(folder / "examples.npz", about=np.array(json.dumps(about)), **arrays)
    content = run_report.page(folder)
    assert content.count("&lt;evil") > 8 and "<evil" not in content and "<script" not in content
    assert names(content) <= usual
    content.encode("utf-8")


def test_the_report_of_a_sweep_too(tmp_path):
    found = []
    for i in range(2):
        values = {f"optim.{EVIL}": EVIL, "optim.lr": float(i)}
        config = config_lib.from_json(json.dumps({"a": i, "checkpoint": {"best_metric": ""}}))
        folder = tmp_path / f"{i}"
        folder.mkdir()
        rows = [{"step": n, "time": 1.0, f"valid/loss{EVIL}": 1.0 / n} for n in (1, 2)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "metrics.jsonl").write_text(text)
        (folder / "code.txt").write_text(f"{EVIL} 0\n", errors="replace")
        found.append(sweep.Run(i, f"{EVIL}{i}", values, config, folder))
    run_folders.fail(found[0].folder, EVIL.encode("utf-8", "replace").decode())
    results = report.collect(found)
    metric, best = report.choose(results, f"valid/loss{EVIL}", "min")
    groups, said = report.rank(results, metric, best), report.notes(tmp_path, results)
    content = report.page(EVIL, results, groups, metric, best, said)
    assert not {"evil", "script", "onload"} & names(content)
    assert content.count("&lt;evil") > 5
