"""Stages: complete ones are skipped, changed ones run again, and a kill loses only one stage."""

import pytest

from ssl_jax.engine import hosts
from ssl_jax.stages.graph import Graph, Stage


@pytest.fixture
def graph(tmp_path):
    return Graph(tmp_path, notify=lambda line: None)


def _count(calls):
    return lambda folder: calls.append(folder.name)


def test_a_complete_stage_is_not_run_again(graph):
    calls = []
    stage = Stage("train", "a", {"lr": 0.1})
    folder = graph.run(stage, _count(calls))
    assert graph.run(Stage("train", "a", {"lr": 0.1}), _count(calls)) == folder
    assert len(calls) == 1 and graph.seconds(stage) >= 0


def test_a_changed_config_runs_again_with_all_that_follows(graph):
    calls = []
    for lr in (0.1, 0.2):
        first = Stage("train", "a", {"lr": lr})
        second = Stage("eval", "b", {}, (first,))
        graph.run(first, _count(calls))
        graph.run(second, _count(calls))
    assert len(set(calls)) == 4


def test_a_stage_that_failed_is_called_again_in_its_folder(graph):
    stage, seen = Stage("train", "a", {}), []

    def work(folder):
        seen.append(sorted(p.name for p in folder.iterdir()))
        (folder / "half").write_text("")
        if len(seen) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        graph.run(stage, work)
    assert not graph.done(stage)
    graph.run(stage, work)
    assert "half" in seen[1]


def test_a_need_that_is_not_complete_is_named(graph):
    with pytest.raises(RuntimeError, match="needs 'a'"):
        graph.run(Stage("eval", "b", {}, (Stage("train", "a", {}),)), lambda folder: None)


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="'cook'"):
        Stage("cook", "a", {})


@pytest.mark.parametrize("first", [True, False])
def test_on_many_hosts_the_first_keeps_the_books_and_does_what_needs_no_device(
    graph, monkeypatch, first
):
    asked, calls = [], []
    monkeypatch.setattr(hosts, "is_first", lambda: first)
    monkeypatch.setattr(hosts, "of_first", lambda value: asked.append(value) or value)
    monkeypatch.setattr(hosts, "all_of", lambda good: asked.append(good) or good)
    for kind in ("data", "train"):
        folder = graph.run(Stage(kind, kind, {}), _count(calls))
        assert (folder / "stage.json").exists() == (folder / "DONE").exists() == first
    assert len(calls) == (2 if first else 1)
    assert (
        asked == [False, True, False, True, True] * 2
    )  # all hosts make the same checks, in the same order
