"""The benchmark of k-means measures every library that is installed at every size."""

import pytest

from experiments.benchmarks import kmeans


@pytest.mark.slow
def test_every_library_is_measured(monkeypatch):
    monkeypatch.setattr(kmeans, "SIZES", {"small": (4, 3)})
    found = kmeans.compare(updates=2, rounds=2, frames=50)["small"]
    assert {"ours", "scikit-learn"} <= set(kmeans.libraries()) == set(found["runs"])
    assert all(len(runs) == 2 and min(runs) > 0 for runs in found["runs"].values())
    assert found["ratio"] == pytest.approx(found["ours"] / found["scikit-learn"])
