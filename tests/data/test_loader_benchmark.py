import importlib.util
import sys

import pytest


@pytest.fixture
def benchmark(root):
    path = root / "experiments" / "benchmarks" / "loader.py"
    spec = importlib.util.spec_from_file_location("loader_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_torch_it_says_what_to_install(benchmark, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(sys, "argv", ["loader.py"])
    with pytest.raises(SystemExit, match=r"pip install torch==2.13.0"):
        benchmark.main()


def test_our_side_reads_what_it_made(benchmark, tmp_path):
    benchmark.make_files(tmp_path, 4)
    corpus, plan = benchmark.open_ours(tmp_path, 2)
    assert len(corpus) == 4 and 10 <= corpus.seconds.min() <= corpus.seconds.max() <= 15
    assert benchmark.time_ours(corpus, plan, 1, 3) > 0


@pytest.mark.interop
@pytest.mark.slow
def test_both_sides_are_compared(benchmark, tmp_path):
    pytest.importorskip("torch")
    benchmark.make_files(tmp_path, 4)
    results = benchmark.compare(tmp_path, 2, 1, 3)
    for workers in ("1", "2"):
        row = results[workers]
        assert row["ratio"] == pytest.approx(row["ours"] / row["torch"])
