"""One command from a folder and a table to a model of tags."""

import os

import pytest
from own_corpus import write_recordings

import ssl_jax
from ssl_jax import train
from ssl_jax.core import config as config_lib

TINY = {"depth": 1, "width": 16, "heads": 2, "mlp_width": 16, "num_mels": 16, "patch": (4, 8)}


def test_tags_of_a_table_may_start_from_published_weights_of_beats(root):
    config = config_lib.load(str(root / "configs/supervised/own.py:beats_tags"))
    method, data = config.method, config.data
    assert (method.encoder.kind, method.encoder.preset, method.task) == ("beats", "base", "tag")
    assert not method.head.norm and method.pool == "frames"  # as in those files
    assert list(data.train) == ["own"] and data.train.own.tags == "tags"
    assert data.batch_size == 16 and config.checkpoint.best_metric == "valid/average_precision"


@pytest.mark.slow
def test_a_table_of_tags_makes_a_tagger(root, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", os.environ["SSL_JAX_CACHE"])
    write_recordings(tmp_path, "tags")
    # a table without a column split, whose rows have one tag or two
    table = tmp_path / "labels.csv"
    rows = [line.split(",") for line in table.read_text().splitlines()]
    for row in rows[1:]:
        row[0], row[1] = f"recordings/{row[0]}", f"{row[1]}|{row[2]}"
    table.write_text("\n".join(",".join(row[:2]) for row in rows) + "\n")
    changes = {f"method.encoder.{key}": value for key, value in TINY.items()}
    changes |= {"data.buckets": (0.5,), "data.batch_size": 4, "train.duration": "4 steps"}
    changes |= {"eval.every": "4 steps", "checkpoint.every": "4 steps", "eval.test": False}
    changes |= {"data.train.own.path": str(table), "optim.warmup": "0 steps"}
    config = config_lib.load(str(root / "configs/supervised/own.py:tags"))
    train.run(config_lib.change(config, changes), tmp_path / "run")
    model = ssl_jax.load(tmp_path / "run")
    found = model.predict(str(tmp_path / "recordings" / rows[1][0].partition("/")[2]))
    assert set(found) == {"low", "high", "s0", "s1", "s2", "s3", "s4"}
    assert all(0 < p < 1 for p in found.values()) and sum(found.values()) > 1.5
    scores = ("valid/average_precision", "valid/roc_auc", "valid/d_prime")
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert all(f'"{name}"' in text for name in scores)
