"""The scaling experiment: the numbers it derives from a compiled step, and its figure."""

import json

import pytest

from experiments.scaling import page, scaling
from ssl_jax.core import chips


def row(sent, between=0.0):
    kinds = {"all-reduce": {"sent": sent - between}}
    if between:
        kinds["all-reduce between slices"] = {"sent": between}
    return {"flops": 197e12, "collectives": kinds, "sent": sent}


def test_efficiency_is_the_share_of_computing():
    v5e = chips.topology("2xv5e:2x2")
    assert scaling.efficiency(row(200e9), v5e) == pytest.approx(0.5)  # one second each
    assert scaling.efficiency(row(203.1e9, 3.1e9), v5e) == pytest.approx(1 / 3)


def test_the_picture_has_what_the_table_has(tmp_path, monkeypatch):
    found = json.loads(scaling.RESULTS.read_text())["weak"]
    monkeypatch.setattr(scaling, "HERE", tmp_path)
    scaling.draw(found)
    assert (tmp_path / "scaling.png").stat().st_size > 5_000
    assert len(page.rows("weak")) == len(found)
