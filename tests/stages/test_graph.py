"""Stages: what is complete is skipped, what changed is done again, a kill loses nothing else."""

import pytest

from ssl_jax.stages.graph import Graph, Stage


@pytest.fixture
def graph(tmp_path):
    return Graph(tmp_path, say=lambda line: None)


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
